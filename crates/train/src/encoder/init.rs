//! What layers hold, and where it starts.

use embedtune_core::Value;
use ndarray::{ArrayD, IxDyn};
use ndarray_rand::RandomExt;
use ndarray_rand::rand_distr::{Normal, Uniform};
use rand_chacha::ChaCha8Rng;

use super::layer::{Layer, Shape};
use crate::{Error, Result};

/// Values of one tensor, at most: a damaged specification must not ask for all of the memory.
pub(super) const LARGEST: usize = 1 << 30;

fn dims(dims: &[usize]) -> Result<IxDyn> {
    match dims.iter().try_fold(1usize, |product, &n| product.checked_mul(n)) {
        Some(length) if length <= LARGEST => Ok(IxDyn(dims)),
        _ => Err(Error::option(
            "encoder",
            format!("{dims:?}"),
            "a tensor has at most 2^30 values; make it smaller",
        )),
    }
}

/// Uniform within `1 / sqrt(fan in)`: PyTorch's default for weights (`kaiming_uniform_` with `a = sqrt(5)`) and
/// biases of linear and convolutional layers.
fn uniform(shape: &[usize], fan_in: usize, random: &mut ChaCha8Rng) -> Result<Value> {
    let bound = 1.0 / (fan_in.max(1) as f32).sqrt();
    let values = Uniform::new(-bound, bound).map_err(|e| Error::Unsuitable(e.to_string()))?;
    Ok(ArrayD::random_using(dims(shape)?, values, random).into_shared())
}

fn full(length: usize, value: f32) -> Result<Value> {
    Ok(ArrayD::from_elem(dims(&[length])?, value).into_shared())
}

impl Layer {
    /// Number of [`init`](Self::init)'s parameters.
    pub(super) fn parameter_count(&self) -> usize {
        match self {
            Self::Conv { .. } | Self::Embedding { .. } => 1,
            Self::BatchNorm | Self::LayerNorm => 2,
            Self::Linear { bias, .. } => 1 + usize::from(*bias),
            Self::Residual { .. } => 4,
            Self::Pool { .. } => usize::from(self.learns_p()),
            Self::Normalize | Self::Relu | Self::Gelu | Self::Dropout { .. } | Self::MaxPool { .. } => 0,
        }
    }

    /// Number of [`buffers`](Self::buffers).
    pub(super) fn buffer_count(&self) -> usize {
        match self {
            Self::BatchNorm => 2,
            Self::Residual { .. } | Self::Embedding { .. } => 1,
            _ => 0,
        }
    }

    /// Initial parameters.
    pub(super) fn init(&self, shape: &Shape, random: &mut ChaCha8Rng) -> Result<Vec<(&'static str, Value)>> {
        Ok(match (self, *shape) {
            (&Self::Conv { out, kernel, .. }, Shape::Map([c, ..])) => {
                vec![("weight", uniform(&[out, c, kernel, kernel], c * kernel * kernel, random)?)]
            }
            (Self::BatchNorm | Self::LayerNorm, Shape::Map([width, ..]) | Shape::Vector(width)) => {
                vec![("gamma", full(width, 1.0)?), ("beta", full(width, 0.0)?)]
            }
            (&Self::Linear { out, bias }, Shape::Vector(dim)) => {
                let mut params = vec![("weight", uniform(&[out, dim], dim, random)?)];
                if bias {
                    params.push(("bias", uniform(&[out], dim, random)?));
                }
                params
            }
            (&Self::Residual { hidden }, Shape::Vector(dim)) => vec![
                ("weight1", uniform(&[hidden, dim], dim, random)?),
                ("bias1", uniform(&[hidden], dim, random)?),
                ("weight2", ArrayD::zeros(dims(&[dim, hidden])?).into_shared()),
                ("bias2", full(dim, 0.0)?),
            ],
            (&Self::Embedding { rows, dim }, Shape::Ids(_)) => {
                // Sums of such rows keep the angles of the weighted counts up to 1 / sqrt(dim) (Johnson and
                // Lindenstrauss 1984): the untrained encoder is a random projection of TF-IDF.
                let normal = Normal::new(0.0, 1.0 / (dim as f32).sqrt())
                    .map_err(|e| Error::Unsuitable(e.to_string()))?;
                vec![("weight", ArrayD::random_using(dims(&[rows, dim])?, normal, random).into_shared())]
            }
            (Self::Pool { options, .. }, Shape::Map([width, ..]) | Shape::Tokens(width))
                if self.learns_p() =>
            {
                vec![("p", full(if options.per_channel { width } else { 1 }, options.p as f32)?)]
            }
            _ => Vec::new(),
        })
    }

    /// Initial buffers: what is measured, not learnt.
    pub(super) fn buffers(&self, shape: &Shape) -> Result<Vec<(&'static str, Value)>> {
        Ok(match (self, *shape) {
            (Self::BatchNorm, Shape::Map([c, ..]) | Shape::Vector(c)) => {
                vec![("running_mean", full(c, 0.0)?), ("running_variance", full(c, 1.0)?)]
            }
            (Self::Residual { .. }, _) => vec![("scale", full(1, 1.0)?)],
            (&Self::Embedding { rows, .. }, _) => vec![("idf", full(rows, 1.0)?)],
            _ => Vec::new(),
        })
    }
}
