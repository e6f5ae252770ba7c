//! How much memory a run will take, before it takes it.

use embedtune_core::{Grad, Pool, Tape};
use embedtune_losses::Loss;
use ndarray::ArrayD;
use serde::Serialize;

use super::{DEFAULT_CENTRE_RATE, RunOptions, memory};
use crate::data::{Dataset, Items, Split};
use crate::encoder::{Batch, Encoder, Layer, Mode};
use crate::optim::{self, OptimizerKind, OptimizerOptions, Param};
use crate::{Error, Result};

/// Items of the two trial steps from which a step's memory is known: it is a straight line in the batch.
const TRIALS: [usize; 2] = [8, 16];
/// The largest batch that is chosen where the choice is free.
const LARGEST: usize = 128;
/// Items that one task embeds at a time ([`Encoder::embed`]).
const EMBEDDED: usize = 32;
/// Share of the memory that a run may take: the rest of the system needs some.
const SHARE: f64 = 0.9;
/// The program itself, where the system does not say how much it holds.
const PROGRAM: usize = 16 << 20;

const F32: usize = size_of::<f32>();

/// Bytes that a run takes at its peak, and of what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Forecast {
    /// What is there before training: the program, the data, the encoder's weights.
    pub held: usize,
    /// The encoder's gradients and its optimizer's state.
    pub encoder: usize,
    /// The class centres, their gradient and their optimizer's state.
    pub centres: usize,
    /// One training step: activations, their gradients, the loss's scratch.
    pub step: usize,
    /// Measuring retrieval after an epoch, or writing a checkpoint, whichever takes more.
    pub between: usize,
    /// All of it together.
    pub peak: usize,
}

/// What a forecast is made from: everything but the batch.
pub(super) struct Costs {
    held: usize,
    encoder: usize,
    centres: usize,
    between: usize,
    /// Bytes of a step at the trials' sizes.
    trials: [usize; 2],
}

impl Costs {
    /// Looks at an encoder and a loss whose centres are not drawn yet. Takes two small steps whose result is dropped.
    pub(super) fn new(
        options: &RunOptions,
        encoder: &Encoder,
        loss: &dyn Loss,
        split: &Split,
        saves: bool,
    ) -> Result<Self> {
        let weights = encoder.parameters() * F32;
        // A table's gradient holds the rows that occur.
        let table: usize = encoder.spec().layers.iter().map(table_bytes).sum();
        let slots = slots(options.optimizer, &options.optimizer_options, options.learning_rate)?;
        let encoder_state = (slots * weights as f64) as usize;
        let centres =
            loss.weight_shape().map_or(0, |[rows, dim]| rows.saturating_mul(dim).saturating_mul(F32));
        let kind = options.loss_optimizer.unwrap_or(options.optimizer);
        let centre_slots = match centres {
            0 => 0.0,
            _ => self::slots(kind, &options.loss_optimizer_options, DEFAULT_CENTRE_RATE)?,
        };
        let centre_state = (centre_slots * centres as f64) as usize;
        let trials = [trial(encoder, &split.train, TRIALS[0])?, trial(encoder, &split.train, TRIALS[1])?];
        // A checkpoint is gathered as a copy of everything, and its largest tensor is turned into bytes.
        let largest = centres.max(weights);
        let saving = if saves { weights + encoder_state + centres + centre_state + largest } else { 0 };
        Ok(Self {
            held: memory::resident().unwrap_or(PROGRAM + data_bytes(split) + weights),
            encoder: weights.saturating_sub(table) + encoder_state,
            centres: centres.saturating_mul(2).saturating_add(centre_state),
            between: saving.max(measuring(encoder, split, per_item(trials))),
            trials,
        })
    }

    /// The forecast for a batch of `batch` items.
    pub(super) fn at(&self, batch: usize, loss: &dyn Loss, dim: usize) -> Forecast {
        let [first, _] = self.trials;
        let activations = (first as f64 + (batch as f64 - TRIALS[0] as f64) * per_item(self.trials)).max(0.0);
        let rows = batch.saturating_mul(dim).saturating_mul(2 * F32);
        let step =
            (activations as usize).saturating_add(rows).saturating_add(loss.workspace_bytes(batch, 0, dim));
        let peak = [self.encoder, self.centres, step, self.between]
            .into_iter()
            .fold(self.held, usize::saturating_add);
        Forecast {
            held: self.held,
            encoder: self.encoder,
            centres: self.centres,
            step,
            between: self.between,
            peak,
        }
    }

