//! The thresholds that pairs are counted by.

use crate::keys::{key, unkey};

/// Thresholds, at most.
pub(crate) const BINS: usize = 1 << 20;
/// Pieces of all numbers that there are, each of 2^16 neighbours: about a hundredth of a number's size.
pub(crate) const PIECES: usize = 1 << 16;

/// Cosines above this are those of nearly equal vectors, as a collapsed model makes them all: as many numbers as half of
/// the bins.
const CLOSE: f32 = 31.0 / 32.0;

/// Bins of scores, the most similar first. [`bin`](Self::bin) never falls as similarity falls, rounding included.
pub(crate) enum Grid {
    /// From 1 down to [`CLOSE`] a bin for each number, then bins of equal width down to -1.
    Cosine,
    /// Finer where more scores lie: numbers that are not bounded may lie anywhere, and one far away must not take the
    /// resolution from all others.
    Spread {
        /// The first bin of each piece, and the end of the last.
        starts: Vec<u32>,
        similarity: bool,
        /// The least similar score.
        worst: f32,
    },
}

impl Grid {
    /// The piece of a score, the most similar first.
    #[inline(always)]
    pub(crate) fn piece(score: f32, similarity: bool) -> usize {
        (ordinal(score, similarity) >> 16) as usize
    }

    /// From the number of scores in each piece and the least similar of them.
    pub(crate) fn spread(counts: &[u64], worst: f32, similarity: bool) -> Self {
        let (half, total) = (BINS as u64 / 2, counts.iter().sum::<u64>().max(1));
        let occupied = counts.iter().filter(|&&count| count > 0).count() as u64;
        // One half is the same for every piece that has scores, the other by their number; pieces without have none.
        let even = (half / occupied.max(1)).max(1);
        let mut starts = Vec::with_capacity(counts.len() + 1);
        let mut start = 0;
        for &count in counts {
            starts.push(start);
            if count > 0 {
                let by_number = (u128::from(count) * u128::from(half) / u128::from(total)) as u64;
                // No more than there are numbers.
                start += (even + by_number).min(1 << 16) as u32;
            }
        }
        starts.push(start);
        Self::Spread { starts, similarity, worst }
    }

    #[inline(always)]
    pub(crate) fn bin(&self, score: f32) -> usize {
        match self {
            Self::Cosine => {
                const HALF: usize = BINS / 2;
                const PER_SCORE: f32 = HALF as f32 / (CLOSE + 1.0);
                if score > CLOSE {
                    return 1.0f32.to_bits().saturating_sub(score.to_bits()) as usize;
                }
                HALF + (((CLOSE - score) * PER_SCORE) as u32 as usize).min(HALF - 1)
            }
            Self::Spread { starts, similarity, .. } => {
                let at = ordinal(score, *similarity);
                let piece = (at >> 16) as usize;
                let (start, end) = (starts[piece], starts[piece + 1]);
                let within = (u64::from(at & 0xffff) * u64::from(end - start)) >> 16;
                (start as usize + within as usize).min(BINS - 1)
            }
        }
    }

    /// The loosest score that lies in `bin` or in one before.
    pub(crate) fn threshold(&self, bin: usize) -> f32 {
        match self {
            Self::Cosine => {
                let (mut inside, mut outside) = (ordinal(1.0, true), ordinal(-1.0, true));
                if self.bin(-1.0) <= bin {
                    return -1.0;
                }
                // By bisection of the numbers that there are.
                while outside - inside > 1 {
                    let middle = inside.midpoint(outside);
                    if self.bin(number(middle, true)) <= bin {
                        inside = middle;
                    } else {
                        outside = middle;
                    }
                }
                number(inside, true)
            }
            Self::Spread { starts, similarity, worst } => {
                let piece = starts.partition_point(|&start| start as usize <= bin).saturating_sub(1);
                let (Some(&start), Some(&end)) = (starts.get(piece), starts.get(piece + 1)) else {
                    return *worst;
                };
                let within = (bin as u64 + 1 - u64::from(start)) << 16;
                let last = ((within - 1) / u64::from(end - start).max(1)).min(0xffff) as u32;
                let at = (piece as u32) << 16 | last;
                number(at.min(ordinal(*worst, *similarity)), *similarity)
            }
        }
    }
}

