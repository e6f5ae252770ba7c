//! Every triplet's loss by itself, in tiles, without a list: for the smooth loss, whose terms differ, for swap, where
//! the distance depends on the positive, and for mining on another distance than the loss's.
//!
//! With swap, `d(p, n)` takes the place of `d(a, n)`, and its gradient goes to `p`. Within a batch the triplet
//! `(p, a, n)` has the same loss with the roles of `a` and `p` exchanged, so row `a` collects both its own
//! coefficient and the one that the mirrored triplet owes it, and no row writes to another.

use std::ops::Range;

use embedtune_core::Pool;

use super::Distance;
use super::buffer::Buffer;
use super::count::{Mining, Tally, chain};
use super::groups::{Anchor, Groups};
use super::rows::{Rows, line};
use super::softplus::{Unit, softplus};

/// Positives whose distances are at hand at a time.
pub(crate) const POSITIVES: usize = 32;
const WIDTH: usize = 16;
/// Columns whose terms stay in the first cache.
const BLOCK: usize = 512;

/// What a task needs to know; the same for all.
pub(crate) struct Dense<'a> {
    pub(crate) rows: &'a Rows,
    /// Unit rows to mine on, where that is not `rows` by the L2 distance.
    pub(crate) mine_rows: Option<&'a Rows>,
    pub(crate) distance: Distance,
    pub(crate) margin: f32,
    /// Of the distances and the margin.
    pub(crate) unit: Unit,
    pub(crate) mining: Option<Mining>,
    pub(crate) swap: bool,
    pub(crate) smooth: bool,
    pub(crate) gradient: bool,
    pub(crate) groups: &'a Groups,
    /// Of each anchor, by position.
    pub(crate) weights: &'a [f32],
    /// The reference is the batch.
    pub(crate) own: bool,
    pub(crate) pool: &'a Pool,
}

/// One positive of one anchor.
struct Pair {
    threshold: f32,
    unit: Unit,
    interval: (f32, f32),
    /// Of the anchor, and of the positive as the mirrored triplet's anchor (0 where there is none).
    weights: (f32, f32),
}

/// Sums over the negatives of one pair.
#[derive(Default)]
struct PairSums {
    loss: f64,
    slope: f64,
    mined: u64,
    active: u64,
}

/// The rows that a pair's kernel reads: distances from the anchor and from the positive, and those to mine on.
struct Lines<'a> {
    anchor: &'a [f32],
    positive: &'a [f32],
    mine_anchor: &'a [f32],
    mine_positive: &'a [f32],
}

