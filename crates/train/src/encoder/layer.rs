//! The layers.

use embedtune_core::ops::{BatchNormMode, BatchStatistics, Conv2d, Pool2d};
use embedtune_core::{Value, Var};
use embedtune_pooling::{GemOptions, PoolerKind, PoolerOptions, ops};
use ndarray::{ArrayD, IxDyn};
use ndarray_rand::RandomExt;
use ndarray_rand::rand_distr::{Normal, Uniform};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::{Mode, vector};
use crate::{Error, Result};

const BATCH_NORM_EPS: f32 = 1e-5;

/// One layer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "layer", rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum Layer {
    /// Square convolution at stride 1, without a bias (a batch norm follows).
    Conv {
        /// Output channels.
        out: usize,
        /// Side of the kernel.
        kernel: usize,
        /// Zeros around the image.
        padding: usize,
    },
    /// Batch norm over channels.
    BatchNorm,
    /// ReLU.
    Relu,
    /// Square max pooling that moves by its own size.
    MaxPool {
        /// Side of the window.
        side: usize,
    },
    /// The last pooling: feature maps or tokens to one vector.
    Pool {
        /// Which.
        pooler: PoolerKind,
        /// GeM's options; others have none.
        options: PoolerOptions,
    },
    /// Linear layer with a bias.
    Linear {
        /// Output length.
        out: usize,
    },
    /// `x + W2 gelu(W1 norm(x))`, the identity at the start.
    Residual {
        /// Length between the two matrices.
        hidden: usize,
    },
    /// Rows of a table for token ids.
    Embedding {
        /// Rows.
        rows: usize,
        /// Columns.
        dim: usize,
    },
}

/// What stands between two layers, without the batch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Shape {
    /// Channels, height, width.
    Map([usize; 3]),
    Vector(usize),
    /// Vectors of this length, one a token.
    Tokens(usize),
    Ids,
}

impl Shape {
    pub(super) fn vector(&self) -> Option<usize> {
        if let Self::Vector(dim) = *self { Some(dim) } else { None }
    }
}

/// A batch between two layers.
pub(super) struct Flow<'t> {
    pub(super) value: Var<'t>,
    /// Token ids, padded, until the embedding layer.
    pub(super) ids: Vec<u32>,
    /// Tokens of each text.
    pub(super) lengths: Vec<usize>,
}

/// What a pass carries along.
pub(super) struct Context {
    pub(super) mode: Mode,
    pub(super) statistics: Vec<(usize, BatchStatistics)>,
}