/// Ascends as similarity falls, by one from a number to the next.
#[inline(always)]
fn ordinal(score: f32, similarity: bool) -> u32 {
    let up = (key(score, 0) >> 32) as u32;
    if similarity { !up } else { up }
}

/// The number of an [`ordinal`].
fn number(at: u32, similarity: bool) -> f32 {
    let up = if similarity { !at } else { at };
    unkey(u64::from(up) << 32).0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spread(scores: &[f32], similarity: bool) -> Grid {
        let mut counts = vec![0; PIECES];
        scores.iter().for_each(|&score| counts[Grid::piece(score, similarity)] += 1);
        let ends = scores.iter().copied().reduce(if similarity { f32::min } else { f32::max });
        Grid::spread(&counts, ends.unwrap(), similarity)
    }

    #[test]
    fn a_threshold_accepts_its_bin_and_nothing_after() {
        let some = |low: f32, high: f32| -> Vec<f32> {
            (0..5000).map(|i| low + (high - low) * (i * i % 4999) as f32 / 4999.0).collect()
        };
        let grids = [
            (Grid::Cosine, true, some(-1.0, 1.0)),
            (Grid::Cosine, true, [some(0.95, 1.0), vec![-1.0, CLOSE]].concat()),
            (spread(&some(0.0, 3.7), false), false, some(0.0, 3.7)),
            (spread(&some(-1e30, 2e30), true), true, some(-1e30, 2e30)),
            (spread(&some(2.0, 2.5), false), false, some(2.0, 2.5)),
            (spread(&[0.0; 3], true), true, vec![0.0]),
            (spread(&[-0.0, 0.0, 1e-45, f32::MAX], false), false, vec![0.0, 1e-45, f32::MAX]),
        ];
        for (at, (grid, similarity, scores)) in grids.iter().enumerate() {
            let worst = scores.iter().copied().reduce(if *similarity { f32::min } else { f32::max }).unwrap();
            let looser = |score: f32| if *similarity { score.next_down() } else { score.next_up() };
            for &score in scores {
                let bin = grid.bin(score);
                let threshold = grid.threshold(bin);
                assert!(grid.bin(threshold) <= bin, "{at}: {score} {threshold}");
                assert!(if *similarity { threshold <= score } else { threshold >= score }, "{at}: {score}");
                // Looser ones are of later bins, or looser than all there is.
                assert!(threshold == worst || grid.bin(looser(threshold)) > bin, "{at}: {score} {threshold}");
            }
            assert!(grid.bin(worst) < BINS);
        }
    }

    #[test]
    fn nearly_equal_vectors_are_told_apart() {
        assert_eq!((1.0f32.to_bits() - CLOSE.to_bits()) as usize, BINS / 2);
        let mut score = 1.0f32;
        for bin in 0..1000 {
            assert_eq!((Grid::Cosine.bin(score), Grid::Cosine.threshold(bin)), (bin, score));
            score = score.next_down();
        }
        assert_eq!(
            [CLOSE.next_up(), CLOSE, -1.0].map(|score| Grid::Cosine.bin(score)),
            [BINS / 2 - 1, BINS / 2, BINS - 1]
        );
    }

    #[test]
    fn bins_never_fall_as_similarity_falls() {
        for similarity in [false, true] {
            let mut scores: Vec<f32> =
                (0..30_000).map(|i| ((i * 7919) as f32).sin() * 10f32.powi(i % 9 - 4)).collect();
            let grid = spread(&scores, similarity);
            scores.sort_unstable_by(|a, b| if similarity { b.total_cmp(a) } else { a.total_cmp(b) });
            let bins: Vec<usize> = scores.iter().map(|&score| grid.bin(score)).collect();
            assert!(bins.is_sorted());
            // Nearly every score has its own.
            let mut distinct = bins.clone();
            distinct.dedup();
            assert!(distinct.len() > 25_000, "{}", distinct.len());
        }
    }
}
