//! Vectors as the products see them.

use embedtune_core::linalg::squared_norm;
use embedtune_core::simd;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::rows::Rows;
use crate::{Error, Result};

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

/// How vectors are mapped before they are multiplied; larger products are nearer.
///
/// With the Euclidean metric the score is minus the squared distance. Both this and the dot product scale by powers of two,
/// which changes no digit, so that nothing overflows.
#[derive(Debug, Clone)]
pub(crate) struct Frame {
    pub(crate) metric: Metric,
    pub(crate) len: usize,
    pub(crate) dim: usize,
    scale: f64,
}

/// What the largest coordinate of a gallery becomes with the Euclidean metric, 2^30: the squares of differences that are
/// smaller by 2^90 do not vanish.
const REACH: f64 = 1_073_741_824.0;
/// How many times as far a query's coordinates may be before it is shrunk, 2^20: its squares are at most 2^100, which leaves
/// room for the sum of any number of them.
const FAR: f64 = 1_048_576.0;

/// Rows that a thread reads at once at most, and the bytes of them in `f32`.
const READ: (usize, usize) = (1024, 1 << 20);

/// Rows of `dim` values that a thread reads at once: one at least, however long.
pub(crate) fn read_rows(dim: usize) -> usize {
    let (rows, bytes) = READ;
    fitting(bytes, dim).clamp(1, rows)
}

/// Rows of `dim` values of `f32` that so many bytes hold.
pub(crate) fn fitting(bytes: usize, dim: usize) -> usize {
    bytes / size_of::<f32>().saturating_mul(dim.max(1))
}

/// Sums that run side by side, so that they vectorise.
const LANES: usize = 8;

impl Frame {
    /// Reads the gallery once: its values are finite, and where they lie. `what` is the name that the caller knows the
    /// vectors by.
    pub(crate) fn new(what: &'static str, gallery: &dyn Rows, metric: Metric) -> Result<Self> {
        let (len, dim) = gallery.shape();
        if dim == 0 {
            return Err(Error::Shape {
                what: "gallery",
                expected: "[items, dim] with dim at least 1".to_owned(),
                got: vec![len, dim],
            });
        }
        if u32::try_from(len).is_err() {
            return Err(Error::Parameter {
                name: "gallery rows",
                value: len.to_string(),
                remedy: "at most 4,294,967,295 can be searched; split the gallery",
            });
        }
        let largest = survey(what, gallery)?;
        let scale = match metric {
            Metric::Cosine => 1.0,
            Metric::Dot => unit_scale(largest.into()),
            Metric::L2 => unit_scale(largest.into()) * REACH,
        };
        Ok(Self { metric, len, dim, scale })
    }

    /// Checks queries before they are mapped.
    pub(crate) fn check(&self, queries: &dyn Rows) -> Result<()> {
        let (rows, dim) = queries.shape();
        if dim != self.dim {
            return Err(Error::Shape {
                what: "queries",
                expected: format!("[queries, {}], as the gallery", self.dim),
                got: vec![rows, dim],
            });
        }
        if u32::try_from(rows).is_err() {
            return Err(Error::Parameter {
                name: "query rows",
                value: rows.to_string(),
                remedy: "at most 4,294,967,295 can be asked; ask in parts",
            });
        }
        survey("query vectors", queries).map(|_| ())
    }

    /// A gallery row as the products see it: `dim` values.
    #[inline(always)]
    pub(crate) fn map(&self, row: &[f32], to: &mut [f32]) {
        self.map_scaled(row, self.scale, to);
    }

    /// A query as the products see it, and the factor by which it was multiplied beyond the gallery's.
    pub(crate) fn map_query(&self, row: &[f32], to: &mut [f32]) -> f64 {
        let unit = || unit_scale(row.iter().map(|&q| f64::from(q).abs()).fold(0.0, f64::max)) / self.scale;
        let factor = match self.metric {
            Metric::Cosine => 1.0,
            Metric::Dot => unit(),
            // Shrunk only where it is so far away that squares might overflow, and all items nearly at one distance.
            Metric::L2 => (unit() * REACH * FAR).min(1.0),
        };
        self.map_scaled(row, self.scale * factor, to);
        factor
    }

