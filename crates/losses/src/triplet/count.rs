//! One anchor's hinge losses and coefficients from its sorted thresholds.
//!
//! A triplet `(a, p, n)` has a loss where `d(a, n) < d(a, p) + m`, and a miner keeps it where `d(a, n)` lies in an
//! interval that `d(a, p)` gives. So each positive has one interval, and each negative needs only the number of
//! intervals that it lies in: the loss is `sum_p k_p (d_ap + m) - sum_n c_n d_an` with `k_p` the negatives in
//! `p`'s interval and `c_n` the intervals around `n`, and these integers are the gradient's coefficients.
//! Few positives: compare with each, without a branch. Many: sort, then search, `O(log P)` a negative.

use super::Distance;
use super::groups::Anchor;
use super::rows::LANES;
use crate::{Miner, TripletKind};

/// From this many positives on, searching beats comparing with each.
const SEARCH_FROM: usize = 96;
const WIDTH: usize = 16;
/// Positives compared with at a time.
const GROUP: usize = 4;
/// Columns whose counts stay in the first cache.
const BLOCK: usize = 1024;

/// Which triplets a miner keeps, on the dissimilarities of the loss.
#[derive(Clone, Copy)]
pub(crate) struct Mining {
    pub(crate) kind: TripletKind,
    pub(crate) margin: f32,
}

impl Mining {
    /// `None` where every triplet is kept, or the miner is not one of intervals.
    pub(crate) fn of(miner: &Miner) -> Option<Self> {
        match *miner {
            Miner::TripletMargin { margin, kind } => Some(Self { kind, margin: margin as f32 }),
            Miner::All | Miner::BatchHard => None,
        }
    }

    /// The interval `[low, high)` of `d(a, n)` that keeps a triplet with `d(a, p) = positive`. Never reaches
    /// [`f32::MAX`], the mask.
    #[inline(always)]
    pub(crate) fn interval(self, positive: f32) -> (f32, f32) {
        let (tie, edge) = (positive.next_up(), (positive + self.margin).next_up());
        match self.kind {
            TripletKind::All => (f32::NEG_INFINITY, edge),
            TripletKind::Hard => (f32::NEG_INFINITY, tie),
            TripletKind::Semihard => (tie, edge),
            TripletKind::Easy => (edge, f32::MAX),
        }
    }
}

/// What an anchor adds to the totals.
#[derive(Clone, Copy, Default)]
pub(crate) struct Tally {
    /// Sum of the losses of its triplets, unweighted.
    pub(crate) loss: f64,
    /// Triplets after mining.
    pub(crate) triplets: u64,
    /// Those with a loss.
    pub(crate) active: u64,
}

/// How a coefficient of a dissimilarity becomes one of a difference of rows: `1/d` for L2 (0 for rows that
/// coincide, which have no direction), 2 for the square, 1 for the cosine.
#[inline(always)]
pub(crate) fn chain(distance: Distance, d: f32) -> f32 {
    match distance {
        Distance::L2 => {
            if d > 0.0 {
                1.0 / d
            } else {
                0.0
            }
        }
        Distance::SquaredL2 => 2.0,
        Distance::Cosine => 1.0,
    }
}

/// The anchor's kernel and its scratch, reused between anchors.
pub(crate) struct Counter {
    pub(crate) distance: Distance,
    pub(crate) margin: f32,
    pub(crate) mining: Option<Mining>,
    /// Whether rows are turned into coefficients.
    pub(crate) gradient: bool,
    positives: Vec<Positive>,
    search: Search,
}

#[derive(Clone, Copy)]
struct Positive {
    position: usize,
    d: f32,
    threshold: f32,
    /// Active where `low <= d(a, n) < high`.
    low: f32,
    high: f32,
    /// Mined where `low <= d(a, n) < mined_high`.
    mined_high: f32,
    /// Active negatives.
    count: u64,
}

impl Positive {
    /// An interval that holds nothing.
    const NONE: Self = Self {
        position: 0,
        d: 0.0,
        threshold: 0.0,
        low: f32::INFINITY,
        high: f32::NEG_INFINITY,
        mined_high: f32::NEG_INFINITY,
        count: 0,
    };
}

