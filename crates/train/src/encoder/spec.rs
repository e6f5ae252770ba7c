//! What an encoder is.

use embedtune_core::Tape;
use embedtune_pooling::{PoolerKind, PoolerOptions, Sign};
use serde::{Deserialize, Serialize};

use super::forward::Flow;
use super::layer::{Layer, Shape};
use super::{Batch, TokenSpec};
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
#[non_exhaustive]
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
    /// Sequences of token vectors.
    Sequence {
        /// Length of a token's vector.
        dim: usize,
    },
    /// Text.
    Text(TokenSpec),
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
            Layer::Linear { out: output_dim, bias: true },
        ]);
        Ok(Self { input: InputSpec::Image { channels, height, width }, layers })
    }

    /// Residual head on vectors ([`Layer::Residual`]), the identity at the start: training begins from the vectors as
    /// they are. Another output length than the input's adds a linear layer without bias behind it, a random
    /// projection at the start.
    pub fn mlp(dim: usize, output_dim: Option<usize>) -> Self {
        let mut layers = vec![Layer::Residual { hidden: dim.saturating_mul(2).clamp(64, 2048) }];
        layers.extend(output_dim.filter(|&out| out != dim).map(|out| Layer::Linear { out, bias: false }));
        Self { input: InputSpec::Vector { dim }, layers }
    }

    /// Hashed words, word pairs and character n-grams ([`TokenSpec`]) looked up in a table of 256 columns, weighted by
    /// inverse document frequency ([`Encoder::prepare`](super::Encoder::prepare)), averaged, brought to unit length,
    /// and a linear layer without bias. Untrained it is a random projection of TF-IDF.
    pub fn text(output_dim: usize) -> Self {
        let tokens = TokenSpec::default();
        let layers = vec![
            Layer::Embedding { rows: tokens.rows, dim: 256 },
            Layer::Pool { pooler: PoolerKind::Avg, options: PoolerOptions::default() },
            Layer::Normalize,
            Layer::Linear { out: output_dim, bias: false },
        ];
        Self { input: InputSpec::Text(tokens), layers }
    }

    /// A pooling layer over token vectors (average unless [`with_pooler`](Self::with_pooler) replaces it) and behind it
    /// what [`mlp`](Self::mlp) is: training begins from the pooled vectors as they are.
    pub fn sequence(dim: usize, output_dim: Option<usize>) -> Self {
        let pool = Layer::Pool { pooler: PoolerKind::Avg, options: PoolerOptions::default() };
        let layers = std::iter::once(pool).chain(Self::mlp(dim, output_dim).layers).collect();
        Self { input: InputSpec::Sequence { dim }, layers }
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
            Items::Files(files) => Self::cnn(files.shape(), output_dim.unwrap_or(64)),
            Items::Vectors(vectors) => Ok(Self::mlp(vectors.ncols(), output_dim)),
            Items::VectorFile(file) => Ok(Self::mlp(file.dim(), output_dim)),
            Items::Sequences(sequences) => Ok(Self::sequence(sequences.dim(), output_dim)),
            Items::Text(_) => Ok(Self::text(output_dim.unwrap_or(128))),
        }
    }

    /// Layers of [`with_head`](Self::with_head).
    pub const HEAD_LAYERS: usize = 5;

    /// Adds Finetuner's head: linear (no bias), batch norm, ReLU, linear (no bias), batch norm, all of `output_dim`.
    #[must_use]
    pub fn with_head(mut self, output_dim: usize) -> Self {
        let linear = Layer::Linear { out: output_dim, bias: false };
        self.layers.extend([linear.clone(), Layer::BatchNorm, Layer::Relu, linear, Layer::BatchNorm]);
        self
    }

    /// Replaces the pooling layer.
    ///
    /// # Errors
    /// [`Error::Option`] if there is none, or for options out of range.
    pub fn with_pooler(mut self, pooler: PoolerKind, options: PoolerOptions) -> Result<Self> {
        options.check()?;
        // Token embeddings are signed.
        let text = matches!(self.input, InputSpec::Text(_) | InputSpec::Sequence { .. });
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
    /// The shape of one item; checks the ranges.
    pub(super) fn shape(&self) -> Result<Shape> {
        match *self {
            Self::Image { channels, height, width } if channels > 0 && height > 0 && width > 0 => {
                Ok(Shape::Map([channels, height, width]))
            }
            Self::Vector { dim } if dim > 0 => Ok(Shape::Vector(dim)),
            Self::Sequence { dim } if dim > 0 => Ok(Shape::Tokens(dim)),
            Self::Text(tokens) => tokens.check().map(|()| Shape::Ids(tokens.rows)),
            _ => Err(Error::option("encoder.input", format!("{self:?}"), "every length must be at least 1")),
        }
    }

    /// Checks that items are of this kind and shape.
    pub(super) fn accepts(&self, items: &Items) -> Result<()> {
        match items {
            Items::Images(images) => self.accepts_images(images.shape()),
            Items::Files(files) => {
                let [channels, height, width] = files.shape();
                self.accepts_images(&[files.len(), channels, height, width])
            }
            Items::Vectors(vectors) => self.accepts_vectors(vectors.ncols()),
            Items::VectorFile(file) => self.accepts_vectors(file.dim()),
            Items::Sequences(sequences) => self.accepts_sequences(sequences.dim()),
            Items::Text(_) => self.accepts_text(),
        }
    }

    fn accepts_images(&self, got: &[usize]) -> Result<()> {
        match *self {
            Self::Image { channels, height, width } if got.get(1..) == Some(&[channels, height, width]) => {
                Ok(())
            }
            _ => Err(self.wrong(&format!("images of {:?}", got.get(1..).unwrap_or_default()))),
        }
    }

    fn accepts_vectors(&self, got: usize) -> Result<()> {
        if *self == (Self::Vector { dim: got }) {
            Ok(())
        } else {
            Err(self.wrong(&format!("vectors of length {got}")))
        }
    }

    fn accepts_sequences(&self, got: usize) -> Result<()> {
        if *self == (Self::Sequence { dim: got }) {
            Ok(())
        } else {
            Err(self.wrong(&format!("sequences of vectors of length {got}")))
        }
    }

    fn accepts_text(&self) -> Result<()> {
        if let Self::Text(_) = self { Ok(()) } else { Err(self.wrong("text")) }
    }

    fn wrong(&self, got: &str) -> Error {
        let takes = match *self {
            Self::Image { channels, height, width } => format!("images of {:?}", [channels, height, width]),
            Self::Vector { dim } => format!("vectors of length {dim}"),
            Self::Sequence { dim } => format!("sequences of vectors of length {dim}"),
            Self::Text(_) => "text".to_owned(),
        };
        Error::Unsuitable(format!(
            "the encoder takes {takes}, but the items are {got}; give it items like those it was made for"
        ))
    }

    /// Puts a batch on the tape.
    pub(super) fn enter<'t>(&self, tape: &'t Tape, batch: &Batch) -> Result<Flow<'t>> {
        Ok(match batch {
            Batch::Images(x) => {
                self.accepts_images(x.shape())?;
                Flow::Values(tape.constant(x.clone().into_dyn()))
            }
            Batch::Vectors(x) => {
                self.accepts_vectors(x.ncols())?;
                Flow::Values(tape.constant(x.clone().into_dyn()))
            }
            Batch::Sequences(x, lengths) => {
                self.accepts_sequences(x.len_of(ndarray::Axis(2)))?;
                Flow::Sequences { x: tape.constant(x.clone().into_dyn()), lengths: lengths.clone() }
            }
            Batch::Text(texts) => match self {
                Self::Text(spec) => {
                    Flow::Tokens(spec.tokens(&texts.iter().map(String::as_str).collect::<Vec<_>>()))
                }
                _ => return Err(self.wrong("text")),
            },
        })
    }
}
