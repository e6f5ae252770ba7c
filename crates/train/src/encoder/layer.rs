//! The layers and what they make of a shape.

use embedtune_pooling::{PoolerKind, PoolerOptions};
use serde::{Deserialize, Serialize};

use super::init::LARGEST;
use crate::{Error, Result};

/// One layer. Each is plain data, so that an encoder can be saved, compared and rebuilt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "layer", rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum Layer {
    /// Square convolution at stride 1, without a bias (a batch norm follows). Parameter `weight`
    /// `[out, channels, kernel, kernel]`.
    Conv {
        /// Output channels.
        out: usize,
        /// Side of the kernel.
        kernel: usize,
        /// Zeros around the image.
        padding: usize,
    },
    /// Batch norm over channels (eps 1e-5). Parameters `gamma` and `beta`, buffers `running_mean` and
    /// `running_variance`, all `[channels]`; a training step moves the buffers by a tenth, PyTorch's default.
    BatchNorm,
    /// Layer norm of a vector (eps 1e-5). Parameters `gamma` and `beta` `[dim]`.
    LayerNorm,
    /// Vectors to unit length; a zero vector stays.
    Normalize,
    /// ReLU.
    Relu,
    /// GELU, exact.
    Gelu,
    /// Drops values with this probability in training and scales the others up; nothing in evaluation.
    Dropout {
        /// From 0 to below 1.
        p: f32,
    },
    /// Square max pooling that moves by its own size.
    MaxPool {
        /// Side of the window.
        side: usize,
    },
    /// The last pooling: feature maps or tokens to one vector. GeM's power is the parameter `p`, `[1]` or
    /// `[channels]`.
    Pool {
        /// Which.
        pooler: PoolerKind,
        /// GeM's options; others have none.
        options: PoolerOptions,
    },
    /// Linear layer. Parameters `weight` `[out, dim]` and, with a bias, `bias` `[out]`.
    Linear {
        /// Output length.
        out: usize,
        /// Whether it adds a bias. At the start this is a random offset as long as the projection of a unit vector,
        /// which cosines see: layers on unit vectors do without.
        bias: bool,
    },
    /// `x + s W2 gelu(W1 n(x))` with `n(x) = sqrt(dim) x / |x|`, the identity as long as `W2 = 0`, as it starts.
    /// Parameters `weight1` `[hidden, dim]`, `bias1` `[hidden]`, `weight2` `[dim, hidden]`, `bias2` `[dim]`; the
    /// buffer `scale`, `s` `[1]`, is the data's root mean square, so that vectors of any length can be tuned.
    Residual {
        /// Length between the two matrices.
        hidden: usize,
    },
    /// Rows of a table for tokens, each times its weight. Parameter `weight` `[rows, dim]`; the buffer `idf` `[rows]`
    /// holds the rows' weights.
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
    /// Rows of a table of this many.
    Ids(usize),
}

impl Shape {
    pub(super) fn vector(&self) -> Option<usize> {
        if let Self::Vector(dim) = *self { Some(dim) } else { None }
    }
}

impl Layer {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Conv { .. } => "conv",
            Self::BatchNorm => "batch_norm",
            Self::LayerNorm => "layer_norm",
            Self::Normalize => "normalize",
            Self::Relu => "relu",
            Self::Gelu => "gelu",
            Self::Dropout { .. } => "dropout",
            Self::MaxPool { .. } => "max_pool",
            Self::Pool { .. } => "pool",
            Self::Linear { .. } => "linear",
            Self::Residual { .. } => "residual",
            Self::Embedding { .. } => "embedding",
        }
    }

    pub(super) fn misplaced(&self, shape: &Shape) -> Error {
        Error::option("encoder", format!("{self:?}"), format!("this layer cannot follow {shape:?}"))
    }

    pub(super) fn learns_p(&self) -> bool {
        matches!(self, Self::Pool { pooler: PoolerKind::GeM, .. })
    }

    /// The shape after this layer.
    pub(super) fn output(&self, shape: &Shape) -> Result<Shape> {
        Ok(match (self, *shape) {
            // A border as wide as the kernel would be looked at alone, and give constants.
            (&Self::Conv { out, kernel, padding }, Shape::Map([_, h, w])) if out > 0 && padding < kernel => {
                let side = |length: usize| {
                    let padded = padding.checked_mul(2)?.checked_add(length)?;
                    Some(padded.checked_sub(kernel)? + 1)
                };
                let map = side(h).zip(side(w)).map(|(h, w)| [out, h, w]);
                let fits = |map: &[usize; 3]| {
                    let values = map.iter().try_fold(1usize, |values, &side| values.checked_mul(side));
                    values.is_some_and(|values| values <= LARGEST)
                };
                Shape::Map(map.filter(fits).ok_or_else(|| self.misplaced(shape))?)
            }
            (Self::BatchNorm, Shape::Map(_) | Shape::Vector(_))
            | (Self::LayerNorm | Self::Normalize, Shape::Vector(_))
            | (Self::Relu | Self::Gelu, Shape::Map(_) | Shape::Vector(_)) => *shape,
            (&Self::Dropout { p }, Shape::Map(_) | Shape::Vector(_)) => {
                if !(0.0..1.0).contains(&p) {
                    return Err(Error::option("encoder.dropout", p, "a probability from 0 to below 1"));
                }
                *shape
            }
            (&Self::MaxPool { side }, Shape::Map([c, h, w])) if side > 0 && h >= side && w >= side => {
                Shape::Map([c, h / side, w / side])
            }
            (Self::Pool { options, .. }, Shape::Map([width, ..]) | Shape::Tokens(width)) => {
                options.check()?;
                Shape::Vector(width)
            }
            (&Self::Linear { out, .. }, Shape::Vector(_)) if out > 0 => Shape::Vector(out),
            (&Self::Residual { hidden }, Shape::Vector(_)) if hidden > 0 => *shape,
            (&Self::Embedding { dim, rows }, Shape::Ids(ids)) if rows == ids && dim > 0 => Shape::Tokens(dim),
            _ => return Err(self.misplaced(shape)),
        })
    }
}
