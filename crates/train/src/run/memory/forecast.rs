//! How much memory a run will take, before it takes it.

use std::collections::HashMap;

use embedtune_core::{Grad, Pool, Tape};
use embedtune_losses::Loss;
use ndarray::ArrayD;
use serde::Serialize;

use super::process;
use super::remedy::Search;
use crate::Result;
use crate::data::{Dataset, Items, Split};
use crate::encoder::{Batch, Encoder, Layer, Mode};
use crate::optim::{self, Optimizer, OptimizerKind, OptimizerOptions, Param, lbfgs};
use crate::run::RunOptions;
use crate::run::raw::raw_dim;
use crate::run::watch::telemetry;

/// Items of the two trial steps from which a step's memory is known: each buffer is a straight line in the batch. Layers often
/// halve or double; these numbers are no such multiples, so that a length found in both steps is one that does not depend on
/// the batch.
const TRIALS: [usize; 2] = [8, 20];
/// The largest batch that is chosen where the choice is free.
pub(in crate::run) const LARGEST: usize = 128;
/// Items that one task embeds at a time ([`Encoder::embed`]).
const EMBEDDED: usize = 32;
/// Share of the memory that a run may take: the rest of the system needs some.
const SHARE: f64 = 0.9;
/// Bytes for the ranks of each relevant item, and of all at most (embedtune-retrieval).
const RANK: usize = 20;
const RANKS: usize = 96 << 20;
/// Share of the memory taken that the allocator loses between buffers, as seen with glibc, and what each thread takes for
/// itself: its stack, its arena, the panels of matrix products.
const HOLES: f64 = 0.01;
const THREAD: usize = 3 << 20;
/// The same where all threads share one arena; what is large enough to leave holes is then given back.
const THREAD_WITHOUT_ARENA: usize = 3 << 19;
/// What a thread takes where little is computed, and the share of all else that it takes more.
const IDLE_THREAD: usize = 1 << 19;
const THREAD_SHARE: usize = 8;
/// Share of its most that each further block takes when one does.
const OVERLAP: f64 = 0.6;
/// Batches of items in files that lie ready beside the one trained on.
const READ_AHEAD: f64 = 2.0;
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
pub(in crate::run) type OnDevice<'a> = dyn Fn(usize) -> Option<[usize; 2]> + 'a;

/// What a forecast is made from: everything but the batch.
#[derive(Clone)]
pub(in crate::run) struct Costs {
    /// The most that was held so far: data are larger while they are read, trials than a step with few items.
    pub(in crate::run) before: usize,
    pub(in crate::run) held: usize,
    pub(in crate::run) parts: Parts,
    /// Measuring the encoder's vectors, and the raw ones before the first step.
    pub(in crate::run) measuring: usize,
    pub(in crate::run) raw: usize,
    /// What of measuring stays with the allocator afterwards.
    pub(in crate::run) left: usize,
    /// A step's buffers in the trials, beside what the batch itself takes.
    pub(in crate::run) trials: [Trial; 2],
    /// What each thread takes beside a step to decode an image.
    pub(in crate::run) decoding: usize,
    /// Whether the loss and its centres are on a GPU.
    pub(in crate::run) on_gpu: bool,
    /// Whether there are checkpoints to write.
    pub(in crate::run) saves: bool,
}

/// What the options ask for, in bytes; without any of these a run could do, or do with less.
#[derive(Debug, Clone, Copy)]
pub(in crate::run) struct Parts {
    /// The encoder's weights and running statistics, and the largest of them.
    pub(in crate::run) state: usize,
    pub(in crate::run) largest: usize,
    pub(in crate::run) weights: usize,
    pub(in crate::run) gradients: usize,
    /// Gradients that wait for more batches.
    pub(in crate::run) waiting: usize,
    /// The encoder's optimizer's state, and what of it is one tensor for all parameters.
    pub(in crate::run) optimizer: usize,
    pub(in crate::run) history: usize,
    /// The encoder before training.
    pub(in crate::run) initial: usize,
    /// The class centres, and their optimizer's state.
    pub(in crate::run) centres: usize,
    pub(in crate::run) centre_optimizer: usize,
    pub(in crate::run) classes: usize,
    pub(in crate::run) dim: usize,
    /// Items of the memory bank.
    pub(in crate::run) bank: usize,
    /// Whether the best epoch's weights are kept.
    pub(in crate::run) best: bool,
}

impl Parts {
    fn bank_bytes(&self) -> usize {
        bytes(self.bank, self.dim + 1)
    }

    /// The same with embeddings of length `dim`; what of the encoder changes with it is left as it is.
    pub(in crate::run) fn with_dim(self, dim: usize) -> Self {
        let share = |bytes: usize| (bytes as f64 * dim as f64 / self.dim.max(1) as f64) as usize;
        Self { centres: share(self.centres), centre_optimizer: share(self.centre_optimizer), dim, ..self }
    }
}

