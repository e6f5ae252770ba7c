//! Matrix products and biases.

use ndarray::{Array2, ArrayD, Axis, Ix2};
use rayon::prelude::*;

use super::elementwise::BLOCK;
use super::{array, shape_error, slice, standard};
use crate::{Grad, Result, Value, Var, linalg};

fn matrix(op: &'static str, value: &Value) -> Result<ndarray::ArcArray<f32, Ix2>> {
    value
        .clone()
        .into_dimensionality::<Ix2>()
        .map_err(|_| shape_error(op, "a matrix [rows, columns]", value.shape()))
}

impl<'t> Var<'t> {
    /// `[n, k] x [k, m] -> [n, m]`.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn matmul(self, other: Var<'t>) -> Result<Var<'t>> {
        let (a, b) = (matrix("matmul", &self.value())?, matrix("matmul", &other.value())?);
        let mut c = Array2::zeros((a.nrows(), b.ncols()));
        linalg::matmul(1.0, a.view(), b.view(), 0.0, c.view_mut())?;
        self.tape().record("matmul", [self, other], c.into_dyn(), move |g, [first, second]| {
            let got = g.shape().to_vec();
            let g = g.into_dimensionality::<Ix2>().map_err(|_| shape_error("matmul", "a matrix", &got))?;
            Ok([
                first.then(|| product(g.view(), b.t())).transpose()?,
                second.then(|| product(a.t(), g.view())).transpose()?,
            ])
        })
    }

    /// `x W^T + b`: `x` is `[n, in]`, `weight` is `[out, in]`, `bias` is `[out]`.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn linear(self, weight: Var<'t>, bias: Option<Var<'t>>) -> Result<Var<'t>> {
        let (x, w) = (matrix("linear", &self.value())?, matrix("linear", &weight.value())?);
        if x.ncols() != w.ncols() {
            return Err(shape_error(
                "linear",
                format!("[n, {}], as the weight's columns", w.ncols()),
                x.shape(),
            ));
        }
        let mut y = Array2::zeros((x.nrows(), w.nrows()));
        linalg::matmul(1.0, x.view(), w.t(), 0.0, y.view_mut())?;
        let y = self.tape().record("linear", [self, weight], y.into_dyn(), move |g, [first, second]| {
            let got = g.shape().to_vec();
            let g = g.into_dimensionality::<Ix2>().map_err(|_| shape_error("linear", "a matrix", &got))?;
            Ok([
                first.then(|| product(g.view(), w.view())).transpose()?,
                second.then(|| product(g.t(), x.view())).transpose()?,
            ])
        })?;
        bias.map_or(Ok(y), |bias| y.bias(bias))
    }

    /// Adds `bias` `[channels]` over axis 1 of `[n, channels]` or `[n, channels, height, width]`.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn bias(self, bias: Var<'t>) -> Result<Var<'t>> {
        let (x, b) = (self.value(), bias.value());
        if x.ndim() < 2 || b.shape() != [x.shape()[1]] {
            let expected = match x.shape() {
                [_, channels, ..] => format!("[{channels}], a value for each channel of {:?}", x.shape()),
                _ => format!("[channels] beside a value [n, channels, ..], which {:?} is not", x.shape()),
            };
            return Err(shape_error("bias", expected, b.shape()));
        }
        let x = standard(&x);
        let shape = x.shape().to_vec();
        let (channels, plane) = (shape[1], shape[2..].iter().product::<usize>());
        let mut y = self.tape().pool().take(x.len());
        if !y.is_empty() {
            let item = channels * plane;
            let task = item * (BLOCK / item).max(1);
            y.par_chunks_mut(task).zip(slice("bias", &x)?.par_chunks(task)).for_each(|(y, x)| {
                for (y, x) in y.chunks_mut(item).zip(x.chunks(item)) {
                    if plane == 1 {
                        y.iter_mut().zip(x).zip(&b).for_each(|((y, &x), &b)| *y = x + b);
                        continue;
                    }
                    for ((y, x), &b) in y.chunks_mut(plane).zip(x.chunks(plane)).zip(&b) {
                        y.iter_mut().zip(x).for_each(|(y, &x)| *y = x + b);
                    }
                }
            });
        }
        let y = array("bias", &shape, y)?;
        self.tape().record("bias", [self, bias], y, move |g: ArrayD<f32>, [_, second]| {
            let to_bias = second.then(|| {
                let mut sums = ndarray::Array1::<f32>::zeros(channels);
                let whole = g.view();
                sums.as_slice_mut().unwrap_or_default().par_iter_mut().enumerate().for_each(|(c, sum)| {
                    let channel = whole.index_axis(Axis(1), c);
                    *sum = channel.iter().map(|&v| f64::from(v)).sum::<f64>() as f32;
                });
                Grad::Dense(sums.into_dyn())
            });
            Ok([Some(Grad::Dense(g)), to_bias])
        })
    }
}

fn product(a: ndarray::ArrayView2<'_, f32>, b: ndarray::ArrayView2<'_, f32>) -> Result<Grad> {
    let mut c = Array2::zeros((a.nrows(), b.ncols()));
    linalg::matmul(1.0, a, b, 0.0, c.view_mut())?;
    Ok(Grad::Dense(c.into_dyn()))
}
