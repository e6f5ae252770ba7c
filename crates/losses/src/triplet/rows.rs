//! Embeddings prepared for distances, and distances from products.
//!
//! `|a - b|^2 = |a|^2 + |b|^2 - 2 a.b` turns all distances into one matrix product, but loses all digits where
//! `a` and `b` are close beside their length (at 128 dimensions in `f32`: 15% of a distance of 1e-3). Two measures
//! restore them: rows are centred (a distance does not change, and a batch far from the origin or collapsed to a
//! point keeps its digits), and a pair with `d^2 < 1e-3 (|a|^2 + |b|^2)` is computed from the differences.

use std::borrow::Cow;
use std::ops::Range;

use embedtune_core::{Pool, linalg, parallel};
use ndarray::{ArrayView1, ArrayView2, ArrayViewMut2, Axis};
use rayon::prelude::*;

use super::Distance;
use super::buffer::Buffer;
use crate::{Error, Result};

/// Columns of a distance row that one step of a kernel takes; rows are padded to a multiple of it.
pub(crate) const LANES: usize = 64;
/// `torch.nn.functional.normalize`'s: rows are divided by at least this.
pub(crate) const NORM_FLOOR: f64 = 1e-12;
const NEAR: f32 = 1e-3;

/// What happens to the rows before their distances are taken.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Frame {
    /// Unit rows, for cosines.
    Unit,
    /// Unit rows minus their mean.
    CentredUnit,
    /// Rows minus their mean.
    Centred,
}

impl Frame {
    /// The frame in which `distance` is measured.
    pub(crate) fn of(distance: Distance, normalize: bool) -> Self {
        match (distance, normalize) {
            (Distance::Cosine, _) => Self::Unit,
            (_, true) => Self::CentredUnit,
            (_, false) => Self::Centred,
        }
    }
}

/// Prepared rows of the batch and the reference, each in class order and followed by a 1, so that a product
/// with a matrix of coefficients yields their sums in its last column.
pub(crate) struct Rows {
    batch: Option<Side>,
    reference: Side,
    dim: usize,
    /// Rows were multiplied by this power of two so that no square overflows; 1 but for huge values.
    pub(crate) scale: f64,
}

struct Side {
    rows: usize,
    values: Buffer,
    squares: Buffer,
}

/// Length of a padded row of distances.
pub(crate) fn padded(reference: usize) -> usize {
    reference.next_multiple_of(LANES)
}

/// Floats that [`Rows`] of `rows` rows hold.
pub(crate) fn prepared_len(rows: usize, dim: usize) -> usize {
    rows * (dim + 1) + padded(rows)
}