impl Costs {
    /// Looks at an encoder and a loss whose centres are not drawn yet. Takes two small steps whose result is dropped. `centre_slots`
    /// are the bytes of the centres' optimizer's state for each byte of theirs; the last five whether the run has a folder,
    /// how many items are held out, whether the loss is on a GPU, its classes, and how many rows an epoch has at most.
    pub(in crate::run) fn new(
        options: &RunOptions,
        encoder: &Encoder,
        loss: &dyn Loss,
        centre_slots: f64,
        split: &Split,
        (saves, held_out, on_gpu, classes, most): (bool, usize, bool, usize, usize),
    ) -> Result<Self> {
        let weights = encoder.parameters() * F32;
        let state = encoder.state().tensors.values().map(|tensor| tensor.len() * F32).sum::<usize>();
        let largest = encoder.state().tensors.values().map(|tensor| tensor.len() * F32).max().unwrap_or(0);
        // A table's gradient holds the rows that occur.
        let table: usize = encoder.spec().layers.iter().map(table_bytes).sum();
        let gradients = weights.saturating_sub(table);
        let centres = loss.weight_shape().map_or(0, |[rows, columns]| bytes(rows, columns));
        let parts = Parts {
            state,
            largest,
            weights,
            gradients,
            waiting: if options.gradient_accumulation_steps > 1 { gradients } else { 0 },
            optimizer: times(weights, encoder_slots(options, most)?),
            history: lbfgs_history(options, most).map_or(0, |history| weights.saturating_mul(history)),
            initial: if options.callbacks.wise_ft_alpha.is_some() { state } else { 0 },
            centres,
            centre_optimizer: times(centres, centre_slots),
            classes,
            dim: encoder.output_dim(),
            // One that is longer than the run never fills.
            bank: options.memory_size.min(most.saturating_mul(options.epochs)),
            best: options.callbacks.best_model,
        };
        // What the trials leave with the allocator is taken again by training.
        let held = process::resident().unwrap_or(PROGRAM + data_bytes(split) + weights);
        let [few, more] = alone(|| TRIALS.map(|size| trial(encoder, &split.train, size)));
        let trials = [few?, more?];
        let [measuring, raw, left] = measuring(encoder, split, held_out)?;
        // A run with small batches may never take again what the trials did.
        let before = process::peak_memory().unwrap_or(0);
        let decoding = decoding(&split.train.items);
        Ok(Self { before, held, parts, measuring, raw, left, trials, decoding, on_gpu, saves })
    }

    /// Bytes for measuring retrieval after an epoch, or for writing a checkpoint, whichever takes more.
    fn between(&self) -> usize {
        let of = &self.parts;
        // A checkpoint is gathered as a copy of all state, which is laid out as a file of the same size, tensor by tensor,
        // each once more on its way.
        let all = [of.state, of.optimizer, of.centres, of.centre_optimizer, of.bank_bytes(), of.initial];
        let all = all.into_iter().fold(0, usize::saturating_add);
        let saving = if self.saves {
            all.saturating_mul(2).saturating_add(of.centres.max(of.largest).max(of.history))
        } else {
            0
        };
        // A GPU's centres come here again to be measured or saved.
        saving.max(self.measuring).max(if self.on_gpu { of.centres } else { 0 })
    }

