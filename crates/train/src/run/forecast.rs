//! How much memory a run will take, before it takes it.

use std::collections::HashMap;

use embedtune_core::{Grad, Pool, Tape};
use embedtune_losses::Loss;
use ndarray::ArrayD;
use serde::Serialize;

use super::raw::raw_dim;
use super::{RunOptions, memory, telemetry};
use crate::data::{Dataset, Items, Split};
use crate::encoder::{Batch, Encoder, Layer, Mode};
use crate::optim::{self, Optimizer, OptimizerKind, OptimizerOptions, Param};
use crate::{Error, Result};

/// Items of the two trial steps from which a step's memory is known: each buffer is a straight line in the batch. Layers often
/// halve or double; these numbers are no such multiples, so that a length found in both steps is one that does not depend on
/// the batch.
const TRIALS: [usize; 2] = [8, 20];
/// The largest batch that is chosen where the choice is free.
const LARGEST: usize = 128;
/// Items that one task embeds at a time ([`Encoder::embed`]).
const EMBEDDED: usize = 32;
/// Share of the memory that a run may take: the rest of the system needs some.
const SHARE: f64 = 0.9;
/// Bytes for the ranks of each relevant item, and of all at most (embedtune-retrieval).
const RANK: usize = 20;
const RANKS: usize = 96 << 20;
/// Share of the memory taken that the allocator loses between buffers, as seen with glibc, and what each thread takes for
/// itself: its stack, its arena, the panels of matrix products.
const HOLES: f64 = 0.04;
const THREAD: usize = 3 << 20;
/// What a thread takes where little is computed, and the share of all else that it takes more.
const IDLE_THREAD: usize = 1 << 19;
const THREAD_SHARE: usize = 8;
/// Batches of items in files that lie ready beside the one trained on.
const READ_AHEAD: f64 = 2.0;
/// Larger arrays go back to the system when they are dropped (glibc's largest threshold for `mmap`); smaller ones stay in the
/// arena of the thread that took them, where another thread's do not find room.
const KEPT: usize = 32 << 20;
/// Steps that LBFGS remembers where nothing is said.
const LBFGS_HISTORY: usize = 100;
/// The program itself, where the system does not say how much it holds.
const PROGRAM: usize = 16 << 20;

const F32: usize = size_of::<f32>();

/// Bytes that a run takes at its peak, and of what: of the machine's memory, but for `device`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Forecast {
    /// What is there before training: the program, the data, the encoder's weights.
    pub held: usize,
    /// The encoder's gradients and its optimizer's state.
    pub encoder: usize,
    /// The class centres, their gradient and their optimizer's state; where these are in a GPU's memory, what is watched
    /// of them.
    pub centres: usize,
    /// One training step: activations, their gradients, the loss's scratch.
    pub step: usize,
    /// Measuring retrieval after an epoch, or writing a checkpoint, whichever takes more.
    pub between: usize,
    /// All of it together.
    pub peak: usize,
    /// Where the loss is on a GPU: bytes of its memory, for class centres, their optimizer's state and a step.
    pub device: Option<usize>,
}

/// A GPU's bytes for a batch of so many items, if there is one: what lasts, and a step's.
pub(super) type OnDevice<'a> = dyn Fn(usize) -> Option<[usize; 2]> + 'a;

/// What a forecast is made from: everything but the batch.
pub(super) struct Costs {
    /// The most that was held so far: data are larger while they are read.
    before: usize,
    held: usize,
    encoder: usize,
    centres: usize,
    /// Other things that last: the memory bank, the best epoch's weights.
    kept: usize,
    /// Items of the memory bank.
    bank: usize,
    between: usize,
    /// Measuring the raw vectors, before the first step.
    raw: usize,
    /// What of measuring stays with the allocator afterwards.
    left: usize,
    /// A step's buffers in the trials, beside what the batch itself takes.
    trials: [Trial; 2],
    /// Whether the encoder's optimizer remembers past steps.
    history: bool,
    /// Whether the loss and its centres are on a GPU.
    on_gpu: bool,
}

