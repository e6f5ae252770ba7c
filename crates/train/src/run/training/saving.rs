//! What a run writes while it trains.

use std::path::Path;
use std::time::{Duration, Instant, UNIX_EPOCH};

use embedtune_losses::Stats;

use super::trainer::Trainer;
use crate::run::folder::{checkpoint, store};
use crate::run::watch::steps::{StepLog, StepRecord};
use crate::run::watch::tensorboard;
use crate::run::{BatchReport, Observer, RunFolder};
use crate::{Error, Result, io};

impl Trainer<'_> {
    /// Opens the files of the curves within epochs, where the run is long enough for a line.
    pub(super) fn open_steps(&mut self, in_epoch: usize) -> Result<()> {
        let callbacks = self.options.callbacks;
        let every = callbacks.log_steps;
        if let Some(folder) = &self.folder
            && (1..=in_epoch.saturating_mul(self.options.epochs)).contains(&every)
        {
            let (start, done) = (began(folder), self.progress.step);
            self.steps = Some(StepLog::open(folder, callbacks.tensorboard, start, done)?);
        }
        Ok(())
    }

    /// Adds a line for the batch that was just trained on, where one is due.
    pub(super) fn log_step(&mut self, batch: &BatchReport, stats: &Stats) -> Result<()> {
        let step = self.progress.step;
        let Some(log) =
            self.steps.as_mut().filter(|_| step.is_multiple_of(self.options.callbacks.log_steps as u64))
        else {
            return Ok(());
        };
        let before: f64 = self.records.iter().map(|record| record.seconds).sum();
        log.add(&StepRecord {
            step,
            epoch: batch.epoch,
            batch: batch.batch,
            loss: batch.loss,
            active_fraction: batch.active_fraction,
            accuracy: stats.accuracy,
            grad_norm: batch.grad_norm,
            learning_rate: batch.learning_rate,
            loss_learning_rate: batch.loss_learning_rate,
            items_per_second: batch.items_per_second,
            seconds: before + self.progress.trained(),
        })
    }

    /// Whether a checkpoint within an epoch is due.
    pub(super) fn save_is_due(&self) -> bool {
        let callbacks = &self.options.callbacks;
        let (steps, minutes) = (callbacks.save_steps as u64, callbacks.save_minutes);
        let after = Duration::try_from_secs_f64(minutes * 60.0).unwrap_or(Duration::MAX);
        (steps > 0 && self.progress.step.is_multiple_of(steps))
            || (minutes > 0.0 && self.saved.elapsed() >= after)
    }

    /// Writes the checkpoint, and returns its bytes; nothing for a run without a folder.
    pub(super) fn write_checkpoint(&mut self) -> Result<Option<Vec<u8>>> {
        let Some(folder) = &self.folder else { return Ok(None) };
        if let Some(steps) = &self.steps {
            steps.sync()?;
        }
        let bytes = checkpoint::write_checkpoint(self, folder)?;
        self.saved = Instant::now();
        Ok(Some(bytes))
    }

    /// Writes all that belongs to the end of an epoch.
    pub(in crate::run) fn save(&mut self, observer: &mut dyn Observer) -> Result<()> {
        let Some(folder) = self.folder.clone() else { return Ok(()) };
        let callbacks = self.options.callbacks;
        folder.write_metrics(&self.records)?;
        if callbacks.tensorboard {
            let path = folder.events();
            make_folder(&path)?;
            tensorboard::write(&path, began(&folder), &self.records)?;
        }
        store::write(&folder.model(), store::Kind::Model, &checkpoint::model_state(self)?)?;
        let bytes = self.write_checkpoint()?.unwrap_or_default();
        if callbacks.last_k_epochs > 1 {
            let path = folder.epoch_checkpoint(self.progress.epoch);
            make_folder(&path)?;
            io::write_atomically(&path, &bytes)?;
            if let Some(old) = self.progress.epoch.checked_sub(callbacks.last_k_epochs) {
                io::remove(&folder.epoch_checkpoint(old))?;
            }
        }
        observer.on_checkpoint(&folder.checkpoint());
        Ok(())
    }
}

fn make_folder(file: &Path) -> Result<()> {
    match file.parent() {
        Some(folder) => std::fs::create_dir_all(folder).map_err(Error::io(folder, "creating")),
        None => Ok(()),
    }
}

/// When the run began, in seconds since 1970: when its run file was written.
fn began(folder: &RunFolder) -> f64 {
    let written = std::fs::metadata(folder.run_file()).and_then(|m| m.modified()).ok();
    let since = written.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    since.map_or(0.0, |since| since.as_secs_f64())
}