    /// The batch to use of `items`: what is asked for if it fits, and where the choice is free the largest power of two up to 128
    /// that fits.
    ///
    /// # Errors
    /// [`Error::Option`] naming what takes the most and what to write instead.
    pub(super) fn batch(
        &self,
        asked: usize,
        items: usize,
        loss: &dyn Loss,
        dim: usize,
    ) -> Result<(usize, Forecast)> {
        let at = |size: usize| self.at(size.min(items), loss, dim);
        let fits = |forecast: &Forecast| match memory::available() {
            Some(free) => forecast.peak - forecast.held.min(forecast.peak) <= (free as f64 * SHARE) as usize,
            None => true,
        };
        let smaller = |from: usize| {
            let sizes =
                std::iter::successors(Some(from), |size| Some(size / 2)).take_while(|size| *size >= 2);
            sizes.map(|size| (size, at(size))).find(|(_, forecast)| fits(forecast))
        };
        let first = if asked == 0 { LARGEST } else { asked };
        let wanted = at(first);
        if fits(&wanted) {
            return Ok((first, wanted));
        }
        if let (0, Some(found)) = (asked, smaller(LARGEST)) {
            return Ok(found);
        }
        let mib = |bytes: usize| bytes.div_ceil(1 << 20);
        let found = smaller(first.next_power_of_two() / 2);
        let (field, value, remedy) = match found {
            Some((size, _)) => ("batch_size", first.to_string(), format!("write {size} or less")),
            None if wanted.centres > wanted.between && wanted.centres > wanted.encoder => (
                "output_dim",
                dim.to_string(),
                "no batch is small enough beside the class centres: write a smaller output_dim, SGD as loss_optimizer, \
                 or give fewer classes"
                    .to_owned(),
            ),
            None => (
                "batch_size",
                first.to_string(),
                "no batch is small enough: give fewer or smaller items, or a machine with more memory".to_owned(),
            ),
        };
        Err(Error::option(
            field,
            value,
            format!(
                "the run would take {} MiB at its peak ({} MiB for centres, {} MiB for a step, {} MiB for the encoder's \
                 training state, {} MiB to measure and save), and {} MiB are free; {remedy}",
                mib(wanted.peak),
                mib(wanted.centres),
                mib(wanted.step),
                mib(wanted.encoder),
                mib(wanted.between),
                mib(memory::available().unwrap_or(0))
            ),
        ))
    }
}

fn per_item(trials: [usize; 2]) -> f64 {
    (trials[1] as f64 - trials[0] as f64) / (TRIALS[1] - TRIALS[0]) as f64
}

fn table_bytes(layer: &Layer) -> usize {
    match *layer {
        Layer::Embedding { rows, dim } => rows.saturating_mul(dim).saturating_mul(F32),
        _ => 0,
    }
}

/// Bytes of an optimizer's state for each byte of a parameter: found by a step on a small one.
fn slots(kind: OptimizerKind, options: &OptimizerOptions, rate: f64) -> Result<f64> {
    const SIDE: usize = 8;
    let mut optimizer = optim::build(kind, options, rate)?;
    let mut value = ArrayD::<f32>::ones(vec![SIDE, SIDE]).into_shared();
    let grad = Some(Grad::Dense(ArrayD::ones(vec![SIDE, SIDE])));
    let mut params = [Param { name: "trial", value: &mut value, grad }];
    // A method that looks at the loss again finds it falling.
    let mut loss = 1.0;
    let mut again = |_: &mut [Param<'_>]| {
        loss *= 0.5;
        Ok(loss)
    };
    optimizer.step(&mut params, Some(&mut again))?;
    let held: usize = optimizer.state().tensors.values().map(ArrayD::len).sum();
    Ok(held as f64 / (SIDE * SIDE) as f64)
}

/// Bytes of a step of `size` items without the loss: what its pool holds afterwards, and the batch itself, which is
/// gathered, put on the tape and kept there.
fn trial(encoder: &Encoder, data: &Dataset, size: usize) -> Result<usize> {
    let rows: Vec<usize> = (0..size).map(|row| row % data.items.len().max(1)).collect();
    let pool = Pool::new();
    let batch = Batch::gather(&data.items, &rows)?;
    let tape = Tape::new(&pool);
    let pass = encoder.forward(&tape, &batch, Mode::Train { seed: 0 })?;
    let upstream = pass.output.value().mapv(|_| 0.0);
    drop(tape.backward_from(pass.output, upstream)?);
    drop(tape);
    let input = match &batch {
        Batch::Images(x) => x.len() * F32,
        Batch::Vectors(x) => x.len() * F32,
        Batch::Sequences(x, _) => x.len() * F32,
        Batch::Text(texts) => texts.iter().map(String::len).sum(),
    };
    Ok(pool.free_bytes() + 2 * input)
}

/// Bytes that measuring retrieval takes: the vectors, a unit copy of them, and what the encoder needs for one block on
/// each thread (without gradients, about half of a training step's).
fn measuring(encoder: &Encoder, split: &Split, per_item: f64) -> usize {
    let items = split.queries.items.len() + split.gallery.as_ref().map_or(0, |gallery| gallery.items.len());
    let vectors = items * encoder.output_dim() * F32;
    let blocks = rayon::current_num_threads().min(items.div_ceil(EMBEDDED));
    2 * vectors + (per_item * 0.5 * (EMBEDDED * blocks) as f64) as usize
}

fn data_bytes(split: &Split) -> usize {
    let part = |data: &Dataset| match &data.items {
        Items::Images(images) => images.len(),
        Items::Files(_) => 0,
        Items::Vectors(vectors) => vectors.len() * F32,
        Items::Sequences(sequences) => sequences.values().len() * F32,
        Items::Text(texts) => texts.iter().map(|text| text.len() + size_of::<String>()).sum(),
    };
    part(&split.train) + part(&split.queries) + split.gallery.as_ref().map_or(0, part)
}
