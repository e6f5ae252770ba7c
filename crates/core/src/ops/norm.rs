//! Batch norm, layer norm and row normalisation.

use ndarray::{Array1, Array2, ArrayD, Ix2};
use rayon::prelude::*;

use super::{array, contiguous, shape_error, slice, standard};
use crate::{Error, Grad, Result, Var, simd};

/// What a batch norm normalises with: one of the two, in every version.
#[derive(Debug, Clone, Copy)]
pub enum BatchNormMode<'a> {
    /// The batch's own mean and variance.
    Train,
    /// Running statistics, `[channels]` each.
    Eval {
        /// Running mean.
        mean: &'a Array1<f32>,
        /// Running variance.
        variance: &'a Array1<f32>,
    },
}

/// The batch's statistics, for the running averages.
#[derive(Debug, Clone, PartialEq)]
pub struct BatchStatistics {
    /// Mean of each channel.
    pub mean: Array1<f32>,
    /// Unbiased variance of each channel, as PyTorch's running variance takes it.
    pub variance: Array1<f32>,
}

/// Sum of `f(i)` over a slice pair in eight fixed lanes, which the compiler can vectorise; lanes are added in `f64`.
#[inline(always)]
fn lanes(a: &[f32], b: &[f32], f: impl Fn(f32, f32) -> f32) -> f64 {
    const LANES: usize = 16;
    let mut sums = [0.0f32; LANES];
    let (a_blocks, b_blocks) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let tail: f64 =
        a_blocks.remainder().iter().zip(b_blocks.remainder()).map(|(&a, &b)| f64::from(f(a, b))).sum();
    for (a, b) in a_blocks.zip(b_blocks) {
        for lane in 0..LANES {
            sums[lane] += f(a[lane], b[lane]);
        }
    }
    sums.iter().map(|&v| f64::from(v)).sum::<f64>() + tail
}

/// Added to a variance: below 0 it would make NaN of a channel that hardly varies.
fn not_negative(op: &'static str, eps: f32) -> Result<()> {
    if eps >= 0.0 && eps.is_finite() {
        return Ok(());
    }
    let expected = "a number of at least 0; 1e-5 is usual".to_owned();
    Err(Error::Parameter { op, name: "eps", value: eps.to_string(), expected })
}

