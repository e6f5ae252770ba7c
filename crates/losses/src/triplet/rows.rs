//! Embeddings prepared for distances, and distances from products.
//!
//! `|a - b|^2 = |a|^2 + |b|^2 - 2 a.b` turns all distances into one matrix product, but loses all digits where
//! `a` and `b` are close beside their length (at 128 dimensions in `f32`: 15% of a distance of 1e-3). Two measures
//! restore them: rows far from the origin beside their spread are centred (a distance does not change, and a batch
//! collapsed to a point keeps its digits), and a pair with `d^2 < 1e-3 (|a|^2 + |b|^2)` is computed from the
//! differences. Where it gains nothing rows are not centred: distances that are equal for simple reasons (one-hot
//! rows, say) would differ by rounding, and a miner would take that for an order.

use std::borrow::Cow;
use std::ops::Range;

use embedtune_core::linalg::{NORM_FLOOR, squared_norm};
use embedtune_core::{Pool, parallel};
use ndarray::{ArrayView1, ArrayView2};
use rayon::prelude::*;

use super::buffer::Buffer;
use super::product::{self, Matrix, PANEL, UNIT};
use super::{Distance, TripletMarginOptions};

/// Columns of a distance row that one step of a kernel takes.
pub(crate) const LANES: usize = PANEL;
const NEAR: f32 = 1e-3;
/// Rows are scaled so that the longest is of order 1. Nearer than the root of this two of them differ by the
/// rounding of their preparation at most (`f64`): they count as coincident.
const COINCIDENT: f32 = 1e-28;

/// What happens to the rows before their distances are taken.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Frame {
    /// Unit rows, for cosines.
    Unit,
    /// Unit rows minus their mean (where that is worth it).
    CentredUnit,
    /// Rows minus their mean. Scaled first so that the largest value is of order 1, but by no more than `most`.
    Centred { most: f64 },
}

impl Frame {
    /// The frame in which the loss measures.
    pub(crate) fn of(options: &TripletMarginOptions) -> Self {
        match (options.distance, options.normalize) {
            (Distance::Cosine, _) => Self::Unit,
            (_, true) => Self::CentredUnit,
            (distance, false) => {
                // Tiny rows are blown up, and the margin and the soft hinge's bend with them, which must stay far
                // inside `f32`'s range.
                let bend = if options.smooth { 1.0 } else { 0.0 };
                let unit = 2.0f64.powi(100) / options.margin.max(bend);
                Self::Centred { most: if distance == Distance::L2 { unit } else { unit.sqrt() } }
            }
        }
    }
}

/// Prepared rows of the batch and the reference, each in class order.
pub(crate) struct Rows {
    batch: Option<Side>,
    reference: Side,
    /// The reference transposed, `[panels, dim, PANEL]`.
    panels: Buffer,
    dim: usize,
    /// Rows were multiplied by this power of two so that no square leaves `f32`'s range; 1 for unit rows.
    pub(crate) scale: f64,
}

/// Rows of [`stride`] floats, zeros beyond their columns, and their squared lengths.
struct Side {
    rows: usize,
    values: Buffer,
    squares: Buffer,
}

/// Floats of a prepared row of `dim` columns.
pub(crate) fn stride(dim: usize) -> usize {
    dim.max(1).next_multiple_of(UNIT)
}

/// Columns of whole panels.
fn padded(reference: usize) -> usize {
    reference.next_multiple_of(LANES)
}

/// Length of a row of a strip. An odd number of cache lines: rows a power of two apart would evict each other from the
/// cache where they are read side by side.
pub(crate) fn line(reference: usize) -> usize {
    padded(reference) + UNIT
}

