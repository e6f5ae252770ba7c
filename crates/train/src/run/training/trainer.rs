//! The training loop.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use embedtune_core::Pool;
use embedtune_losses::{CrossBatchMemory, Stats};
use embedtune_samplers::SamplerKind;
use ndarray::{CowArray, Ix2};

use super::conclude::{report, set_centres};
use super::feed;
use super::progress::{Progress, Step};
use super::step::Accumulated;
use crate::data::Split;
use crate::encoder::Encoder;
use crate::head::LossHead;
use crate::optim::Optimizer;
use crate::run::folder::{checkpoint, checksum, files, store};
use crate::run::memory::forecast::{Costs, Forecast};
use crate::run::options::{NUM_ITEMS_PER_CLASS, resolved};
use crate::run::setup::begin::{Begun, begin};
use crate::run::setup::{init, place, plan};
use crate::run::watch::alarms::alarms;
use crate::run::watch::inspect;
use crate::run::watch::steps::StepLog;
use crate::run::watch::telemetry::{MOST_VALUES, Telemetry};
use crate::run::{
    BatchReport, DataRecord, EpochRecord, Model, Observer, Report, Resolved, RunBuilder, RunFile, RunFolder,
    RunOptions, Schedule, Start, model,
};
use crate::{Error, Result, State};

/// What a run that names no source writes into its run file.
const UNNAMED_SOURCE: &str = "in memory";

/// Fewer steps of the optimizer than this hardly move an encoder.
const FEW_STEPS: usize = 20;

/// A run that has been checked and can start.
///
/// A step: the encoder's forward pass on a tape; the head, which computes the loss, its gradient for the
/// embeddings, and moves the class centres; the tape's backward pass from that gradient; the model's optimizer.
/// Batches of items in memory are gathered by the training thread (one copy of the batch, nothing beside a step); those
/// of files are read ahead by another.
pub struct Trainer<'a> {
    pub(in crate::run) split: &'a Split,
    pub(in crate::run) options: RunOptions,
    pub(in crate::run) encoder: Encoder,
    pub(in crate::run) head: Box<dyn LossHead>,
    pub(in crate::run) optimizer: Box<dyn Optimizer>,
    batches: plan::Batches,
    pub(in crate::run) rows: plan::Rows,
    pub(in crate::run) schedule: Schedule,
    /// The class centres' learning rate before scheduling.
    pub(in crate::run) centre_rate: Option<f64>,
    pub(in crate::run) pool: Pool,
    pub(in crate::run) progress: Progress,
    pub(in crate::run) records: Vec<EpochRecord>,
    pub(in crate::run) folder: Option<RunFolder>,
    overwrite: bool,
    resumed: bool,
    source: String,
    data_folder: Option<PathBuf>,
    data_list: Option<PathBuf>,
    stop: Option<Arc<AtomicBool>>,
    notices: Vec<String>,
    resolved: Resolved,
    measure_epochs: bool,
    /// The run's classes, in the order of the centres: those trained on, or those of an earlier run and new ones.
    pub(in crate::run) classes: Vec<String>,
    /// The place in `classes` of each of the data's classes; [`init::NOWHERE`] for those not trained on.
    pub(in crate::run) class_index: Vec<u32>,
    pub(in crate::run) memory: Option<CrossBatchMemory>,
    pub(in crate::run) telemetry: Telemetry,
    pub(in crate::run) accumulated: Accumulated,
    /// The encoder before training, for WiSE-FT.
    pub(in crate::run) initial: Option<State>,
    /// The model of the best epoch so far.
    pub(in crate::run) best: Option<State>,
    forecast: Forecast,
    pub(super) steps: Option<StepLog>,
    /// When the last checkpoint was written, or training began.
    pub(super) saved: Instant,
}

/// A finished run's model and what it reached.
#[derive(Debug)]
#[non_exhaustive]
pub struct Trained {
    /// The model.
    pub model: Model,
    /// The figures.
    pub report: Report,
}

impl<'a> Trainer<'a> {
    /// Collects options; [`RunBuilder::build`] checks them.
    pub fn builder() -> RunBuilder {
        RunBuilder::new()
    }

