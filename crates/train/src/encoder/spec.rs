//! What an encoder is.

use embedtune_core::Tape;
use embedtune_pooling::{PoolerKind, PoolerOptions, Sign};
use serde::{Deserialize, Serialize};

use super::layer::{Flow, Layer, Shape};
use super::tokens::ids;
use super::{Batch, Mode};
use crate::data::Items;
use crate::{Error, Result};

/// An encoder without its weights.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EncoderSpec {
    /// What goes in.
    pub input: InputSpec,
    /// The layers, first to last.
    pub layers: Vec<Layer>,
}

/// What an encoder takes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum InputSpec {
    /// Images of one size.
    Image {
        /// Channels.
        channels: usize,
        /// Rows.
        height: usize,
        /// Columns.
        width: usize,
    },
    /// Vectors.
    Vector {
        /// Their length.
        dim: usize,
    },
    /// Text.
    Text(TokenSpec),
}

/// How text becomes rows of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenSpec {
    /// Rows of the table that words and n-grams are hashed into.
    pub rows: usize,
    /// Tokens of a text that are looked at; the rest is cut off.
    pub max_tokens: usize,
}

impl EncoderSpec {
    /// Convolutional encoder: blocks of 3x3 convolution, batch norm and ReLU with 32, 64 and 128 channels, 2x2 max
    /// pooling after the first two, a pooling layer, a linear layer.
    ///
    /// # Errors
    /// [`Error::Unsuitable`] for images smaller than 4x4.
    pub fn cnn(image: [usize; 3], output_dim: usize) -> Result<Self> {
        let [channels, height, width] = image;
        if height < 4 || width < 4 || channels == 0 {
            return Err(Error::Unsuitable(format!(
                "images of {channels} x {height} x {width} are too small for the cnn; it needs 4 x 4 pixels"
            )));
        }
        let mut layers = Vec::new();
        for (block, out) in [32, 64, 128].into_iter().enumerate() {
            layers.extend([Layer::Conv { out, kernel: 3, padding: 1 }, Layer::BatchNorm, Layer::Relu]);
            if block < 2 {
                layers.push(Layer::MaxPool { side: 2 });
            }
        }
        layers.extend([
            Layer::Pool { pooler: PoolerKind::Avg, options: PoolerOptions::default() },
            Layer::Linear { out: output_dim },
        ]);
        Ok(Self { input: InputSpec::Image { channels, height, width }, layers })
    }

    /// Residual head on vectors, `x + W2 gelu(W1 norm(x))` with `W2` zero at the start: training starts from the
    /// vectors as they are. Another output length than the input's adds a linear layer behind it.
    pub fn mlp(dim: usize, output_dim: Option<usize>) -> Self {
        let mut layers = vec![Layer::Residual { hidden: (2 * dim).clamp(64, 2048) }];
        layers.extend(output_dim.filter(|&out| out != dim).map(|out| Layer::Linear { out }));
        Self { input: InputSpec::Vector { dim }, layers }
    }

    /// Hashed words, word pairs and character n-grams looked up in a table, averaged, and a linear layer.
    pub fn text(output_dim: usize) -> Self {
        let tokens = TokenSpec { rows: 1 << 15, max_tokens: 256 };
        let layers = vec![
            Layer::Embedding { rows: tokens.rows, dim: 128 },
            Layer::Pool { pooler: PoolerKind::Avg, options: PoolerOptions::default() },
            Layer::Linear { out: output_dim },
        ];
        Self { input: InputSpec::Text(tokens), layers }
    }

    /// The default encoder for a kind of items.
    ///
    /// # Errors
    /// Items that no encoder takes.
    pub fn default_for(items: &Items, output_dim: Option<usize>) -> Result<Self> {
        match items {
            Items::Images(images) => {
                let shape = images.shape();
                Self::cnn([shape[1], shape[2], shape[3]], output_dim.unwrap_or(64))
            }
            Items::Vectors(vectors) => Ok(Self::mlp(vectors.ncols(), output_dim)),
            Items::Text(_) => Ok(Self::text(output_dim.unwrap_or(128))),
        }
    }

    /// Replaces the pooling layer.
    ///
    /// # Errors
    /// [`Error::Option`] if there is none, or for options out of range.
    pub fn with_pooler(mut self, pooler: PoolerKind, options: PoolerOptions) -> Result<Self> {
        options
            .check()
            .map_err(|e| Error::option("pooler_options", format!("{options:?}"), e.to_string()))?;
        let text = matches!(self.input, InputSpec::Text(_));
        let found = self.layers.iter_mut().rev().find_map(|layer| match layer {
            Layer::Pool { pooler, options } => Some((pooler, options)),
            _ => None,
        });
        let Some((old, old_options)) = found else {
            let remedy = "this encoder has no pooling layer to replace; leave `pooler` out, or use the cnn or text encoder";
            return Err(Error::option("pooler", format!("{pooler:?}"), remedy));
        };
        let sign = options.sign.or(Some(if text { Sign::Signed } else { Sign::Clamp }));
        (*old, *old_options) = (pooler, PoolerOptions { sign, ..options });
        Ok(self)
    }
}

impl InputSpec {
    pub(super) fn shape(&self) -> Shape {
        match *self {
            Self::Image { channels, height, width } => Shape::Map([channels, height, width]),
            Self::Vector { dim } => Shape::Vector(dim),
            Self::Text(_) => Shape::Ids,
        }
    }

    /// Puts a batch on the tape.
    pub(super) fn enter<'t>(&self, tape: &'t Tape, batch: &Batch, _mode: Mode) -> Result<Flow<'t>> {
        let wrong =
            |got: String| Error::Unsuitable(format!("the encoder takes {self:?}; the items are {got}"));
        match (self, batch) {
            (&Self::Image { channels, height, width }, Batch::Images(x)) => {
                if x.shape()[1..] != [channels, height, width] {
                    return Err(wrong(format!("images {:?}", &x.shape()[1..])));
                }
                Ok(Flow { value: tape.constant(x.clone().into_dyn()), ids: Vec::new(), lengths: Vec::new() })
            }
            (&Self::Vector { dim }, Batch::Vectors(x)) => {
                if x.ncols() != dim {
                    return Err(wrong(format!("vectors of length {}", x.ncols())));
                }
                Ok(Flow { value: tape.constant(x.clone().into_dyn()), ids: Vec::new(), lengths: Vec::new() })
            }
            (Self::Text(spec), Batch::Text(texts)) => {
                let all: Vec<Vec<u32>> = texts.iter().map(|text| ids(text, spec)).collect();
                let lengths: Vec<usize> = all.iter().map(Vec::len).collect();
                let longest = lengths.iter().copied().max().unwrap_or(0).max(1);
                let ids = all.into_iter().flat_map(|mut ids| {
                    ids.resize(longest, 0);
                    ids
                });
                Ok(Flow {
                    value: tape.constant(ndarray::ArrayD::zeros(vec![0])),
                    ids: ids.collect(),
                    lengths,
                })
            }
            (_, batch) => Err(wrong(batch.kind().to_owned())),
        }
    }
}