impl Counter {
    pub(crate) fn new(distance: Distance, margin: f32, mining: Option<Mining>, gradient: bool) -> Self {
        let (positives, search) = Default::default();
        Self { distance, margin, mining, gradient, positives, search }
    }

    /// Replaces an anchor's dissimilarities by `weight` times the coefficients of row differences (if asked for;
    /// else the row is left unspecified).
    #[inline(always)]
    pub(crate) fn anchor(
        &mut self,
        anchor: &Anchor,
        reference: usize,
        weight: f32,
        row: &mut [f32],
    ) -> Tally {
        let (margin, mining, distance) = (self.margin, self.mining, self.distance);
        self.positives.clear();
        self.positives.extend(anchor.positives().map(|position| {
            let d = row[position];
            let threshold = d + margin;
            let (low, mined_high) = mining.map_or((f32::NEG_INFINITY, f32::MAX), |m| m.interval(d));
            let high = mined_high.min(threshold).max(low);
            Positive { position, d, threshold, low, high, mined_high, count: 0 }
        }));
        anchor.mask(row, reference);
        let searched = self.positives.len() >= SEARCH_FROM;
        let (negatives, mined) = match (searched, mining.is_some()) {
            (false, false) => self.compare::<false>(weight, row),
            (false, true) => self.compare::<true>(weight, row),
            (true, _) => self.search(weight, row),
        };
        let all = self.positives.len() as u64 * anchor.negative_count(reference) as u64;
        let mut tally = Tally { loss: 0.0, triplets: mined.unwrap_or(all), active: 0 };
        for positive in &self.positives {
            tally.active += positive.count;
            tally.loss += positive.count as f64 * f64::from(positive.threshold);
            if self.gradient {
                row[positive.position] = weight * positive.count as f32 * chain(distance, positive.d);
            }
        }
        tally.loss -= negatives;
        tally
    }

    /// Every negative with every positive. Returns `sum_n c_n d_an` and the triplets mined.
    #[inline(always)]
    fn compare<const MINED: bool>(&mut self, weight: f32, row: &mut [f32]) -> (f64, Option<u64>) {
        let (mut sum, mut mined) = (0.0, 0u64);
        let mut counts = [0u32; BLOCK];
        let positives = self.positives.len();
        self.positives.resize(positives.next_multiple_of(GROUP), Positive::NONE);
        for block in row.chunks_mut(BLOCK) {
            let counts = &mut counts[..block.len()];
            counts.fill(0);
            for group in self.positives.as_chunks_mut::<GROUP>().0 {
                mined += u64::from(compare_group::<MINED>(block, counts, group));
            }
            sum += self.emit(weight, block, counts);
        }
        self.positives.truncate(positives);
        (sum, MINED.then_some(mined))
    }

    /// Sorted bounds and a search for every negative; returns as [`compare`](Self::compare).
    #[inline(always)]
    fn search(&mut self, weight: f32, row: &mut [f32]) -> (f64, Option<u64>) {
        self.positives.sort_unstable_by(|a, b| a.d.total_cmp(&b.d));
        let mined = self.mining.is_some();
        let mut search = std::mem::take(&mut self.search);
        search.start(&self.positives, mined);
        let mut sum = 0.0;
        for chunk in row.as_chunks_mut::<LANES>().0 {
            let counts = search.chunk(chunk);
            sum += self.emit(weight, chunk, &counts);
        }
        search.finish(&mut self.positives);
        let total = search.mined;
        self.search = search;
        (sum, mined.then_some(total))
    }

    /// Returns `sum_n c_n d_an` (a product of `f32`s is exact in `f64`) and writes the coefficients.
    #[inline(always)]
    fn emit(&self, weight: f32, row: &mut [f32], counts: &[u32]) -> f64 {
        let mut sums = [0.0f64; WIDTH];
        for (values, counts) in row.as_chunks::<WIDTH>().0.iter().zip(counts.as_chunks::<WIDTH>().0) {
            for lane in 0..WIDTH {
                sums[lane] += f64::from(values[lane]) * f64::from(counts[lane]);
            }
        }
        let distance = self.distance;
        if self.gradient {
            for (d, &count) in row.iter_mut().zip(counts) {
                *d = -weight * count as f32 * chain(distance, *d);
            }
        }
        sums.iter().sum()
    }
}

