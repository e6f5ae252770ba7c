//! Distances between items of one class and of different classes.

use embedtune_train::ndarray::{Array2, ArrayView2, Axis};
use rayon::prelude::*;
use serde::Serialize;

/// Bins over the cosine distance, 0 to 2.
const FINE: usize = 2000;
/// Bins that are drawn.
const DRAWN: usize = 400;

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
    pub(super) fn of(a: (ArrayView2<'_, f32>, &[u32]), b: Option<(ArrayView2<'_, f32>, &[u32])>) -> Self {
        let rows = unit(a.0);
        let others = b.map(|b| unit(b.0));
        let (others, other_labels) = match (&others, b) {
            (Some(others), Some(b)) => (others, b.1),
            _ => (&rows, a.1),
        };
        let within = b.is_none();
        let counts = (0..rows.nrows())
            .into_par_iter()
            .fold(
                || vec![0u64; 2 * FINE],
                |mut counts, i| {
                    let row = rows.row(i);
                    for j in if within { i + 1 } else { 0 }..others.nrows() {
                        let distance = 1.0 - f64::from(row.dot(&others.row(j)));
                        let bin = ((distance * 0.5 * FINE as f64) as usize).min(FINE - 1);
                        counts[if a.1[i] == other_labels[j] { bin } else { FINE + bin }] += 1;
                    }
                    counts
                },
            )
            // Whole numbers: any order of adding gives the same sums.
            .reduce(
                || vec![0u64; 2 * FINE],
                |mut a, b| {
                    a.iter_mut().zip(b).for_each(|(a, b)| *a += b);
                    a
                },
            );
        let (positive, negative) = counts.split_at(FINE);
        let drawn = |fine: &[u64]| fine.chunks(FINE / DRAWN).map(|bins| bins.iter().sum()).collect();
        Self {
            positive: drawn(positive),
            negative: drawn(negative),
            order: order(positive, negative),
            mean_negative: mean(negative),
        }
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
        let found = Histogram::of((rows.view(), &[0, 0, 1, 1]), None);
        assert_eq!((found.positive.iter().sum::<u64>(), found.negative.iter().sum::<u64>()), (2, 4));
        // The pair of class 0 coincides, that of class 1 and two mixed ones are a right angle apart.
        assert_eq!(
            (found.positive[0], found.positive[200], found.negative[200], found.negative[399]),
            (1, 1, 2, 2)
        );
        // The first is nearer than all four; the second ties with two and is nearer than two.
        assert_eq!(found.order, Some((4.0 + 2.0 + 1.0) / 8.0));
        let across = Histogram::of((rows.view(), &[0, 0, 1, 1]), Some((rows.view(), &[0, 0, 1, 1])));
        assert_eq!(across.positive.iter().sum::<u64>(), 8);
        assert_eq!(Histogram::of((rows.view(), &[0; 4]), None).order, None);
    }
}
