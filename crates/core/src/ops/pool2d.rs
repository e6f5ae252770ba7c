//! Max and average pooling over windows of an image.

use rayon::prelude::*;

use super::{addressable, array, contiguous, shape_error, slice, standard, window_steps};
use crate::{Error, Grad, Result, Var, simd};

/// A window that moves over the image: `[vertical, horizontal]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pool2d {
    /// The window.
    pub kernel: [usize; 2],
    /// Its step.
    pub stride: [usize; 2],
    /// Border around the image: ignored by the maximum, zeros that count for the average (as in PyTorch).
    pub padding: [usize; 2],
}

impl Pool2d {
    /// A square window that moves by its own size.
    pub fn square(side: usize) -> Self {
        Self { kernel: [side; 2], stride: [side; 2], padding: [0; 2] }
    }

    fn output(&self, op: &'static str, shape: &[usize]) -> Result<[usize; 2]> {
        let &[batch, channels, height, width] = shape else {
            return Err(shape_error(op, "[batch, channels, height, width]", shape));
        };
        if height == 0 || width == 0 {
            return Err(shape_error(op, "images with pixels", shape));
        }
        let side = |length: usize, axis: usize| {
            let (kernel, stride, padding) = (self.kernel[axis], self.stride[axis], self.padding[axis]);
            if kernel == 0 || stride == 0 || padding > kernel / 2 {
                return Err(Error::Parameter {
                    op,
                    name: "window",
                    value: format!("{self:?}"),
                    expected: "kernel and stride at least 1, padding at most half the kernel".into(),
                });
            }
            window_steps(length, padding, kernel, stride).ok_or_else(|| {
                shape_error(op, format!("an image at least as large as {:?}", self.kernel), shape)
            })
        };
        let [rows, columns] = [side(height, 0)?, side(width, 1)?];
        if !addressable(&[batch, channels, rows, columns]) {
            return Err(shape_error(
                op,
                format!("an output that fits an array, not {rows} x {columns}"),
                shape,
            ));
        }
        Ok([rows, columns])
    }

    /// The maxima of a plane and where they lie, `[rows, columns]` each.
    #[inline(always)]
    fn maxima(&self, [height, width]: [usize; 2], x: &[f32], y: &mut [f32], best: &mut [f32]) {
        let columns = (width + 2 * self.padding[1] - self.kernel[1]) / self.stride[1] + 1;
        for (row, (y, best)) in y.chunks_exact_mut(columns).zip(best.chunks_exact_mut(columns)).enumerate() {
            let lines = self.window(0, row, height);
            if self.padding[1] == 0 && self.stride[1] == 2 && columns >= 4 {
                let step = if columns >= 8 { 8 } else { 4 };
                for first in (0..columns).step_by(step) {
                    // The last step begins early where it would go too far.
                    let first = first.min(columns - step);
                    if step == 8 {
                        self.side_by_side::<8>(lines.clone(), first, width, x, y, best);
                    } else {
                        self.side_by_side::<4>(lines.clone(), first, width, x, y, best);
                    }
                }
                continue;
            }
            for column in 0..columns {
                let across = self.window(1, column, width);
                let first = lines.start * width + across.start;
                let (mut at, mut top) = (first, x[first]);
                for line in lines.clone() {
                    let start = line * width + across.start;
                    for (i, &v) in (start..).zip(&x[start..start + across.len()]) {
                        if v > top || (v.is_nan() && !top.is_nan()) {
                            (at, top) = (i, v);
                        }
                    }
                }
                (y[column], best[column]) = (top, f32::from_bits(at as u32));
            }
        }
    }

    /// `N` maxima from column `first` on, for windows two apart: in vectors.
    #[inline(always)]
    fn side_by_side<const N: usize>(
        &self,
        lines: std::ops::Range<usize>,
        first: usize,
        width: usize,
        x: &[f32],
        y: &mut [f32],
        best: &mut [f32],
    ) {
        let (mut tops, mut ats) = ([f32::NEG_INFINITY; N], [0u32; N]);
        for (nth, line) in lines.enumerate() {
            for across in 0..self.kernel[1] {
                let start = line * width + 2 * first + across;
                let from = &x[start..][..2 * N - 1];
                for i in 0..N {
                    let (v, top) = (from[2 * i], tops[i]);
                    // The first element is taken whatever it is, NaN over every number, and nothing over NaN.
                    let take = (nth + across == 0) | ((v > top) | v.is_nan()) & !top.is_nan();
                    tops[i] = if take { v } else { top };
                    ats[i] = if take { (start + 2 * i) as u32 } else { ats[i] };
                }
            }
        }
        y[first..first + N].copy_from_slice(&tops);
        best[first..first + N].copy_from_slice(&ats.map(f32::from_bits));
    }

