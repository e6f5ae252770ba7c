//! The layers of the encoder that images of 28 by 28 get (3x3 convolutions to 32, 64 and 128 channels, each with a
//! batch norm and a ReLU, 2x2 max pooling after the first two, GeM, a linear layer to 64), one by one at the sizes
//! that a batch gives them.

use embedtune_core::ops::{BatchNormMode, Conv2d, Pool2d};
use embedtune_core::{Grad, Grads, Pool, Result, Tape, Value, Var};
use embedtune_pooling::{GemOptions, PoolerKind, ops};
use ndarray::{ArrayD, IxDyn};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use crate::peer::Outcome;

/// Images in a batch.
pub const BATCH: usize = 128;
/// Channels in and out and the image's side of each convolution.
pub const CONVOLUTIONS: [[usize; 3]; 3] = [[1, 32, 28], [32, 64, 14], [64, 128, 7]];

/// What a layer computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A 3x3 convolution with a border of 1.
    Conv,
    /// Batch norm in training mode.
    BatchNorm,
    /// ReLU.
    Relu,
    /// 2x2 max pooling.
    MaxPool,
    /// GeM with a learnable power.
    Gem,
    /// A linear layer with a bias.
    Linear,
    /// 2x2 average pooling.
    AvgPool,
    /// A value for each channel.
    Bias,
    /// Dropout of a quarter.
    Dropout,
    /// The product of two batches.
    Product,
    /// GELU.
    Gelu,
    /// Layer norm.
    LayerNorm,
    /// Rows of length 1.
    UnitRows,
    /// As many rows of a table as it has, in another order.
    Embedding,
}

/// One layer with its inputs: the batch, then its parameters.
#[derive(Debug, Clone)]
pub struct Layer {
    /// Kind and sizes.
    pub name: String,
    /// What it computes.
    pub kind: Kind,
    /// The batch and the parameters.
    pub inputs: Vec<Value>,
    /// Whether the batch takes a gradient (images do not).
    pub input_gradient: bool,
    /// Rows, depth and columns of its matrix product.
    pub product: Option<[usize; 3]>,
}

fn noise(shape: &[usize], seed: u64, low: f32) -> Value {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    ArrayD::from_shape_simple_fn(IxDyn(shape), || rng.random_range(-1.0f32..1.0).max(low)).into_shared()
}

impl Layer {
    fn new(name: &str, kind: Kind, x: &[usize], params: &[&[usize]], product: Option<[usize; 3]>) -> Self {
        let size = x.iter().map(usize::to_string).collect::<Vec<_>>().join("x");
        let low = if kind == Kind::Gem { 0.0 } else { -1.0 };
        let mut inputs = vec![noise(x, 1, low)];
        inputs.extend(params.iter().enumerate().map(|(at, shape)| noise(shape, 2 + at as u64, -1.0)));
        if kind == Kind::Gem {
            inputs[1].fill(3.0);
        }
        let input_gradient = x.get(1) != Some(&1);
        Self { name: format!("{name}_{size}"), kind, inputs, input_gradient, product }
    }

