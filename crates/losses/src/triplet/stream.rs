//! Anchors in blocks: one strip of distances, turned into coefficients in place, and the products that make the
//! gradient of them. Memory is that of the strip, whatever the batch.

use std::ops::Range;

use embedtune_core::{Pool, simd};
use rayon::prelude::*;

use super::buffer::Buffer;
use super::count::{Counter, Mining, Tally};
use super::dense::{Dense, POSITIVES};
use super::gradient::Sums;
use super::groups::Groups;
use super::hardest::hardest;
use super::product::{self, Matrix, SUMMED};
use super::rows::{Frame, Rows, line};
use super::softplus::Unit;
use super::{Distance, TripletMarginOptions};
use crate::Miner;

/// Floats of a strip, unless that is too few for [`LEAST_ROWS`].
const STRIP: usize = 4 << 20;
/// Each strip reads and writes every row's sums once, which must cost little beside its products.
const LEAST_ROWS: usize = 8 * TASK;
/// Anchors that one thread takes at a time: enough to read the embeddings seldom, few enough for the second cache.
/// Whole register tiles, and whole classes of the usual sizes.
pub(crate) const TASK: usize = 48;

/// Anchors of one strip: as many as fit the budget, in whole tasks.
pub(crate) fn strip_rows(batch: usize, reference: usize) -> usize {
    let fit = STRIP / line(reference).max(1) / TASK * TASK;
    fit.max(LEAST_ROWS).min(batch)
}

/// How the options are computed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Path {
    /// Interval counts.
    Count,
    /// Each triplet by itself.
    Dense,
    /// One triplet an anchor.
    Hardest,
}

impl Path {
    pub(crate) fn of(options: &TripletMarginOptions) -> Self {
        match options.miner {
            Miner::BatchHard => Self::Hardest,
            _ if options.swap || options.smooth || mines_apart(options) => Self::Dense,
            _ => Self::Count,
        }
    }
}

/// Whether the miner's distance (L2 of unit vectors) is another than the loss's.
pub(crate) fn mines_apart(options: &TripletMarginOptions) -> bool {
    let unit = options.normalize && options.distance == Distance::L2;
    matches!(options.miner, Miner::TripletMargin { .. }) && !unit
}

/// Bytes of the strips and of what the tasks on one strip hold at most. Saturates.
pub(crate) fn strip_bytes(options: &TripletMarginOptions, batch: usize, reference: usize) -> usize {
    let (width, rows) = (line(reference), strip_rows(batch, reference));
    let strips = 1 + usize::from(mines_apart(options));
    let tasks = rows.div_ceil(TASK);
    // Per positive of an anchor: bounds, hits and search tables, or distances and slopes.
    let positives = width.saturating_mul(192);
    let task = match Path::of(options) {
        Path::Hardest => 0,
        Path::Count => positives,
        Path::Dense => {
            let between = Buffer::bytes(width.saturating_mul(POSITIVES));
            let between = between.saturating_mul(usize::from(options.swap) * strips);
            let lists = width.saturating_mul(16 * TASK);
            Buffer::bytes(width.saturating_mul(TASK)).saturating_add(between).saturating_add(lists)
        }
    };
    let strips = Buffer::bytes(rows.saturating_mul(width)).saturating_mul(strips);
    strips.saturating_add(task.saturating_mul(tasks))
}

/// What all strips share.
pub(crate) struct Stream<'a> {
    pub(crate) options: &'a TripletMarginOptions,
    pub(crate) groups: &'a Groups,
    pub(crate) rows: &'a Rows,
    pub(crate) mine_rows: Option<&'a Rows>,
    /// The loss's margin in the scale of `rows`.
    pub(crate) margin: f32,
    /// That scale.
    pub(crate) unit: Unit,
    pub(crate) weights: &'a [f32],
    pub(crate) own: bool,
    pub(crate) pool: &'a Pool,
}

type Task<'t> = (usize, &'t mut [f32], Option<&'t mut [f32]>, &'t mut [Tally]);