/// Bytes that [`Rows`] hold; `batch` is 0 where the batch is the reference. Saturates.
pub(crate) fn prepared_bytes(batch: usize, reference: usize, dim: usize) -> usize {
    let side = |rows: usize| {
        Buffer::bytes(rows.saturating_mul(stride(dim))).saturating_add(Buffer::bytes(padded(rows)))
    };
    let panels = Buffer::bytes(padded(reference).saturating_mul(dim));
    side(batch).saturating_add(side(reference)).saturating_add(panels)
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
            Frame::Centred { most } => {
                let largest = f64::from(largest(batch.0).max(reference.map_or(0.0, |r| largest(r.0))));
                let wanted = if largest > 0.0 { largest.recip().min(most) } else { 1.0 };
                2.0f64.powi(wanted.log2().floor() as i32)
            }
            Frame::Unit | Frame::CentredUnit => 1.0,
        };
        let factor = |row: &[f32]| match frame {
            Frame::Centred { .. } => scale,
            Frame::Unit | Frame::CentredUnit => 1.0 / norm(row).max(NORM_FLOOR),
        };
        let mut mean = vec![0.0; dim];
        if frame != Frame::Unit {
            let (x, _) = reference.unwrap_or(batch);
            let share = 1.0 / x.nrows().max(1) as f64;
            let mut square = 0.0;
            parallel::map_reduce(
                x.nrows(),
                256,
                |block| {
                    let (mut sum, mut square) = (vec![0.0; dim], 0.0);
                    for i in block {
                        let row = contiguous(x.row(i));
                        let factor = factor(&row);
                        for (s, &v) in sum.iter_mut().zip(row.iter()) {
                            let v = f64::from(v) * factor;
                            *s += v * share;
                            square += v * v * share;
                        }
                    }
                    (sum, square)
                },
                |(part, of_part)| {
                    mean.iter_mut().zip(part).for_each(|(m, p)| *m += p);
                    square += of_part;
                },
            );
            // Centring divides the squares by less than two: it would not restore a digit.
            if mean.iter().map(|m| m * m).sum::<f64>() <= 0.5 * square {
                mean.fill(0.0);
            }
        }
        let side = |(x, order): (ArrayView2<'_, f32>, &[u32])| Side::new(x, order, &factor, &mean, pool);
        let (batch, reference) = match reference {
            Some(reference) => (Some(side(batch)), side(reference)),
            None => (None, side(batch)),
        };
        let panels = reference.transposed(dim, pool);
        Self { batch, reference, panels, dim, scale }
    }

    fn batch_side(&self) -> &Side {
        self.batch.as_ref().unwrap_or(&self.reference)
    }

    /// Rows of the reference.
    pub(crate) fn reference_len(&self) -> usize {
        self.reference.rows
    }

    /// The batch's row at `position`.
    pub(crate) fn batch_row(&self, position: usize) -> &[f32] {
        self.batch_side().row(position, self.dim)
    }

    /// The reference's row at `position`.
    pub(crate) fn reference_row(&self, position: usize) -> &[f32] {
        self.reference.row(position, self.dim)
    }

    /// The batch's rows at `positions`, [`stride`] floats each.
    pub(crate) fn batch(&self, positions: Range<usize>) -> Matrix<'_> {
        self.batch_side().matrix(positions, stride(self.dim))
    }

    /// The reference's rows, [`stride`] floats each.
    pub(crate) fn reference(&self) -> Matrix<'_> {
        self.reference.matrix(0..self.reference.rows, stride(self.dim))
    }

    /// Dissimilarities of the batch's rows at `positions` to all of the reference, in rows of [`line`] floats.
    pub(crate) fn dissimilarities(&self, distance: Distance, positions: Range<usize>, strip: &mut [f32]) {
        self.measure(distance, self.batch_side(), positions, strip);
    }

    /// The same for rows of the reference.
    pub(crate) fn reference_dissimilarities(
        &self,
        distance: Distance,
        positions: Range<usize>,
        strip: &mut [f32],
    ) {
        self.measure(distance, &self.reference, positions, strip);
    }

    #[inline(always)]
    fn measure(&self, distance: Distance, side: &Side, positions: Range<usize>, strip: &mut [f32]) {
        let (left, width) = (side.matrix(positions.clone(), stride(self.dim)), line(self.reference.rows));
        product::products(
            left,
            positions.len(),
            self.dim,
            &self.panels,
            strip,
            width,
            #[inline(always)]
            |panel, strip| {
                for (position, row) in positions.clone().zip(strip.chunks_exact_mut(width)) {
                    if let Some(products) = row[panel * PANEL..].first_chunk_mut() {
                        self.finish(distance, side, position, panel, products);
                    }
                }
            },
        );
    }

    /// The dissimilarity of two prepared rows (of either side), from their differences.
    pub(crate) fn dissimilarity(&self, distance: Distance, a: &[f32], b: &[f32]) -> f32 {
        let pairs = a.iter().zip(b).map(|(&a, &b)| (f64::from(a), f64::from(b)));
        if distance == Distance::Cosine {
            return -pairs.map(|(a, b)| a * b).sum::<f64>() as f32;
        }
        let square = pairs.map(|(a, b)| (a - b) * (a - b)).sum::<f64>();
        let square = if square < f64::from(COINCIDENT) { 0.0 } else { square };
        if distance == Distance::L2 { square.sqrt() as f32 } else { square as f32 }
    }

    /// From products to dissimilarities, for one row and one panel.
    #[inline(always)]
    fn finish(
        &self,
        distance: Distance,
        side: &Side,
        position: usize,
        panel: usize,
        products: &mut [f32; PANEL],
    ) {
        if distance == Distance::Cosine {
            products.iter_mut().for_each(|v| *v = -*v);
            return;
        }
        let square = side.squares[position];
        let squares = &self.reference.squares[panel * PANEL..][..PANEL];
        let mut near = 0u32;
        for (v, &other) in products.iter_mut().zip(squares) {
            let scale = square + other;
            *v = scale - 2.0 * *v;
            near |= u32::from(*v < near_square(scale));
        }
        if near != 0 {
            for (lane, v) in products.iter_mut().enumerate() {
                let at = panel * PANEL + lane;
                if at < self.reference.rows && *v < near_square(square + squares[lane]) {
                    let row = side.row(position, self.dim);
                    let square = squared_difference(row, self.reference.row(at, self.dim));
                    *v = if square < COINCIDENT { 0.0 } else { square };
                }
            }
        }
        if distance == Distance::L2 {
            products.iter_mut().for_each(|v| *v = v.sqrt());
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
        let stride = stride(dim);
        let mut values = Buffer::take(pool, rows * stride);
        let mut squares = Buffer::zeros(pool, padded(rows));
        values
            .par_chunks_mut(BLOCK * stride)
            .zip(squares.par_chunks_mut(BLOCK))
            .zip(order.par_chunks(BLOCK))
            .for_each(|((values, squares), order)| {
                for ((out, square), &i) in values.chunks_exact_mut(stride).zip(squares).zip(order) {
                    let row = contiguous(x.row(i as usize));
                    let factor = factor(&row);
                    let mut sum = 0.0;
                    for ((o, &v), &m) in out.iter_mut().zip(row.iter()).zip(mean) {
                        *o = (f64::from(v) * factor - m) as f32;
                        sum += f64::from(*o) * f64::from(*o);
                    }
                    out[dim..].fill(0.0);
                    *square = sum as f32;
                }
            });
        Self { rows, values, squares }
    }

    /// In panels of [`PANEL`] rows, each transposed; zeros beyond the rows.
    fn transposed(&self, dim: usize, pool: &Pool) -> Buffer {
        let mut panels = Buffer::take(pool, padded(self.rows) * dim);
        if dim == 0 {
            return panels;
        }
        panels.par_chunks_mut(dim * PANEL).enumerate().for_each(|(panel, out)| {
            out.fill(0.0);
            for lane in 0..PANEL.min(self.rows - panel * PANEL) {
                let row = self.row(panel * PANEL + lane, dim);
                for (out, &value) in out.iter_mut().skip(lane).step_by(PANEL).zip(row) {
                    *out = value;
                }
            }
        });
        panels
    }

    fn matrix(&self, positions: Range<usize>, stride: usize) -> Matrix<'_> {
        Matrix { values: &self.values[positions.start * stride..positions.end * stride], stride }
    }

    #[inline(always)]
    fn row(&self, position: usize, dim: usize) -> &[f32] {
        &self.values[position * stride(dim)..][..dim]
    }
}

/// Below this a squared distance is taken from the differences; `scale` is the sum of the squared lengths.
#[inline(always)]
fn near_square(scale: f32) -> f32 {
    NEAR * scale + COINCIDENT
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

/// The length of a row.
pub(crate) fn norm(row: &[f32]) -> f64 {
    squared_norm(row).sqrt()
}

/// The row itself where its values stand side by side, else a copy.
pub(crate) fn contiguous(row: ArrayView1<'_, f32>) -> Cow<'_, [f32]> {
    row.to_slice().map_or_else(|| Cow::Owned(row.to_vec()), Cow::Borrowed)
}