    #[inline(always)]
    fn map_scaled(&self, row: &[f32], scale: f64, to: &mut [f32]) {
        let scale = match self.metric {
            // Squares in f64: no overflow or underflow for any finite f32.
            Metric::Cosine => {
                let length = squared_norm(row).sqrt();
                if length > 0.0 { 1.0 / length } else { 0.0 }
            }
            Metric::Dot | Metric::L2 => scale,
        };
        for (to, &value) in to.iter_mut().zip(row) {
            *to = (f64::from(value) * scale) as f32;
        }
    }

    /// What a user wants to see of a score: the cosine, the dot product or the distance, the last from the differences
    /// of the mapped vectors once more, with more digits.
    pub(crate) fn shown(&self, query: &[f32], factor: f64, score: f32, item: &[f32]) -> f32 {
        match self.metric {
            Metric::Cosine => score.clamp(-1.0, 1.0),
            Metric::Dot => (f64::from(score) / factor / self.scale / self.scale) as f32,
            Metric::L2 => {
                let pairs = query.iter().zip(item).take(self.dim);
                let square: f64 = pairs.map(|(&q, &g)| (f64::from(q) / factor - f64::from(g)).powi(2)).sum();
                (square.sqrt() / self.scale) as f32
            }
        }
    }

    /// The distance that belongs to a squared one of mapped vectors.
    pub(crate) fn unscaled(&self, squared: f64) -> f32 {
        (squared.max(0.0).sqrt() / self.scale) as f32
    }
}

/// The name of the vectors that are searched: where they are the queries there is no gallery to speak of.
pub(crate) fn searched(alone: bool) -> &'static str {
    if alone { "the vectors" } else { "gallery vectors" }
}

/// Refuses values that are not finite under the name that the caller knows the array by.
pub(crate) fn check_values(what: &'static str, rows: &dyn Rows) -> Result<()> {
    survey(what, rows).map(drop)
}

/// Reads all rows once, in blocks of fixed size: every value is finite. Returns the largest magnitude; 0 without rows.
fn survey(what: &'static str, rows: &dyn Rows) -> Result<f32> {
    let (len, dim) = rows.shape();
    let read = read_rows(dim);
    let blocks: Vec<usize> = (0..len).step_by(read).collect();
    blocks
        .into_par_iter()
        .map_init(Vec::new, |buffer, first| {
            let count = read.min(len - first);
            buffer.resize(count * dim, 0.0);
            rows.read(first, buffer)?;
            check_finite(what, first, dim, buffer)?;
            Ok(largest(buffer))
        })
        .try_reduce(|| 0.0, |a, b| Ok(f32::max(a, b)))
}

/// The largest magnitude among finite values.
fn largest(values: &[f32]) -> f32 {
    simd::dispatch(
        #[inline(always)]
        || {
            let mut most = [0.0f32; 4 * LANES];
            let (chunks, rest) = values.as_chunks::<{ 4 * LANES }>();
            for chunk in chunks {
                most.iter_mut()
                    .zip(chunk)
                    .for_each(|(most, v)| *most = if v.abs() > *most { v.abs() } else { *most });
            }
            rest.iter().chain(&most).fold(0.0f32, |most, v| most.max(v.abs()))
        },
    )
}

fn check_finite(what: &'static str, first: usize, dim: usize, values: &[f32]) -> Result<()> {
    // A sum of zeros times values is zero exactly when all are finite; it needs no branch for each.
    let zero = simd::dispatch(
        #[inline(always)]
        || {
            let mut sums = [0.0f32; 4 * LANES];
            let (chunks, rest) = values.as_chunks::<{ 4 * LANES }>();
            for chunk in chunks {
                sums.iter_mut().zip(chunk).for_each(|(sum, &v)| *sum += v * 0.0);
            }
            sums.iter().sum::<f32>() + rest.iter().map(|&v| v * 0.0).sum::<f32>()
        },
    );
    if zero == 0.0 {
        return Ok(());
    }
    match values.iter().enumerate().find(|(_, v)| !v.is_finite()) {
        Some((at, &value)) => Err(Error::NotFinite { what, row: first + at / dim, column: at % dim, value }),
        None => Ok(()),
    }
}

/// The power of two that brings `largest` to between a half and one.
fn unit_scale(largest: f64) -> f64 {
    if largest > 0.0 { (-largest.log2().ceil()).exp2() } else { 1.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

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
