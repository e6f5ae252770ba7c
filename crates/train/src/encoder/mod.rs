//! Encoders: lists of typed, serialisable layers that turn items into embeddings.
//!
//! An [`EncoderSpec`] says what an encoder is and can be written to a file; an [`Encoder`] adds the weights.

mod batch;
mod layer;
mod spec;
#[cfg(test)]
mod tests;
mod tokens;

use embedtune_core::ops::BatchStatistics;
use embedtune_core::{Tape, Value, Var};
use embedtune_pooling::MIN_P;
use ndarray::{Array1, Ix1};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

pub use batch::Batch;
pub use layer::Layer;
pub use spec::{EncoderSpec, InputSpec, TokenSpec};

use crate::{Error, Result, State};
use layer::{Context, Flow};

/// How much of a batch's statistics enters the running ones, as PyTorch's default.
const MOMENTUM: f32 = 0.1;

/// Whether a pass trains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
    /// Running mean and variance of each batch norm, in pairs.
    buffers: Vec<Named>,
    output_dim: usize,
}

impl Encoder {
    /// Random weights: uniform within `1 / sqrt(fan in)` for convolutions and linear layers (PyTorch's default),
    /// normal with variance `1 / dim` for tables; a residual's second layer starts at zero.
    ///
    /// # Errors
    /// [`Error::Option`] if a layer does not fit what comes before it.
    pub fn new(spec: EncoderSpec, seed: u64) -> Result<Self> {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let (mut params, mut buffers) = (Vec::new(), Vec::new());
        let mut shape = spec.input.shape();
        for (index, layer) in spec.layers.iter().enumerate() {
            for (name, value) in layer.init(&shape, &mut random)? {
                params.push(Named { name: format!("{index}.{}.{name}", layer.name()), value });
            }
            for (name, value) in layer.buffers(&shape) {
                buffers.push(Named { name: format!("{index}.{}.{name}", layer.name()), value });
            }
            shape = layer.output(&shape)?;
        }
        let output_dim = shape.vector().ok_or_else(|| {
            Error::option(
                "encoder",
                format!("{:?}", spec.layers.last()),
                "the layers must end in one vector for each item: add a pooling layer",
            )
        })?;
        Ok(Self { spec, params, buffers, output_dim })
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
        self.params.iter().map(|p| p.value.len()).sum()
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
        let leaves: Vec<Var<'t>> =
            self.params
                .iter()
                .map(|p| {
                    if mode == Mode::Eval {
                        tape.constant(p.value.clone())
                    } else {
                        tape.leaf(p.value.clone())
                    }
                })
                .collect();
        let mut flow: Flow<'t> = self.spec.input.enter(tape, batch, mode)?;
        let (mut next, mut buffer) = (0, 0);
        let mut context = Context { mode, statistics: Vec::new() };
        for layer in &self.spec.layers {
            let (params, buffers) = (layer.parameter_count(), layer.buffer_count());
            let views: Vec<&Value> =
                self.buffers[buffer..buffer + buffers].iter().map(|b| &b.value).collect();
            flow = layer.forward(flow, &leaves[next..next + params], &views, buffer, &mut context)?;
            (next, buffer) = (next + params, buffer + buffers);
        }
        Ok(Forward { output: flow.value, leaves, statistics: context.statistics })
    }

    /// The parameters by name, in a fixed order.
    pub fn params_mut(&mut self) -> Vec<(String, &mut Value)> {
        self.params.iter_mut().map(|p| (p.name.clone(), &mut p.value)).collect()
    }

    /// After an optimizer step: updates running statistics and keeps GeM's power in range.
    pub fn after_step(&mut self, statistics: &[(usize, BatchStatistics)]) {
        for (buffer, batch) in statistics {
            for (offset, new) in [&batch.mean, &batch.variance].into_iter().enumerate() {
                if let Some(running) = self.buffers.get_mut(buffer + offset) {
                    running.value.zip_mut_with(&new.view().into_dyn(), |r, &n| *r += MOMENTUM * (n - *r));
                }
            }
        }
        for p in self.params.iter_mut().filter(|p| p.name.ends_with(".p")) {
            p.value.mapv_inplace(|v| v.max(MIN_P));
        }
    }

    /// Parameters and running statistics.
    pub fn state(&self) -> State {
        let tensors =
            self.params.iter().chain(&self.buffers).map(|n| (n.name.clone(), n.value.to_owned())).collect();
        State { tensors, ..State::default() }
    }

    /// Replaces parameters and running statistics.
    ///
    /// # Errors
    /// [`Error::Unsuitable`] naming the tensor that is missing or of another shape; nothing is changed then.
    pub fn load(&mut self, state: &State) -> Result<()> {
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

/// A value of one axis.
fn vector(value: &Value) -> Result<Array1<f32>> {
    value
        .to_owned()
        .into_dimensionality::<Ix1>()
        .map_err(|_| Error::Unsuitable("a running statistic is no vector".into()))
}