/// Adds, to each value's count, the intervals of the group that it lies in, and the reverse. Returns how many values
/// lie in the miner's intervals.
///
/// The shape of this loop (no early exit, one store, few enough positives for the registers) is what the compiler
/// turns into vector compares.
#[inline(always)]
fn compare_group<const MINED: bool>(
    values: &[f32],
    counts: &mut [u32],
    group: &mut [Positive; GROUP],
) -> u32 {
    let bounds = group.map(|p| (p.low, p.high, p.mined_high));
    let mut hits = [0u32; GROUP];
    let mut mined = 0;
    for (&d, count) in values.iter().zip(counts) {
        for (hits, (low, high, mined_high)) in hits.iter_mut().zip(bounds) {
            let above = !MINED | (d >= low);
            let hit = u32::from((d < high) & above);
            *count += hit;
            *hits += hit;
            if MINED {
                mined += u32::from((d < mined_high) & above);
            }
        }
    }
    for (positive, hits) in group.iter_mut().zip(hits) {
        positive.count += u64::from(hits);
    }
    mined
}

/// Bounds in ascending order, and how many negatives lie below which.
#[derive(Default)]
struct Search {
    low: Bounds,
    high: Bounds,
    mined_high: Bounds,
    bounded: bool,
    mined: u64,
}

#[derive(Default)]
struct Bounds {
    /// Padded with infinity to a power of two less one.
    ascending: Vec<f32>,
    /// `rank[i]`: negatives with exactly `i` bounds at or below them.
    rank: Vec<u64>,
}

impl Search {
    fn start(&mut self, positives: &[Positive], bounded: bool) {
        self.bounded = bounded;
        self.mined = 0;
        self.high.start(positives.iter().map(|p| p.high));
        if bounded {
            self.low.start(positives.iter().map(|p| p.low));
            self.mined_high.start(positives.iter().map(|p| p.mined_high));
        }
    }

    /// The number of active intervals around each value.
    #[inline(always)]
    fn chunk(&mut self, values: &[f32; LANES]) -> [u32; LANES] {
        let high = self.high.below(values);
        if !self.bounded {
            let all = self.high.rank.len() as u32 - 1;
            return high.map(|below| all - below);
        }
        let (low, mined) = (self.low.below(values), self.mined_high.below(values));
        // Intervals are in order at both ends, so those around a value are the ones begun and not yet ended.
        for (low, mined) in low.iter().zip(mined) {
            self.mined += u64::from(low - mined);
        }
        std::array::from_fn(|lane| low[lane] - high[lane])
    }

    fn finish(&mut self, positives: &mut [Positive]) {
        let mut active = 0;
        for (i, positive) in positives.iter_mut().enumerate() {
            active += self.high.rank[i];
            if self.bounded {
                // Never negative: `low <= high` for each positive, so fewer values lie below `low`.
                self.low.rank[i + 1] += self.low.rank[i];
                positive.count = active - self.low.rank[i];
            } else {
                positive.count = active;
            }
        }
    }
}

impl Bounds {
    fn start(&mut self, bounds: impl ExactSizeIterator<Item = f32>) {
        let count = bounds.len();
        self.ascending.clear();
        self.ascending.extend(bounds);
        self.ascending.resize((count + 1).next_power_of_two() - 1, f32::INFINITY);
        self.rank.clear();
        self.rank.resize(count + 1, 0);
    }

    /// How many bounds are at or below each value. Every value walks the same number of steps, so that the steps
    /// of several values overlap.
    #[inline(always)]
    fn below(&mut self, values: &[f32; LANES]) -> [u32; LANES] {
        let mut below = [0u32; LANES];
        let mut step = self.ascending.len().div_ceil(2);
        while step > 0 {
            for (below, value) in below.iter_mut().zip(values) {
                let bound = self.ascending.get(*below as usize + step - 1).copied();
                *below += u32::from(bound.unwrap_or(f32::INFINITY) <= *value) * step as u32;
            }
            step /= 2;
        }
        for &below in &below {
            self.rank[below as usize] += 1;
        }
        below
    }
}
