//! From sums over pairs to the gradient of the embeddings as they came.

use ndarray::{ArrayViewMut2, Axis};
use rayon::prelude::*;

use embedtune_core::Pool;
use embedtune_core::linalg::NORM_FLOOR;

use super::buffer::Buffer;
use super::groups::Groups;
use super::rows::{Rows, contiguous, norm, stride};
use super::{Distance, TripletMarginOptions};
use crate::{Input, Write};

const BLOCK: usize = 64;

/// Sums over pairs in class order, with coefficients `w_ij` of the differences `y_i - y_j`.
pub(crate) struct Sums {
    /// `sum_j w_ij y_j`, `[batch, stride]`.
    pub(crate) rows: Buffer,
    /// `sum_j w_ij`.
    pub(crate) totals: Vec<f64>,
    pub(crate) stride: usize,
}

impl Sums {
    pub(crate) fn new(batch: usize, dim: usize, pool: &Pool) -> Self {
        let stride = stride(dim);
        Self { rows: Buffer::zeros(pool, batch * stride), totals: vec![0.0; batch], stride }
    }

    pub(crate) fn bytes(batch: usize, dim: usize) -> usize {
        Buffer::bytes(batch.saturating_mul(stride(dim))).saturating_add(size_of::<f64>() * batch)
    }

    /// Adds `coefficient * row` to row `at`.
    pub(crate) fn add(&mut self, at: usize, row: &[f32], coefficient: f32) {
        let sum = &mut self.rows[at * self.stride..][..row.len()];
        sum.iter_mut().zip(row).for_each(|(sum, &value)| *sum += coefficient * value);
        self.totals[at] += f64::from(coefficient);
    }
}

/// Writes `factor` times the gradient: that of `y_i` is `y_i sum_j w_ij - sum_j w_ij y_j`; a cosine's has no first
/// term. Through `y = x / max(|x|, 1e-12)` the part along
/// `x` drops out, but where the floor applies. Values beyond `f32` saturate.
///
/// Returns whether any entry differs from 0, before the factor.
pub(crate) fn write(
    options: &TripletMarginOptions,
    input: &Input<'_>,
    groups: &Groups,
    rows: &Rows,
    sums: &Sums,
    factor: f64,
    write: Write,
    mut out: ArrayViewMut2<'_, f32>,
) -> bool {
    let dim = input.embeddings.ncols();
    let positions = groups.batch_positions();
    let cosine = options.distance == Distance::Cosine;
    let blocks: Vec<_> = out.axis_chunks_iter_mut(Axis(0), BLOCK).zip(positions.chunks(BLOCK)).collect();
    blocks
        .into_par_iter()
        .enumerate()
        .map(|(block, (mut out, positions))| {
            let mut moves = false;
            let mut gradient = vec![0.0f64; dim];
            for (i, (mut out, &position)) in out.rows_mut().into_iter().zip(positions).enumerate() {
                let position = position as usize;
                let row = &sums.rows[position * sums.stride..][..dim];
                let total = if cosine { 0.0 } else { sums.totals[position] };
                let own = rows.batch_row(position);
                for ((g, &y), &sum) in gradient.iter_mut().zip(own).zip(row) {
                    *g = total * f64::from(y) - f64::from(sum);
                    moves |= *g != 0.0;
                }
                if options.normalize {
                    let x = contiguous(input.embeddings.row(block * BLOCK + i));
                    normalize_backward(&x, &mut gradient);
                }
                write.put(&mut out, gradient.iter().map(|g| (g * factor) as f32));
            }
            moves
        })
        .reduce(|| false, |a, b| a | b)
}

/// Turns the gradient of `x / max(|x|, 1e-12)` into that of `x`.
fn normalize_backward(x: &[f32], gradient: &mut [f64]) {
    let length = norm(x);
    let inverse = 1.0 / length.max(NORM_FLOOR);
    let along = if length > NORM_FLOOR {
        x.iter().zip(&*gradient).map(|(&x, &g)| f64::from(x) * g).sum::<f64>() * inverse * inverse
    } else {
        0.0
    };
    for (g, &x) in gradient.iter_mut().zip(x) {
        *g = (*g - along * f64::from(x)) * inverse;
    }
}
