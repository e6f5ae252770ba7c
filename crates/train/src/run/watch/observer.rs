//! What a run tells whoever watches it.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::Error;
use crate::run::{Alarm, Monitor, Quality};

/// A callback: receives a run's progress (a progress bar, a log, a test) and may end it. Every method does nothing by
/// default.
///
/// ```
/// use embedtune_train::run::{EpochRecord, Observer};
///
/// /// Stops once the loss is low enough.
/// struct Enough(bool);
///
/// impl Observer for Enough {
///     fn on_epoch(&mut self, epoch: &EpochRecord) {
///         self.0 = epoch.loss.is_some_and(|loss| loss < 0.01);
///     }
///     fn stop(&mut self) -> bool {
///         self.0
///     }
/// }
/// ```
pub trait Observer {
    /// Before the first batch.
    fn on_start(&mut self, start: &Start<'_>) {
        let _ = start;
    }
    /// Something that the user should know and that stops nothing: an option that has no effect here, a batch
    /// that was arranged differently from what was asked.
    fn on_notice(&mut self, notice: &str) {
        let _ = notice;
    }
    /// Before the first batch of an epoch (from 1), or the first after resuming.
    fn on_epoch_begin(&mut self, epoch: usize) {
        let _ = epoch;
    }
    /// Before every batch: the epoch and the batch, from 1.
    fn on_batch_begin(&mut self, epoch: usize, batch: usize) {
        let _ = (epoch, batch);
    }
    /// After every batch.
    fn on_batch(&mut self, batch: &BatchReport) {
        let _ = batch;
    }
    /// Before retrieval is measured after an epoch (0: before training).
    fn on_evaluation_begin(&mut self, epoch: usize) {
        let _ = epoch;
    }
    /// After retrieval has been measured, before [`on_epoch`](Self::on_epoch). Once more for the last epoch where the weights
    /// that the run ends with are not those that it had then.
    fn on_evaluation(&mut self, measured: &Measured<'_>) {
        let _ = measured;
    }
    /// After every epoch (0: before training) with the line of `metrics.jsonl`.
    fn on_epoch(&mut self, epoch: &EpochRecord) {
        let _ = epoch;
    }
    /// For every alarm of an epoch, before [`on_epoch`](Self::on_epoch).
    fn on_alarm(&mut self, alarm: &Alarm) {
        let _ = alarm;
    }
    /// After a checkpoint has been written.
    fn on_checkpoint(&mut self, path: &Path) {
        let _ = path;
    }
    /// When the run ends early: an error, or Ctrl-C ([`Error::Interrupted`]).
    fn on_error(&mut self, error: &Error) {
        let _ = error;
    }
    /// Asked after every batch: whether training is interrupted here, as by Ctrl-C. The run then saves a checkpoint, from which
    /// it can be continued to the same bits, and ends in [`Error::Interrupted`]. (With `gradient_accumulation_steps` it stops
    /// after the step under way; after the last batch of all there is nothing to interrupt.)
    fn stop_batch(&mut self) -> bool {
        false
    }
    /// Asked after every epoch: whether training ends here. The run is then finished, not interrupted.
    fn stop(&mut self) -> bool {
        false
    }
    /// After the last epoch.
    fn on_end(&mut self, report: &Report) {
        let _ = report;
    }
}

/// Watches nothing.
impl Observer for () {}

/// What a measurement found.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Measured<'a> {
    /// The epoch after which it was made, from 1; 0: before training.
    pub epoch: usize,
    /// All figures by name ([`Monitor`]): of the items held out by `val_split` where there are any, else of the evaluation
    /// items.
    pub figures: &'a BTreeMap<String, f64>,
    /// Retrieval among the items held out.
    pub held_out: Option<Quality>,
    /// Retrieval on the evaluation items; `None` where these are for the end.
    pub evaluation: Option<Quality>,
    /// How long it took, in seconds.
    pub seconds: f64,
}

/// A run that is about to start.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Start<'a> {
    /// What runs, e.g. `ArcFaceLoss`.
    pub name: &'a str,
    /// Epochs in all.
    pub epochs: usize,
    /// Batches in each epoch.
    pub batches: usize,
    /// Complete epochs that an earlier, resumed run has done.
    pub done: usize,
    /// Parameters of the encoder.
    pub parameters: usize,
    /// What the best model and early stopping look at.
    pub monitor: Monitor,
}