    pub(in crate::run) fn new(builder: RunBuilder, split: &'a Split) -> Result<Self> {
        let mut options = builder.options;
        let mut notices = options.check()?;
        plan::check_data(split, &mut notices)?;
        let train = &split.train;
        let Begun { mut encoder, given, classes, class_index, rows } =
            begin(&options, split, builder.known.as_ref())?;
        if let Some(state) = &builder.encoder_state {
            encoder.load(state)?;
        }
        let labels: Vec<u32> = rows.train.iter().map(|&row| train.labels[row]).collect();
        let loss = place::LossPlan::new(&options, classes.len(), encoder.output_dim(), &mut notices)?;
        let optimizer = plan::optimizer(&options, &encoder, &mut notices)?;
        let mut centre_optimizer = place::CentreOptimizer::new(&options, loss.loss.as_ref(), &mut notices)?;
        // Before the centres are drawn: what cannot fit is not begun.
        let saves = builder.folder.is_some();
        let slots = centre_optimizer.slots()?;
        let held_out = rows.held_out.len();
        let place = place::Place::new(&options, &loss, &centre_optimizer, &mut notices)?;
        let dim = encoder.output_dim();
        let on = |batch: usize| place.device_bytes(&options, dim, batch);
        let most = plan::most_rows(&labels, loss.loss.sampling(), &options);
        let what = (saves, held_out, on(1).is_some(), classes.len(), most);
        let costs = Costs::new(&options, &encoder, loss.loss.as_ref(), slots, split, what)?;
        let sizes = |size: usize| plan::batch_sizes(&options, size, loss.loss.sampling(), &labels);
        let least = plan::least_batch(&options, loss.loss.sampling());
        let (batch_size, forecast) = costs.batch(&options, least, &sizes, loss.loss.as_ref(), &on)?;
        if options.batch_size == 0 {
            options.batch_size = batch_size;
            options.check_ranges()?;
            notices.push(format!("batch_size = auto: {batch_size}"));
        }
        let batches = plan::batches(&options, loss.loss.sampling(), &labels, &mut notices)?;
        let in_epoch = batches.of(0).len();
        if options.gradient_accumulation_steps > in_epoch {
            notices.push(format!(
                "gradient_accumulation_steps = {}: an epoch has {in_epoch} batches, so each epoch is one step of {in_epoch}; \
                 write {in_epoch} or less",
                options.gradient_accumulation_steps
            ));
        }
        if batches.kind() == SamplerKind::Random && options.num_items_per_class != NUM_ITEMS_PER_CLASS {
            notices.push(format!(
                "num_items_per_class = {} is ignored: the random sampler draws from all classes alike; write sampler = \
                 \"class\"",
                options.num_items_per_class
            ));
        }
        // Steps are counted through all epochs, and the end of each is saved anyway.
        let saves = options.callbacks.save_steps;
        if saves > 0 && (saves.is_multiple_of(in_epoch) || saves >= in_epoch.saturating_mul(options.epochs)) {
            notices.push(format!(
                "callbacks.save_steps = {saves} saves nothing more: an epoch has {in_epoch} batches, and each is saved at its \
                 end; write another number"
            ));
        }
        let steps = in_epoch.div_ceil(options.gradient_accumulation_steps);
        let all = steps.saturating_mul(options.epochs);
        if all < FEW_STEPS {
            notices.push(format!(
                "epochs = {}: with {steps} steps each, {all} in all, there is little to learn from; write a smaller batch_size, \
                 or more epochs",
                options.epochs
            ));
        }
        let rate = options.learning_rate;
        let schedule =
            Schedule::new(options.scheduler, options.scheduler_options, rate, options.epochs, steps)?;
        let mut resolved = Resolved {
            encoder: resolved::encoder(options.encoder, &train.items),
            output_dim: dim,
            sampler: batches.kind(),
            loss_optimizer: centre_optimizer.kind(),
            loss_learning_rate: None,
            loss_options: loss.resolved(options.loss)?,
            miner_options: options.miner.map(|miner| options.miner_options.resolved(miner)),
        };
        let mut head = place.head(&options, loss, centre_optimizer, &mut notices)?;
        resolved.loss_learning_rate = head.learning_rate();
        if let (Some(model), Some(drawn)) = (&given, head.weights()?) {
            let (rows, drawn) = (&rows.train, drawn.into_owned());
            notices.push(init::told(model, drawn.dim(), classes.len()));
            let centres = init::centres(&options, model, &encoder, train, rows, &class_index, drawn.view())?;
            set_centres(head.as_mut(), centres.into_dyn())?;
        }
        let memory = match options.memory_size {
            0 => None,
            size => Some(CrossBatchMemory::new(size, encoder.output_dim())?),
        };
        Ok(Self {
            split,
            centre_rate: head.learning_rate(),
            head,
            optimizer,
            telemetry: Telemetry::new(classes.len(), encoder.output_dim()),
            memory,
            initial: options.callbacks.wise_ft_alpha.map(|_| encoder.state()),
            accumulated: Accumulated::default(),
            options,
            encoder,
            classes,
            class_index,
            batches,
            rows,
            schedule,
            pool: Pool::new(),
            progress: Progress::default(),
            records: Vec::new(),
            folder: builder.folder.map(RunFolder::new),
            overwrite: builder.overwrite,
            resumed: false,
            source: builder.source.unwrap_or_else(|| UNNAMED_SOURCE.to_owned()),
            data_folder: builder.data_folder,
            data_list: builder.data_list,
            stop: builder.stop,
            notices,
            resolved,
            measure_epochs: !builder.only_ends,
            best: None,
            forecast,
            steps: None,
            saved: Instant::now(),
        })
    }