impl Rows {
    /// Prepares `batch`'s rows in the order given, and the reference's where it is not the batch.
    pub(crate) fn new(
        frame: Frame,
        batch: (ArrayView2<'_, f32>, &[u32]),
        reference: Option<(ArrayView2<'_, f32>, &[u32])>,
        pool: &Pool,
    ) -> Self {
        let dim = batch.0.ncols();
        let largest = |x: ArrayView2<'_, f32>| x.iter().fold(0.0f32, |m, v| m.max(v.abs()));
        let scale = match frame {
            Frame::Centred => {
                let largest = largest(batch.0).max(reference.map_or(0.0, |r| largest(r.0)));
                if largest > 2.0f32.powi(40) { 2.0f64.powi(-(largest.log2().ceil() as i32)) } else { 1.0 }
            }
            Frame::Unit | Frame::CentredUnit => 1.0,
        };
        let factor = |row: &[f32]| match frame {
            Frame::Centred => scale,
            Frame::Unit | Frame::CentredUnit => 1.0 / norm(row).max(NORM_FLOOR),
        };
        let mut mean = vec![0.0; dim];
        if frame != Frame::Unit {
            let (x, _) = reference.unwrap_or(batch);
            let share = 1.0 / x.nrows().max(1) as f64;
            parallel::map_reduce(
                x.nrows(),
                256,
                |block| {
                    let mut sum = vec![0.0; dim];
                    for i in block {
                        let row = contiguous(x.row(i));
                        let factor = factor(&row) * share;
                        sum.iter_mut().zip(row.iter()).for_each(|(s, &v)| *s += f64::from(v) * factor);
                    }
                    sum
                },
                |part| mean.iter_mut().zip(part).for_each(|(m, p)| *m += p),
            );
        }
        let side = |(x, order): (ArrayView2<'_, f32>, &[u32])| Side::new(x, order, &factor, &mean, pool);
        let (batch, reference) = match reference {
            Some(reference) => (Some(side(batch)), side(reference)),
            None => (None, side(batch)),
        };
        Self { batch, reference, dim, scale }
    }

    fn batch_side(&self) -> &Side {
        self.batch.as_ref().unwrap_or(&self.reference)
    }

    /// Rows of the reference.
    pub(crate) fn reference_len(&self) -> usize {
        self.reference.rows
    }

    /// The batch's prepared rows, `[positions, dim + 1]`.
    pub(crate) fn batch(&self, positions: Range<usize>) -> Result<ArrayView2<'_, f32>> {
        self.batch_side().view(positions, self.dim + 1)
    }

    /// The reference's prepared rows, `[positions, dim + 1]`.
    pub(crate) fn reference(&self, positions: Range<usize>) -> Result<ArrayView2<'_, f32>> {
        self.reference.view(positions, self.dim + 1)
    }

    /// Products of the batch's rows at `positions` with all of the reference, on all threads, into rows of
    /// [`padded`] length.
    pub(crate) fn products(&self, positions: Range<usize>, strip: &mut [f32]) -> Result<()> {
        let (rows, others) = (self.batch(positions)?, self.reference(0..self.reference.rows)?);
        let (rows, others) = (columns(rows, self.dim), columns(others, self.dim));
        let out = self.unpadded(rows.nrows(), strip)?;
        Ok(linalg::matmul(1.0, rows, others.t(), 0.0, out)?)
    }

    /// The same for rows of the reference, on this thread.
    pub(crate) fn reference_products(&self, positions: Range<usize>, strip: &mut [f32]) -> Result<()> {
        let (rows, others) = (self.reference(positions)?, self.reference(0..self.reference.rows)?);
        let (rows, others) = (columns(rows, self.dim), columns(others, self.dim));
        let out = self.unpadded(rows.nrows(), strip)?;
        Ok(linalg::matmul_serial(1.0, rows, others.t(), 0.0, out)?)
    }

    fn unpadded<'s>(&self, rows: usize, strip: &'s mut [f32]) -> Result<ArrayViewMut2<'s, f32>> {
        let width = padded(self.reference.rows);
        let view = ArrayViewMut2::from_shape((rows, width), strip).map_err(|_| scratch_error(rows, width))?;
        Ok(view.split_at(Axis(1), self.reference.rows).0)
    }

    /// Turns the products of the batch's row `position` into dissimilarities.
    #[inline(always)]
    pub(crate) fn dissimilarities(&self, distance: Distance, position: usize, products: &mut [f32]) {
        self.finish(distance, self.batch_side(), position, products);
    }

    /// Turns the products of the reference's row `position` into dissimilarities.
    #[inline(always)]
    pub(crate) fn reference_dissimilarities(
        &self,
        distance: Distance,
        position: usize,
        products: &mut [f32],
    ) {
        self.finish(distance, &self.reference, position, products);
    }

    /// The dissimilarity of two prepared rows (of either side, with their last 1), from their differences.
    pub(crate) fn dissimilarity(
        &self,
        distance: Distance,
        a: ArrayView1<'_, f32>,
        b: ArrayView1<'_, f32>,
    ) -> f32 {
        let pairs = a.iter().zip(b).take(self.dim).map(|(&a, &b)| (f64::from(a), f64::from(b)));
        match distance {
            Distance::L2 => pairs.map(|(a, b)| (a - b) * (a - b)).sum::<f64>().sqrt() as f32,
            Distance::SquaredL2 => pairs.map(|(a, b)| (a - b) * (a - b)).sum::<f64>() as f32,
            Distance::Cosine => -pairs.map(|(a, b)| a * b).sum::<f64>() as f32,
        }
    }

    #[inline(always)]
    fn finish(&self, distance: Distance, side: &Side, position: usize, products: &mut [f32]) {
        let square = side.squares[position];
        if distance == Distance::Cosine {
            products.iter_mut().for_each(|v| *v = -*v);
            return;
        }
        let root = distance == Distance::L2;
        let chunks = products.as_chunks_mut::<LANES>().0.iter_mut();
        for (chunk, (row, squares)) in chunks.zip(self.reference.squares.as_chunks::<LANES>().0).enumerate() {
            let mut near = 0u32;
            for (v, &other) in row.iter_mut().zip(squares) {
                let scale = square + other;
                *v = scale - 2.0 * *v;
                near |= u32::from(*v < NEAR * scale);
            }
            if near != 0 {
                for (lane, v) in row.iter_mut().enumerate() {
                    let at = chunk * LANES + lane;
                    if at < self.reference.rows && *v < NEAR * (square + squares[lane]) {
                        *v = squared_difference(
                            side.row(position, self.dim),
                            self.reference.row(at, self.dim),
                        );
                    }
                }
            }
            if root {
                row.iter_mut().for_each(|v| *v = v.sqrt());
            }
        }
    }
}

