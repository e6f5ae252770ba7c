//! What treats each row by itself: layer normalisation and rows of unit length.

use ndarray::{Array1, ArrayD};
use rayon::prelude::*;

use super::norm::not_negative;
use super::{array, contiguous, shape_error, slice, standard};
use crate::{Grad, Result, Value, Var, simd};

/// Rows of one task. The sums over a task's rows are added task by task, so their bits do not depend on the threads.
const BLOCK: usize = 32;

/// Sum of `f(a, b)` over two rows in `f64`, in fixed lanes, which the compiler can vectorise.
#[inline(always)]
fn sum(a: &[f32], b: &[f32], f: impl Fn(f64, f64) -> f64) -> f64 {
    const LANES: usize = 16;
    let mut sums = [0.0f64; LANES];
    let (a_lanes, b_lanes) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let tail = a_lanes.remainder().iter().zip(b_lanes.remainder());
    let tail: f64 = tail.map(|(&a, &b)| f(f64::from(a), f64::from(b))).sum();
    for (a, b) in a_lanes.zip(b_lanes) {
        for lane in 0..LANES {
            sums[lane] += f(f64::from(a[lane]), f64::from(b[lane]));
        }
    }
    sums.iter().sum::<f64>() + tail
}

impl<'t> Var<'t> {
    /// Layer normalisation (Ba, Kiros and Hinton 2016, arXiv:1607.06450) over the last axis of `[n, dim]`, with
    /// `gamma` and `beta` `[dim]`.
    ///
    /// # Errors
    /// Shapes that do not fit; `eps` below 0.
    pub fn layer_norm(self, gamma: Var<'t>, beta: Var<'t>, eps: f32) -> Result<Var<'t>> {
        const OP: &str = "layer_norm";
        let (x, [rows, dim]) = matrix(OP, self)?;
        not_negative(OP, eps)?;
        let (g, b) = (standard(&gamma.value()), standard(&beta.value()));
        for p in [&g, &b] {
            if p.shape() != [dim] || dim == 0 {
                return Err(shape_error(OP, format!("[{dim}] for gamma and beta, not empty"), p.shape()));
            }
        }
        let pool = self.tape().pool().clone();
        let (mut unit, mut y) = (pool.take(x.len()), pool.take(x.len()));
        let mut inverse = vec![0.0f64; rows];
        let (gs, bs) = (slice(OP, &g)?, slice(OP, &b)?);
        unit.par_chunks_mut(BLOCK * dim)
            .zip(y.par_chunks_mut(BLOCK * dim))
            .zip(slice(OP, &x)?.par_chunks(BLOCK * dim))
            .zip(inverse.par_chunks_mut(BLOCK))
            .for_each(|(((unit, y), x), inverse)| {
                simd::dispatch(
                    #[inline(always)]
                    || {
                        let rows = unit.chunks_mut(dim).zip(y.chunks_mut(dim)).zip(x.chunks(dim));
                        for (((unit, y), x), inverse) in rows.zip(inverse) {
                            let mean = sum(x, x, |v, _| v) / dim as f64;
                            let variance = sum(x, x, |v, _| (v - mean) * (v - mean)) / dim as f64;
                            let scale = 1.0 / (variance + f64::from(eps)).sqrt();
                            let columns = unit.iter_mut().zip(y).zip(x).zip(gs.iter().zip(bs));
                            for (((unit, y), &x), (&g, &b)) in columns {
                                *unit = ((f64::from(x) - mean) * scale) as f32;
                                *y = *unit * g + b;
                            }
                            *inverse = scale;
                        }
                    },
                );
            });
        let y = array(OP, &[rows, dim], y)?;
        self.tape().record(OP, [self, gamma, beta], y, move |dy: ArrayD<f32>, _| {
            let mut dx = contiguous(dy);
            let gs = slice(OP, &g)?;
            // The gradient becomes that of the input in place.
            let sums: Vec<Vec<f64>> = dx
                .as_slice_mut()
                .unwrap_or_default()
                .par_chunks_mut(BLOCK * dim)
                .zip(unit.par_chunks(BLOCK * dim))
                .zip(inverse.par_chunks(BLOCK))
                .map(|((dx, unit), inverse)| {
                    simd::dispatch(
                        #[inline(always)]
                        || layer_norm_block(dx, unit, gs, inverse),
                    )
                })
                .collect();
            let mut total = vec![0.0f64; 2 * dim];
            for sums in sums {
                total.iter_mut().zip(sums).for_each(|(total, sum)| *total += sum);
            }
            pool.give(unit);
            let dense =
                |v: &[f64]| Grad::Dense(v.iter().map(|&v| v as f32).collect::<Array1<f32>>().into_dyn());
            Ok([Some(Grad::Dense(dx)), Some(dense(&total[..dim])), Some(dense(&total[dim..]))])
        })
    }

    /// Rows divided by `max(|x|, eps)`; the gradient of a row shorter than `eps` is `dy / eps`.
    ///
    /// # Errors
    /// Not a matrix; `eps` that is not above 0.
    pub fn normalize_rows(self, eps: f32) -> Result<Var<'t>> {
        const OP: &str = "normalize_rows";
        let (x, [rows, dim]) = matrix(OP, self)?;
        let x = ndarray::ArrayView2::from_shape((rows, dim), slice(OP, &x)?)
            .map_err(|_| shape_error(OP, "a matrix [n, dim]", x.shape()))?;
        let mut unit = ndarray::Array2::zeros((rows, dim));
        let norms = crate::linalg::normalize_rows(x, eps, unit.view_mut())?;
        let unit = unit.into_dyn().into_shared();
        let kept = unit.clone();
        self.tape().record(OP, [self], unit, move |dy, _| {
            let mut dx = contiguous(dy);
            if dim > 0 {
                dx.as_slice_mut()
                    .unwrap_or_default()
                    .par_chunks_mut(BLOCK * dim)
                    .zip(slice(OP, &kept)?.par_chunks(BLOCK * dim))
                    .zip(norms.par_chunks(BLOCK))
                    .for_each(|((dx, unit), norms)| {
                        simd::dispatch(
                            #[inline(always)]
                            || unit_block(dx, unit, norms, eps),
                        );
                    });
            }
            Ok([Some(Grad::Dense(dx))])
        })
    }
}

