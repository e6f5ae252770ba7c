//! What t-SNE keeps near: the affinities of each row to its nearest neighbours.

use ndarray::ArrayView2;
use rayon::prelude::*;

use crate::Result;
use crate::frame::Metric;
use crate::knn::{Exclude, Hit, knn};

const PERPLEXITY: f64 = 30.0;
/// Neighbours for each unit of perplexity: what is further has next to no affinity (van der Maaten, "Accelerating
/// t-SNE using Tree-Based Algorithms", JMLR 15, 2014, section 4.1).
const REACH: usize = 3;

/// Symmetric affinities `p_ij` with each row's bandwidth found by bisection so that its perplexity is
/// [`PERPLEXITY`] (less for small sets). They sum to 1.
pub(super) struct Affinities {
    /// Where a row's part of the others begins, and the end.
    starts: Vec<usize>,
    others: Vec<u32>,
    values: Vec<f32>,
}

impl Affinities {
    /// # Errors
    /// More rows than a search can take.
    pub(super) fn new(rows: ArrayView2<'_, f32>) -> Result<Self> {
        let n = rows.nrows();
        let perplexity = PERPLEXITY.min(n.saturating_sub(1) as f64 / REACH as f64).max(1.5);
        let reach = (perplexity * REACH as f64).ceil() as usize;
        let near = knn(rows, rows, reach, Metric::L2, Exclude::SameRow)?;
        let hits: Vec<&[Hit]> = near.rows().collect();
        let conditional: Vec<Vec<f64>> = hits.par_iter().map(|hits| conditional(hits, perplexity)).collect();

        let mut sides: Vec<Vec<(u32, f64)>> = vec![Vec::new(); n];
        for (row, (hits, values)) in hits.iter().zip(&conditional).enumerate() {
            for (hit, &value) in hits.iter().zip(values) {
                let half = value / (2.0 * n as f64);
                sides[row].push((hit.index, half));
                sides[hit.index as usize].push((row as u32, half));
            }
        }
        // Two entries for one other, where both are neighbours of each other, are summed; the sum of two numbers does
        // not depend on their order.
        sides.par_iter_mut().for_each(|side| {
            side.sort_unstable_by_key(|&(other, _)| other);
            side.dedup_by(|next, kept| {
                let same = next.0 == kept.0;
                if same {
                    kept.1 += next.1;
                }
                same
            });
        });
        let mut starts = vec![0];
        starts.extend(sides.iter().scan(0, |end, side| {
            *end += side.len();
            Some(*end)
        }));
        let all = || sides.iter().flatten();
        Ok(Self {
            starts,
            others: all().map(|&(other, _)| other).collect(),
            values: all().map(|&(_, value)| value as f32).collect(),
        })
    }

    /// The others of a row, by index, and its affinities to them.
    pub(super) fn row(&self, row: usize) -> impl Iterator<Item = (u32, f32)> {
        let range = match self.starts.get(row..row + 2) {
            Some(&[start, end]) => start..end,
            _ => 0..0,
        };
        self.others[range.clone()].iter().copied().zip(self.values[range].iter().copied())
    }
}

/// `p_j|i` of the neighbours (equation 1 of van der Maaten and Hinton, JMLR 9, 2008).
fn conditional(hits: &[Hit], perplexity: f64) -> Vec<f64> {
    let squared: Vec<f64> = hits.iter().map(|hit| f64::from(hit.score).powi(2)).collect();
    let nearest = squared.iter().copied().fold(f64::INFINITY, f64::min);
    let target = perplexity.ln();
    let (mut precision, mut low, mut high) = (1.0, 0.0, f64::INFINITY);
    let mut row = vec![0.0; hits.len()];
    for _ in 0..64 {
        let (mut sum, mut weighted) = (0.0, 0.0);
        for (p, squared) in row.iter_mut().zip(&squared) {
            // Relative to the nearest neighbour, so that the sum never underflows to zero.
            *p = (-(squared - nearest) * precision).exp();
            sum += *p;
            weighted += *p * (squared - nearest);
        }
        row.iter_mut().for_each(|p| *p /= sum);
        let entropy = sum.ln() + precision * weighted / sum;
        if (entropy - target).abs() < 1e-5 {
            break;
        }
        if entropy > target {
            low = precision;
            precision = if high.is_finite() { (low + high) / 2.0 } else { precision * 2.0 };
        } else {
            high = precision;
            precision = (low + high) / 2.0;
        }
    }
    row
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::Array2;

    #[test]
    fn affinities_are_symmetric_sum_to_one_and_fall_with_distance() {
        let rows = Array2::from_shape_fn((200, 3), |(i, j)| ((i * 7 + j * 3) as f32 * 0.37).sin());
        let affinities = Affinities::new(rows.view()).unwrap();
        let of = |a: usize, b: usize| {
            affinities.row(a).find(|&(other, _)| other as usize == b).map_or(0.0, |(_, value)| value)
        };
        let total: f64 =
            (0..200).flat_map(|row| affinities.row(row)).map(|(_, value)| f64::from(value)).sum();
        assert!((total - 1.0).abs() < 1e-5, "{total}");
        for (a, b) in [(0, 17), (3, 20), (150, 99)] {
            assert_eq!(of(a, b), of(b, a));
            assert_eq!(of(a, a), 0.0);
        }
    }

    /// The entropy of each row's conditional affinities is that of the perplexity.
    #[test]
    fn every_row_has_the_perplexity_that_it_should() {
        let hits: Vec<Hit> = (0..90).map(|i| Hit { index: i, score: 0.3 + 0.02 * i as f32 }).collect();
        for perplexity in [5.0, 30.0] {
            let row = conditional(&hits, perplexity);
            let entropy: f64 = row.iter().filter(|&&p| p > 0.0).map(|p| -p * p.ln()).sum();
            assert!((entropy.exp() - perplexity).abs() < 1e-2, "{} {perplexity}", entropy.exp());
            assert!((1..90).all(|j| row[j] <= row[j - 1]));
        }
    }

    #[test]
    fn rows_without_neighbours_have_no_affinities() {
        for n in 0..3 {
            let affinities = Affinities::new(Array2::zeros((n, 2)).view()).unwrap();
            assert!((0..n).all(|row| affinities.row(row).all(|(_, value)| value.is_finite())));
        }
    }
}