impl<'t> Var<'t> {
    /// Batch normalisation (Ioffe and Szegedy 2015, arXiv:1502.03167) of `[n, channels]` or
    /// `[n, channels, height, width]` with `gamma` and `beta` `[channels]`. In training mode the batch's
    /// statistics come back beside the value.
    ///
    /// # Errors
    /// Shapes that do not fit; fewer than two values a channel in training mode; `eps` below 0.
    pub fn batch_norm(
        self,
        gamma: Var<'t>,
        beta: Var<'t>,
        eps: f32,
        mode: BatchNormMode<'_>,
    ) -> Result<(Var<'t>, Option<BatchStatistics>)> {
        const OP: &str = "batch_norm";
        let x = standard(&self.value());
        let shape = x.shape().to_vec();
        if !matches!(shape.len(), 2 | 4) {
            return Err(shape_error(OP, "[n, channels] or [n, channels, height, width]", &shape));
        }
        not_negative(OP, eps)?;
        let (batch, channels) = (shape[0], shape[1]);
        let plane: usize = shape[2..].iter().product();
        let (g, b) = (gamma.value(), beta.value());
        for p in [&g, &b] {
            if p.shape() != [channels] {
                return Err(shape_error(OP, format!("[{channels}] for gamma and beta"), p.shape()));
            }
        }
        let count = batch * plane;
        let data = slice(OP, &x)?;
        // One channel a task: its planes are visited in order, so the sums do not depend on the threads.
        let planes = move |c: usize| {
            (0..batch).map(move |n| (n * channels + c) * plane..(n * channels + c + 1) * plane)
        };
        let (mean, inverse, statistics): (Vec<f32>, Vec<f32>, _) = match mode {
            BatchNormMode::Eval { mean, variance } => {
                if mean.len() != channels || variance.len() != channels {
                    return Err(shape_error(OP, format!("[{channels}] running statistics"), &[mean.len()]));
                }
                (mean.to_vec(), variance.iter().map(|v| 1.0 / (v + eps).sqrt()).collect(), None)
            }
            BatchNormMode::Train => {
                if count < 2 {
                    return Err(Error::Parameter {
                        op: OP,
                        name: "values a channel",
                        value: count.to_string(),
                        expected: "training needs at least two; use a larger batch".into(),
                    });
                }
                let moments: Vec<(f64, f64)> = (0..channels)
                    .into_par_iter()
                    .map(|c| {
                        simd::dispatch(|| {
                            let total: f64 =
                                planes(c).map(|r| lanes(&data[r.clone()], &data[r], |v, _| v)).sum();
                            let mean = total / count as f64;
                            let centre = mean as f32;
                            let squares: f64 = planes(c)
                                .map(|r| {
                                    lanes(&data[r.clone()], &data[r], |v, _| (v - centre) * (v - centre))
                                })
                                .sum();
                            (mean, squares / count as f64)
                        })
                    })
                    .collect();
                let unbiased = count as f64 / (count as f64 - 1.0);
                let statistics = BatchStatistics {
                    mean: moments.iter().map(|m| m.0 as f32).collect(),
                    variance: moments.iter().map(|m| (m.1 * unbiased) as f32).collect(),
                };
                let inverse = moments.iter().map(|m| (1.0 / (m.1 + f64::from(eps)).sqrt()) as f32).collect();
                (statistics.mean.to_vec(), inverse, Some(statistics))
            }
        };
        let pool = self.tape().pool().clone();
        let mut y = pool.take(data.len());
        if plane > 0 && channels > 0 {
            y.par_chunks_mut(plane * channels).zip(data.par_chunks(plane * channels)).for_each(|(y, x)| {
                simd::dispatch(|| {
                    for (c, (y, x)) in y.chunks_mut(plane).zip(x.chunks(plane)).enumerate() {
                        let scale = g[c] * inverse[c];
                        let shift = b[c] - mean[c] * scale;
                        y.iter_mut().zip(x).for_each(|(y, &x)| *y = x * scale + shift);
                    }
                });
            });
        }
        let y = array(OP, &shape, y)?;
        let training = statistics.is_some();
        let out = self.tape().record(OP, [self, gamma, beta], y, move |dy, [to_x, ..]| {
            let dy = contiguous(dy);
            let dys = dy.as_slice().unwrap_or_default();
            let data = slice(OP, &x)?;
            let sums: Vec<(f64, f64)> = (0..channels)
                .into_par_iter()
                .map(|c| {
                    simd::dispatch(|| {
                        let (mut plain, mut along) = (0.0, 0.0);
                        for r in planes(c) {
                            plain += lanes(&dys[r.clone()], &dys[r.clone()], |d, _| d);
                            along += lanes(&dys[r.clone()], &data[r], |d, x| d * (x - mean[c]));
                        }
                        (plain, along * f64::from(inverse[c]))
                    })
                })
                .collect();
            let dx = if to_x && plane > 0 && channels > 0 {
                let mut dx = pool.take(data.len());
                dx.par_chunks_mut(plane * channels)
                    .zip(dys.par_chunks(plane * channels))
                    .zip(data.par_chunks(plane * channels))
                    .for_each(|((dx, dy), x)| {
                        simd::dispatch(|| {
                            for (c, ((dx, dy), x)) in
                                dx.chunks_mut(plane).zip(dy.chunks(plane)).zip(x.chunks(plane)).enumerate()
                            {
                                let scale = g[c] * inverse[c];
                                let (a, k) = if training {
                                    (
                                        (sums[c].0 / count as f64) as f32,
                                        (sums[c].1 / count as f64) as f32 * inverse[c],
                                    )
                                } else {
                                    (0.0, 0.0)
                                };
                                let m = mean[c];
                                for ((dx, &dy), &x) in dx.iter_mut().zip(dy).zip(x) {
                                    *dx = scale * (dy - a - (x - m) * k);
                                }
                            }
                        });
                    });
                Some(Grad::Dense(array(OP, &shape, dx)?))
            } else {
                None
            };
            let d_gamma: Array1<f32> = sums.iter().map(|s| s.1 as f32).collect();
            let d_beta: Array1<f32> = sums.iter().map(|s| s.0 as f32).collect();
            pool.give(dy.into_raw_vec_and_offset().0);
            Ok([dx, Some(Grad::Dense(d_gamma.into_dyn())), Some(Grad::Dense(d_beta.into_dyn()))])
        })?;
        Ok((out, statistics))
    }

