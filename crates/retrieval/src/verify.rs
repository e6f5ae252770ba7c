//! The ROC of all pairs, at bounded memory.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};

use rayon::prelude::*;

use crate::Result;
use crate::frame::{Frame, Metric, searched};
use crate::grid::{BINS, Grid, PIECES};
use crate::panels::{Gallery, QUERY_BLOCK, Queries, Segment};
use crate::product::{PANEL, Scores, scan};
use crate::progress::Progress;
use crate::relevant::check_labels;
use crate::roc::Roc;
use crate::rows::Rows;
use crate::search;

impl Roc {
    /// Of all pairs of a query and an item, or without a gallery of all pairs of two queries, each pair once.
    ///
    /// There are at most 2^20 thresholds: for the cosine in steps of 4e-6, above 31/32 at every number; for dot products
    /// and distances where a first pass finds the pairs, the more the finer, so that a few pairs far from all others take
    /// nothing from these. What a threshold accepts is counted exactly; only which thresholds there are is limited.
    /// Memory beyond the inputs is below 100 MB and 2 MB a thread for vectors of up to 65,536 values. Distances are measured from differences, so that copies are at distance
    /// 0, and at the same distance from any other item.
    ///
    /// # Errors
    /// As [`Evaluation::new`](crate::Evaluation::new), and [`Error::NoPairs`](crate::Error::NoPairs).
    pub fn of_pairs(
        queries: &dyn Rows,
        labels: &[u32],
        gallery: Option<(&dyn Rows, &[u32])>,
        metric: Metric,
    ) -> Result<Self> {
        Self::of_pairs_watched(queries, labels, gallery, metric, &())
    }

    /// [`of_pairs`](Self::of_pairs) that tells how far it has come. With dot products and distances each pair is compared
    /// twice.
    ///
    /// # Errors
    /// As [`of_pairs`](Self::of_pairs).
    pub fn of_pairs_watched(
        queries: &dyn Rows,
        labels: &[u32],
        gallery: Option<(&dyn Rows, &[u32])>,
        metric: Metric,
        progress: &dyn Progress,
    ) -> Result<Self> {
        let alone = gallery.is_none();
        let (items, item_labels) = gallery.unwrap_or((queries, labels));
        check_labels("labels of the queries", queries.shape().0, labels)?;
        check_labels("labels of the gallery", items.shape().0, item_labels)?;
        let frame = Frame::new(searched(alone), items, metric)?;
        if !alone {
            frame.check(queries)?;
        }
        let all = if alone {
            search::pairs(labels.len(), labels.len().saturating_sub(1)) / 2
        } else {
            search::pairs(labels.len(), item_labels.len())
        };
        progress.begin(if metric == Metric::Cosine { all } else { all.saturating_mul(2) });
        let pairs = Pairs { frame: &frame, items, queries, labels, item_labels, alone, progress };
        let grid = match metric {
            Metric::Cosine => Grid::Cosine,
            Metric::Dot => pairs.spread(true)?,
            Metric::L2 => pairs.spread(false)?,
        };
        let counts = pairs.count(&grid)?;
        let mut roc = Self { points: Vec::new(), positives: 0, negatives: 0 };
        for (bin, (different, same)) in counts[..BINS].iter().zip(&counts[BINS..]).enumerate() {
            if different + same > 0 {
                roc.push(grid.threshold(bin), *same, *different);
            }
        }
        roc.check()
    }
}

struct Pairs<'a> {
    frame: &'a Frame,
    items: &'a dyn Rows,
    queries: &'a dyn Rows,
    labels: &'a [u32],
    item_labels: &'a [u32],
    alone: bool,
    progress: &'a dyn Progress,
}