impl Costs {
    /// Looks at an encoder and a loss whose centres are not drawn yet. Takes two small steps whose result is dropped. `centre_slots`
    /// are the bytes of the centres' optimizer's state for each byte of theirs; the last three whether the run has a folder,
    /// how many items are held out, and whether the loss is on a GPU.
    pub(super) fn new(
        options: &RunOptions,
        encoder: &Encoder,
        loss: &dyn Loss,
        centre_slots: f64,
        split: &Split,
        (saves, held_out, on_gpu): (bool, usize, bool),
    ) -> Result<Self> {
        let dim = encoder.output_dim();
        let weights = encoder.parameters() * F32;
        let state = encoder.state().tensors.values().map(|tensor| tensor.len() * F32).sum::<usize>();
        let largest = encoder.state().tensors.values().map(|tensor| tensor.len() * F32).max().unwrap_or(0);
        // A table's gradient holds the rows that occur.
        let table: usize = encoder.spec().layers.iter().map(table_bytes).sum();
        let encoder_state = times(weights, encoder_slots(options)?);
        let gradients = weights.saturating_sub(table);
        let waiting = if options.gradient_accumulation_steps > 1 { gradients } else { 0 };
        let centres = loss.weight_shape().map_or(0, |[rows, columns]| bytes(rows, columns));
        let centre_state = times(centres, centre_slots);
        let classes = split.train.classes.len();
        let watched = telemetry::bytes(classes, dim, centres);
        let bank = bytes(options.memory_size, dim + 1);
        let callbacks = &options.callbacks;
        let initial = if callbacks.wise_ft_alpha.is_some() { state } else { 0 };
        let best = if callbacks.best_model { state.saturating_add(centres) } else { 0 };
        let trials = [trial(encoder, &split.train, TRIALS[0])?, trial(encoder, &split.train, TRIALS[1])?];
        // A checkpoint is gathered as a copy of all state, which is laid out as a file of the same size, tensor by tensor,
        // each once more on its way.
        let all = [state, encoder_state, centres, centre_state, bank, initial];
        let all = all.into_iter().fold(0, usize::saturating_add);
        let saving = if saves { all.saturating_mul(2).saturating_add(centres.max(largest)) } else { 0 };
        let per_item = (trials[1].bytes() as f64 - trials[0].bytes() as f64) / (TRIALS[1] - TRIALS[0]) as f64;
        let [tuned, raw, left] = measuring(encoder, split, held_out, per_item);
        // A GPU's centres are drawn here, and come here again to be measured or saved.
        let (own, passing) = match on_gpu {
            false => (centres.saturating_mul(2).saturating_add(centre_state), 0),
            true => (0, centres),
        };
        Ok(Self {
            before: memory::peak_memory().unwrap_or(0),
            held: memory::resident().unwrap_or(PROGRAM + data_bytes(split) + weights),
            encoder: gradients + waiting + encoder_state + initial,
            centres: own.saturating_add(watched),
            kept: bank.saturating_add(best),
            bank: options.memory_size,
            between: saving.max(tuned).max(passing),
            raw,
            left,
            trials,
            history: options.optimizer == OptimizerKind::Lbfgs,
            on_gpu,
        })
    }

    /// The forecast for batches of these sizes: buffers are kept from step to step by their lengths, so those of an epoch's
    /// last, smaller batch stand beside the others.
    pub(super) fn at(&self, sizes: &[usize], loss: &dyn Loss, dim: usize, on: &OnDevice<'_>) -> Forecast {
        let own =
            |&batch: &usize| {
                let more = batch as f64 - TRIALS[0] as f64;
                let [input, at_second] = [&self.trials[0], &self.trials[1]].map(|trial| trial.input as f64);
                let input = input + more * (at_second - input) / (TRIALS[1] - TRIALS[0]) as f64;
                (input.max(0.0) as usize)
                    .saturating_add(bytes(batch, 2 * dim))
                    .saturating_add(if self.on_gpu { 0 } else { loss.workspace_bytes(batch, self.bank, dim) })
            };
        let step = sizes.iter().map(own).fold(pooled(&self.trials, sizes), usize::saturating_add);
        let training = [self.encoder, self.centres, self.kept, step, self.between]
            .into_iter()
            .fold(0, usize::saturating_add);
        let taken = training.max(self.centres.saturating_add(self.raw));
        let threads = rayon::current_num_threads();
        // While a memory fills, the loss needs more for it in every step, and what it had stays too.
        let left = if threads > 1 { self.left.saturating_add(bytes(self.bank, dim)) } else { 0 };
        let lost = times(taken, HOLES)
            .saturating_add(threads * THREAD.min(IDLE_THREAD + taken / THREAD_SHARE))
            .saturating_add(left);
        Forecast {
            held: self.held,
            encoder: self.encoder,
            centres: self.centres,
            step,
            between: self.between,
            peak: self.held.saturating_add(taken).saturating_add(lost).max(self.before),
            // A step's memory there is given back after it.
            device: sizes
                .iter()
                .filter_map(|&batch| on(batch))
                .map(|[held, step]| held.saturating_add(step))
                .max(),
        }
    }

