//! The training loop.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use embedtune_core::Pool;

use super::progress::{Progress, Step};
use super::{
    BatchReport, DataRecord, EpochRecord, Model, Observer, Report, RunBuilder, RunFile, RunFolder,
    RunOptions, Schedule, Start, checkpoint, checksum, model, plan, store,
};
use crate::data::Split;
use crate::encoder::Encoder;
use crate::head::{HostHead, LossHead};
use crate::optim::Optimizer;
use crate::{Error, Result};

/// What a run that names no source writes into its run file.
const UNNAMED_SOURCE: &str = "in memory";

/// A run that has been checked and can start.
///
/// A step: the encoder's forward pass on a tape; the head, which computes the loss, its gradient for the
/// embeddings, and moves the class centres; the tape's backward pass from that gradient; the model's optimizer.
/// Batches are gathered by the training thread: of items in memory that is one copy of the batch, nothing beside a step.
pub struct Trainer<'a> {
    pub(super) split: &'a Split,
    pub(super) options: RunOptions,
    pub(super) encoder: Encoder,
    pub(super) head: HostHead,
    pub(super) optimizer: Box<dyn Optimizer>,
    batches: plan::Batches,
    pub(super) rows: plan::Rows,
    pub(super) schedule: Schedule,
    /// The class centres' learning rate before scheduling.
    pub(super) centre_rate: Option<f64>,
    pub(super) pool: Pool,
    pub(super) progress: Progress,
    pub(super) records: Vec<EpochRecord>,
    folder: Option<RunFolder>,
    overwrite: bool,
    resumed: bool,
    source: String,
    stop: Option<Arc<AtomicBool>>,
    notices: Vec<String>,
    measure_epochs: bool,
}