/// One batch.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct BatchReport {
    /// The epoch, from 1.
    pub epoch: usize,
    /// The batch, from 1.
    pub batch: usize,
    /// Batches in the epoch.
    pub batches: usize,
    /// Items in the batch.
    pub items: usize,
    /// Its loss.
    pub loss: f64,
    /// Share of its triplets or rows that carried a gradient.
    pub active_fraction: f64,
    /// L2 norm of the encoder's gradient in the last step, before clipping.
    pub grad_norm: f64,
    /// The model's learning rate.
    pub learning_rate: f64,
    /// The class centres' learning rate, for losses with centres.
    pub loss_learning_rate: Option<f64>,
    /// Items trained on per second, over the epoch so far.
    pub items_per_second: f64,
    /// Seconds of training that are left, at the pace of the epoch so far.
    pub seconds_left: f64,
}

/// One line of `metrics.jsonl`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EpochRecord {
    /// The epoch, from 1; 0 is the state before training.
    pub epoch: usize,
    /// Mean loss over the epoch's batches.
    pub loss: Option<f64>,
    /// Mean share of triplets or rows that carried a gradient.
    pub active_fraction: Option<f64>,
    /// Mean share of rows whose own class centre was the nearest; losses with centres only.
    pub accuracy: Option<f64>,
    /// Batches that moved nothing.
    pub zero_signal_batches: u64,
    /// Seconds of training (without evaluation).
    pub seconds: f64,
    /// Of these, seconds that training waited for data to be read.
    #[serde(default)]
    pub waiting_seconds: f64,
    /// Items trained on per second.
    pub items_per_second: f64,
    /// The model's learning rate at the epoch's last step.
    pub learning_rate: Option<f64>,
    /// The class centres' learning rate at the epoch's last step.
    pub loss_learning_rate: Option<f64>,
    /// Mean L2 norm of the encoder's gradient over the epoch's steps, before clipping.
    #[serde(default)]
    pub grad_norm: Option<f64>,
    /// By how much the class centres turned during the epoch, the mean in degrees.
    #[serde(default)]
    pub centre_turn_degrees: Option<f64>,
    /// Mean angle between a class's mean embedding over the epoch and the nearest of its centres, in degrees.
    #[serde(default)]
    pub centre_angle_degrees: Option<f64>,
    /// Mean cosine of two training embeddings, whatever their classes: near 1 when they collapse.
    #[serde(default)]
    pub mean_cosine: Option<f64>,
    /// What is wrong although the run goes on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub alarms: Vec<Alarm>,
    /// GeM's power (the mean over channels), for encoders pooled by GeM.
    pub gem_p: Option<f64>,
    /// Retrieval by the tuned vectors on the evaluation items, where it was measured after this epoch.
    pub metrics: Option<Quality>,
    /// Retrieval among the items held out by `val_split`, each without itself.
    pub validation: Option<Quality>,
    /// All figures of that measurement by name ([`Monitor`]): of the held-out items where there are any, else of the
    /// evaluation items. At 1, 5 and 10 neighbours, and at the number that is monitored.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub figures: BTreeMap<String, f64>,
    /// Retrieval by the raw vectors on the same items as `metrics`; in epoch 0 only.
    pub raw: Option<Quality>,
    /// The model that the run has kept, in the last epoch's record, where that is not the one this epoch left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept: Option<Kept>,
}

/// A model that `best_model` or `wise_ft_alpha` chose at the end of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kept {
    /// Retrieval on the evaluation items.
    pub metrics: Quality,
    /// Retrieval among the items held out by `val_split`, each without itself.
    pub validation: Option<Quality>,
    /// All figures by name, as an epoch's.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub figures: BTreeMap<String, f64>,
    /// GeM's power (the mean over channels), for encoders pooled by GeM.
    pub gem_p: Option<f64>,
}

impl EpochRecord {
    /// Retrieval on the evaluation items by the model that the run had after this epoch: the one that was kept, at the end.
    pub fn model_metrics(&self) -> Option<Quality> {
        self.kept.as_ref().map(|kept| kept.metrics).or(self.metrics)
    }
}

/// A finished run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// The loss, by name.
    pub loss: String,
    /// Epochs trained.
    pub epochs: usize,
    /// Seconds of training over all epochs.
    pub seconds: f64,
    /// The raw vectors (pixels, the given vectors, hashed words) on the evaluation items.
    pub raw: Quality,
    /// The encoder before training: fresh weights, or the model of `init_from`.
    pub untrained: Quality,
    /// The run that `untrained` is the model of, if it is one's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init_from: Option<String>,
    /// The tuned encoder.
    pub tuned: Quality,
    /// The epoch after which the measured Recall@1 was best, from 1 (0: none was measured).
    pub best_epoch: usize,
    /// GeM's power at the end.
    pub gem_p: Option<f64>,
}