    /// Puts this trainer where the run in its folder stands.
    pub(in crate::run) fn restore(&mut self) -> Result<()> {
        let Some(folder) = self.folder.clone() else { return Ok(()) };
        self.resumed = true;
        if !checkpoint::restore(self, &folder)? {
            // The second epoch's figures follow the first one's checkpoint: it was there, and training anew would replace
            // what came of it.
            let trained = folder.read_metrics().ok().and_then(|records| Some(records.last()?.epoch));
            if let Some(epochs) = trained.filter(|&epochs| epochs > 1) {
                let path = folder.checkpoint();
                let detail = format!(
                    "is missing, and the run has trained {epochs} epochs: copy it back, or one of the folder \
                     `checkpoints` to its place; to train anew give another folder, or `--overwrite` without `--resume`"
                );
                return Err(Error::data(&path, detail));
            }
            self.notices.push("no checkpoint yet: starting over".to_owned());
        }
        Ok(())
    }

    /// The encoder as it stands.
    pub fn encoder(&self) -> &Encoder {
        &self.encoder
    }

    /// The memory that training is expected to take.
    pub fn forecast(&self) -> Forecast {
        self.forecast
    }

    /// What the user should know although it stops nothing; observers are told when the run starts.
    pub fn notices(&self) -> &[String] {
        &self.notices
    }

    /// Trains to the last epoch.
    ///
    /// # Errors
    /// [`Error::NotFinite`] if training diverges; [`Error::Interrupted`] once the stop flag is set (the folder then
    /// holds a checkpoint in the middle of the epoch); I/O.
    pub fn fit(mut self, observer: &mut dyn Observer) -> Result<Trained> {
        self.run(observer).inspect_err(|error| observer.on_error(error))?;
        let report = report(&self.options, &self.records)?;
        observer.on_end(&report);
        let head = checkpoint::centres(self.head.state()?);
        Ok(Trained {
            model: Model { options: self.options, encoder: self.encoder, classes: self.classes, head },
            report,
        })
    }

