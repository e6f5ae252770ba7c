//! From sums over pairs to the gradient of the embeddings as they came.

use ndarray::{ArrayViewMut2, Axis};
use rayon::prelude::*;

use super::groups::Groups;
use super::rows::{NORM_FLOOR, Rows, contiguous, norm};
use super::{Distance, TripletMarginOptions};
use crate::{Input, Result, Write};

const BLOCK: usize = 64;

/// Writes `factor` times the gradient. `sums` is `[batch, dim + 1]` in class order: with coefficients `w_ij` of the
/// differences `y_i - y_j`, row `i` holds `sum_j w_ij y_j`, then `sum_j w_ij`, and so the gradient of `y_i` is
/// `y_i sum_j w_ij - sum_j w_ij y_j`; a cosine's has no first term. Through `y = x / max(|x|, 1e-12)` the part along
/// `x` drops out, but where the floor applies. Values beyond `f32` saturate.
///
/// Returns whether any entry differs from 0, before the factor.
pub(crate) fn write(
    options: &TripletMarginOptions,
    input: &Input<'_>,
    groups: &Groups,
    rows: &Rows,
    sums: &[f32],
    factor: f64,
    write: Write,
    mut out: ArrayViewMut2<'_, f32>,
) -> Result<bool> {
    let dim = input.embeddings.ncols();
    let positions = groups.batch_positions();
    let prepared = rows.batch(0..positions.len())?;
    let cosine = options.distance == Distance::Cosine;
    let blocks: Vec<_> = out.axis_chunks_iter_mut(Axis(0), BLOCK).zip(positions.chunks(BLOCK)).collect();
    let moves = blocks
        .into_par_iter()
        .enumerate()
        .map(|(block, (mut out, positions))| {
            let mut moves = false;
            let mut gradient = vec![0.0f64; dim];
            for (i, (mut out, &position)) in out.rows_mut().into_iter().zip(positions).enumerate() {
                let row = &sums[position as usize * (dim + 1)..][..dim + 1];
                let total = if cosine { 0.0 } else { f64::from(row[dim]) };
                let own = prepared.row(position as usize);
                for ((g, &y), &sum) in gradient.iter_mut().zip(own).zip(row) {
                    *g = total * f64::from(y) - f64::from(sum);
                    moves |= *g != 0.0;
                }
                if options.normalize {
                    let x = contiguous(input.embeddings.row(block * BLOCK + i));
                    normalize_backward(&x, &mut gradient);
                }
                for (o, &g) in out.iter_mut().zip(&gradient) {
                    let g = (g * factor).clamp(f64::from(f32::MIN), f64::from(f32::MAX)) as f32;
                    *o = if write == Write::Add { *o + g } else { g };
                }
            }
            moves
        })
        .reduce(|| false, |a, b| a | b);
    Ok(moves)
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