/// A finished run's model and what it reached.
#[derive(Debug)]
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

    pub(super) fn new(builder: RunBuilder, split: &'a Split) -> Result<Self> {
        let options = builder.options;
        let mut notices = options.check()?;
        plan::check_data(split)?;
        let train = &split.train;
        let mut encoder = plan::encoder(&options, plan::encoder_spec(&options, &train.items)?)?;
        let rows = plan::split_rows(&train.labels, train.classes.len(), options.val_split, options.seed);
        encoder.prepare(&train.items, &rows.train)?;
        if let Some(state) = &builder.encoder_state {
            encoder.load(state)?;
        }
        let labels: Vec<u32> = rows.train.iter().map(|&row| train.labels[row]).collect();
        let loss = plan::loss(&options, train.classes.len(), encoder.output_dim(), &mut notices)?;
        let batches = plan::batches(&options, loss.sampling(), &labels, &mut notices)?;
        let count = batches.of(0).len();
        let schedule = Schedule::new(options.scheduler, options.scheduler_options, options.epochs, count)?;
        let head = plan::head(&options, loss)?;
        Ok(Self {
            split,
            centre_rate: head.learning_rate(),
            head,
            optimizer: plan::optimizer(&options)?,
            options,
            encoder,
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
            stop: builder.stop,
            notices,
            measure_epochs: !builder.only_ends,
        })
    }

    /// Puts this trainer where the run in its folder stands.
    pub(super) fn restore(&mut self) -> Result<()> {
        let Some(folder) = self.folder.clone() else { return Ok(()) };
        self.resumed = true;
        if !checkpoint::restore(self, &folder)? {
            self.notices.push("no checkpoint yet: starting over".to_owned());
        }
        Ok(())
    }

    /// The encoder as it stands.
    pub fn encoder(&self) -> &Encoder {
        &self.encoder
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
        self.notices.iter().for_each(|notice| observer.on_notice(notice));
        let batches = self.batches.of(self.progress.epoch).len();
        observer.on_start(&Start {
            name: self.options.loss.name(),
            epochs: self.options.epochs,
            batches,
            done: self.progress.epoch,
            parameters: self.encoder.parameters(),
        });
        if self.records.is_empty() {
            self.begin(observer)?;
        }
        while self.progress.epoch < self.options.epochs {
            let record = self.epoch(observer)?;
            observer.on_epoch(&record);
            self.records.push(record);
            self.save()?;
        }
        let report = report(&self.options, &self.records)?;
        observer.on_end(&report);
        let head = checkpoint::centres(self.head.state());
        let (options, encoder) = (self.options, self.encoder);
        let classes = self.split.train.classes.clone();
        Ok(Trained { model: Model { options, encoder, classes, head }, report })
    }

    /// Writes the run file and measures the state before training.
    fn begin(&mut self, observer: &mut dyn Observer) -> Result<()> {
        if let Some(folder) = &self.folder {
            if !self.resumed {
                folder.create(self.overwrite)?;
            }
            let data = DataRecord { source: self.source.clone(), checksum: checksum(self.split) };
            let classes = self.split.train.classes.clone();
            folder.write_run_file(&RunFile::new(
                self.options.clone(),
                self.encoder.spec().clone(),
                classes,
                data,
                self.measure_epochs,
            ))?;
        }
        let record = EpochRecord {
            metrics: Some(model::quality(&self.encoder, self.split)?),
            raw: Some(model::raw_quality(self.split)?),
            validation: self.validation()?,
            gem_p: self.encoder.gem_p(),
            ..EpochRecord::default()
        };
        observer.on_epoch(&record);
        self.records.push(record);
        match &self.folder {
            Some(folder) => folder.write_metrics(&self.records),
            None => Ok(()),
        }
    }

    /// The rest of the epoch under way.
    fn epoch(&mut self, observer: &mut dyn Observer) -> Result<EpochRecord> {
        let epoch = self.progress.epoch;
        let batches = self.batches.of(epoch);
        for (index, positions) in batches.iter().enumerate().skip(self.progress.batch) {
            let started = Instant::now();
            let stats = self.step(positions, index)?;
            let seconds = started.elapsed().as_secs_f64();
            self.progress.add(Step { stats, items: positions.len(), seconds });
            observer.on_batch(&BatchReport {
                epoch: epoch + 1,
                batch: index + 1,
                batches: batches.len(),
                items: positions.len(),
                loss: stats.value,
                active_fraction: stats.active_fraction,
            });
            let last = epoch + 1 == self.options.epochs && index + 1 == batches.len();
            if !last && self.stop.as_ref().is_some_and(|stop| stop.load(Ordering::Relaxed)) {
                if let Some(folder) = &self.folder {
                    checkpoint::write_checkpoint(self, folder)?;
                }
                let folder = self.folder.as_ref().map(|folder| folder.path().to_path_buf());
                return Err(Error::Interrupted { epoch: epoch + 1, folder });
            }
        }
        let factor = self.schedule.factor(self.progress.step.saturating_sub(1), epoch);
        let mut record = self.progress.finish_epoch();
        let last = record.epoch == self.options.epochs;
        record.learning_rate = Some(self.options.learning_rate * factor);
        record.loss_learning_rate = self.centre_rate.map(|rate| rate * factor);
        record.gem_p = self.encoder.gem_p();
        record.validation = if self.measure_epochs || last { self.validation()? } else { None };
        // With items held out for it, choosing by the evaluation items would be choosing by the answer.
        let peek = self.measure_epochs && self.rows.held_out.is_empty();
        record.metrics = if peek || last { Some(model::quality(&self.encoder, self.split)?) } else { None };
        Ok(record)
    }

    fn validation(&self) -> Result<Option<super::Quality>> {
        if self.rows.held_out.is_empty() {
            return Ok(None);
        }
        let data = self.split.train.select(&self.rows.held_out);
        model::quality_of_rows(&self.encoder, &data).map(Some)
    }

    fn save(&self) -> Result<()> {
        let Some(folder) = &self.folder else { return Ok(()) };
        folder.write_metrics(&self.records)?;
        store::write(&folder.model(), store::Kind::Model, &checkpoint::model_state(self))?;
        checkpoint::write_checkpoint(self, folder)
    }

    pub(super) fn finished(&self) -> bool {
        self.progress.epoch >= self.options.epochs
    }
}

/// The report of a finished run from its records.
pub(super) fn report(options: &RunOptions, records: &[EpochRecord]) -> Result<Report> {
    let missing = || {
        Error::Unsuitable("metrics.jsonl lacks the measurements of the first or the last epoch".to_owned())
    };
    let (first, last) = records.first().zip(records.last()).ok_or_else(missing)?;
    let watched = |r: &EpochRecord| r.validation.or(r.metrics).map(|quality| quality.recall_at_1);
    let best = records
        .iter()
        .skip(1)
        .filter_map(|r| Some((r.epoch, watched(r)?)))
        .fold(None, |best: Option<(usize, f64)>, next| best.filter(|best| best.1 >= next.1).or(Some(next)));
    Ok(Report {
        loss: options.loss.name().to_owned(),
        epochs: last.epoch,
        seconds: records.iter().map(|r| r.seconds).sum(),
        raw: first.raw.ok_or_else(missing)?,
        untrained: first.metrics.ok_or_else(missing)?,
        tuned: last.metrics.ok_or_else(missing)?,
        best_epoch: best.map_or(0, |best| best.0),
        gem_p: last.gem_p,
    })
}
