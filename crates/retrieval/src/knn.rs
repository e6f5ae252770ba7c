//! Exact nearest neighbours.

use ndarray::ArrayView2;

use crate::Result;
use crate::frame::{Frame, Metric, searched};
use crate::panels::{Gallery, lay_out};
use crate::progress::Progress;
use crate::rows::Rows;
use crate::search::neighbours;

/// Which gallery row a query must not find: itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Exclude<'a> {
    /// Every row may be found.
    #[default]
    None,
    /// Query `i` is gallery row `i`.
    SameRow,
    /// For each query the gallery row that is the same item; `u32::MAX` for a query that is not in the gallery. A row
    /// beyond the gallery's is an error.
    SelfById(&'a [u32]),
}

/// One neighbour.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Hit {
    /// The gallery row.
    pub index: u32,
    /// Its cosine similarity, dot product or Euclidean distance, as the [`Metric`] says.
    pub score: f32,
}

/// The neighbours of every query, nearest first.
#[derive(Debug, Clone, PartialEq)]
pub struct Neighbours {
    pub(crate) width: usize,
    pub(crate) hits: Vec<Hit>,
    pub(crate) counts: Vec<usize>,
}

impl Neighbours {
    /// Number of queries.
    pub fn len(&self) -> usize {
        self.counts.len()
    }

    /// Whether there are no queries.
    pub fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }

    /// The neighbours of a query, nearest first: `k`, or all there are if that is fewer. Empty beyond the last query.
    pub fn row(&self, query: usize) -> &[Hit] {
        let Some(&count) = self.counts.get(query) else { return &[] };
        self.hits.get(query * self.width..query * self.width + count).unwrap_or_default()
    }

    /// The rows in order.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = &[Hit]> {
        (0..self.len()).map(|query| self.row(query))
    }
}

/// A gallery that is searched more than once.
#[derive(Debug, Clone)]
pub struct Index {
    frame: Frame,
    panels: Vec<f32>,
}

impl Index {
    /// Prepares `gallery`, `[items, dim]` (a copy, once).
    ///
    /// # Errors
    /// Values that are not finite (with the row), no columns.
    pub fn new(gallery: ArrayView2<'_, f32>, metric: Metric) -> Result<Self> {
        Self::from_rows(&gallery, metric)
    }

    /// Prepares a gallery of any storage, such as an array of `f16` (a copy in `f32`, once). One that is larger than
    /// memory is for [`search`].
    ///
    /// # Errors
    /// As [`new`](Self::new), and what reading fails with.
    pub fn from_rows(gallery: &dyn Rows, metric: Metric) -> Result<Self> {
        let frame = Frame::new(searched(false), gallery, metric)?;
        let panels = lay_out(&frame, 0..frame.len, |first, to| gallery.read(first, to))?;
        Ok(Self { frame, panels })
    }

    /// Number of items.
    pub fn len(&self) -> usize {
        self.frame.len
    }

    /// Whether there are no items.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The `k` nearest items of each query, `[queries, dim]`: exact up to the rounding of one `f32` product, or sum of squared
    /// differences, each.
    ///
    /// Equal scores are ordered by index. A gallery of fewer than `k` items gives all of them, and a `k` of 0 none. Memory beyond the
    /// result is fixed: never queries times items. Distances of the rows found are measured once more with more digits, and
    /// ordered by that.
    ///
    /// # Errors
    /// Values that are not finite (with the row), another number of columns than the gallery's, an exclusion that
    /// does not fit, a result that no memory holds.
    pub fn search(&self, queries: ArrayView2<'_, f32>, k: usize, exclude: Exclude<'_>) -> Result<Neighbours> {
        self.search_rows(&queries, k, exclude)
    }

    /// [`search`](Self::search) with queries of any storage.
    ///
    /// # Errors
    /// As [`search`](Self::search), and what reading fails with.
    pub fn search_rows(&self, queries: &dyn Rows, k: usize, exclude: Exclude<'_>) -> Result<Neighbours> {
        self.frame.check(queries)?;
        neighbours(&self.frame, &Gallery::Kept(&self.panels), queries, k, exclude, &())
    }
}

/// The `k` nearest rows of `gallery`, `[items, dim]`, for each of `queries`, `[queries, dim]`: see [`search`]. Keep an
/// [`Index`] to search a gallery more than once.
///
/// # Errors
/// As [`Index::new`] and [`Index::search`].
pub fn knn(
    queries: ArrayView2<'_, f32>,
    gallery: ArrayView2<'_, f32>,
    k: usize,
    metric: Metric,
    exclude: Exclude<'_>,
) -> Result<Neighbours> {
    search(&queries, &gallery, k, metric, exclude)
}

/// The `k` nearest items of `gallery` for each query, as [`Index::search`] finds them, to the bit, but without a copy of
/// the gallery: it is read in blocks, once to check it and once for each group of queries (about 48,000 of dimension 128
/// with `k` of 10). Memory beyond the result stays below 100 MB and 3 MB a thread for any number of queries and items, for
/// `k` up to 100,000 and vectors of up to 65,536 values, so the gallery may be a file that is larger than memory
/// ([`NpyRows`](crate::NpyRows)); longer vectors take 64 items' memory instead of 16 MiB of items.
///
/// # Errors
/// As [`Index::new`] and [`Index::search`], and what reading fails with.
pub fn search(
    queries: &dyn Rows,
    gallery: &dyn Rows,
    k: usize,
    metric: Metric,
    exclude: Exclude<'_>,
) -> Result<Neighbours> {
    search_watched(queries, gallery, k, metric, exclude, &())
}

/// [`search`] that tells how far it has come.
///
/// # Errors
/// As [`search`].
pub fn search_watched(
    queries: &dyn Rows,
    gallery: &dyn Rows,
    k: usize,
    metric: Metric,
    exclude: Exclude<'_>,
    progress: &dyn Progress,
) -> Result<Neighbours> {
    let frame = Frame::new(searched(false), gallery, metric)?;
    frame.check(queries)?;
    neighbours(&frame, &Gallery::Streamed(gallery), queries, k, exclude, progress)
}