impl Dense<'_> {
    /// Replaces the dissimilarities of the anchors at `positions` (`strip`, and `mine_strip` to mine on) by
    /// weighted coefficients of row differences. One tally an anchor.
    #[inline(always)]
    pub(crate) fn task(
        &self,
        positions: Range<usize>,
        strip: &mut [f32],
        mut mine_strip: Option<&mut [f32]>,
        tallies: &mut [Tally],
    ) {
        let width = line(self.rows.reference_len());
        let anchors = &self.groups.anchors[positions.clone()];
        let mut coefficients = Buffer::zeros(self.pool, strip.len());
        let mut start = 0;
        // Anchors of one class share their positives' distances.
        for class in anchors.chunk_by(|a, b| a.class() == b.class()) {
            let (members, rows) = (start..start + class.len(), start * width..(start + class.len()) * width);
            self.class(
                positions.start + start,
                class,
                &mut strip[rows.clone()],
                mine_strip.as_deref_mut().map(|strip| &mut strip[rows.clone()]),
                &mut coefficients[rows],
                &mut tallies[members],
            );
            start += class.len();
        }
    }

    #[inline(always)]
    fn class(
        &self,
        first: usize,
        anchors: &[Anchor],
        strip: &mut [f32],
        mine_strip: Option<&mut [f32]>,
        coefficients: &mut [f32],
        tallies: &mut [Tally],
    ) {
        let width = line(self.rows.reference_len());
        let class = anchors.first().map_or(0..0, Anchor::class);
        if class.is_empty() {
            strip.fill(0.0);
            return;
        }
        let near = self.take_class(anchors, strip);
        let mine_near = mine_strip.map(|strip| (self.take_class(anchors, strip), &*strip));
        let (mine_near, mine) = mine_near.as_ref().map_or((&near, &*strip), |(near, strip)| (near, strip));
        let mut slopes = vec![0.0f64; near.len()];
        let scratch = |wanted: bool| wanted.then(|| Buffer::take(self.pool, POSITIVES * width));
        let mut between = scratch(self.swap);
        let mut mine_between = scratch(self.swap && self.mine_rows.is_some());
        for chunk in class.clone().step_by(POSITIVES) {
            let chunk = chunk..(chunk + POSITIVES).min(class.end);
            if let Some(between) = &mut between {
                self.between(self.rows, self.distance, chunk.clone(), between);
            }
            if let (Some(between), Some(rows)) = (&mut mine_between, self.mine_rows) {
                self.between(rows, Distance::L2, chunk.clone(), between);
            }
            for (i, anchor) in anchors.iter().enumerate() {
                let own = i * width..(i + 1) * width;
                for at in anchor.positives_within(chunk.clone()) {
                    let (column, row) = (i * class.len() + at - class.start, (at - chunk.start) * width);
                    let lines = Lines {
                        anchor: &strip[own.clone()],
                        positive: match &between {
                            Some(rows) => &rows[row..row + width],
                            None => &strip[own.clone()],
                        },
                        mine_anchor: &mine[own.clone()],
                        mine_positive: match (&mine_between, &between) {
                            (Some(rows), _) | (None, Some(rows)) => &rows[row..row + width],
                            (None, None) => &mine[own.clone()],
                        },
                    };
                    let pair = Pair {
                        threshold: near[column] + self.margin,
                        unit: self.unit,
                        interval: self.mining.map_or((0.0, 0.0), |m| m.interval(mine_near[column])),
                        weights: (self.weights[first + i], if self.own { self.weights[at] } else { 0.0 }),
                    };
                    let sums = self.pair(&pair, &lines, &mut coefficients[own.clone()]);
                    slopes[column] = sums.slope;
                    tallies[i].loss += sums.loss;
                    tallies[i].triplets += sums.mined;
                    tallies[i].active += sums.active;
                }
            }
        }
        if self.gradient {
            for (i, anchor) in anchors.iter().enumerate() {
                let own = i * width..(i + 1) * width;
                let row = &mut strip[own.clone()];
                for (d, &coefficient) in row.iter_mut().zip(&coefficients[own]) {
                    *d = -coefficient * chain(self.distance, *d);
                }
                for at in anchor.positives() {
                    let column = i * class.len() + at - class.start;
                    let slope = f64::from(self.weights[first + i]) * slopes[column];
                    row[at] = slope as f32 * chain(self.distance, near[column]);
                }
            }
        }
    }

    /// Each anchor's dissimilarities to its class, `[anchors, class]`; then hides them from the kernels.
    #[inline(always)]
    fn take_class(&self, anchors: &[Anchor], strip: &mut [f32]) -> Vec<f32> {
        let reference = self.rows.reference_len();
        let mut near = Vec::new();
        for (anchor, row) in anchors.iter().zip(strip.chunks_exact_mut(line(reference))) {
            near.extend_from_slice(&row[anchor.class()]);
            anchor.mask(row, reference);
        }
        near
    }

    /// Dissimilarities of the positives at `positions` to all of the reference.
    fn between(&self, rows: &Rows, distance: Distance, positions: Range<usize>, strip: &mut [f32]) {
        let strip = &mut strip[..positions.len() * line(rows.reference_len())];
        rows.reference_dissimilarities(distance, positions, strip);
    }

    #[inline(always)]
    fn pair(&self, pair: &Pair, lines: &Lines<'_>, coefficients: &mut [f32]) -> PairSums {
        match (self.swap, self.smooth, self.mining.is_some()) {
            (false, false, false) => kernel::<false, false, false>(pair, lines, coefficients),
            (false, false, true) => kernel::<false, false, true>(pair, lines, coefficients),
            (false, true, false) => kernel::<false, true, false>(pair, lines, coefficients),
            (false, true, true) => kernel::<false, true, true>(pair, lines, coefficients),
            (true, false, false) => kernel::<true, false, false>(pair, lines, coefficients),
            (true, false, true) => kernel::<true, false, true>(pair, lines, coefficients),
            (true, true, false) => kernel::<true, true, false>(pair, lines, coefficients),
            (true, true, true) => kernel::<true, true, true>(pair, lines, coefficients),
        }
    }
}

