//! A pass through one layer.

use embedtune_core::ops::{BatchNormMode, BatchStatistics, Conv2d, Pool2d};
use embedtune_core::{Value, Var};
use embedtune_pooling::{GemOptions, PoolerKind, ops};
use ndarray::{Array1, Ix1};

use super::Mode;
use super::bag::{Bags, weighted_rows};
use super::layer::Layer;
use super::tokens::Tokens;
use crate::{Error, Result};

/// PyTorch's default, of batch norm and layer norm.
const EPS: f32 = 1e-5;

/// A batch between two layers.
pub(super) enum Flow<'t> {
    /// Feature maps `[batch, channels, height, width]` or vectors `[batch, dim]`.
    Values(Var<'t>),
    /// Token vectors `[batch, tokens, dim]`, of which each item's first `lengths` count.
    Sequences { x: Var<'t>, lengths: Vec<usize> },
    /// Texts before the table.
    Tokens(Tokens),
    /// Texts as weighted rows of a table, not looked up yet: an average needs no copy of each row.
    Rows { table: Var<'t>, bags: Bags },
}

impl<'t> Flow<'t> {
    pub(super) fn values(self) -> Result<Var<'t>> {
        match self {
            Self::Values(x) => Ok(x),
            Self::Tokens(_) | Self::Rows { .. } | Self::Sequences { .. } => {
                Err(Error::Unsuitable("the encoder has no layer that turns tokens into vectors".into()))
            }
        }
    }
}

/// What a pass carries along.
pub(super) struct Context {
    pub(super) mode: Mode,
    /// Position of the layer, which gives each dropout its own random numbers.
    pub(super) layer: usize,
    /// Position of the layer's first buffer.
    pub(super) buffer: usize,
    pub(super) statistics: Vec<(usize, BatchStatistics)>,
}

impl Layer {
    pub(super) fn forward<'t>(
        &self,
        flow: Flow<'t>,
        params: &[Var<'t>],
        buffers: &[&Value],
        context: &mut Context,
    ) -> Result<Flow<'t>> {
        if let (Self::Embedding { .. }, &[table], &[idf], Flow::Tokens(tokens)) =
            (self, params, buffers, &flow)
        {
            return Ok(Flow::Rows { table, bags: weigh(tokens, idf)? });
        }
        if let Self::Pool { .. } = self {
            return Ok(Flow::Values(self.pool(flow, params)?));
        }
        let x = flow.values()?;
        Ok(Flow::Values(match (self, params) {
            (&Self::Conv { padding, .. }, &[weight]) => {
                x.conv2d(weight, None, &Conv2d { padding: [padding; 2], ..Conv2d::default() })?
            }
            (Self::BatchNorm, &[gamma, beta]) => match (context.mode, buffers) {
                (Mode::Eval, &[mean, variance]) => {
                    let (mean, variance) = (vector(mean)?, vector(variance)?);
                    x.batch_norm(gamma, beta, EPS, BatchNormMode::Eval { mean: &mean, variance: &variance })?
                        .0
                }
                _ => {
                    let (y, statistics) = x.batch_norm(gamma, beta, EPS, BatchNormMode::Train)?;
                    context.statistics.extend(statistics.map(|s| (context.buffer, s)));
                    y
                }
            },
            (Self::LayerNorm, &[gamma, beta]) => x.layer_norm(gamma, beta, EPS)?,
            (Self::Normalize, _) => x.normalize_rows(1e-12)?,
            (Self::Relu, _) => x.relu()?,
            (Self::Gelu, _) => x.gelu()?,
            (&Self::Dropout { p }, _) => match context.mode {
                Mode::Train { seed } => x.dropout(p, seed.wrapping_add(context.layer as u64))?,
                Mode::Eval => x,
            },
            (&Self::MaxPool { side }, _) => x.max_pool2d(&Pool2d::square(side))?,
            (Self::Linear { .. }, &[weight]) => x.linear(weight, None)?,
            (Self::Linear { .. }, &[weight, bias]) => x.linear(weight, Some(bias))?,
            (Self::Residual { .. }, &[weight1, bias1, weight2, bias2]) => {
                let scale = buffers.first().and_then(|scale| scale.first()).copied().unwrap_or(1.0);
                let dim = x.shape().last().copied().unwrap_or(1);
                let unit = x.normalize_rows(1e-12)?.scale((dim as f32).sqrt())?;
                let inner = unit.linear(weight1, Some(bias1))?.gelu()?;
                x.add(inner.linear(weight2, Some(bias2))?.scale(scale)?)?
            }
            _ => return Err(Error::Unsuitable(format!("{self:?} got {} parameters", params.len()))),
        }))
    }

    fn pool<'t>(&self, flow: Flow<'t>, params: &[Var<'t>]) -> Result<Var<'t>> {
        let Self::Pool { pooler, options } = self else {
            return Err(Error::Unsuitable(format!("{self:?} is no pooling layer")));
        };
        let gem = GemOptions { eps: options.eps, sign: options.sign.unwrap_or_default() }.build()?;
        let p = params.first().map(|&p| if options.learnable { p } else { p.detach() });
        Ok(match flow {
            Flow::Values(x) => ops::pool_maps(x, *pooler, p, &gem)?,
            Flow::Sequences { x, lengths } => ops::pool_tokens(x, &lengths, *pooler, p, &gem)?,
            Flow::Rows { table, bags } if *pooler == PoolerKind::Avg => {
                weighted_rows(table, bags.averaged())?
            }
            Flow::Rows { table, bags } => {
                let lengths = bags.lengths();
                let longest = lengths.iter().copied().max().unwrap_or(0).max(1);
                let dim = table.shape().last().copied().unwrap_or(0);
                let rows = weighted_rows(table, bags.padded(longest))?;
                ops::pool_tokens(rows.reshape(&[lengths.len(), longest, dim])?, &lengths, *pooler, p, &gem)?
            }
            Flow::Tokens(_) => {
                return Err(Error::Unsuitable("tokens cannot be pooled before their table".into()));
            }
        })
    }
}

/// Tokens with their weights times their rows' weights; tokens without weight are left out.
fn weigh(tokens: &Tokens, idf: &Value) -> Result<Bags> {
    let idf = vector(idf)?;
    let mut bags = Bags::default();
    let mut start = 0;
    for &end in &tokens.ends {
        for i in start..end {
            let (id, weight) = (tokens.ids[i], tokens.weights[i]);
            let weight = weight * idf.get(id as usize).copied().unwrap_or(1.0);
            if weight != 0.0 {
                bags.ids.push(id);
                bags.weights.push(weight);
            }
        }
        bags.ends.push(bags.ids.len());
        start = end;
    }
    Ok(bags)
}

/// A value of one axis.
fn vector(value: &Value) -> Result<Array1<f32>> {
    value.to_owned().into_dimensionality::<Ix1>().map_err(|_| {
        Error::Unsuitable(format!("a buffer of the encoder has shape {:?}; expected one axis", value.shape()))
    })
}
