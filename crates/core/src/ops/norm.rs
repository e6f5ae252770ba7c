//! Batch normalisation.

use ndarray::Array1;
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

/// Sums that run side by side.
const LANES: usize = 16;

/// Sum of `f(i)` over a slice pair in [`LANES`] fixed lanes, which the compiler can vectorise; lanes are added in `f64`.
#[inline(always)]
fn lanes(a: &[f32], b: &[f32], f: impl Fn(f32, f32) -> f32) -> f64 {
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
pub(super) fn not_negative(op: &'static str, eps: f32) -> Result<()> {
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
                for (name, statistic) in [("mean", mean), ("variance", variance)] {
                    if statistic.len() != channels {
                        let expected =
                            format!("[{channels}] for the running {name}, a value for each channel");
                        return Err(shape_error(OP, expected, statistic.shape()));
                    }
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
}
