//! Vectors laid out for products of fixed size.
//!
//! Every score comes out of a product of one shape, `[QUERY_BLOCK, depth] x [depth, TILE]`, padded with zeros at the
//! ends. So the bits of a score depend on the two vectors alone, not on where they stand, on how many others there are
//! or on the number of threads; equal vectors tie exactly.

use std::ops::Range;

use embedtune_core::linalg::matmul_serial;
use ndarray::{ArrayView1, ArrayView2, ArrayViewMut2};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Queries that one task handles.
pub(crate) const QUERY_BLOCK: usize = 64;
/// Gallery rows of one product: its scores (256 KiB) stay in the second-level cache.
pub(crate) const TILE: usize = 1024;

/// What nearest means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Metric {
    /// The largest cosine similarity, in [-1, 1]; a zero vector is similar (0) to none.
    #[default]
    Cosine,
    /// The largest dot product.
    Dot,
    /// The smallest Euclidean distance.
    L2,
}

/// A gallery, ready to be multiplied.
///
/// With the Euclidean metric vectors are centred at the gallery's mean, which distances do not notice and which keeps
/// the digits that `|q|^2 - 2 q.g + |g|^2` loses far from the origin, and the score is `q.g - |g|^2 / 2`, one product
/// with a further coordinate. Both this and the dot product scale by powers of two, so that nothing overflows.
#[derive(Debug, Clone)]
pub(crate) struct Tiles {
    metric: Metric,
    /// `[tile][depth][TILE]`.
    data: Vec<f32>,
    len: usize,
    dim: usize,
    depth: usize,
    mean: Vec<f32>,
    scale: f64,
}

/// A block of queries: `[QUERY_BLOCK, depth]`, and the factor by which each row was multiplied beyond the gallery's.
pub(crate) struct QueryBlock {
    data: Vec<f32>,
    factors: Vec<f64>,
}

