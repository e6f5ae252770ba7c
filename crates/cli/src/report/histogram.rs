//! Distances between items of one class and of different classes.

use embedtune_train::core::linalg::matmul_serial;
use embedtune_train::ndarray::{Array2, ArrayView2, Axis};
use embedtune_train::{Error, Result};
use rayon::prelude::*;
use serde::Serialize;

/// Bins over the cosine distance, 0 to 2.
const FINE: usize = 2000;
/// Bins that are drawn.
const DRAWN: usize = 400;
/// Rows whose pairs one task counts, and the rows that they are multiplied with at a time.
const STRIP: usize = 64;
const WIDTH: usize = 512;

/// Counts of pairs by cosine distance, `1 - cos`, in equal bins from 0 to 2.
#[derive(Debug, Serialize)]
pub(super) struct Histogram {
    positive: Vec<u64>,
    negative: Vec<u64>,
    /// The chance that a pair of one class is nearer than a pair of two; `None` without pairs of either kind.
    order: Option<f64>,
    /// The mean distance of pairs of different classes.
    pub(super) mean_negative: Option<f64>,
}

impl Histogram {
    /// Of all pairs of a row of `a` and a row of `b`; `b = None`: of the pairs among `a`.
    ///
    /// # Errors
    /// Rows of different lengths.
    pub(super) fn of(
        a: (ArrayView2<'_, f32>, &[u32]),
        b: Option<(ArrayView2<'_, f32>, &[u32])>,
    ) -> Result<Self> {
        let rows = unit(a.0);
        let others = b.map(|b| unit(b.0));
        let (others, other_labels) = match (&others, b) {
            (Some(others), Some(b)) => (others, b.1),
            _ => (&rows, a.1),
        };
        let within = b.is_none();
        let strips: Vec<usize> = (0..rows.nrows()).step_by(STRIP).collect();
        let counts = strips
            .into_par_iter()
            .map(|first| {
                let mut counts = vec![0u64; 2 * FINE];
                let strip = rows.slice_axis(Axis(0), (first..(first + STRIP).min(rows.nrows())).into());
                // Pairs of a row with itself and with those before it are left out where both are of one set.
                let begin = if within { first } else { 0 };
                let mut cosines = Array2::zeros((strip.nrows(), WIDTH));
                for from in (begin..others.nrows()).step_by(WIDTH) {
                    let block = others.slice_axis(Axis(0), (from..(from + WIDTH).min(others.nrows())).into());
                    let mut cosines = cosines.slice_axis_mut(Axis(1), (..block.nrows()).into());
                    matmul_serial(1.0, strip, block.t(), 0.0, cosines.view_mut())?;
                    for (i, cosines) in (first..).zip(cosines.rows()) {
                        for (j, &cosine) in (from..).zip(cosines) {
                            if within && j <= i {
                                continue;
                            }
                            let distance = 1.0 - f64::from(cosine);
                            let bin = ((distance * 0.5 * FINE as f64) as usize).min(FINE - 1);
                            counts[if a.1[i] == other_labels[j] { bin } else { FINE + bin }] += 1;
                        }
                    }
                }
                Ok(counts)
            })
            // Whole numbers: any order of adding gives the same sums.
            .try_reduce(
                || vec![0u64; 2 * FINE],
                |mut a, b| {
                    a.iter_mut().zip(b).for_each(|(a, b)| *a += b);
                    Ok(a)
                },
            )
            .map_err(|e: embedtune_train::core::Error| {
                Error::Unsuitable(format!("distances of pairs: {e}"))
            })?;
        let (positive, negative) = counts.split_at(FINE);
        let drawn = |fine: &[u64]| fine.chunks(FINE / DRAWN).map(|bins| bins.iter().sum()).collect();
        Ok(Self {
            positive: drawn(positive),
            negative: drawn(negative),
            order: order(positive, negative),
            mean_negative: mean(negative),
        })
    }
}

/// The area under the ROC curve: pairs in one bin count half.
fn order(positive: &[u64], negative: &[u64]) -> Option<f64> {
    let [all_positive, all_negative] = [positive, negative].map(|bins| bins.iter().sum::<u64>() as f64);
    if all_positive == 0.0 || all_negative == 0.0 {
        return None;
    }
    let mut beyond = all_negative;
    let nearer: f64 = positive
        .iter()
        .zip(negative)
        .map(|(&p, &n)| {
            beyond -= n as f64;
            p as f64 * (beyond + 0.5 * n as f64)
        })
        .sum();
    Some(nearer / all_positive / all_negative)
}

fn mean(bins: &[u64]) -> Option<f64> {
    let all: u64 = bins.iter().sum();
    let width = 2.0 / FINE as f64;
    let sum: f64 = bins.iter().enumerate().map(|(i, &n)| (i as f64 + 0.5) * width * n as f64).sum();
    (all > 0).then(|| sum / all as f64)
}

fn unit(rows: ArrayView2<'_, f32>) -> Array2<f32> {
    let mut unit = rows.to_owned();
    for mut row in unit.axis_iter_mut(Axis(0)) {
        let norm = row.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>().sqrt();
        if norm > 0.0 {
            row.mapv_inplace(|v| (f64::from(v) / norm) as f32);
        }
    }
    unit
}

#[cfg(test)]
mod tests {
    use super::*;
    use embedtune_train::ndarray::arr2;

    #[test]
    fn pairs_are_counted_where_they_stand() {
        let rows = arr2(&[[1.0, 0.0], [2.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]);
        let found = Histogram::of((rows.view(), &[0, 0, 1, 1]), None).unwrap();
        assert_eq!((found.positive.iter().sum::<u64>(), found.negative.iter().sum::<u64>()), (2, 4));
        // The pair of class 0 coincides, that of class 1 and two mixed ones are a right angle apart.
        assert_eq!(
            (found.positive[0], found.positive[200], found.negative[200], found.negative[399]),
            (1, 1, 2, 2)
        );
        // The first is nearer than all four; the second ties with two and is nearer than two.
        assert_eq!(found.order, Some((4.0 + 2.0 + 1.0) / 8.0));
        let across = Histogram::of((rows.view(), &[0, 0, 1, 1]), Some((rows.view(), &[0, 0, 1, 1]))).unwrap();
        assert_eq!(across.positive.iter().sum::<u64>(), 8);
        assert_eq!(Histogram::of((rows.view(), &[0; 4]), None).unwrap().order, None);
    }

    /// More rows than one strip and one block hold.
    #[test]
    fn every_pair_is_counted_once() {
        let rows = Array2::from_shape_fn((600, 3), |(i, j)| ((i * 7 + j * 13) as f32).sin());
        let labels: Vec<u32> = (0..600).map(|i| i % 3).collect();
        let same: u64 = 3 * 200 * 199 / 2;
        for (b, times) in [(None, 1), (Some((rows.view(), labels.as_slice())), 2)] {
            let found = Histogram::of((rows.view(), &labels), b).unwrap();
            let own = if b.is_some() { 600 } else { 0 };
            assert_eq!(found.positive.iter().sum::<u64>(), times * same + own);
            assert_eq!(found.negative.iter().sum::<u64>(), times * (600 * 599 / 2 - same));
        }
    }
}
