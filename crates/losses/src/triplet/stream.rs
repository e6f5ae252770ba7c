//! Anchors in blocks: one strip of distances, turned into coefficients in place, and the products that make the
//! gradient of them. Memory is that of the strip, whatever the batch.

use embedtune_core::{Pool, linalg, simd};
use ndarray::{ArrayView2, ArrayViewMut2};
use rayon::prelude::*;

use super::buffer::Buffer;
use super::count::{Counter, Mining, Tally};
use super::dense::{Dense, POSITIVES};
use super::groups::Groups;
use super::hardest::hardest;
use super::rows::{Frame, Rows, columns, padded};
use super::{Distance, TripletMarginOptions};
use crate::{Miner, Result};

/// Floats of a strip, unless that is too few for [`LEAST_ROWS`].
const STRIP: usize = 4 << 20;
const LEAST_ROWS: usize = 128;
/// Anchors that one thread takes at a time.
pub(crate) const TASK: usize = 16;

/// Anchors of one strip: as many as fit the budget, in whole blocks of the matrix product.
pub(crate) fn strip_rows(batch: usize, reference: usize) -> usize {
    let fit = STRIP / padded(reference).max(1) / LEAST_ROWS * LEAST_ROWS;
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

/// Bytes of the strips and of what the tasks on one strip hold at most.
pub(crate) fn strip_bytes(options: &TripletMarginOptions, batch: usize, reference: usize) -> usize {
    let (width, rows) = (padded(reference), strip_rows(batch, reference));
    let row = size_of::<f32>() * width;
    let strips = 1 + usize::from(mines_apart(options));
    let tasks = rows.div_ceil(TASK);
    // Per positive of an anchor: bounds, hits and search tables, or distances and slopes.
    let positives = 192 * width;
    let task = match Path::of(options) {
        Path::Hardest => 0,
        Path::Count => positives,
        Path::Dense => {
            let between = usize::from(options.swap) * strips * POSITIVES * row;
            TASK * row + between + 16 * TASK * width
        }
    };
    strips * rows * row + tasks * task
}

/// What all strips share.
pub(crate) struct Stream<'a> {
    pub(crate) options: &'a TripletMarginOptions,
    pub(crate) groups: &'a Groups,
    pub(crate) rows: &'a Rows,
    pub(crate) mine_rows: Option<&'a Rows>,
    /// The loss's margin in the scale of `rows`.
    pub(crate) margin: f32,
    pub(crate) weights: &'a [f32],
    pub(crate) own: bool,
    pub(crate) pool: &'a Pool,
}

type Task<'t> = (usize, &'t mut [f32], Option<&'t mut [f32]>, &'t mut [Tally]);