impl Tiles {
    /// The rows of `gallery` in the given order (all of them, each once).
    pub(crate) fn new(gallery: ArrayView2<'_, f32>, order: Option<&[u32]>, metric: Metric) -> Result<Self> {
        check_finite("gallery vectors", gallery)?;
        let (len, dim) = gallery.dim();
        if dim == 0 {
            return Err(Error::Shape {
                what: "gallery",
                expected: "[items, dim] with dim at least 1".to_owned(),
                got: gallery.shape().to_vec(),
            });
        }
        if u32::try_from(len).is_err() {
            return Err(Error::Parameter {
                name: "gallery rows",
                value: len.to_string(),
                remedy: "at most 4,294,967,295 can be searched; split the gallery",
            });
        }
        let mean = match metric {
            Metric::L2 => mean(gallery),
            Metric::Cosine | Metric::Dot => vec![0.0; dim],
        };
        let scale = match metric {
            Metric::Cosine => 1.0,
            Metric::Dot | Metric::L2 => unit_scale(largest(gallery, &mean)),
        };
        let depth = dim + usize::from(metric == Metric::L2);
        let mut data = vec![0.0f32; len.div_ceil(TILE) * depth * TILE];
        data.par_chunks_mut(depth * TILE).enumerate().for_each(|(tile, data)| {
            for (column, position) in (tile * TILE..len.min((tile + 1) * TILE)).enumerate() {
                let row = order.map_or(position, |order| order[position] as usize);
                let mut square = 0.0f64;
                let values = map_row(metric, gallery.row(row), &mean, scale);
                for (value, lane) in values.zip(data.chunks_exact_mut(TILE)) {
                    square += f64::from(value) * f64::from(value);
                    lane[column] = value;
                }
                if metric == Metric::L2 {
                    data[dim * TILE + column] = (-0.5 * square) as f32;
                }
            }
        });
        Ok(Self { metric, data, len, dim, depth, mean, scale })
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn metric(&self) -> Metric {
        self.metric
    }

    /// Number of tiles.
    pub(crate) fn count(&self) -> usize {
        self.len.div_ceil(TILE)
    }

    /// The positions in a tile.
    pub(crate) fn range(&self, tile: usize) -> Range<usize> {
        tile * TILE..self.len.min((tile + 1) * TILE)
    }

    /// Checks queries before [`block`](Self::block).
    pub(crate) fn check(&self, queries: ArrayView2<'_, f32>) -> Result<()> {
        if queries.ncols() != self.dim {
            return Err(Error::Shape {
                what: "queries",
                expected: format!("[queries, {}], as the gallery", self.dim),
                got: queries.shape().to_vec(),
            });
        }
        check_finite("query vectors", queries)
    }

    /// Up to [`QUERY_BLOCK`] rows of checked queries.
    pub(crate) fn block(
        &self,
        queries: ArrayView2<'_, f32>,
        rows: impl Iterator<Item = usize>,
    ) -> QueryBlock {
        let mut data = vec![0.0f32; QUERY_BLOCK * self.depth];
        let mut factors = vec![1.0; QUERY_BLOCK];
        for ((row, data), factor) in rows.zip(data.chunks_exact_mut(self.depth)).zip(&mut factors) {
            let query = queries.row(row);
            let largest = query.iter().zip(&self.mean).map(|(&q, &m)| (f64::from(q) - f64::from(m)).abs());
            *factor = match self.metric {
                Metric::Cosine => 1.0,
                Metric::Dot => unit_scale(largest.fold(0.0, f64::max)) / self.scale,
                // Shrunk only: the further coordinate carries the factor and must not overflow either.
                Metric::L2 => (unit_scale(largest.fold(0.0, f64::max)) / self.scale).min(1.0),
            };
            let values = map_row(self.metric, query, &self.mean, self.scale * *factor);
            for (to, value) in data.iter_mut().zip(values) {
                *to = value;
            }
            if let (Metric::L2, Some(last)) = (self.metric, data.last_mut()) {
                *last = *factor as f32;
            }
        }
        QueryBlock { data, factors }
    }

    /// Scores of a block with a tile, `[QUERY_BLOCK, TILE]` row-major: larger is nearer. The columns beyond
    /// [`range`](Self::range) mean nothing.
    pub(crate) fn scores(&self, block: &QueryBlock, tile: usize, scores: &mut [f32]) -> Result<()> {
        let size = self.depth * TILE;
        let gallery = self.data.get(tile * size..(tile + 1) * size).unwrap_or_default();
        let shape = |_| embedtune_core::Error::Shape {
            op: "retrieval tile",
            expected: format!("{QUERY_BLOCK} x {} x {TILE}", self.depth),
            got: vec![block.data.len(), gallery.len()],
        };
        let a = ArrayView2::from_shape((QUERY_BLOCK, self.depth), &block.data).map_err(shape)?;
        let b = ArrayView2::from_shape((self.depth, TILE), gallery).map_err(shape)?;
        let c = ArrayViewMut2::from_shape((QUERY_BLOCK, TILE), scores).map_err(shape)?;
        Ok(matmul_serial(1.0, a, b, 0.0, c)?)
    }

    /// What a user wants to see of the score of a block's row and a position: the cosine, the dot product or the
    /// distance, the last from differences (the score has lost the digits of near-duplicates).
    pub(crate) fn shown(&self, block: &QueryBlock, row: usize, position: usize, score: f32) -> f32 {
        let factor = block.factors.get(row).copied().unwrap_or(1.0);
        match self.metric {
            Metric::Cosine => score.clamp(-1.0, 1.0),
            Metric::Dot => (f64::from(score) / factor / self.scale / self.scale) as f32,
            Metric::L2 => {
                let query = block.data.chunks_exact(self.depth).nth(row).unwrap_or_default();
                let tile = &self.data[position / TILE * self.depth * TILE..];
                let lanes = tile.chunks_exact(TILE).map(|lane| lane[position % TILE]);
                let square: f64 = query
                    .iter()
                    .zip(lanes)
                    .take(self.dim)
                    .map(|(&q, g)| (f64::from(q) / factor - f64::from(g)).powi(2))
                    .sum();
                (square.sqrt() / self.scale) as f32
            }
        }
    }
}

/// A row as the products see it.
fn map_row<'a>(
    metric: Metric,
    row: ArrayView1<'a, f32>,
    mean: &'a [f32],
    scale: f64,
) -> impl Iterator<Item = f32> + 'a {
    let scale = match metric {
        // Squares in f64: no overflow or underflow for any finite f32.
        Metric::Cosine => {
            let length = row.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>().sqrt();
            if length > 0.0 { 1.0 / length } else { 0.0 }
        }
        Metric::Dot | Metric::L2 => scale,
    };
    row.into_iter().zip(mean).map(move |(&v, &m)| ((f64::from(v) - f64::from(m)) * scale) as f32)
}

