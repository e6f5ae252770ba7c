//! The exact ranks of a query's relevant items, from a stream of the others' scores.

use embedtune_core::simd;

use crate::keys::{key, unkey};

/// Scores whose bins are found at once.
const LANES: usize = 32;

/// Bins for each relevant item: with this many, most other items fall where no relevant one is.
const BINS: usize = 2;
/// More are not worth their memory, and would not fit the bits that [`Ranks::bin`] reads.
const MAX_BINS: usize = 1 << 20;

/// A query's relevant items in order, and how many items lie between each two of them.
pub(crate) struct Ranks {
    /// Keys of the relevant items, best first, and a sentinel behind them.
    keys: Vec<u64>,
    /// `between[i]`: items with `i` relevant items above them, relevant item `i` included.
    between: Vec<u32>,
    lowest: f32,
    highest: f32,
    /// Bins of equal width over the relevant scores, from the highest down, and one for what lies below them all:
    /// `starts[b]` relevant items lie in bins before `b`. An item whose bin holds none has its place at once.
    starts: Vec<u32>,
    per_score: f32,
    /// How many relevant items are above the query itself, if it is among the items.
    own: Option<usize>,
}

impl Ranks {
    /// Bytes for each relevant item.
    pub(crate) const BYTES: usize = size_of::<u64>() + (1 + BINS) * size_of::<u32>();

    /// `keys` of the relevant items in any order; the query's own if it is among the items that will be counted.
    pub(crate) fn new(mut keys: Vec<u64>, own: Option<u64>) -> Self {
        keys.sort_unstable_by(|a, b| b.cmp(a));
        let score = |key: Option<&u64>| key.map_or(f32::INFINITY, |&key| unkey(key).0);
        let (highest, lowest) = (score(keys.first()), score(keys.last()));
        let bins = (BINS * keys.len()).clamp(1, MAX_BINS);
        let per_score = bins as f32 / (highest - lowest);
        let mut ranks = Self {
            between: vec![0; keys.len() + 1],
            starts: vec![0; bins + 2],
            own: own.map(|own| keys.partition_point(|&relevant| relevant > own)),
            keys,
            lowest,
            highest,
            // Relevant items of one score share the first bin.
            per_score: if per_score.is_finite() { per_score } else { 0.0 },
        };
        for i in 0..ranks.keys.len() {
            let bin = ranks.bin(unkey(ranks.keys[i]).0) as usize;
            ranks.starts[bin + 1] += 1;
        }
        ranks.keys.push(0);
        for bin in 1..ranks.starts.len() {
            ranks.starts[bin] += ranks.starts[bin - 1];
        }
        ranks
    }

    /// Items of this score or less are below all relevant items: nobody need count them.
    pub(crate) fn below(&self) -> f32 {
        self.lowest.next_down()
    }

    /// The bin of a score. It never rises with the score, rounding included, which is all that the search needs.
    #[inline(always)]
    fn bin(&self, score: f32) -> u32 {
        let last = (self.starts.len() - 2) as f32;
        let bin = ((self.highest - score) * self.per_score).max(0.0).min(last);
        // Beyond 2^23 a float's last bits count whole numbers: a conversion that vectorises.
        (bin + 8_388_608.0).to_bits() & 0x7f_ffff
    }

    /// Counts items `first`, `first + 1`, ...: all of them, relevant or not, each once, those up to
    /// [`below`](Self::below) at will.
    pub(crate) fn count(&mut self, scores: &[f32], first: u32) {
        simd::dispatch(
            #[inline(always)]
            || {
                let mut start = first;
                for scores in scores.chunks(LANES) {
                    let mut bins = [0u32; LANES];
                    for (bin, &score) in bins.iter_mut().zip(scores) {
                        *bin = self.bin(score);
                    }
                    for ((&bin, &score), index) in bins.iter().zip(scores).zip(start..) {
                        self.place(bin as usize, score, index);
                    }
                    start = start.wrapping_add(LANES as u32);
                }
            },
        );
    }

    #[inline(always)]
    fn place(&mut self, bin: usize, score: f32, index: u32) {
        let (start, end) = (self.starts[bin] as usize, self.starts[bin + 1] as usize);
        let other = key(score, index);
        // Nearly always at most one relevant item is in the bin, and no branch depends on the score. In an empty bin
        // the next item is a worse one, or the sentinel.
        let above = if end - start <= 1 {
            start + usize::from(self.keys[start] > other)
        } else {
            start + self.keys[start..end].partition_point(|&relevant| relevant > other)
        };
        self.between[above] += 1;
    }

    /// The rank, from 1, of each relevant item among the items without the query itself, best first.
    pub(crate) fn ranks(&self) -> impl Iterator<Item = u32> + '_ {
        let mut counted = 0;
        // The last count is of those behind all relevant items.
        let relevant = self.between.len() - 1;
        self.between.iter().take(relevant).enumerate().map(move |(above, &between)| {
            counted += between;
            counted - u32::from(self.own.is_some_and(|own| own <= above))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng, SeedableRng};

    #[test]
    fn ranks_are_those_of_a_full_sort() {
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(3);
        for case in 0..300 {
            let (relevant, others) = (rng.random_range(1..40), rng.random_range(0..200));
            // Few levels make ties; a far outlier puts nearly all into one bin.
            let levels = [3, 20, 1_000_000][case % 3];
            let mut score = || {
                let value = rng.random_range(0..levels) as f32 / levels as f32 - 0.5;
                if case % 5 == 0 && rng.random_range(0..20) == 0 { value * 1e6 } else { value }
            };
            let scores: Vec<f32> = (0..relevant + others).map(|_| score()).collect();
            let keys: Vec<u64> = (0..).zip(&scores).map(|(i, &s)| key(s, i)).collect();
            // The last of the others is the query itself in every other case.
            let own = (others > 0 && case % 2 == 0).then(|| keys[keys.len() - 1]);
            let mut ranks = Ranks::new(keys[..relevant].to_vec(), own);
            let cut = relevant + others / 3;
            for range in [0..cut, cut..scores.len()] {
                ranks.count(&scores[range.clone()], range.start as u32);
            }
            let mut expected: Vec<u32> = keys[..relevant]
                .iter()
                .map(|k| keys.iter().filter(|&other| other >= k && Some(*other) != own).count() as u32)
                .collect();
            expected.sort_unstable();
            assert_eq!(ranks.ranks().collect::<Vec<_>>(), expected, "case {case}");
        }
    }
}