impl Stream<'_> {
    /// Fills the tallies, and adds to `sums` (`[batch, dim + 1]`) each row's sum of coefficient times other row,
    /// with the sum of coefficients last.
    pub(crate) fn run(&self, tallies: &mut [Tally], mut sums: Option<&mut [f32]>) -> Result<()> {
        let (batch, reference) = (tallies.len(), self.rows.reference_len());
        if batch == 0 || reference == 0 {
            return Ok(());
        }
        let (width, block) = (padded(reference), strip_rows(batch, reference));
        let mut strip = Buffer::take(self.pool, block * width);
        let mut mine_strip = self.mine_rows.map(|_| Buffer::take(self.pool, block * width));
        for start in (0..batch).step_by(block) {
            let positions = start..(start + block).min(batch);
            let strip = &mut strip[..positions.len() * width];
            self.rows.products(positions.clone(), strip)?;
            let mut mine = mine_strip.as_mut().map(|mine| &mut mine[..positions.len() * width]);
            if let (Some(mine), Some(rows)) = (&mut mine, self.mine_rows) {
                rows.products(positions.clone(), mine)?;
            }
            let mut mine = mine.map(|mine| mine.chunks_mut(TASK * width));
            let tasks: Vec<Task<'_>> = strip
                .chunks_mut(TASK * width)
                .zip(tallies[positions.clone()].chunks_mut(TASK))
                .enumerate()
                .map(|(i, (strip, tallies))| {
                    (start + i * TASK, strip, mine.as_mut().and_then(Iterator::next), tallies)
                })
                .collect();
            let gradient = sums.is_some();
            tasks.into_par_iter().try_for_each(|task| {
                simd::dispatch(
                    #[inline(always)]
                    || self.task(gradient, task),
                )
            })?;
            if let Some(sums) = sums.as_deref_mut() {
                self.products(positions, strip, sums)?;
            }
        }
        Ok(())
    }

    #[inline(always)]
    fn task(&self, gradient: bool, (first, strip, mut mine, tallies): Task<'_>) -> Result<()> {
        let reference = self.rows.reference_len();
        let width = padded(reference);
        let distance = self.options.distance;
        let positions = first..first + tallies.len();
        for (position, row) in positions.clone().zip(strip.chunks_exact_mut(width)) {
            self.rows.dissimilarities(distance, position, row);
        }
        if let (Some(mine), Some(rows)) = (mine.as_deref_mut(), self.mine_rows) {
            for (position, row) in positions.clone().zip(mine.chunks_exact_mut(width)) {
                rows.dissimilarities(Distance::L2, position, row);
            }
        }
        let mining = Mining::of(&self.options.miner);
        if Path::of(self.options) == Path::Dense {
            let dense = Dense {
                rows: self.rows,
                mine_rows: self.mine_rows,
                distance,
                margin: self.margin,
                mining,
                swap: self.options.swap,
                smooth: self.options.smooth,
                gradient,
                groups: self.groups,
                weights: self.weights,
                own: self.own,
                pool: self.pool,
            };
            return dense.task(positions, strip, mine, tallies);
        }
        let mut counter = Counter::new(distance, self.margin, mining, gradient);
        for ((position, row), tally) in positions.zip(strip.chunks_exact_mut(width)).zip(tallies) {
            let (anchor, weight) = (&self.groups.anchors[position], self.weights[position]);
            *tally = counter.anchor(anchor, reference, weight, row);
        }
        Ok(())
    }

    /// Each anchor's sums over the reference, and within a batch each row's sums over its anchors.
    fn products(&self, positions: std::ops::Range<usize>, strip: &[f32], sums: &mut [f32]) -> Result<()> {
        let reference = self.rows.reference(0..self.rows.reference_len())?;
        let (width, dim) = (padded(reference.nrows()), reference.ncols());
        let strip = columns(matrix(strip, positions.len(), width)?, reference.nrows());
        let of_anchors = &mut sums[positions.start * dim..positions.end * dim];
        linalg::matmul(1.0, strip, reference, 1.0, matrix_mut(of_anchors, positions.len(), dim)?)?;
        if self.own {
            let anchors = self.rows.batch(positions)?;
            linalg::matmul(1.0, strip.t(), anchors, 1.0, matrix_mut(sums, reference.nrows(), dim)?)?;
        }
        Ok(())
    }
}

/// The hardest triplet of each anchor; `rows` are centred unit rows.
pub(crate) fn hardest_triplets(
    groups: &Groups,
    rows: &Rows,
    pool: &Pool,
) -> Result<Vec<Option<(usize, usize)>>> {
    let batch = groups.anchors.len();
    if batch == 0 || rows.reference_len() == 0 {
        return Ok(vec![None; batch]);
    }
    let (width, block) = (padded(rows.reference_len()), strip_rows(batch, rows.reference_len()));
    let mut triplets = vec![None; batch];
    let mut strip = Buffer::take(pool, block * width);
    for (block_index, triplets) in triplets.chunks_mut(block.max(1)).enumerate() {
        let start = block_index * block;
        let strip = &mut strip[..triplets.len() * width];
        rows.products(start..start + triplets.len(), strip)?;
        let tasks = strip.par_chunks_mut(width).zip(triplets.par_iter_mut()).enumerate();
        tasks.with_min_len(TASK).for_each(|(i, (row, triplet))| {
            simd::dispatch(
                #[inline(always)]
                || {
                    rows.dissimilarities(Distance::SquaredL2, start + i, row);
                    *triplet = hardest(groups, start + i, row);
                },
            );
        });
    }
    Ok(triplets)
}

/// The L2 distances of one anchor to all of the reference, padded.
pub(crate) fn distances(rows: &Rows, position: usize, pool: &Pool) -> Result<Buffer> {
    let mut line = Buffer::take(pool, padded(rows.reference_len()));
    rows.products(position..position + 1, &mut line)?;
    simd::dispatch(
        #[inline(always)]
        || rows.dissimilarities(Distance::L2, position, &mut line),
    );
    Ok(line)
}

/// Rows to mine on where those of the loss do not serve.
pub(crate) fn needs_mine_rows(options: &TripletMarginOptions) -> bool {
    match options.miner {
        Miner::BatchHard => Frame::of(options.distance, options.normalize) != Frame::CentredUnit,
        _ => mines_apart(options),
    }
}

pub(crate) fn matrix(values: &[f32], rows: usize, columns: usize) -> Result<ArrayView2<'_, f32>> {
    ArrayView2::from_shape((rows, columns), values).map_err(|_| super::rows::scratch_error(rows, columns))
}

fn matrix_mut(values: &mut [f32], rows: usize, columns: usize) -> Result<ArrayViewMut2<'_, f32>> {
    ArrayViewMut2::from_shape((rows, columns), values).map_err(|_| super::rows::scratch_error(rows, columns))
}