    fn run(&mut self, observer: &mut dyn Observer) -> Result<()> {
        self.notices.iter().for_each(|notice| observer.on_notice(notice));
        let batches = self.batches.of(self.progress.epoch).len();
        observer.on_start(&Start {
            name: self.options.loss.name(),
            epochs: self.options.epochs,
            batches,
            done: self.progress.epoch,
            parameters: self.encoder.parameters(),
            monitor: self.options.callbacks.monitor,
        });
        if self.records.is_empty() {
            self.begin(observer)?;
        }
        self.open_steps(batches)?;
        self.saved = Instant::now();
        let callbacks = self.options.callbacks;
        let mut stopped = self.progress.closed || callbacks.stops(&self.records);
        while !stopped && self.progress.epoch < self.options.epochs {
            observer.on_epoch_begin(self.progress.epoch + 1);
            let record = self.epoch(observer)?;
            record.alarms.iter().for_each(|alarm| observer.on_alarm(alarm));
            observer.on_epoch(&record);
            self.records.push(record);
            stopped = callbacks.stops(&self.records) || observer.stop();
            let done = stopped || self.progress.epoch == self.options.epochs;
            if callbacks.best_model && callbacks.best(&self.records) == Some(self.progress.epoch) {
                let state = checkpoint::model_state(self)?;
                if let Some(folder) = &self.folder {
                    store::write(&folder.best(), store::Kind::Model, &state)?;
                }
                self.best = Some(state);
            }
            if done {
                self.finish(observer)?;
            } else {
                self.save(observer)?;
                // Asked for while retrieval was measured.
                if self.stopped() {
                    return Err(self.interrupted(self.progress.epoch));
                }
            }
        }
        if !self.finished() {
            // Interrupted between the last epoch and its choice of weights.
            self.finish(observer)?;
        }
        Ok(())
    }

    /// Whether the run has been asked to stop.
    fn stopped(&self) -> bool {
        self.stop.as_ref().is_some_and(|stop| stop.load(Ordering::Relaxed))
    }

    fn interrupted(&self, epoch: usize) -> Error {
        Error::Interrupted { epoch, folder: self.folder.as_ref().map(|folder| folder.path().to_path_buf()) }
    }

    /// Writes the run file and measures the state before training.
    fn begin(&mut self, observer: &mut dyn Observer) -> Result<()> {
        if let Some(folder) = &self.folder {
            if !self.resumed {
                folder.create(self.overwrite)?;
            }
            let data = DataRecord { source: self.source.clone(), checksum: checksum::checksum(self.split) };
            let classes = self.classes.clone();
            let (options, encoder) = (self.options.clone(), self.encoder.spec().clone());
            let mut file = RunFile::new(options, encoder, classes, data, self.measure_epochs);
            file.notices = self.notices.clone();
            file.resolved = Some(self.resolved.clone());
            // Before the run file, with which a run can be resumed: it has its list then, whenever it was killed.
            if let Some(data) = &self.data_folder {
                files::record(data, self.data_list.as_deref(), &folder.data_files(), self.split)?;
            }
            folder.write_run_file(&file)?;
        }
        let mut record = EpochRecord {
            raw: Some(model::raw_quality(self.split)?),
            gem_p: self.encoder.gem_p(),
            ..EpochRecord::default()
        };
        self.measure(&mut record, true, observer)?;
        observer.on_epoch(&record);
        self.records.push(record);
        if let Some(folder) = &self.folder {
            folder.write_metrics(&self.records)?;
        }
        if self.options.init_from.is_some() {
            // From here on the run does not need the other one.
            self.write_checkpoint()?;
        }
        Ok(())
    }