impl Stream<'_> {
    /// Fills the tallies, and adds to `sums`.
    pub(crate) fn run(&self, tallies: &mut [Tally], mut sums: Option<&mut Sums>) {
        let (batch, reference) = (tallies.len(), self.rows.reference_len());
        if batch == 0 || reference == 0 {
            return;
        }
        let (width, block) = (line(reference), strip_rows(batch, reference));
        let mut strip = Buffer::take(self.pool, block * width);
        let mut mine_strip = self.mine_rows.map(|_| Buffer::take(self.pool, block * width));
        for start in (0..batch).step_by(block) {
            let positions = start..(start + block).min(batch);
            let strip = &mut strip[..positions.len() * width];
            let mine = mine_strip.as_mut().map(|mine| &mut mine[..positions.len() * width]);
            let mut mine = mine.map(|mine| mine.chunks_mut(TASK * width));
            let tasks = strip.chunks_mut(TASK * width).zip(tallies[positions.clone()].chunks_mut(TASK));
            let tasks = tasks.enumerate().map(|(i, (strip, tallies))| {
                (start + i * TASK, strip, mine.as_mut().and_then(Iterator::next), tallies)
            });
            match sums.as_deref_mut() {
                None => {
                    tasks.collect::<Vec<Task<'_>>>().into_par_iter().for_each(|task| self.task(None, task))
                }
                Some(sums) => {
                    let of_anchors =
                        sums.rows[positions.start * sums.stride..].chunks_mut(TASK * sums.stride);
                    let totals = sums.totals[positions.start..].chunks_mut(TASK);
                    let tasks: Vec<_> = tasks.zip(of_anchors.zip(totals)).collect();
                    tasks.into_par_iter().for_each(|(task, sums)| self.task(Some(sums), task));
                    if self.own {
                        self.mirror(positions, strip, sums);
                    }
                }
            }
        }
    }

    fn task(&self, sums: Option<(&mut [f32], &mut [f64])>, (first, strip, mut mine, tallies): Task<'_>) {
        let width = line(self.rows.reference_len());
        let positions = first..first + tallies.len();
        self.rows.dissimilarities(self.options.distance, positions.clone(), strip);
        if let (Some(mine), Some(rows)) = (mine.as_deref_mut(), self.mine_rows) {
            rows.dissimilarities(Distance::L2, positions.clone(), mine);
        }
        let gradient = sums.is_some();
        simd::dispatch(
            #[inline(always)]
            || self.coefficients(gradient, positions.clone(), strip, mine, tallies),
        );
        let Some((sums, totals)) = sums else { return };
        let (right, reference) = (self.rows.reference(), self.rows.reference_len());
        let coefficients = Matrix { values: strip, stride: width };
        product::sums_of_anchors(coefficients, positions.len(), right, reference, sums);
        for (total, row) in totals.iter_mut().zip(strip.chunks_exact(width)) {
            *total += product::total(&row[..reference]);
        }
    }

    #[inline(always)]
    fn coefficients(
        &self,
        gradient: bool,
        positions: Range<usize>,
        strip: &mut [f32],
        mine: Option<&mut [f32]>,
        tallies: &mut [Tally],
    ) {
        let reference = self.rows.reference_len();
        let (distance, mining) = (self.options.distance, Mining::of(&self.options.miner));
        if Path::of(self.options) == Path::Dense {
            let dense = Dense {
                rows: self.rows,
                mine_rows: self.mine_rows,
                distance,
                margin: self.margin,
                unit: self.unit,
                mining,
                swap: self.options.swap,
                smooth: self.options.smooth,
                gradient,
                groups: self.groups,
                weights: self.weights,
                own: self.own,
                pool: self.pool,
            };
            dense.task(positions, strip, mine, tallies);
            return;
        }
        let mut counter = Counter::new(distance, self.margin, mining, gradient);
        let rows = strip.chunks_exact_mut(line(reference));
        for ((position, row), tally) in positions.zip(rows).zip(tallies) {
            let (anchor, weight) = (&self.groups.anchors[position], self.weights[position]);
            *tally = counter.anchor(anchor, reference, weight, row);
        }
    }

    /// Within a batch: each row's sums over the anchors of the strip.
    fn mirror(&self, positions: Range<usize>, strip: &[f32], sums: &mut Sums) {
        let strip = Matrix { values: strip, stride: line(self.rows.reference_len()) };
        let anchors = self.rows.batch(positions);
        let rows = sums.rows.par_chunks_mut(SUMMED * sums.stride);
        rows.zip(sums.totals.par_chunks_mut(SUMMED)).enumerate().for_each(|(i, (sums, totals))| {
            product::sums_over_anchors(strip, i * SUMMED, anchors, sums, totals);
        });
    }
}

/// The hardest triplet of each anchor; `rows` are centred unit rows.
pub(crate) fn hardest_triplets(groups: &Groups, rows: &Rows, pool: &Pool) -> Vec<Option<(usize, usize)>> {
    let (batch, reference) = (groups.anchors.len(), rows.reference_len());
    let mut triplets = vec![None; batch];
    if batch == 0 || reference == 0 {
        return triplets;
    }
    let (width, block) = (line(reference), strip_rows(batch, reference));
    let mut strip = Buffer::take(pool, block * width);
    for (i, triplets) in triplets.chunks_mut(block).enumerate() {
        let tasks = strip.par_chunks_mut(TASK * width).zip(triplets.par_chunks_mut(TASK)).enumerate();
        tasks.for_each(|(task, (strip, triplets))| {
            let first = i * block + task * TASK;
            let strip = &mut strip[..triplets.len() * width];
            rows.dissimilarities(Distance::SquaredL2, first..first + triplets.len(), strip);
            simd::dispatch(
                #[inline(always)]
                || {
                    for (i, (row, triplet)) in strip.chunks_exact_mut(width).zip(triplets).enumerate() {
                        *triplet = hardest(groups, first + i, row);
                    }
                },
            );
        });
    }
    triplets
}

/// The L2 distances of one anchor to all of the reference, padded.
pub(crate) fn distances(rows: &Rows, position: usize, pool: &Pool) -> Buffer {
    let mut line = Buffer::take(pool, line(rows.reference_len()));
    rows.dissimilarities(Distance::L2, position..position + 1, &mut line);
    line
}

/// Rows to mine on where those of the loss do not serve.
pub(crate) fn needs_mine_rows(options: &TripletMarginOptions) -> bool {
    match options.miner {
        Miner::BatchHard => Frame::of(options) != Frame::CentredUnit,
        _ => mines_apart(options),
    }
}
