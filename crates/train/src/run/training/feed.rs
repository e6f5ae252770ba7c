//! Batches read ahead of training.

use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

use crate::data::Items;
use crate::encoder::Batch;
use crate::{Error, Result};

/// Batches that may lie ready.
const AHEAD: usize = 2;

/// The batches of an epoch, one after another.
pub(in crate::run) struct Feed<'a> {
    from: From<'a>,
    waited: Duration,
}

enum From<'a> {
    /// Items in memory: gathering a batch is one copy of it, nothing beside a step.
    Memory { items: &'a Items, batches: std::slice::Iter<'a, Vec<usize>> },
    /// A thread that reads files.
    Thread(Receiver<Result<Batch>>),
}

impl Feed<'_> {
    /// The next batch.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub(in crate::run) fn next(&mut self) -> Result<Batch> {
        let ended = || Error::Unsuitable("there are no more batches in this epoch".to_owned());
        let started = Instant::now();
        let batch = match &mut self.from {
            From::Memory { items, batches } => Batch::gather(items, batches.next().ok_or_else(ended)?),
            From::Thread(ready) => ready.recv().map_err(|_| ended())?,
        };
        self.waited += started.elapsed();
        batch
    }

    /// Seconds spent in [`next`](Self::next) since this was last asked.
    pub(in crate::run) fn waited(&mut self) -> f64 {
        std::mem::take(&mut self.waited).as_secs_f64()
    }
}

/// Calls `work` with a feed of `batches` (rows of `items`). What is read from files is read by a thread of its own, two
/// batches ahead, so that reading takes place beside training.
pub(in crate::run) fn with<T>(
    items: &Items,
    batches: &[Vec<usize>],
    work: impl FnOnce(Feed<'_>) -> Result<T>,
) -> Result<T> {
    let waited = Duration::ZERO;
    if !matches!(items, Items::Files(_) | Items::VectorFile(_)) {
        return work(Feed { from: From::Memory { items, batches: batches.iter() }, waited });
    }
    std::thread::scope(|scope| {
        let (to, ready) = sync_channel(AHEAD);
        scope.spawn(move || {
            for rows in batches {
                // Nobody listens any more once training has stopped.
                if to.send(Batch::gather(items, rows)).is_err() {
                    return;
                }
            }
        });
        work(Feed { from: From::Thread(ready), waited })
    })
}