impl Side {
    fn new(
        x: ArrayView2<'_, f32>,
        order: &[u32],
        factor: &(impl Fn(&[f32]) -> f64 + Sync),
        mean: &[f64],
        pool: &Pool,
    ) -> Self {
        const BLOCK: usize = 64;
        let (rows, dim) = x.dim();
        let mut values = Buffer::take(pool, rows * (dim + 1));
        let mut squares = Buffer::zeros(pool, padded(rows));
        values
            .par_chunks_mut(BLOCK * (dim + 1))
            .zip(squares.par_chunks_mut(BLOCK))
            .zip(order.par_chunks(BLOCK))
            .for_each(|((values, squares), order)| {
                for ((out, square), &i) in values.chunks_exact_mut(dim + 1).zip(squares).zip(order) {
                    let row = contiguous(x.row(i as usize));
                    let factor = factor(&row);
                    let mut sum = 0.0;
                    for ((o, &v), &m) in out.iter_mut().zip(row.iter()).zip(mean) {
                        *o = (f64::from(v) * factor - m) as f32;
                        sum += f64::from(*o) * f64::from(*o);
                    }
                    out[dim] = 1.0;
                    *square = sum as f32;
                }
            });
        Self { rows, values, squares }
    }

    fn view(&self, positions: Range<usize>, width: usize) -> Result<ArrayView2<'_, f32>> {
        let slice = &self.values[positions.start * width..positions.end * width];
        ArrayView2::from_shape((positions.len(), width), slice)
            .map_err(|_| scratch_error(positions.len(), width))
    }

    #[inline(always)]
    fn row(&self, position: usize, dim: usize) -> &[f32] {
        &self.values[position * (dim + 1)..][..dim]
    }
}

pub(crate) fn scratch_error(rows: usize, width: usize) -> Error {
    Error::Shape { what: "scratch", expected: format!("[{rows}, {width}]"), got: vec![] }
}

/// The first `count` columns.
pub(crate) fn columns(x: ArrayView2<'_, f32>, count: usize) -> ArrayView2<'_, f32> {
    x.split_at(Axis(1), count).0
}

#[inline(always)]
fn squared_difference(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0f32; 16];
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<16>(), b.as_chunks::<16>());
    for (a, b) in a.iter().zip(b) {
        for ((s, a), b) in sums.iter_mut().zip(a).zip(b) {
            *s += (a - b) * (a - b);
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| (a - b) * (a - b)).sum();
    sums.iter().sum::<f32>() + rest
}

/// The length of a row; squares in `f64`, so that no finite row overflows.
pub(crate) fn norm(row: &[f32]) -> f64 {
    let mut sums = [0.0f64; 8];
    let (chunks, rest) = row.as_chunks::<8>();
    for chunk in chunks {
        for (s, &v) in sums.iter_mut().zip(chunk) {
            *s += f64::from(v) * f64::from(v);
        }
    }
    let rest: f64 = rest.iter().map(|&v| f64::from(v) * f64::from(v)).sum();
    (sums.iter().sum::<f64>() + rest).sqrt()
}

/// The row itself where its values stand side by side, else a copy.
pub(crate) fn contiguous(row: ArrayView1<'_, f32>) -> Cow<'_, [f32]> {
    row.to_slice().map_or_else(|| Cow::Owned(row.to_vec()), Cow::Borrowed)
}
