//! Encoders: lists of typed, serialisable layers that turn items into embeddings.
//!
//! An [`EncoderSpec`] says what an encoder is and can be written to a file; an [`Encoder`] adds the weights.
//!
//! ```
//! use embedtune_train::data::Items;
//! use embedtune_train::encoder::{Encoder, EncoderSpec};
//!
//! let texts = ["where is my card", "my card is not here yet", "top up failed"];
//! let items = Items::Text(texts.map(String::from).to_vec());
//! let mut encoder = Encoder::new(EncoderSpec::default_for(&items, None)?, 7)?;
//! encoder.prepare(&items, &[0, 1, 2])?;
//! let x = encoder.embed(&items, &[0, 1, 2])?;
//! // Before any training the vectors already say which texts share words.
//! assert!(x.row(0).dot(&x.row(1)) > x.row(0).dot(&x.row(2)));
//! # Ok::<(), embedtune_train::Error>(())
//! ```

mod bag;
mod batch;
mod embed;
mod forward;
mod init;
mod layer;
mod prepare;
mod spec;
#[cfg(test)]
mod tests;
mod tokens;

use embedtune_core::ops::BatchStatistics;
use embedtune_core::{Tape, Value, Var};
use embedtune_pooling::MIN_P;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

pub use batch::Batch;
pub use layer::Layer;
pub use spec::{EncoderSpec, InputSpec};
pub use tokens::TokenSpec;

use crate::optim::ParamInfo;
use crate::{Error, Result, State};
use forward::Context;

/// How much of a batch's statistics enters the running ones, as PyTorch's default.
const MOMENTUM: f32 = 0.1;

/// Whether a pass trains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Mode {
    /// The batch's own statistics.
    Train {
        /// Of whatever is random in this step.
        seed: u64,
    },
    /// Running statistics: an item's embedding does not depend on the batch it sits in.
    Eval,
}

/// An encoder's output on a tape.
pub struct Forward<'t> {
    /// Embeddings, `[batch, dim]`, not normalised.
    pub output: Var<'t>,
    /// The parameters, in the order of [`Encoder::params_mut`].
    pub leaves: Vec<Var<'t>>,
    /// Batch statistics for [`Encoder::after_step`].
    pub statistics: Vec<(usize, BatchStatistics)>,
}

/// A named array: a parameter, or a running statistic.
#[derive(Debug, Clone)]
struct Named {
    name: String,
    value: Value,
}

/// Layers with weights.
#[derive(Debug, Clone)]
pub struct Encoder {
    spec: EncoderSpec,
    params: Vec<Named>,
    /// What is measured, not learnt: running statistics, tokens' weights, a residual's scale.
    buffers: Vec<Named>,
    output_dim: usize,
    /// Layers from the input on that do not learn.
    frozen: usize,
}

impl Encoder {
    /// Random weights, a function of the specification and the seed (ChaCha8): uniform within `1 / sqrt(fan in)` for
    /// convolutions and linear layers (PyTorch's default), normal with variance `1 / dim` for tables; a residual's
    /// second layer starts at zero. [`prepare`](Self::prepare) it with the training items before the first step.
    ///
    /// # Errors
    /// [`Error::Option`] if a layer does not fit what comes before it, or asks for a tensor of more than 2^30 values.
    pub fn new(spec: EncoderSpec, seed: u64) -> Result<Self> {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let (mut params, mut buffers) = (Vec::new(), Vec::new());
        let mut shape = spec.input.shape()?;
        for (index, layer) in spec.layers.iter().enumerate() {
            // First, because it checks the layer's own numbers.
            let next = layer.output(&shape)?;
            let named = |(name, value)| Named { name: format!("{index}.{}.{name}", layer.name()), value };
            params.extend(layer.init(&shape, &mut random)?.into_iter().map(named));
            buffers.extend(layer.buffers(&shape)?.into_iter().map(named));
            shape = next;
        }
        let output_dim = shape.vector().ok_or_else(|| {
            Error::option(
                "encoder",
                format!("{:?}", spec.layers.last()),
                "the layers must end in one vector for each item: add a pooling layer",
            )
        })?;
        Ok(Self { spec, params, buffers, output_dim, frozen: 0 })
    }

    /// What this encoder is.
    pub fn spec(&self) -> &EncoderSpec {
        &self.spec
    }

    /// Length of an embedding.
    pub fn output_dim(&self) -> usize {
        self.output_dim
    }

    /// Number of trainable values.
    pub fn parameters(&self) -> usize {
        self.params[self.frozen_parameters()..].iter().map(|p| p.value.len()).sum()
    }

    /// Keeps the first `layers` layers as they are: their parameters get no gradient and batch norm uses its running
    /// statistics, in training too.
    pub fn freeze(&mut self, layers: usize) {
        self.frozen = layers.min(self.spec.layers.len());
    }

    fn frozen_parameters(&self) -> usize {
        self.spec.layers.iter().take(self.frozen).map(Layer::parameter_count).sum()
    }

    /// The parameters that learn, for an optimizer's groups.
    pub fn trained_params(&self) -> Vec<ParamInfo> {
        let layers = self.spec.layers.iter().enumerate();
        let by_param =
            layers.flat_map(|(index, layer)| std::iter::repeat_n((index, layer), layer.parameter_count()));
        let info = |((layer, kind), param): ((usize, &Layer), &Named)| ParamInfo {
            name: param.name.clone(),
            layer,
            table: matches!(kind, Layer::Embedding { .. }),
        };
        by_param.zip(&self.params).map(info).skip(self.frozen_parameters()).collect()
    }