    /// Layer normalisation (Ba, Kiros and Hinton 2016, arXiv:1607.06450) over the last axis of `[n, dim]`, with
    /// `gamma` and `beta` `[dim]`.
    ///
    /// # Errors
    /// Shapes that do not fit; `eps` below 0.
    pub fn layer_norm(self, gamma: Var<'t>, beta: Var<'t>, eps: f32) -> Result<Var<'t>> {
        const OP: &str = "layer_norm";
        let x = matrix(OP, self)?;
        not_negative(OP, eps)?;
        let dim = x.ncols();
        let (g, b) = (gamma.value(), beta.value());
        for p in [&g, &b] {
            if p.shape() != [dim] || dim == 0 {
                return Err(shape_error(OP, format!("[{dim}] for gamma and beta, not empty"), p.shape()));
            }
        }
        let mut unit = Array2::<f32>::zeros(x.dim());
        let mut inverse = Vec::with_capacity(x.nrows());
        for (row, mut unit) in x.rows().into_iter().zip(unit.rows_mut()) {
            let mean = row.iter().map(|&v| f64::from(v)).sum::<f64>() / dim as f64;
            let variance = row.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / dim as f64;
            let scale = 1.0 / (variance + f64::from(eps)).sqrt();
            unit.zip_mut_with(&row, |u, &v| *u = ((f64::from(v) - mean) * scale) as f32);
            inverse.push(scale);
        }
        let y = &unit
            * &g.view()
                .into_dimensionality::<ndarray::Ix1>()
                .map_err(|_| shape_error(OP, "[dim]", g.shape()))?
            + b.view()
                .into_dimensionality::<ndarray::Ix1>()
                .map_err(|_| shape_error(OP, "[dim]", b.shape()))?;
        self.tape().record(OP, [self, gamma, beta], y.into_dyn(), move |dy: ArrayD<f32>, _| {
            let dy = gradient_matrix(OP, dy)?;
            let mut dx = Array2::zeros(dy.dim());
            let (mut dg, mut db) = (vec![0.0f64; dim], vec![0.0f64; dim]);
            for (i, (dy, u)) in dy.rows().into_iter().zip(unit.rows()).enumerate() {
                let (mut plain, mut along) = (0.0, 0.0);
                for j in 0..dim {
                    let d = f64::from(dy[j]) * f64::from(g[j]);
                    plain += d;
                    along += d * f64::from(u[j]);
                    dg[j] += f64::from(dy[j]) * f64::from(u[j]);
                    db[j] += f64::from(dy[j]);
                }
                for j in 0..dim {
                    let d = f64::from(dy[j]) * f64::from(g[j]);
                    dx[[i, j]] =
                        (inverse[i] * (d - plain / dim as f64 - f64::from(u[j]) * along / dim as f64)) as f32;
                }
            }
            let dense = |v: Vec<f64>| {
                Grad::Dense(v.into_iter().map(|v| v as f32).collect::<Array1<f32>>().into_dyn())
            };
            Ok([Some(Grad::Dense(dx.into_dyn())), Some(dense(dg)), Some(dense(db))])
        })
    }

    /// Rows divided by `max(|x|, eps)`; the gradient of a row shorter than `eps` is `dy / eps`.
    ///
    /// # Errors
    /// Not a matrix; `eps` that is not above 0.
    pub fn normalize_rows(self, eps: f32) -> Result<Var<'t>> {
        const OP: &str = "normalize_rows";
        let x = matrix(OP, self)?;
        let mut unit = Array2::zeros(x.dim());
        let norms = crate::linalg::normalize_rows(x.view(), eps, unit.view_mut())?;
        let kept = unit.clone();
        self.tape().record(OP, [self], unit.into_dyn(), move |dy, _| {
            let mut dx = gradient_matrix(OP, dy)?;
            for ((mut dx, u), &norm) in dx.rows_mut().into_iter().zip(kept.rows()).zip(&norms) {
                let along: f64 = if norm > eps { dot(dx.view(), u) } else { 0.0 };
                let scale = 1.0 / f64::from(norm.max(eps));
                dx.zip_mut_with(&u, |d, &u| *d = ((f64::from(*d) - along * f64::from(u)) * scale) as f32);
            }
            Ok([Some(Grad::Dense(dx.into_dyn()))])
        })
    }
}

fn dot(a: ndarray::ArrayView1<'_, f32>, b: ndarray::ArrayView1<'_, f32>) -> f64 {
    a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
}

fn matrix(op: &'static str, x: Var<'_>) -> Result<ndarray::ArcArray<f32, Ix2>> {
    let value = x.value();
    let shape = value.shape().to_vec();
    value.into_dimensionality().map_err(|_| shape_error(op, "a matrix [n, dim]", &shape))
}

fn gradient_matrix(op: &'static str, g: ArrayD<f32>) -> Result<Array2<f32>> {
    let shape = g.shape().to_vec();
    g.into_dimensionality().map_err(|_| shape_error(op, "a matrix [n, dim]", &shape))
}