    /// The window's part inside an axis of `length`.
    fn window(&self, axis: usize, output: usize, length: usize) -> std::ops::Range<usize> {
        let start = output * self.stride[axis];
        start.saturating_sub(self.padding[axis])..(start + self.kernel[axis] - self.padding[axis]).min(length)
    }
}

impl<'t> Var<'t> {
    /// The maximum of each window; ties go to the first element in row-major order. NaN wins over every number.
    ///
    /// # Errors
    /// Not four axes, an impossible window, an image without pixels or smaller than the window.
    pub fn max_pool2d(self, window: &Pool2d) -> Result<Var<'t>> {
        let x = standard(&self.value());
        let shape = x.shape().to_vec();
        let [rows, columns] = window.output("max_pool2d", &shape)?;
        let (height, width) = (shape[2], shape[3]);
        let planes = shape[0] * shape[1];
        let pool = self.tape().pool().clone();
        let mut y = pool.take(planes * rows * columns);
        // Where each maximum lies, as the bits of a float: so that this buffer, too, comes from the pool.
        let mut best = pool.take(y.len());
        let window = *window;
        if !y.is_empty() {
            y.par_chunks_mut(rows * columns)
                .zip(best.par_chunks_mut(rows * columns))
                .zip(slice("max_pool2d", &x)?.par_chunks(height * width))
                .for_each(|((y, best), x)| {
                    simd::dispatch(
                        #[inline(always)]
                        || window.maxima([height, width], x, y, best),
                    );
                });
        }
        if !self.needs_grad() {
            pool.give(std::mem::take(&mut best));
        }
        let y = array("max_pool2d", &[shape[0], shape[1], rows, columns], y)?;
        self.tape().record("max_pool2d", [self], y, move |g, _| {
            let g = contiguous(g);
            let mut dx = pool.zeros(planes * height * width);
            if !g.is_empty() {
                dx.par_chunks_mut(height * width)
                    .zip(g.as_slice().unwrap_or_default().par_chunks(rows * columns))
                    .zip(best.par_chunks(rows * columns))
                    .for_each(|((dx, g), best)| {
                        for (&g, &at) in g.iter().zip(best) {
                            dx[at.to_bits() as usize] += g;
                        }
                    });
            }
            pool.give(g.into_raw_vec_and_offset().0);
            pool.give(best);
            Ok([Some(Grad::Dense(array("max_pool2d", &shape, dx)?))])
        })
    }

    /// The mean of each window, padding counted as zeros.
    ///
    /// # Errors
    /// Not four axes, an impossible window, an image without pixels or smaller than the window.
    pub fn avg_pool2d(self, window: &Pool2d) -> Result<Var<'t>> {
        let x = standard(&self.value());
        let shape = x.shape().to_vec();
        let [rows, columns] = window.output("avg_pool2d", &shape)?;
        let (height, width) = (shape[2], shape[3]);
        let window = *window;
        let weight = 1.0 / (window.kernel[0] as f32 * window.kernel[1] as f32);
        let pool = self.tape().pool().clone();
        let planes = shape[0] * shape[1];
        let mut y = pool.take(planes * rows * columns);
        if !y.is_empty() {
            let maps =
                y.par_chunks_mut(rows * columns).zip(slice("avg_pool2d", &x)?.par_chunks(height * width));
            maps.for_each(|(y, x)| {
                for (at, y) in y.iter_mut().enumerate() {
                    let across = window.window(1, at % columns, width);
                    let lines = window.window(0, at / columns, height);
                    let sums = lines.map(|line| x[line * width..][across.clone()].iter().sum::<f32>());
                    *y = sums.sum::<f32>() * weight;
                }
            });
        }
        let y = array("avg_pool2d", &[shape[0], shape[1], rows, columns], y)?;
        self.tape().record("avg_pool2d", [self], y, move |g, _| {
            let g = contiguous(g);
            let mut dx = pool.zeros(planes * height * width);
            if !g.is_empty() {
                let maps = dx.par_chunks_mut(height * width);
                let maps = maps.zip(g.as_slice().unwrap_or_default().par_chunks(rows * columns));
                maps.for_each(|(dx, g)| {
                    for (at, &g) in g.iter().enumerate() {
                        let across = window.window(1, at % columns, width);
                        for line in window.window(0, at / columns, height) {
                            dx[line * width..][across.clone()].iter_mut().for_each(|v| *v += g * weight);
                        }
                    }
                });
            }
            pool.give(g.into_raw_vec_and_offset().0);
            Ok([Some(Grad::Dense(array("avg_pool2d", &shape, dx)?))])
        })
    }
}
