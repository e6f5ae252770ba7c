//! Vectors as the products see them.

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
/// With the Euclidean metric vectors are centred near the gallery's mean, which distances do not notice and which keeps
/// the digits that `|q|^2 - 2 q.g + |g|^2` loses far from the origin, and the score is `q.g - |g|^2 / 2`, one product
/// with a further coordinate. Both this and the dot product scale by powers of two, so that nothing overflows.
#[derive(Debug, Clone)]
pub(crate) struct Frame {
    pub(crate) metric: Metric,
    pub(crate) len: usize,
    pub(crate) dim: usize,
    /// Coordinates of a product.
    pub(crate) depth: usize,
    mean: Vec<f32>,
    scale: f64,
}

/// Rows that a thread reads at once.
pub(crate) const READ: usize = 1024;
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
        let columns = survey(what, gallery)?;
        let (mean, scale) = match metric {
            Metric::Cosine => (vec![0.0; dim], 1.0),
            Metric::Dot => (vec![0.0; dim], unit_scale(columns.largest(&vec![0.0; dim]))),
            Metric::L2 => {
                let mean = columns.centre(len);
                let scale = unit_scale(columns.largest(&mean));
                (mean, scale)
            }
        };
        let depth = dim + usize::from(metric == Metric::L2);
        Ok(Self { metric, len, dim, depth, mean, scale })
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

    /// A gallery row as the products see it: `depth` values.
    #[inline(always)]
    pub(crate) fn map(&self, row: &[f32], to: &mut [f32]) {
        self.map_scaled(row, self.scale, to);
        if let (Metric::L2, Some((last, to))) = (self.metric, to.split_last_mut()) {
            *last = (-0.5 * squares(to)) as f32;
        }
    }

    /// A query as the products see it, and the factor by which it was multiplied beyond the gallery's.
    pub(crate) fn map_query(&self, row: &[f32], to: &mut [f32]) -> f64 {
        let far = || {
            let distances = row.iter().zip(&self.mean).map(|(&q, &m)| (f64::from(q) - f64::from(m)).abs());
            unit_scale(distances.fold(0.0, f64::max)) / self.scale
        };
        let factor = match self.metric {
            Metric::Cosine => 1.0,
            Metric::Dot => far(),
            // Shrunk only: the further coordinate carries the factor and must not overflow either.
            Metric::L2 => far().min(1.0),
        };
        self.map_scaled(row, self.scale * factor, to);
        if let (Metric::L2, Some(last)) = (self.metric, to.last_mut()) {
            *last = factor as f32;
        }
        factor
    }

    #[inline(always)]
    fn map_scaled(&self, row: &[f32], scale: f64, to: &mut [f32]) {
        let scale = match self.metric {
            // Squares in f64: no overflow or underflow for any finite f32.
            Metric::Cosine => {
                let length = squares(row).sqrt();
                if length > 0.0 { 1.0 / length } else { 0.0 }
            }
            Metric::Dot | Metric::L2 => scale,
        };
        for ((to, &value), &mean) in to.iter_mut().zip(row).zip(&self.mean) {
            *to = ((f64::from(value) - f64::from(mean)) * scale) as f32;
        }
    }

    /// What a user wants to see of a score: the cosine, the dot product or the distance, the last from the differences
    /// of the mapped vectors (the score has lost the digits of near-duplicates).
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

/// Sum of squares in `f64`, in lanes.
#[inline(always)]
pub(crate) fn squares(row: &[f32]) -> f64 {
    let mut sums = [0.0f64; LANES];
    let (chunks, rest) = row.as_chunks::<LANES>();
    for chunk in chunks {
        sums.iter_mut().zip(chunk).for_each(|(sum, &v)| *sum += f64::from(v) * f64::from(v));
    }
    sums.iter().sum::<f64>() + rest.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>()
}

/// What is known of each column.
struct Columns {
    sums: Vec<f64>,
    low: Vec<f32>,
    high: Vec<f32>,
}

impl Columns {
    fn new(dim: usize) -> Self {
        Self { sums: vec![0.0; dim], low: vec![f32::INFINITY; dim], high: vec![f32::NEG_INFINITY; dim] }
    }

    #[inline(always)]
    fn add(&mut self, row: &[f32]) {
        let columns = self.sums.iter_mut().zip(&mut self.low).zip(&mut self.high);
        for (((sum, low), high), &value) in columns.zip(row) {
            *sum += f64::from(value);
            *low = if value < *low { value } else { *low };
            *high = if value > *high { value } else { *high };
        }
    }

    fn merge(&mut self, other: &Self) {
        self.sums.iter_mut().zip(&other.sums).for_each(|(a, b)| *a += b);
        self.low.iter_mut().zip(&other.low).for_each(|(a, b)| *a = a.min(*b));
        self.high.iter_mut().zip(&other.high).for_each(|(a, b)| *a = a.max(*b));
    }

    /// A point near the mean of `len` rows: each column's is rounded to a power of two that its values span at least
    /// twice, so that whole numbers, and others of few digits, lose none by the shift. Items at equal distances then
    /// have equal scores and rank by index; the exact mean would tell them apart by rounding.
    fn centre(&self, len: usize) -> Vec<f32> {
        let columns = self.sums.iter().zip(self.low.iter().zip(&self.high));
        columns
            .map(|(sum, (&low, &high))| {
                let span = f64::from(high) - f64::from(low);
                if span > 0.0 {
                    let unit = (span / 2.0).log2().floor().exp2();
                    (((sum / len.max(1) as f64) / unit).round() * unit) as f32
                } else if low.is_finite() {
                    low
                } else {
                    0.0
                }
            })
            .collect()
    }

    /// The largest distance of a value from its column's `mean`; 0 without rows.
    fn largest(&self, mean: &[f32]) -> f64 {
        let ends = self.low.iter().zip(&self.high).zip(mean);
        ends.map(|((&low, &high), &mean)| {
            (f64::from(mean) - f64::from(low)).max(f64::from(high) - f64::from(mean))
        })
        .fold(0.0, f64::max)
    }
}

/// Refuses values that are not finite under the name that the caller knows the array by.
pub(crate) fn check_values(what: &'static str, rows: &dyn Rows) -> Result<()> {
    survey(what, rows).map(drop)
}

/// Reads all rows once, in blocks of fixed size: every value is finite.
fn survey(what: &'static str, rows: &dyn Rows) -> Result<Columns> {
    let (len, dim) = rows.shape();
    // Blocks that may be in flight: what is kept of each is as large as a row, so few enough not to matter.
    const AT_ONCE: usize = 256;
    let mut all = Columns::new(dim);
    for start in (0..len).step_by(READ * AT_ONCE) {
        let blocks: Vec<usize> = (start..len.min(start + READ * AT_ONCE)).step_by(READ).collect();
        let found: Vec<Columns> = blocks
            .into_par_iter()
            .map_init(Vec::new, |buffer, first| {
                let count = READ.min(len - first);
                buffer.resize(count * dim, 0.0);
                rows.read(first, buffer)?;
                check_finite(what, first, dim, buffer)?;
                let mut columns = Columns::new(dim);
                simd::dispatch(
                    #[inline(always)]
                    || buffer.chunks_exact(dim.max(1)).for_each(|row| columns.add(row)),
                );
                Ok(columns)
            })
            .collect::<Result<_>>()?;
        found.iter().for_each(|block| all.merge(block));
    }
    Ok(all)
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