    /// GeM's power (the mean over channels), for encoders pooled by GeM.
    pub fn gem_p(&self) -> Option<f64> {
        let p = &self.params.iter().find(|p| p.name.ends_with(".p"))?.value;
        Some(p.iter().map(|&v| f64::from(v)).sum::<f64>() / p.len().max(1) as f64)
    }

    /// Embeds a batch.
    ///
    /// # Errors
    /// A batch of another kind or shape than the encoder takes.
    pub fn forward<'t>(&self, tape: &'t Tape, batch: &Batch, mode: Mode) -> Result<Forward<'t>> {
        let frozen = self.frozen_parameters();
        let leaves: Vec<Var<'t>> = self
            .params
            .iter()
            .enumerate()
            .map(|(index, p)| {
                if mode == Mode::Eval || index < frozen {
                    tape.constant(p.value.clone())
                } else {
                    tape.leaf(p.value.clone())
                }
            })
            .collect();
        let mut flow = self.spec.input.enter(tape, batch)?;
        let (mut params, mut buffers) = (leaves.as_slice(), self.buffers.as_slice());
        let mut context = Context { mode, layer: 0, buffer: 0, statistics: Vec::new() };
        for (index, layer) in self.spec.layers.iter().enumerate() {
            // `new` made as many as the layers count.
            let (own, rest) = params.split_at(layer.parameter_count());
            let (own_buffers, rest_buffers) = buffers.split_at(layer.buffer_count());
            let own_buffers: Vec<&Value> = own_buffers.iter().map(|b| &b.value).collect();
            (context.layer, context.buffer) = (index, self.buffers.len() - buffers.len());
            context.mode = if index < self.frozen { Mode::Eval } else { mode };
            flow = layer.forward(flow, own, &own_buffers, &mut context)?;
            (params, buffers) = (rest, rest_buffers);
        }
        Ok(Forward { output: flow.values()?, leaves, statistics: context.statistics })
    }

    /// The parameters by name, in a fixed order.
    pub fn params_mut(&mut self) -> Vec<(&str, &mut Value)> {
        self.params.iter_mut().map(|p| (p.name.as_str(), &mut p.value)).collect()
    }

    /// After an optimizer step: moves the running statistics by a tenth towards the batch's ([`Forward::statistics`]
    /// of this encoder; others' are passed over where their shape differs) and keeps GeM's power at 0.1 or above.
    pub fn after_step(&mut self, statistics: &[(usize, BatchStatistics)]) {
        for (buffer, batch) in statistics {
            for (offset, new) in [&batch.mean, &batch.variance].into_iter().enumerate() {
                let running = self.buffers.get_mut(buffer + offset).map(|buffer| &mut buffer.value);
                if let Some(running) = running.filter(|running| running.shape() == new.shape()) {
                    running.zip_mut_with(&new.view().into_dyn(), |r, &n| *r += MOMENTUM * (n - *r));
                }
            }
        }
        let frozen = self.frozen_parameters();
        for p in self.params.iter_mut().skip(frozen).filter(|p| p.name.ends_with(".p")) {
            p.value.mapv_inplace(|v| v.max(MIN_P));
        }
    }

    /// Parameters and buffers (running statistics and what [`prepare`](Self::prepare) measured).
    pub fn state(&self) -> State {
        let tensors =
            self.params.iter().chain(&self.buffers).map(|n| (n.name.clone(), n.value.to_owned())).collect();
        State { tensors, ..State::default() }
    }

    /// Replaces those parameters and buffers that `state` has, e.g. all but a new head's.
    ///
    /// # Errors
    /// As [`load`](Self::load), for a tensor of another shape.
    pub fn load_part(&mut self, state: &State) -> Result<()> {
        let mut whole = self.state();
        for (name, tensor) in &state.tensors {
            if let Some(own) = whole.tensors.get_mut(name) {
                own.clone_from(tensor);
            }
        }
        self.load(&whole)
    }

    /// Replaces parameters and buffers.
    ///
    /// # Errors
    /// [`Error::Unsuitable`] naming the tensor that is missing, of another shape or of another encoder; nothing is changed then.
    pub fn load(&mut self, state: &State) -> Result<()> {
        let own = |name: &String| self.params.iter().chain(&self.buffers).any(|named| named.name == *name);
        if let Some(other) = state.tensors.keys().find(|name| !own(name)) {
            return Err(Error::Unsuitable(format!("the encoder has no tensor {other}")));
        }
        let find = |named: &Named| -> Result<Value> {
            let missing = || Error::Unsuitable(format!("the encoder's tensor {} is missing", named.name));
            let tensor = state.tensors.get(&named.name).ok_or_else(missing)?;
            if tensor.shape() != named.value.shape() {
                return Err(Error::Unsuitable(format!(
                    "the encoder's tensor {} has shape {:?}; expected {:?}",
                    named.name,
                    tensor.shape(),
                    named.value.shape()
                )));
            }
            Ok(tensor.as_standard_layout().into_owned().into_shared())
        };
        let params = self.params.iter().map(find).collect::<Result<Vec<_>>>()?;
        let buffers = self.buffers.iter().map(find).collect::<Result<Vec<_>>>()?;
        self.params.iter_mut().zip(params).for_each(|(p, value)| p.value = value);
        self.buffers.iter_mut().zip(buffers).for_each(|(b, value)| b.value = value);
        Ok(())
    }
}