/// Replaces `dy` by the gradient of layer norm's input, row by row; returns the gradients of gamma and of beta, one after
/// the other.
#[inline(always)]
fn layer_norm_block(dy: &mut [f32], unit: &[f32], gamma: &[f32], inverse: &[f64]) -> Vec<f64> {
    let dim = gamma.len();
    let mut sums = vec![0.0f64; 2 * dim];
    let (d_gamma, d_beta) = sums.split_at_mut(dim);
    for ((dy, unit), &inverse) in dy.chunks_mut(dim).zip(unit.chunks(dim)).zip(inverse) {
        let columns = dy.iter().zip(unit).zip(d_gamma.iter_mut().zip(d_beta.iter_mut()));
        for ((&dy, &u), (d_gamma, d_beta)) in columns {
            *d_gamma += f64::from(dy) * f64::from(u);
            *d_beta += f64::from(dy);
        }
        dy.iter_mut().zip(gamma).for_each(|(dy, &g)| *dy *= g);
        let plain = sum(dy, dy, |d, _| d) / dim as f64;
        let along = sum(dy, unit, |d, u| d * u) / dim as f64;
        for (dy, &u) in dy.iter_mut().zip(unit) {
            *dy = (inverse * (f64::from(*dy) - plain - f64::from(u) * along)) as f32;
        }
    }
    sums
}

/// Replaces `dy` by the gradient of the rows that were divided by their length.
#[inline(always)]
fn unit_block(dy: &mut [f32], unit: &[f32], norms: &[f32], eps: f32) {
    let dim = unit.len() / norms.len();
    for ((dy, unit), &norm) in dy.chunks_mut(dim).zip(unit.chunks(dim)).zip(norms) {
        let along = if norm > eps { sum(dy, unit, |d, u| d * u) } else { 0.0 };
        let scale = 1.0 / f64::from(norm.max(eps));
        for (dy, &u) in dy.iter_mut().zip(unit) {
            *dy = ((f64::from(*dy) - along * f64::from(u)) * scale) as f32;
        }
    }
}

/// The value in standard layout, and its rows and columns.
fn matrix(op: &'static str, x: Var<'_>) -> Result<(Value, [usize; 2])> {
    let value = standard(&x.value());
    match *value.shape() {
        [rows, dim] => Ok((value, [rows, dim])),
        ref shape => Err(shape_error(op, "a matrix [n, dim]", shape)),
    }
}
