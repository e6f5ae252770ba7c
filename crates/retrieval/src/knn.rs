//! Exact nearest neighbours.

use embedtune_core::simd;
use ndarray::ArrayView2;
use rayon::prelude::*;

use crate::tiles::{Metric, QUERY_BLOCK, TILE, Tiles, key, unkey};
use crate::{Error, Result};

/// Which gallery row a query must not find: itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Exclude<'a> {
    /// Every row may be found.
    #[default]
    None,
    /// Query `i` is gallery row `i`.
    SameRow,
    /// For each query the gallery row that is the same item; `u32::MAX` for a query that is not in the gallery.
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
    width: usize,
    hits: Vec<Hit>,
    counts: Vec<usize>,
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
        let count = self.counts.get(query).copied().unwrap_or(0);
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
    tiles: Tiles,
}

impl Index {
    /// Prepares `gallery`, `[items, dim]` (a copy, once).
    ///
    /// # Errors
    /// Values that are not finite (with the row), no columns.
    pub fn new(gallery: ArrayView2<'_, f32>, metric: Metric) -> Result<Self> {
        Ok(Self { tiles: Tiles::new(gallery, None, metric)? })
    }

    /// Number of items.
    pub fn len(&self) -> usize {
        self.tiles.len()
    }

    /// Whether there are no items.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The `k` nearest items of each query, `[queries, dim]`: exact up to the rounding of one `f32` product each.
    ///
    /// Equal scores are ordered by index. A gallery of fewer than `k` items gives all of them. Memory beyond the
    /// result is fixed for each thread: never queries times items. Distances are measured again by differences for
    /// the rows found, and ordered by that.
    ///
    /// # Errors
    /// Values that are not finite (with the row), another number of columns than the gallery's, an exclusion that
    /// does not fit.
    pub fn search(&self, queries: ArrayView2<'_, f32>, k: usize, exclude: Exclude<'_>) -> Result<Neighbours> {
        self.tiles.check(queries)?;
        self.check(queries.nrows(), exclude)?;
        let (count, width) = (queries.nrows(), k.min(self.len()));
        let mut hits = vec![Hit::default(); count * width];
        let mut counts = vec![0; count];
        if width > 0 {
            hits.par_chunks_mut(QUERY_BLOCK * width)
                .zip(counts.par_chunks_mut(QUERY_BLOCK))
                .enumerate()
                .try_for_each(|(block, (hits, counts))| {
                    self.search_block(queries, block * QUERY_BLOCK, exclude, width, hits, counts)
                })?;
        }
        Ok(Neighbours { width, hits, counts })
    }

    fn check(&self, queries: usize, exclude: Exclude<'_>) -> Result<()> {
        let (what, expected, got) = match exclude {
            Exclude::SameRow if queries != self.len() => (
                "queries",
                format!("{} rows, as the gallery: each query is one of its rows", self.len()),
                queries,
            ),
            Exclude::SelfById(ids) if ids.len() != queries => {
                ("Exclude::SelfById", format!("{queries} entries, one for each query"), ids.len())
            }
            _ => return Ok(()),
        };
        Err(Error::Shape { what, expected, got: vec![got] })
    }

    fn search_block(
        &self,
        queries: ArrayView2<'_, f32>,
        first: usize,
        exclude: Exclude<'_>,
        width: usize,
        hits: &mut [Hit],
        counts: &mut [usize],
    ) -> Result<()> {
        let block = self.tiles.block(queries, first..first + counts.len());
        let mut scores = vec![0.0f32; QUERY_BLOCK * TILE];
        let mut best: Vec<Best> = counts.iter().map(|_| Best::new(width)).collect();
        for tile in 0..self.tiles.count() {
            self.tiles.scores(&block, tile, &mut scores)?;
            let range = self.tiles.range(tile);
            for (i, (best, scores)) in best.iter_mut().zip(scores.chunks_exact(TILE)).enumerate() {
                let own = match exclude {
                    Exclude::None => u32::MAX,
                    Exclude::SameRow => (first + i) as u32,
                    Exclude::SelfById(ids) => ids[first + i],
                };
                best.offer(&scores[..range.len()], range.start as u32, own);
            }
        }
        for (i, ((best, hits), count)) in
            best.iter_mut().zip(hits.chunks_exact_mut(width)).zip(counts).enumerate()
        {
            let found = best.finish();
            *count = found.len();
            for (hit, &key) in hits.iter_mut().zip(found) {
                let (score, index) = unkey(key);
                *hit = Hit { index, score: self.tiles.shown(&block, i, index as usize, score) };
            }
            if self.tiles.metric() == Metric::L2 {
                hits[..found.len()].sort_by(|a, b| a.score.total_cmp(&b.score).then(a.index.cmp(&b.index)));
            }
        }
        Ok(())
    }
}

/// The `k` nearest rows of `gallery`, `[items, dim]`, for each of `queries`, `[queries, dim]`: see
/// [`Index::search`]. Keep an [`Index`] to search a gallery more than once.
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
    Index::new(gallery, metric)?.search(queries, k, exclude)
}

/// Scores that are compared with the bound at once.
const LANES: usize = 32;

/// The best `k` of a stream of scores.
///
/// Scores above the bound go to a reservoir of twice the size; when it is full a selection keeps the best `k` and
/// raises the bound to the worst of these. That is a few operations for each score that passes, and scores that do
/// not pass, nearly all, cost one vector comparison for many.
struct Best {
    k: usize,
    keys: Vec<u64>,
    bound: f32,
}

impl Best {
    fn new(k: usize) -> Self {
        Self { k, keys: Vec::with_capacity((2 * k).max(LANES)), bound: f32::NEG_INFINITY }
    }

    /// Considers the scores of items `first`, `first + 1`, ... except `own`. Items come in ascending order, so one
    /// that ties with the bound is behind the `k` that are held.
    fn offer(&mut self, scores: &[f32], first: u32, own: u32) {
        simd::dispatch(
            #[inline(always)]
            || {
                let mut start = first;
                let chunks = scores.chunks_exact(LANES);
                let rest = chunks.remainder();
                for chunk in chunks {
                    let bound = self.bound;
                    if chunk.iter().fold(false, |any, &score| any | (score > bound)) {
                        self.push(chunk, start, own);
                    }
                    start += LANES as u32;
                }
                self.push(rest, start, own);
            },
        );
    }

    fn push(&mut self, scores: &[f32], first: u32, own: u32) {
        for (index, &score) in (first..).zip(scores) {
            if score > self.bound && index != own {
                self.keys.push(key(score, index));
                if self.keys.len() == (2 * self.k).max(LANES) {
                    self.shrink();
                }
            }
        }
    }

    fn shrink(&mut self) {
        if self.keys.len() <= self.k {
            return;
        }
        let (_, &mut worst, _) = self.keys.select_nth_unstable_by(self.k - 1, |a, b| b.cmp(a));
        self.keys.truncate(self.k);
        self.bound = unkey(worst).0;
    }

    /// The best, best first.
    fn finish(&mut self) -> &[u64] {
        self.shrink();
        self.keys.sort_unstable_by(|a, b| b.cmp(a));
        &self.keys
    }
}
