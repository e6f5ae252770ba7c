//! Training steps of the convolutional encoder.

use std::path::Path;

use embedtune_core::{Grad, Pool, Tape};
use embedtune_losses::{CentreInit, Input, MarginOptions, MarginSoftmax};
use embedtune_pooling::{PoolerKind, PoolerOptions};
use embedtune_train::State;
use embedtune_train::data::Items;
use embedtune_train::encoder::{Batch, Encoder, EncoderSpec, Forward, InputSpec, Layer, Mode};
use embedtune_train::head::{HostHead, LossHead, Update};
use embedtune_train::optim::{self, OptimizerKind, OptimizerOptions, Param, grad_norm};
use ndarray::{Array0, Array1, Array2, Array3, ArrayD, Axis, Ix2};
use ndarray_npy::{read_npy, write_npy};
use serde_json::Value;

use super::{Outcome, size};

/// The images and the state that every run starts from.
pub(super) struct Training {
    images: Items,
    labels: Vec<u32>,
    batch: usize,
    rate: f64,
    encoder: Encoder,
    centres: Array2<f32>,
    pool: Pool,
    losses: Vec<f64>,
}

/// The encoder of `training.py`, with its weights.
fn encoder(folder: &Path, dim: usize) -> Outcome<Encoder> {
    let mut layers = Vec::new();
    let mut tensors: Vec<(String, String)> = Vec::new();
    for (index, out) in [32, 64, 128].into_iter().enumerate() {
        tensors.push((format!("{}.conv.weight", layers.len()), format!("conv{index}")));
        layers.extend([Layer::Conv { out, kernel: 3, padding: 1 }, Layer::BatchNorm, Layer::Relu]);
        if index < 2 {
            layers.push(Layer::MaxPool { side: 2 });
        }
    }
    layers.push(Layer::Pool { pooler: PoolerKind::GeM, options: PoolerOptions::default() });
    for part in ["weight", "bias"] {
        tensors.push((format!("{}.linear.{part}", layers.len()), format!("linear_{part}")));
    }
    layers.push(Layer::Linear { out: dim, bias: true });
    let input = InputSpec::Image { channels: 1, height: 28, width: 28 };
    let mut encoder = Encoder::new(EncoderSpec { input, layers }, 0)?;
    let mut state = encoder.state();
    for (tensor, file) in tensors {
        let value: ArrayD<f32> = read_npy(folder.join(format!("{file}.npy")))?;
        *state.tensors.get_mut(&tensor).ok_or_else(|| format!("the encoder has no {tensor}"))? = value;
    }
    encoder.load(&state)?;
    Ok(encoder)
}

impl Training {
    pub(super) fn load(case: &Value, folder: &Path) -> Outcome<Self> {
        let images: Array3<u8> = read_npy(folder.join("images.npy"))?;
        let labels: Array1<i64> = read_npy(folder.join("labels.npy"))?;
        Ok(Self {
            images: Items::Images(images.insert_axis(Axis(1))),
            labels: labels.iter().map(|&label| u32::try_from(label)).collect::<Result<_, _>>()?,
            batch: size(case, "batch")?,
            rate: case["rate"].as_f64().ok_or("case.json lacks \"rate\"")?,
            encoder: encoder(folder, size(case, "dim")?)?,
            centres: read_npy(folder.join("centres.npy"))?,
            pool: Pool::new(),
            losses: Vec::new(),
        })
    }

    /// A head whose centres are the file's.
    fn head(&self) -> Outcome<HostHead> {
        let (classes, dim) = self.centres.dim();
        let loss = Box::new(MarginSoftmax::new(classes, dim, MarginOptions::cosface())?);
        let adam = optim::build(OptimizerKind::Adam, &OptimizerOptions::default(), self.rate)?;
        let mut head = HostHead::new(loss, Some(adam), CentreInit::UnitSphere, 0)?;
        let mut state = State::default();
        state.tensors.insert("centres".to_owned(), self.centres.clone().into_dyn());
        head.load_state(&state)?;
        Ok(head)
    }
}

impl super::Case for Training {
    /// The trainer's step, batch after batch.
    fn run(&mut self) -> Outcome<()> {
        let (mut encoder, mut head) = (self.encoder.clone(), self.head()?);
        let mut optimizer = optim::build(OptimizerKind::Adam, &OptimizerOptions::default(), self.rate)?;
        self.losses.clear();
        let rows: Vec<usize> = (0..self.labels.len()).collect();
        for (rows, labels) in rows.chunks(self.batch).zip(self.labels.chunks(self.batch)) {
            let batch = Batch::gather(&self.images, rows)?;
            let tape = Tape::new(&self.pool);
            let Forward { output, leaves, statistics } =
                encoder.forward(&tape, &batch, Mode::Train { seed: 0 })?;
            let embeddings = output.value();
            let x = embeddings.view().into_dimensionality::<Ix2>()?;
            let mut dx = Array2::zeros(x.dim());
            let stats = head.step(Input::new(x, labels), Some(dx.view_mut()), Update::Apply)?;
            self.losses.push(stats.value);
            let mut grads = tape.backward_from(output, dx.into_dyn())?;
            let gradients: Vec<_> = leaves.iter().map(|&leaf| grads.take(leaf)).collect();
            if !grad_norm(gradients.iter().flatten()).is_finite() {
                return Err("training diverged".into());
            }
            drop((grads, embeddings));
            drop(tape);
            let mut named = encoder.params_mut();
            let params = named.iter_mut().zip(gradients);
            let mut params: Vec<Param<'_>> =
                params.map(|((name, value), grad)| Param { name, value, grad }).collect();
            optimizer.step(&mut params, None)?;
            for param in params {
                if let Some(Grad::Dense(gradient)) = param.grad {
                    self.pool.give(gradient.into_raw_vec_and_offset().0);
                }
            }
            encoder.after_step(&statistics);
        }
        Ok(())
    }

    fn write(&self, to: &Path) -> Outcome<()> {
        let first = self.losses.first().copied().unwrap_or(f64::NAN);
        write_npy(to.join("first.npy"), &Array0::from_elem((), first))?;
        write_npy(to.join("losses.npy"), &Array1::from_vec(self.losses.clone()))?;
        Ok(())
    }
}