    /// The forecast for batches of these sizes: buffers are kept from step to step by their lengths, so those of an epoch's
    /// last, smaller batch stand beside the others.
    pub(in crate::run) fn at(&self, sizes: &[usize], loss: &dyn Loss, on: &OnDevice<'_>) -> Forecast {
        let of = &self.parts;
        let input = |&batch: &usize| {
            let more = batch as f64 - TRIALS[0] as f64;
            let [input, at_second] = [&self.trials[0], &self.trials[1]].map(|trial| trial.input as f64);
            let input = input + more * (at_second - input) / (TRIALS[1] - TRIALS[0]) as f64;
            input.max(0.0) as usize
        };
        let own = |&batch: &usize| {
            let workspace = if self.on_gpu { 0 } else { loss.workspace_bytes(batch, of.bank, of.dim) };
            bytes(batch, 2 * of.dim).saturating_add(workspace)
        };
        // One batch's items are gone when another's come, unless each thread's arena keeps them.
        let one_arena = process::one_arena();
        let inputs = sizes.iter().map(input);
        let inputs =
            if one_arena { inputs.max().unwrap_or(0) } else { inputs.fold(0, usize::saturating_add) };
        let step = sizes.iter().map(own).fold(pooled(&self.trials, sizes), usize::saturating_add);
        let decoders = rayon::current_num_threads().min(sizes.iter().copied().max().unwrap_or(0));
        let step = step.saturating_add(inputs).saturating_add(self.decoding.saturating_mul(decoders));
        let encoder = of.gradients + of.waiting + of.optimizer + of.initial;
        let watched = telemetry::bytes(of.classes, of.dim, of.centres);
        // A GPU's centres are drawn here alone.
        let own =
            if self.on_gpu { 0 } else { of.centres.saturating_mul(2).saturating_add(of.centre_optimizer) };
        let centres = own.saturating_add(watched);
        let best = if of.best { of.state.saturating_add(of.centres) } else { 0 };
        let kept = of.bank_bytes().saturating_add(best);
        let between = self.between();
        let training = [encoder, centres, kept, step, between].into_iter().fold(0, usize::saturating_add);
        let taken = training.max(centres.saturating_add(self.raw));
        let threads = rayon::current_num_threads();
        // While a memory fills, the loss needs more for it in every step, and what it had stays too.
        let left = if threads > 1 { self.left.saturating_add(bytes(of.bank, of.dim)) } else { 0 };
        let (holes, thread) = if one_arena { (0.0, THREAD_WITHOUT_ARENA) } else { (HOLES, THREAD) };
        let lost = times(taken, holes)
            .saturating_add(threads * thread.min(IDLE_THREAD + taken / THREAD_SHARE))
            .saturating_add(left);
        Forecast {
            held: self.held,
            encoder,
            centres,
            step,
            between,
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
    /// that fits. `sizes` are those of an epoch's batches for such a batch; none is smaller than `least`.
    ///
    /// # Errors
    /// [`Error::Option`] naming what takes the most and what to write instead.
    pub(in crate::run) fn batch(
        &self,
        options: &RunOptions,
        least: usize,
        sizes: &dyn Fn(usize) -> Vec<usize>,
        loss: &dyn Loss,
        on: &OnDevice<'_>,
    ) -> Result<(usize, Forecast)> {
        let asked = options.batch_size;
        let first = if asked == 0 { LARGEST.max(least) } else { asked };
        let free = process::available();
        let search = Search { costs: self, options, least, sizes, loss, on, free };
        let wanted = self.at(&sizes(first), loss, on);
        if fits(&wanted, free) {
            return Ok((first, wanted));
        }
        if let (0, Some(found)) = (asked, search.smaller(self, first)) {
            return Ok(found);
        }
        Err(search.refusal(first, &wanted))
    }
}

/// Whether a run may take as much where so many bytes are free; `None` where the system does not say.
pub(in crate::run) fn fits(forecast: &Forecast, free: Option<usize>) -> bool {
    free.is_none_or(|free| forecast.peak.saturating_sub(forecast.held) <= (free as f64 * SHARE) as usize)
}

/// What a step of a few items took.
#[derive(Clone)]
pub(in crate::run) struct Trial {
    /// Lengths of the buffers in its pool, ascending.
    lengths: Vec<usize>,
    /// Bytes of the batch, which is gathered, put on the tape and kept there.
    input: usize,
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

/// Bytes that a thread takes beside a step to decode an image.
fn decoding(items: &Items) -> usize {
    match items {
        Items::Files(files) => files.decoded_again().unwrap_or(0),
        _ => 0,
    }
}

/// Steps that LBFGS comes to remember in epochs of `rows` items at most: a short run does not fill its history, which gains one an
/// iteration. `None` for other optimizers.
fn lbfgs_history(options: &RunOptions, rows: usize) -> Option<usize> {
    let own = &options.optimizer_options;
    let batches =
        rows.div_ceil(options.batch_size.max(1)).div_ceil(options.gradient_accumulation_steps.max(1));
    let iterations =
        batches.saturating_mul(options.epochs).saturating_mul(own.max_iter.unwrap_or(lbfgs::MAX_ITER));
    let history = own.history_size.unwrap_or(lbfgs::HISTORY_SIZE).min(iterations);
    (options.optimizer == OptimizerKind::Lbfgs).then_some(history)
}

/// Bytes of the model's optimizer's state for each byte of a parameter, in epochs of `rows` items at most.
fn encoder_slots(options: &RunOptions, rows: usize) -> Result<f64> {
    let own = &options.optimizer_options;
    if let Some(history) = lbfgs_history(options, rows) {
        // Two vectors for each step that it remembers, the direction, and the gradient and weights it comes from.
        return Ok(2.0 * history as f64 + 4.0);
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
pub(in crate::run) fn slots(optimizer: &mut dyn Optimizer) -> Result<f64> {
    const SIDE: usize = 64;
    let mut value = ArrayD::<f32>::ones(vec![SIDE, SIDE]).into_shared();
    let grad = Some(Grad::Dense(ArrayD::ones(vec![SIDE, SIDE])));
    let mut params = [Param { name: "trial", value: &mut value, grad }];
    optimizer.step(&mut params, None)?;
    let held: usize = optimizer.state().tensors.values().map(ArrayD::len).sum();
    Ok(held as f64 / (SIDE * SIDE) as f64)
}

/// Does `work` on one thread: how many unfold images at once, each into a buffer of its own, is chance on several, and a line
/// through two chances leads anywhere.
fn alone<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    match rayon::ThreadPoolBuilder::new().num_threads(1).build() {
        Ok(one) => one.install(work),
        Err(_) => work(),
    }
}

/// Bytes that embedding `items` items takes on one thread: a straight line in the items, as a step is.
fn embedding(encoder: &Encoder, data: &Dataset, items: usize) -> Result<usize> {
    let at = |size: usize| -> Result<f64> {
        let rows: Vec<usize> = (0..size).map(|row| row % data.items.len().max(1)).collect();
        let pool = Pool::new();
        let batch = Batch::gather(&data.items, &rows)?;
        drop(encoder.forward(&Tape::new(&pool), &batch, Mode::Eval)?);
        Ok((pool.free_bytes() + 2 * batch_bytes(&batch)) as f64)
    };
    let [few, more] = [at(TRIALS[0])?, at(TRIALS[1])?];
    let each = (more - few) / (TRIALS[1] - TRIALS[0]) as f64;
    Ok((few + each * (items as f64 - TRIALS[0] as f64)).max(0.0) as usize)
}

/// Bytes of a batch's items.
fn batch_bytes(batch: &Batch) -> usize {
    match batch {
        Batch::Images(x) => x.len() * F32,
        Batch::Vectors(x) => x.len() * F32,
        Batch::Sequences(x, _) => x.len() * F32,
        Batch::Text(texts) => texts.iter().map(String::len).sum(),
    }
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
    let input = batch_bytes(&batch);
    // The batch itself and its copy on the tape; of files more of them.
    let ahead = match data.items {
        Items::Files(_) | Items::VectorFile(_) => READ_AHEAD,
        _ => 0.0,
    };
    Ok(Trial { lengths: pool.free_lengths(), input: times(input, 2.0 + ahead) })
}

/// Bytes that measuring retrieval takes, with the encoder and with the raw vectors: those of the items, a copy of them laid
/// out to be searched and one of the queries, the ranks of what is relevant, and what the encoder needs for one block on
/// each thread. Third, what of these stays with the allocator.
fn measuring(encoder: &Encoder, split: &Split, held_out: usize) -> Result<[usize; 3]> {
    let searched = split.gallery.as_ref();
    let items = split.queries.items.len() + searched.map_or(0, |gallery| gallery.items.len());
    let mut counts = HashMap::new();
    searched.unwrap_or(&split.queries).labels.iter().for_each(|label| *counts.entry(label).or_insert(0) += 1);
    let relevant: usize = split.queries.labels.iter().filter_map(|label| counts.get(label)).sum();
    let ranks = relevant.saturating_mul(RANK).min(RANKS);
    // The queries, the gallery and what is held out are embedded one after another, whole blocks together and the rest of
    // each after them.
    let most = searched.map_or(0, |gallery| gallery.items.len()).max(split.queries.items.len()).max(held_out);
    let blocks = rayon::current_num_threads().min(most / EMBEDDED);
    let pass = alone(|| embedding(encoder, &split.queries, most.min(EMBEDDED)))?;
    let others = pass.saturating_mul(blocks.saturating_sub(1));
    // A block's memory grows layer by layer and is then given back, where no arena keeps it: several are seldom at their
    // most at once.
    let others = if process::one_arena() { times(others, OVERLAP) } else { others };
    let pass = pass.saturating_add(others);
    let vectors = |items: usize, dim: usize| bytes(items.saturating_mul(3), dim);
    // Held-out items are a copy of their own.
    let share = held_out as f64 / split.train.items.len().max(1) as f64;
    let validation = times(part_bytes(&split.train), share) + vectors(held_out, encoder.output_dim());
    let (tuned_dim, raw_dim) = (encoder.output_dim(), raw_dim(&split.queries.items));
    let tuned = vectors(items, tuned_dim) + ranks;
    let raw = vectors(items, raw_dim) + ranks;
    let left = [tuned_dim, raw_dim].into_iter().filter(|&dim| bytes(items, dim) < process::returned_from());
    // Smaller arrays stay in the arena of the thread that took them, where another thread's do not find room. Of the three
    // that are there at once two are taken again where they were.
    let left = left.map(|dim| bytes(items, dim)).max().unwrap_or(0);
    Ok([tuned.max(validation) + pass, raw, left])
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