    /// The rest of the epoch under way.
    fn epoch(&mut self, observer: &mut dyn Observer) -> Result<EpochRecord> {
        let epoch = self.progress.epoch;
        let batches = self.batches.of(epoch);
        if self.progress.batch == 0 {
            let centres = watched_centres(self.head.as_ref())?;
            self.telemetry.begin(centres.as_ref().map(|centres| centres.view()));
        }
        let done = self.progress.batch;
        let rows: Vec<Vec<usize>> = batches
            .iter()
            .skip(done)
            .map(|positions| positions.iter().map(|&position| self.rows.train[position]).collect())
            .collect();
        let split = self.split;
        feed::with(&split.train.items, &rows, |feed| self.batches(&batches, epoch, feed, observer))?;
        let factor = self.schedule.factor(self.progress.updates.saturating_sub(1), epoch);
        let centres = watched_centres(self.head.as_ref())?;
        let watched = self.telemetry.watched(centres.as_ref().map(|centres| centres.view()));
        let mut record = self.progress.finish_epoch();
        let last = record.epoch == self.options.epochs;
        record.learning_rate = Some(self.options.learning_rate * factor);
        record.loss_learning_rate = self.centre_rate.map(|rate| rate * factor);
        record.gem_p = self.encoder.gem_p();
        record.grad_norm = watched.grad_norm;
        record.centre_turn_degrees = watched.centre_turn;
        record.centre_angle_degrees = watched.centre_angle;
        record.mean_cosine = watched.mean_cosine;
        let (classes, earlier) = (self.classes.len(), self.records.as_slice());
        record.alarms = alarms(&self.options, classes, batches.len(), earlier, &record, &watched);
        let due = self.measure_epochs && self.options.callbacks.measures(record.epoch);
        if due || last {
            // With items held out the evaluation items are for the end.
            self.measure(&mut record, self.rows.held_out.is_empty() || last, observer)?;
        }
        Ok(record)
    }

    /// Trains on the rest of `batches`, the epoch's.
    fn batches(
        &mut self,
        batches: &[Vec<usize>],
        epoch: usize,
        mut feed: feed::Feed<'_>,
        observer: &mut dyn Observer,
    ) -> Result<()> {
        let mut asked = false;
        for (index, positions) in batches.iter().enumerate().skip(self.progress.batch) {
            observer.on_batch_begin(epoch + 1, index + 1);
            let started = Instant::now();
            let end = index + 1 == batches.len();
            let batch = feed.next()?;
            let stats =
                self.step(&batch, positions, index, end).map_err(|error| self.inspected(positions, error))?;
            let seconds = started.elapsed().as_secs_f64();
            self.progress.add(Step { stats, items: positions.len(), seconds, waited: feed.waited() });
            let report = self.batch_report(index, batches.len(), positions.len(), &stats);
            observer.on_batch(&report);
            self.log_step(&report, &stats)?;
            asked |= observer.stop_batch();
            // In the middle of a step that accumulates there is nothing to continue from.
            if (end && epoch + 1 == self.options.epochs) || self.accumulated.batches > 0 {
                continue;
            }
            let stop = asked || self.stopped();
            if (stop || (!end && self.save_is_due()))
                && self.write_checkpoint()?.is_some()
                && let Some(folder) = &self.folder
            {
                observer.on_checkpoint(&folder.checkpoint());
            }
            if stop {
                return Err(self.interrupted(epoch + 1));
            }
        }
        Ok(())
    }

    /// A divergence with its batch saved.
    fn inspected(&self, positions: &[usize], error: Error) -> Error {
        let rows: Vec<usize> = positions.iter().map(|&position| self.rows.train[position]).collect();
        match &self.folder {
            Some(folder) => inspect::save(folder, &self.split.train, &rows, error),
            None => error,
        }
    }

    fn batch_report(&self, index: usize, batches: usize, items: usize, stats: &Stats) -> BatchReport {
        let epoch = self.progress.epoch;
        let factor = self.schedule.factor(self.progress.updates.saturating_sub(1), epoch);
        let (pace, items_per_second) = self.progress.pace();
        let left = (self.options.epochs - epoch - 1) * batches + batches - index - 1;
        BatchReport {
            epoch: epoch + 1,
            batch: index + 1,
            batches,
            items,
            loss: stats.value,
            active_fraction: stats.active_fraction,
            grad_norm: self.telemetry.last_gradient(),
            learning_rate: self.options.learning_rate * factor,
            loss_learning_rate: self.centre_rate.map(|rate| rate * factor),
            items_per_second,
            seconds_left: pace * left as f64,
        }
    }

    pub(in crate::run) fn finished(&self) -> bool {
        self.progress.closed
    }
}

/// The centres, where they are few enough to be watched: a device would copy them.
fn watched_centres(head: &dyn LossHead) -> Result<Option<CowArray<'_, f32, Ix2>>> {
    match head.loss().weight_shape() {
        Some([rows, dim]) if rows.saturating_mul(dim) <= MOST_VALUES => head.weights(),
        _ => Ok(None),
    }
}
