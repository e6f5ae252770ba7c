//! Reshape, concatenate, sums.

use ndarray::{ArrayD, Axis, IxDyn, Slice};

use super::{shape_error, standard};
use crate::{Error, Grad, Result, Var};

impl<'t> Var<'t> {
    /// The same elements in row-major order under another shape.
    ///
    /// # Errors
    /// A shape with another number of elements.
    pub fn reshape(self, shape: &[usize]) -> Result<Var<'t>> {
        let x = standard(&self.value());
        let old = x.shape().to_vec();
        let fail = |got: &[usize]| shape_error("reshape", format!("{} elements", x.len()), got);
        let value = x.clone().into_shape_with_order(IxDyn(shape)).map_err(|_| fail(shape))?;
        self.tape().record("reshape", [self], value, move |g, _| {
            let g = super::contiguous(g);
            let got = g.shape().to_vec();
            let g = g.into_shape_with_order(IxDyn(&old)).map_err(|_| shape_error("reshape", "", &got))?;
            Ok([Some(Grad::Dense(g))])
        })
    }

    /// Joins values along `axis`.
    ///
    /// # Errors
    /// No values, an axis that does not exist, or shapes that differ elsewhere.
    pub fn concatenate(axis: usize, parts: &[Var<'t>]) -> Result<Var<'t>> {
        let first = parts.first().ok_or_else(|| shape_error("concatenate", "at least one value", &[]))?;
        if axis >= first.shape().len() {
            return Err(Error::Parameter {
                op: "concatenate",
                name: "axis",
                value: axis.to_string(),
                expected: format!("the values have {} axes", first.shape().len()),
            });
        }
        let values: Vec<_> = parts.iter().map(Var::value).collect();
        let views: Vec<_> = values.iter().map(|v| v.view()).collect();
        let joined = ndarray::concatenate(Axis(axis), &views)
            .map_err(|_| shape_error("concatenate", "equal shapes apart from the axis", &first.shape()))?;
        let lengths: Vec<usize> = values.iter().map(|v| v.shape()[axis]).collect();
        first.tape().record_many("concatenate", parts, joined, move |g: ArrayD<f32>, wanted| {
            let mut start = 0;
            Ok(lengths
                .iter()
                .zip(wanted)
                .map(|(&length, &wanted)| {
                    let part = Slice::from(start..start + length);
                    start += length;
                    wanted.then(|| Grad::Dense(g.slice_axis(Axis(axis), part).to_owned()))
                })
                .collect())
        })
    }

    /// Sum of all elements, a scalar; accumulated in `f64`.
    ///
    /// # Errors
    /// None of its own.
    pub fn sum(self) -> Result<Var<'t>> {
        self.weighted_total("sum", 1.0)
    }

    /// Mean of all elements, a scalar; accumulated in `f64`. The mean of nothing is 0.
    ///
    /// # Errors
    /// None of its own.
    pub fn mean(self) -> Result<Var<'t>> {
        let count = self.value().len().max(1);
        self.weighted_total("mean", 1.0 / count as f64)
    }

    fn weighted_total(self, name: &'static str, weight: f64) -> Result<Var<'t>> {
        let x = self.value();
        let shape = x.raw_dim();
        let total = x.iter().map(|&v| f64::from(v)).sum::<f64>() * weight;
        let value = ArrayD::from_elem(IxDyn(&[]), total as f32);
        self.tape().record(name, [self], value, move |g, _| {
            let upstream = g.iter().next().copied().unwrap_or(0.0);
            Ok([Some(Grad::Dense(ArrayD::from_elem(shape, (f64::from(upstream) * weight) as f32)))])
        })
    }
}