    /// The batch to use: what is asked for if it fits, and where the choice is free the largest power of two up to 128
    /// that fits. `sizes` are those of an epoch's batches for such a batch.
    ///
    /// # Errors
    /// [`Error::Option`] naming what takes the most and what to write instead.
    pub(super) fn batch(
        &self,
        asked: usize,
        sizes: impl Fn(usize) -> Vec<usize>,
        loss: &dyn Loss,
        dim: usize,
        on: &OnDevice<'_>,
    ) -> Result<(usize, Forecast)> {
        let at = |size: usize| self.at(&sizes(size), loss, dim, on);
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
            None if wanted.centres > wanted.step && wanted.centres > wanted.encoder => (
                "output_dim",
                dim.to_string(),
                "no batch is small enough beside the class centres: write a smaller output_dim, SGD as loss_optimizer, \
                 or give fewer classes"
                    .to_owned(),
            ),
            None if self.history && wanted.encoder > wanted.step => (
                "optimizer",
                "LBFGS".to_owned(),
                "no batch is small enough beside the steps that LBFGS remembers: write a smaller \
                 optimizer_options.history_size, e.g. 10, or Adam as optimizer"
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
                 training state, {} MiB to measure and save), and {} MiB are free, of which it may take nine tenths; {remedy}",
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

/// What a step of a few items took.
struct Trial {
    /// Lengths of the buffers in its pool, ascending.
    lengths: Vec<usize>,
    /// Bytes of the batch, which is gathered, put on the tape and kept there.
    input: usize,
}

impl Trial {
    fn bytes(&self) -> usize {
        self.input + self.lengths.iter().map(|length| length * F32).sum::<usize>()
    }
}

/// Bytes of the buffers that a pool keeps for batches of these sizes: a buffer of one size's step serves another's where the
/// length is the same.
fn pooled(trials: &[Trial; 2], sizes: &[usize]) -> usize {
    let counts = |lengths: &[usize]| {
        let mut counts = HashMap::new();
        lengths.iter().for_each(|&length| *counts.entry(length).or_insert(0usize) += 1);
        counts
    };
    let [few, more] = [&trials[0].lengths, &trials[1].lengths].map(|lengths| counts(lengths));
    let same = |length: &usize| few.get(length).copied().min(more.get(length).copied()).unwrap_or(0);
    let rest = |lengths: &[usize]| {
        let mut left: HashMap<usize, usize> = lengths.iter().map(|length| (*length, same(length))).collect();
        let grows = lengths.iter().copied().filter(|length| match left.get_mut(length) {
            Some(count) if *count > 0 => {
                *count -= 1;
                false
            }
            _ => true,
        });
        // The largest first: of those that are only in one step the small ones stay without a partner.
        let mut grows: Vec<usize> = grows.collect();
        grows.reverse();
        grows
    };
    let lines: Vec<(usize, usize)> =
        rest(&trials[0].lengths).into_iter().zip(rest(&trials[1].lengths)).collect();
    let mut kept: HashMap<usize, usize> = HashMap::new();
    for &size in sizes {
        let of = |&(few, more): &(usize, usize)| {
            let each = (more as f64 - few as f64) / (TRIALS[1] - TRIALS[0]) as f64;
            (few as f64 + each * (size as f64 - TRIALS[0] as f64)).round().max(0.0) as usize
        };
        for (length, count) in counts(&lines.iter().map(of).collect::<Vec<_>>()) {
            let most = kept.entry(length).or_default();
            *most = count.max(*most);
        }
    }
    for length in few.keys() {
        *kept.entry(*length).or_default() += same(length);
    }
    kept.into_iter()
        .fold(0, |sum: usize, (length, count)| sum.saturating_add(bytes(length, 1).saturating_mul(count)))
}

fn table_bytes(layer: &Layer) -> usize {
    match *layer {
        Layer::Embedding { rows, dim } => rows.saturating_mul(dim).saturating_mul(F32),
        _ => 0,
    }
}

fn bytes(rows: usize, columns: usize) -> usize {
    rows.saturating_mul(columns).saturating_mul(F32)
}

fn times(bytes: usize, slots: f64) -> usize {
    (slots * bytes as f64) as usize
}

/// Bytes of the model's optimizer's state for each byte of a parameter.
fn encoder_slots(options: &RunOptions) -> Result<f64> {
    let own = &options.optimizer_options;
    if options.optimizer == OptimizerKind::Lbfgs {
        // Two vectors for each step that it remembers, the direction, and the gradient and weights it comes from.
        return Ok(2.0 * own.history_size.unwrap_or(LBFGS_HISTORY) as f64 + 4.0);
    }
    if options.optimizer == OptimizerKind::SparseAdam {
        // Two moments of the table; the rest has Adam's.
        return Ok(2.0);
    }
    // Which layers learn how fast changes no state.
    let own = OptimizerOptions { layer_wise_lr_decay: None, ..own.clone() };
    slots(optim::build(options.optimizer, &own, options.learning_rate)?.as_mut())
}

/// Bytes of an optimizer's state for each byte of a parameter: found by a step on a small one.
pub(super) fn slots(optimizer: &mut dyn Optimizer) -> Result<f64> {
    const SIDE: usize = 64;
    let mut value = ArrayD::<f32>::ones(vec![SIDE, SIDE]).into_shared();
    let grad = Some(Grad::Dense(ArrayD::ones(vec![SIDE, SIDE])));
    let mut params = [Param { name: "trial", value: &mut value, grad }];
    optimizer.step(&mut params, None)?;
    let held: usize = optimizer.state().tensors.values().map(ArrayD::len).sum();
    Ok(held as f64 / (SIDE * SIDE) as f64)
}

/// A step of `size` items without the loss.
fn trial(encoder: &Encoder, data: &Dataset, size: usize) -> Result<Trial> {
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
    // The batch itself and its copy on the tape; of files more of them.
    let ahead = match data.items {
        Items::Files(_) | Items::VectorFile(_) => READ_AHEAD,
        _ => 0.0,
    };
    Ok(Trial { lengths: pool.free_lengths(), input: times(input, 2.0 + ahead) })
}

/// Bytes that measuring retrieval takes, with the encoder and with the raw vectors: those of the items, a copy of them laid
/// out to be searched and one of the queries, the ranks of what is relevant, and what the encoder needs for one block on
/// each thread (without gradients, about half of a training step's). Third, what of these stays with the allocator.
fn measuring(encoder: &Encoder, split: &Split, held_out: usize, per_item: f64) -> [usize; 3] {
    let searched = split.gallery.as_ref();
    let items = split.queries.items.len() + searched.map_or(0, |gallery| gallery.items.len());
    let mut counts = HashMap::new();
    searched.unwrap_or(&split.queries).labels.iter().for_each(|label| *counts.entry(label).or_insert(0) += 1);
    let relevant: usize = split.queries.labels.iter().filter_map(|label| counts.get(label)).sum();
    let ranks = relevant.saturating_mul(RANK).min(RANKS);
    let blocks = rayon::current_num_threads().min(items.div_ceil(EMBEDDED));
    let pass = (per_item * 0.5 * (EMBEDDED * blocks) as f64) as usize;
    let vectors = |items: usize, dim: usize| bytes(items.saturating_mul(3), dim);
    // Held-out items are a copy of their own.
    let share = held_out as f64 / split.train.items.len().max(1) as f64;
    let validation = times(part_bytes(&split.train), share) + vectors(held_out, encoder.output_dim());
    let (tuned_dim, raw_dim) = (encoder.output_dim(), raw_dim(&split.queries.items));
    let tuned = vectors(items, tuned_dim) + ranks;
    let raw = vectors(items, raw_dim) + ranks;
    let left = [tuned_dim, raw_dim].into_iter().filter(|&dim| bytes(items, dim) <= KEPT);
    // Of the three that are there at once one is taken again where it was.
    let left = left.map(|dim| 2 * bytes(items, dim)).max().unwrap_or(0);
    [tuned.max(validation) + pass, raw, left]
}

fn part_bytes(data: &Dataset) -> usize {
    match &data.items {
        Items::Images(images) => images.len(),
        // They stay in their files.
        Items::Files(_) | Items::VectorFile(_) => 0,
        Items::Vectors(vectors) => vectors.len() * F32,
        Items::Sequences(sequences) => sequences.values().len() * F32,
        Items::Text(texts) => texts.iter().map(|text| text.len() + size_of::<String>()).sum(),
    }
}

fn data_bytes(split: &Split) -> usize {
    part_bytes(&split.train) + part_bytes(&split.queries) + split.gallery.as_ref().map_or(0, part_bytes)
}
