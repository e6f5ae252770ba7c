//! The ROC of all pairs, at bounded memory.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};

use rayon::prelude::*;

use crate::Result;
use crate::frame::{Frame, Metric, squares};
use crate::keys::{key, unkey};
use crate::panels::{Gallery, QUERY_BLOCK, Queries, Segment};
use crate::product::{PANEL, Scores, scan};
use crate::progress::Progress;
use crate::relevant::check_labels;
use crate::roc::Roc;
use crate::rows::Rows;
use crate::search;

/// Thresholds between the most and the least similar pair.
const BINS: usize = 1 << 20;
/// Share of the sum of two squared lengths below which a squared distance has lost digits to the product.
const NEAR: f64 = 1e-3;

impl Roc {
    /// Of all pairs of a query and an item, or without a gallery of all pairs of two queries, each pair once.
    ///
    /// Thresholds lie on a grid of 2^20 between the least and the most similar pair (between -1 and 1 for the cosine:
    /// steps of 2e-6). What a threshold accepts is counted exactly; only which thresholds there are is limited. Memory
    /// beyond the inputs is below 150 MB. Distances come from products, and those of near-duplicates from their
    /// differences: copies are at distance 0. With dot products and distances a first pass finds the grid's ends.
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
        let frame = Frame::new(items, metric)?;
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
        let (low, high) = match metric {
            Metric::Cosine => (-1.0, 1.0),
            Metric::Dot | Metric::L2 => pairs.ends()?,
        };
        let grid = Grid::new(low, high, metric != Metric::L2);
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

/// Bins of equal width, the most similar first.
struct Grid {
    best: f32,
    worst: f32,
    /// Bins for each unit of score; negative for distances.
    per_score: f32,
}

impl Grid {
    fn new(low: f32, high: f32, similarity: bool) -> Self {
        let per_score = (BINS as f64 / (f64::from(high) - f64::from(low))) as f32;
        // All pairs alike: one bin.
        let per_score = if per_score.is_finite() { per_score } else { 0.0 };
        if similarity {
            Self { best: high, worst: low, per_score }
        } else {
            Self { best: low, worst: high, per_score: -per_score }
        }
    }

    /// Never falls as similarity falls, rounding included.
    #[inline(always)]
    fn bin(&self, score: f32) -> usize {
        (((self.best - score) * self.per_score).max(0.0) as u32 as usize).min(BINS - 1)
    }

    /// The loosest score that lies in `bin` or in one before, by bisection of the numbers that there are.
    fn threshold(&self, bin: usize) -> f32 {
        if self.bin(self.worst) <= bin {
            return self.worst;
        }
        let (mut inside, mut outside) = (ordinal(self.best), ordinal(self.worst));
        while inside.abs_diff(outside) > 1 {
            let middle = inside.midpoint(outside);
            if self.bin(unkey(u64::from(middle) << 32).0) <= bin {
                inside = middle;
            } else {
                outside = middle;
            }
        }
        unkey(u64::from(inside) << 32).0
    }
}

/// Ascends with the score, by one from a number to the next.
fn ordinal(score: f32) -> u32 {
    (key(score, 0) >> 32) as u32
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
    /// The least and the largest score.
    fn ends(&self) -> Result<(f32, f32)> {
        let ends = Mutex::new((f32::INFINITY, f32::NEG_INFINITY));
        self.each(|_, _, scores| {
            let least = scores.iter().fold(f32::INFINITY, |least, &score| least.min(score));
            let largest = scores.iter().fold(f32::NEG_INFINITY, |largest, &score| largest.max(score));
            let mut ends = ends.lock().unwrap_or_else(PoisonError::into_inner);
            *ends = (ends.0.min(least), ends.1.max(largest));
        })?;
        Ok(ends.into_inner().unwrap_or_else(PoisonError::into_inner))
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
        let group = Queries::at_once(self.frame);
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
        let depth = self.frame.depth;
        let blocks =
            queries.vectors.par_chunks(QUERY_BLOCK * depth).zip(queries.factors.par_chunks(QUERY_BLOCK));
        blocks.enumerate().for_each(|(block, (vectors, factors))| {
            let start = start + block * QUERY_BLOCK;
            // Of two queries the later one is the item.
            let skipped = if self.alone { start.saturating_sub(segment.items.start) / PANEL } else { 0 };
            let panels = segment.panels.get(skipped * depth * PANEL..).unwrap_or_default();
            let squares: Vec<f64> = vectors
                .chunks_exact(depth)
                .zip(factors)
                .map(|(vector, factor)| squares(&vector[..self.frame.dim]) / factor / factor)
                .collect();
            let mut bounds = vec![f32::NEG_INFINITY; factors.len()];
            scan(vectors, depth, panels, &mut bounds, |query, panel, scores, _| {
                let first = segment.items.start + (skipped + panel) * PANEL;
                let count = PANEL.min(segment.items.end - first);
                let from = if self.alone { (start + query + 1).saturating_sub(first).min(count) } else { 0 };
                if from < count {
                    let query_row = &vectors[query * depth..][..depth];
                    let items = &panels[panel * depth * PANEL..][..depth * PANEL];
                    let shown = self.shown(scores, query_row, factors[query], squares[query], items);
                    visit(start + query, first + from, &shown[from..count]);
                }
            });
            let last = |query: usize| if self.alone { start + query + 1 } else { 0 };
            let from = |query: usize| last(query).max(segment.items.start);
            let done = (0..factors.len()).map(|query| segment.items.end.saturating_sub(from(query)) as u64);
            self.progress.advance(done.sum());
        });
    }

    /// What the scores of a mapped query and a panel of items, `[depth, PANEL]`, mean. `square` is the query's squared
    /// length without `factor`.
    fn shown(&self, scores: &Scores, query: &[f32], factor: f64, square: f64, items: &[f32]) -> Scores {
        let dim = self.frame.dim;
        let mut shown = *scores;
        for (lane, score) in shown.iter_mut().enumerate() {
            if self.frame.metric != Metric::L2 {
                *score = self.frame.shown(&[], factor, *score, &[]);
                continue;
            }
            // The last coordinate is minus half of the item's squared length.
            let lengths = square - 2.0 * f64::from(items[dim * PANEL + lane]);
            let squared = square - 2.0 * f64::from(*score) / factor;
            let squared = if squared < NEAR * lengths {
                let item = items.iter().skip(lane).step_by(PANEL);
                let pairs = query.iter().zip(item).take(dim);
                pairs.map(|(&q, &g)| (f64::from(q) / factor - f64::from(g)).powi(2)).sum()
            } else {
                squared
            };
            *score = self.frame.unscaled(squared);
        }
        shown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_threshold_accepts_its_bin_and_nothing_after() {
        for (low, high, similarity) in
            [(-1.0, 1.0, true), (0.0, 3.7, false), (-1e30, 2e30, true), (2.0, 2.5, false)]
        {
            let grid = Grid::new(low, high, similarity);
            for bin in [0, 1, 77, BINS / 2, BINS - 2] {
                let threshold = grid.threshold(bin);
                let looser = if similarity { threshold.next_down() } else { threshold.next_up() };
                assert!(
                    grid.bin(threshold) <= bin && grid.bin(looser) > bin,
                    "{low} {high} {bin} {threshold}"
                );
            }
            let worst = if similarity { low } else { high };
            assert_eq!(grid.bin(worst), BINS - 1);
        }
    }
}