impl Pairs<'_> {
    /// Thresholds where the scores lie.
    fn spread(&self, similarity: bool) -> Result<Grid> {
        // Scores share few pieces: threads that counted in one place would wait for each other.
        const COPIES: usize = 16;
        let counts: Vec<AtomicU64> = (0..COPIES * PIECES).map(|_| AtomicU64::new(0)).collect();
        let best = if similarity { f32::INFINITY } else { f32::NEG_INFINITY };
        let worst = Mutex::new(best);
        let worse = if similarity { f32::min } else { f32::max };
        self.each(|_, _, scores| {
            let copy = rayon::current_thread_index().unwrap_or(0) % COPIES;
            let counts = &counts[copy * PIECES..][..PIECES];
            for &score in scores {
                counts[Grid::piece(score, similarity)].fetch_add(1, Ordering::Relaxed);
            }
            let found = scores.iter().copied().fold(best, worse);
            let mut worst = worst.lock().unwrap_or_else(PoisonError::into_inner);
            *worst = worse(*worst, found);
        })?;
        let sum = |piece: usize| {
            (0..COPIES).map(|copy| counts[copy * PIECES + piece].load(Ordering::Relaxed)).sum()
        };
        let counts: Vec<u64> = (0..PIECES).map(sum).collect();
        Ok(Grid::spread(&counts, worst.into_inner().unwrap_or_else(PoisonError::into_inner), similarity))
    }

    /// Pairs of two classes in each bin, then those of one. Sums of whole numbers: the order does not matter.
    fn count(&self, grid: &Grid) -> Result<Vec<u64>> {
        let counts: Vec<AtomicU64> = (0..2 * BINS).map(|_| AtomicU64::new(0)).collect();
        self.each(|query, first, scores| {
            let label = self.labels[query];
            for (&score, &other) in scores.iter().zip(&self.item_labels[first..]) {
                let bin = grid.bin(score) + BINS * usize::from(label == other);
                counts[bin].fetch_add(1, Ordering::Relaxed);
            }
        })?;
        Ok(counts.into_iter().map(AtomicU64::into_inner).collect())
    }

    /// Calls `visit(query, first item, scores)` for all pairs, a few consecutive items at a time.
    fn each(&self, visit: impl Fn(usize, usize, &[f32]) + Sync) -> Result<()> {
        let gallery = Gallery::Streamed(self.items);
        let segments = gallery.segments(self.frame);
        let (count, _) = self.queries.shape();
        let group = Queries::at_once(self.frame.dim);
        let mut only: Option<Segment<'_>> = None;
        for start in (0..count).step_by(group) {
            let rows: Vec<u32> = (start as u32..).take(group.min(count - start)).collect();
            let vectors = Queries::new(self.frame, self.queries, &rows)?;
            for items in &segments {
                if self.alone && items.end <= start {
                    continue;
                }
                let segment = match only.take() {
                    Some(segment) => segment,
                    None => gallery.segment(self.frame, items.clone())?,
                };
                self.pass(start, &vectors, &segment, &visit);
                if segments.len() == 1 {
                    only = Some(segment);
                }
            }
        }
        Ok(())
    }

    fn pass(
        &self,
        start: usize,
        queries: &Queries,
        segment: &Segment<'_>,
        visit: &(impl Fn(usize, usize, &[f32]) + Sync),
    ) {
        let dim = self.frame.dim;
        let blocks =
            queries.vectors.par_chunks(QUERY_BLOCK * dim).zip(queries.factors.par_chunks(QUERY_BLOCK));
        blocks.enumerate().for_each(|(block, (vectors, factors))| {
            let start = start + block * QUERY_BLOCK;
            // Of two queries the later one is the item.
            let skipped = if self.alone { start.saturating_sub(segment.items.start) / PANEL } else { 0 };
            let panels = segment.panels.get(skipped * dim * PANEL..).unwrap_or_default();
            let see = |query: usize, panel: usize, scores: &Scores| {
                let first = segment.items.start + (skipped + panel) * PANEL;
                let count = PANEL.min(segment.items.end - first);
                let from = if self.alone { (start + query + 1).saturating_sub(first).min(count) } else { 0 };
                if from < count {
                    visit(start + query, first + from, &scores[from..count]);
                }
            };
            let mut bounds = vec![f32::NEG_INFINITY; factors.len()];
            scan(self.frame, vectors, panels, &mut bounds, |query, panel, scores, _| {
                let factor = factors[query];
                let shown = match self.frame.metric {
                    Metric::L2 if factor != 1.0 => {
                        let items = &panels[panel * dim * PANEL..][..dim * PANEL];
                        self.far(&vectors[query * dim..][..dim], factor, items)
                    }
                    // A score is minus the squared distance.
                    Metric::L2 => scores.map(|score| self.frame.unscaled(f64::from(-score))),
                    Metric::Cosine | Metric::Dot => {
                        scores.map(|score| self.frame.shown(&[], factor, score, &[]))
                    }
                };
                see(query, panel, &shown);
            });
            let last = |query: usize| if self.alone { start + query + 1 } else { 0 };
            let from = |query: usize| last(query).max(segment.items.start);
            let done = (0..factors.len()).map(|query| segment.items.end.saturating_sub(from(query)) as u64);
            self.progress.advance(done.sum());
        });
    }

    /// The distances of a query that was shrunk, so far away is it, and a panel of items, `[dim, PANEL]`.
    fn far(&self, query: &[f32], factor: f64, items: &[f32]) -> Scores {
        let mut sums = [0.0f64; PANEL];
        for (&value, items) in query.iter().zip(items.as_chunks::<PANEL>().0) {
            let value = f64::from(value) / factor;
            sums.iter_mut().zip(items).for_each(|(sum, &item)| *sum += (value - f64::from(item)).powi(2));
        }
        sums.map(|sum| self.frame.unscaled(sum))
    }
}