fn mean(rows: ArrayView2<'_, f32>) -> Vec<f32> {
    let mut sums = vec![0.0f64; rows.ncols()];
    for row in rows.rows() {
        sums.iter_mut().zip(row).for_each(|(sum, &v)| *sum += f64::from(v));
    }
    let count = rows.nrows().max(1) as f64;
    sums.into_iter().map(|sum| (sum / count) as f32).collect()
}

fn largest(rows: ArrayView2<'_, f32>, mean: &[f32]) -> f64 {
    let row_max = |row: ArrayView1<'_, f32>| {
        row.iter().zip(mean).map(|(&v, &m)| (f64::from(v) - f64::from(m)).abs()).fold(0.0, f64::max)
    };
    rows.rows().into_iter().map(row_max).fold(0.0, f64::max)
}

/// The power of two that brings `largest` to between a half and one.
fn unit_scale(largest: f64) -> f64 {
    if largest > 0.0 { (-largest.log2().ceil()).exp2() } else { 1.0 }
}

fn check_finite(what: &'static str, rows: ArrayView2<'_, f32>) -> Result<()> {
    for (row, values) in rows.rows().into_iter().enumerate() {
        // A sum of zeros times values is zero exactly when all are finite; it needs no branch for each.
        if values.iter().map(|&v| v * 0.0).sum::<f32>() == 0.0 {
            continue;
        }
        if let Some((column, &value)) = values.iter().enumerate().find(|(_, v)| !v.is_finite()) {
            return Err(Error::NotFinite { what, row, column, value });
        }
    }
    Ok(())
}

/// A score and an index as one number: larger is a higher score, then a lower index.
pub(crate) fn key(score: f32, index: u32) -> u64 {
    // Adding zero turns -0 into 0. Flipping the other bits of negative numbers makes the bit patterns ascend.
    let bits = (score + 0.0).to_bits();
    let ordered = if bits >> 31 == 1 { !bits } else { bits | 1 << 31 };
    u64::from(ordered) << 32 | u64::from(!index)
}

/// The score and the index of a [`key`].
pub(crate) fn unkey(key: u64) -> (f32, u32) {
    let ordered = (key >> 32) as u32;
    let bits = if ordered >> 31 == 1 { ordered & !(1 << 31) } else { !ordered };
    (f32::from_bits(bits), !(key as u32))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_order_by_score_and_then_by_lower_index() {
        let scores = [f32::MIN, -2.5, -1e-40, 0.0, 1e-40, 0.5, f32::MAX];
        for pair in scores.windows(2) {
            assert!(key(pair[0], 0) < key(pair[1], 9));
            assert_eq!(unkey(key(pair[0], 7)), (pair[0], 7));
        }
        assert!(key(0.5, 3) > key(0.5, 4));
        assert_eq!(key(-0.0, 3), key(0.0, 3));
    }

    #[test]
    fn scales_are_powers_of_two_that_reach_one() {
        for (largest, expected) in [(0.0, 1.0), (1.0, 1.0), (0.6, 1.0), (3.0, 0.25), (0.25, 4.0)] {
            assert_eq!(unit_scale(largest), expected);
        }
        for extreme in [f64::from(f32::MAX), f64::from(f32::from_bits(1))] {
            let scaled = unit_scale(extreme) * extreme;
            assert!((0.5..=1.0).contains(&scaled), "{scaled}");
        }
    }
}