/// One pair with every negative: adds to the negatives' coefficients and returns the sums.
#[inline(always)]
fn kernel<const SWAP: bool, const SMOOTH: bool, const MINED: bool>(
    pair: &Pair,
    lines: &Lines<'_>,
    coefficients: &mut [f32],
) -> PairSums {
    let mut sums = PairSums::default();
    let (mut losses, mut slopes) = ([0.0f32; BLOCK], [0.0f32; BLOCK]);
    for (block, out) in coefficients.chunks_mut(BLOCK).enumerate() {
        let columns = block * BLOCK..block * BLOCK + out.len();
        let (losses, slopes) = (&mut losses[..out.len()], &mut slopes[..out.len()]);
        let (an, pn) = (&lines.anchor[columns.clone()], &lines.positive[columns.clone()]);
        let mine = (&lines.mine_anchor[columns.clone()], &lines.mine_positive[columns]);
        // Three short loops rather than a long one: the compiler turns each into vector instructions.
        arguments::<SWAP>(pair.threshold, an, pn, losses);
        terms::<SMOOTH>(pair.unit, losses, slopes);
        let (mined, active) = coefficients_of::<SWAP, MINED>(pair, an, pn, mine, losses, slopes, out);
        sums.mined += u64::from(mined);
        sums.active += u64::from(active);
        sums.loss += total(losses);
        sums.slope += total(slopes);
    }
    sums
}

/// `d(a, p) + m - d(a, n)`, or with the lesser of `d(a, n)` and `d(p, n)`.
#[inline(always)]
fn arguments<const SWAP: bool>(threshold: f32, an: &[f32], pn: &[f32], out: &mut [f32]) {
    for ((out, &an), &pn) in out.iter_mut().zip(an).zip(pn) {
        *out = threshold - if SWAP & (pn < an) { pn } else { an };
    }
}

/// From arguments to losses and slopes.
#[inline(always)]
fn terms<const SMOOTH: bool>(unit: Unit, values: &mut [f32], slopes: &mut [f32]) {
    for (value, slope) in values.iter_mut().zip(slopes) {
        (*value, *slope) = if SMOOTH {
            softplus(*value, unit)
        } else {
            (value.max(0.0), if *value > 0.0 { 1.0 } else { 0.0 })
        };
    }
}

/// Adds the coefficients; leaves only the anchor's own losses and slopes. Returns how many triplets are mined, and how
/// many of them have a loss.
#[inline(always)]
fn coefficients_of<const SWAP: bool, const MINED: bool>(
    pair: &Pair,
    an: &[f32],
    pn: &[f32],
    (mine_an, mine_pn): (&[f32], &[f32]),
    losses: &mut [f32],
    slopes: &mut [f32],
    out: &mut [f32],
) -> (u32, u32) {
    // Local copies: a store through `out` could change what a reference leads to.
    let ((low, high), (weight, mirrored_weight)) = (pair.interval, pair.weights);
    let (mut mined, mut active) = (0u32, 0u32);
    let inputs = an.iter().zip(pn).zip(mine_an.iter().zip(mine_pn));
    let outputs = out.iter_mut().zip(losses).zip(slopes);
    for (((&an, &pn), (&mine_an, &mine_pn)), ((out, loss), slope)) in inputs.zip(outputs) {
        let negative = an < f32::MAX;
        let own = negative & (!MINED | ((mine_an >= low) & (mine_an < high)));
        let rise = *slope;
        *loss = if own { *loss } else { 0.0 };
        *slope = if own { rise } else { 0.0 };
        mined += u32::from(own);
        active += u32::from(*loss > 0.0);
        let mut coefficient = weight * *slope;
        if SWAP {
            let mirrored = negative & (!MINED | ((mine_pn >= low) & (mine_pn < high)));
            coefficient += if mirrored { mirrored_weight * rise } else { 0.0 };
            // A tie belongs to both, as in the gradient of a minimum.
            let tied = if an == pn { 0.5 * coefficient } else { 0.0 };
            coefficient = if an < pn { coefficient } else { tied };
        }
        *out += coefficient;
    }
    (mined, active)
}

#[inline(always)]
fn total(values: &[f32]) -> f64 {
    let mut sums = [0.0f64; WIDTH];
    for values in values.as_chunks::<WIDTH>().0 {
        for (sum, &value) in sums.iter_mut().zip(values) {
            *sum += f64::from(value);
        }
    }
    sums.iter().sum()
}