    /// The inputs on a tape.
    pub fn leaves<'t>(&self, tape: &'t Tape) -> Vec<Var<'t>> {
        let batch = |x: &Value| {
            if self.input_gradient { tape.leaf(x.clone()) } else { tape.constant(x.clone()) }
        };
        let params = self.inputs.iter().skip(1).map(|p| tape.leaf(p.clone()));
        self.inputs.first().map(batch).into_iter().chain(params).collect()
    }

    /// The layer's value.
    ///
    /// # Errors
    /// None for the inputs of [`leaves`](Self::leaves).
    pub fn apply<'t>(&self, v: &[Var<'t>]) -> Outcome<Var<'t>> {
        Ok(match self.kind {
            Kind::Conv => v[0].conv2d(v[1], None, &Conv2d { padding: [1, 1], ..Conv2d::default() })?,
            Kind::BatchNorm => v[0].batch_norm(v[1], v[2], 1e-5, BatchNormMode::Train)?.0,
            Kind::Relu => v[0].relu()?,
            Kind::MaxPool => v[0].max_pool2d(&Pool2d::square(2))?,
            Kind::Gem => {
                let gem = GemOptions::default().build()?;
                ops::pool_maps(v[0], PoolerKind::GeM, Some(v[1]), &gem)?
            }
            Kind::Linear => v[0].linear(v[1], Some(v[2]))?,
            Kind::AvgPool => v[0].avg_pool2d(&Pool2d::square(2))?,
            Kind::Bias => v[0].bias(v[1])?,
            Kind::Dropout => v[0].dropout(0.25, 1)?,
            Kind::Product => v[0].mul(v[1])?,
            Kind::Gelu => v[0].gelu()?,
            Kind::LayerNorm => v[0].layer_norm(v[1], v[2], 1e-5)?,
            Kind::UnitRows => v[0].normalize_rows(1e-12)?,
            Kind::Embedding => {
                let rows = v[0].shape().first().copied().unwrap_or_default() as u32;
                v[0].embedding(
                    &(0..rows).map(|row| row.wrapping_mul(7919) % rows.max(1)).collect::<Vec<_>>(),
                )?
            }
        })
    }

    /// A gradient of the value, in a buffer of the pool.
    ///
    /// # Errors
    /// None.
    pub fn upstream(&self, y: Var<'_>, pool: &Pool) -> Result<ArrayD<f32>> {
        let shape = y.shape();
        let mut data = pool.take(shape.iter().product());
        // On all threads, so that the layer is what is timed.
        data.par_chunks_mut(1 << 14).enumerate().for_each(|(block, data)| {
            data.iter_mut().enumerate().for_each(|(at, v)| {
                let bits = ((block << 14 | at) as u32).wrapping_mul(0x9e37_79b9);
                *v = (bits >> 8) as f32 / (1 << 24) as f32 - 0.5;
            });
        });
        let length = data.len();
        ArrayD::from_shape_vec(IxDyn(&shape), data).map_err(|_| embedtune_core::Error::Shape {
            op: "upstream",
            expected: format!("{shape:?}"),
            got: vec![length],
        })
    }
}

/// The layers in order.
pub fn layers() -> Vec<Layer> {
    let mut layers = Vec::new();
    for (at, [channels, out, side]) in CONVOLUTIONS.into_iter().enumerate() {
        let (x, y) = ([BATCH, channels, side, side], [BATCH, out, side, side]);
        let product = [out, channels * 9, BATCH * side * side];
        layers.push(Layer::new("conv", Kind::Conv, &x, &[&[out, channels, 3, 3]], Some(product)));
        layers.push(Layer::new("batch_norm", Kind::BatchNorm, &y, &[&[out], &[out]], None));
        layers.push(Layer::new("relu", Kind::Relu, &y, &[], None));
        if at + 1 < CONVOLUTIONS.len() {
            layers.push(Layer::new("max_pool", Kind::MaxPool, &y, &[], None));
        } else {
            layers.push(Layer::new("gem", Kind::Gem, &y, &[&[1]], None));
        }
    }
    let product = Some([64, 128, BATCH]);
    layers.push(Layer::new("linear", Kind::Linear, &[BATCH, 128], &[&[64, 128], &[64]], product));
    layers
}

/// Gives the gradients' buffers back, as a training step does.
pub fn give_back(grads: &mut Grads, leaves: &[Var<'_>], pool: &Pool) {
    for &leaf in leaves {
        if let Some(Grad::Dense(gradient)) = grads.take(leaf) {
            pool.give(gradient.into_raw_vec_and_offset().0);
        }
    }
}

/// The tape's other layers, at sizes that a text encoder (4,096 tokens of 768 values) or an image encoder has.
pub fn other_layers() -> Vec<Layer> {
    let (tokens, maps) = ([4096, 768], [BATCH, 64, 28, 28]);
    vec![
        Layer::new("layer_norm", Kind::LayerNorm, &tokens, &[&[768], &[768]], None),
        Layer::new("unit_rows", Kind::UnitRows, &tokens, &[], None),
        Layer::new("gelu", Kind::Gelu, &tokens, &[], None),
        Layer::new("dropout", Kind::Dropout, &tokens, &[], None),
        Layer::new("product", Kind::Product, &tokens, &[&tokens], None),
        Layer::new("embedding", Kind::Embedding, &tokens, &[], None),
        Layer::new("avg_pool", Kind::AvgPool, &maps, &[], None),
        Layer::new("bias", Kind::Bias, &maps, &[&[64]], None),
    ]
}
