//! How far a long call has come.

/// Told how far a call has come, for whoever waits. What is computed does not depend on it.
///
/// ```
/// use std::sync::atomic::{AtomicU64, Ordering};
///
/// use embedtune_retrieval::{Exclude, Metric, Progress, SliceRows, search_watched};
///
/// #[derive(Default)]
/// struct Counted {
///     total: AtomicU64,
///     done: AtomicU64,
/// }
///
/// impl Progress for Counted {
///     fn begin(&self, total: u64) {
///         self.total.store(total, Ordering::Relaxed);
///     }
///     fn advance(&self, done: u64) {
///         self.done.fetch_add(done, Ordering::Relaxed);
///     }
/// }
///
/// let items = [1.0f32, 0.0, 0.0, 1.0, 0.9, 0.1];
/// let (rows, counted) = (SliceRows::new(&items, 2)?, Counted::default());
/// search_watched(&rows, &rows, 1, Metric::Cosine, Exclude::SameRow, &counted)?;
/// assert_eq!((counted.total.into_inner(), counted.done.into_inner()), (9, 9));
/// # Ok::<(), embedtune_retrieval::Error>(())
/// ```
pub trait Progress: Sync {
    /// The work begins: `total` units of it. A unit is a pair of a query and an item, of which a call compares millions
    /// a second, unless the function says otherwise.
    fn begin(&self, total: u64);

    /// `done` more of them are done. Several threads may call it, each about a thousand times a second; more often for
    /// resamples of few queries.
    fn advance(&self, done: u64);
}

/// Nobody waits.
impl Progress for () {
    fn begin(&self, _: u64) {}

    fn advance(&self, _: u64) {}
}