impl Layer {
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Conv { .. } => "conv",
            Self::BatchNorm => "batch_norm",
            Self::Relu => "relu",
            Self::MaxPool { .. } => "max_pool",
            Self::Pool { .. } => "pool",
            Self::Linear { .. } => "linear",
            Self::Residual { .. } => "residual",
            Self::Embedding { .. } => "embedding",
        }
    }

    fn misplaced(&self, shape: &Shape) -> Error {
        Error::option("encoder", format!("{self:?}"), format!("this layer cannot follow {shape:?}"))
    }

    fn learns_p(&self) -> bool {
        matches!(self, Self::Pool { pooler: PoolerKind::GeM, .. })
    }

    pub(super) fn parameter_count(&self) -> usize {
        match self {
            Self::Conv { .. } | Self::Embedding { .. } => 1,
            Self::BatchNorm | Self::Linear { .. } => 2,
            Self::Residual { .. } => 4,
            Self::Pool { .. } => usize::from(self.learns_p()),
            Self::Relu | Self::MaxPool { .. } => 0,
        }
    }

    pub(super) fn buffer_count(&self) -> usize {
        if *self == Self::BatchNorm { 2 } else { 0 }
    }

    pub(super) fn output(&self, shape: &Shape) -> Result<Shape> {
        Ok(match (self, *shape) {
            (&Self::Conv { out, kernel, padding }, Shape::Map([_, h, w])) => {
                let side = |length: usize| {
                    (length + 2 * padding + 1).checked_sub(kernel).filter(|&s| s > 0 && kernel > 0)
                };
                let (Some(h), Some(w)) = (side(h), side(w)) else { return Err(self.misplaced(shape)) };
                Shape::Map([out, h, w])
            }
            (Self::BatchNorm, Shape::Map(_) | Shape::Vector(_)) | (Self::Relu, _) => *shape,
            (&Self::MaxPool { side }, Shape::Map([c, h, w])) if side > 0 && h >= side && w >= side => {
                Shape::Map([c, h / side, w / side])
            }
            (Self::Pool { .. }, Shape::Map([c, ..])) => Shape::Vector(c),
            (Self::Pool { .. }, Shape::Tokens(dim)) => Shape::Vector(dim),
            (&Self::Linear { out }, Shape::Vector(_)) if out > 0 => Shape::Vector(out),
            (Self::Residual { .. }, Shape::Vector(dim)) => Shape::Vector(dim),
            (&Self::Embedding { dim, rows }, Shape::Ids) if rows > 0 && dim > 0 => Shape::Tokens(dim),
            _ => return Err(self.misplaced(shape)),
        })
    }

    /// Initial parameters.
    pub(super) fn init(&self, shape: &Shape, random: &mut ChaCha8Rng) -> Result<Vec<(&'static str, Value)>> {
        let mut uniform = |dims: &[usize], fan_in: usize| -> Result<Value> {
            let bound = 1.0 / (fan_in.max(1) as f32).sqrt();
            let values = Uniform::new(-bound, bound).map_err(|e| Error::Unsuitable(e.to_string()))?;
            Ok(ArrayD::random_using(IxDyn(dims), values, random).into_shared())
        };
        let full = |length: usize, value: f32| ArrayD::from_elem(IxDyn(&[length]), value).into_shared();
        Ok(match (self, *shape) {
            (&Self::Conv { out, kernel, .. }, Shape::Map([c, ..])) => {
                vec![("weight", uniform(&[out, c, kernel, kernel], c * kernel * kernel)?)]
            }
            (Self::BatchNorm, Shape::Map([c, ..]) | Shape::Vector(c)) => {
                vec![("gamma", full(c, 1.0)), ("beta", full(c, 0.0))]
            }
            (&Self::Linear { out }, Shape::Vector(dim)) => {
                vec![("weight", uniform(&[out, dim], dim)?), ("bias", uniform(&[out], dim)?)]
            }
            (&Self::Residual { hidden }, Shape::Vector(dim)) => vec![
                ("weight1", uniform(&[hidden, dim], dim)?),
                ("bias1", uniform(&[hidden], dim)?),
                ("weight2", ArrayD::zeros(IxDyn(&[dim, hidden])).into_shared()),
                ("bias2", full(dim, 0.0)),
            ],
            (&Self::Embedding { rows, dim }, Shape::Ids) => {
                let normal = Normal::new(0.0, 1.0 / (dim as f32).sqrt())
                    .map_err(|e| Error::Unsuitable(e.to_string()))?;
                vec![("weight", ArrayD::random_using(IxDyn(&[rows, dim]), normal, random).into_shared())]
            }
            (Self::Pool { options, .. }, Shape::Map([width, ..]) | Shape::Tokens(width))
                if self.learns_p() =>
            {
                vec![("p", full(if options.per_channel { width } else { 1 }, options.p as f32))]
            }
            (Self::Relu | Self::MaxPool { .. } | Self::Pool { .. }, _) => Vec::new(),
            _ => return Err(self.misplaced(shape)),
        })
    }

    /// Initial running statistics.
    pub(super) fn buffers(&self, shape: &Shape) -> Vec<(&'static str, Value)> {
        match (self, *shape) {
            (Self::BatchNorm, Shape::Map([c, ..]) | Shape::Vector(c)) => {
                let full = |value: f32| ArrayD::from_elem(IxDyn(&[c]), value).into_shared();
                vec![("running_mean", full(0.0)), ("running_variance", full(1.0))]
            }
            _ => Vec::new(),
        }
    }

    pub(super) fn forward<'t>(
        &self,
        flow: Flow<'t>,
        params: &[Var<'t>],
        buffers: &[&Value],
        buffer: usize,
        context: &mut Context,
    ) -> Result<Flow<'t>> {
        let x = flow.value;
        let value = match (self, params) {
            (&Self::Conv { padding, .. }, &[weight]) => {
                x.conv2d(weight, None, &Conv2d { padding: [padding; 2], ..Conv2d::default() })?
            }
            (Self::BatchNorm, &[gamma, beta]) => match (context.mode, buffers) {
                (Mode::Eval, &[mean, variance]) => {
                    let (mean, variance) = (vector(mean)?, vector(variance)?);
                    let mode = BatchNormMode::Eval { mean: &mean, variance: &variance };
                    x.batch_norm(gamma, beta, BATCH_NORM_EPS, mode)?.0
                }
                _ => {
                    let (y, statistics) = x.batch_norm(gamma, beta, BATCH_NORM_EPS, BatchNormMode::Train)?;
                    context.statistics.extend(statistics.map(|s| (buffer, s)));
                    y
                }
            },
            (Self::Relu, _) => x.relu()?,
            (&Self::MaxPool { side }, _) => x.max_pool2d(&Pool2d::square(side))?,
            (Self::Pool { pooler, options }, params) => {
                let gem = GemOptions { eps: options.eps, sign: options.sign.unwrap_or_default() }
                    .build()
                    .map_err(|e| Error::option("pooler_options", options.eps, e.to_string()))?;
                let p = params.first().map(|&p| if options.learnable { p } else { p.detach() });
                if flow.lengths.is_empty() {
                    ops::pool_maps(x, *pooler, p, &gem)?
                } else {
                    ops::pool_tokens(x, &flow.lengths, *pooler, p, &gem)?
                }
            }
            (Self::Linear { .. }, &[weight, bias]) => x.linear(weight, Some(bias))?,
            (Self::Residual { .. }, &[weight1, bias1, weight2, bias2]) => {
                let inner = x.normalize_rows(1e-12)?.linear(weight1, Some(bias1))?.gelu()?;
                x.add(inner.linear(weight2, Some(bias2))?)?
            }
            (&Self::Embedding { dim, .. }, &[table]) => {
                let batch = flow.lengths.len();
                let tokens = flow.ids.len().checked_div(batch).unwrap_or(0);
                table.embedding(&flow.ids)?.reshape(&[batch, tokens, dim])?
            }
            _ => return Err(Error::Unsuitable(format!("{self:?} got {} parameters", params.len()))),
        };
        Ok(Flow { value, ..flow })
    }
}
