//! What a run tells whoever watches it.

use serde::{Deserialize, Serialize};

use super::Quality;

/// Receives a run's progress: a progress bar, a log, a test. Every method does nothing by default.
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
    /// After every batch.
    fn on_batch(&mut self, batch: &BatchReport) {
        let _ = batch;
    }
    /// After every epoch (0: before training) with the line of `metrics.jsonl`.
    fn on_epoch(&mut self, epoch: &EpochRecord) {
        let _ = epoch;
    }
    /// After the last epoch.
    fn on_end(&mut self, report: &Report) {
        let _ = report;
    }
}

/// Watches nothing.
impl Observer for () {}

/// A run that is about to start.
#[derive(Debug, Clone, Copy)]
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
}

/// One batch.
#[derive(Debug, Clone, Copy, PartialEq)]
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
    /// Items trained on per second.
    pub items_per_second: f64,
    /// The model's learning rate at the epoch's last step.
    pub learning_rate: Option<f64>,
    /// The class centres' learning rate at the epoch's last step.
    pub loss_learning_rate: Option<f64>,
    /// GeM's power (the mean over channels), for encoders pooled by GeM.
    pub gem_p: Option<f64>,
    /// Retrieval by the tuned vectors on the evaluation items, where it was measured after this epoch.
    pub metrics: Option<Quality>,
    /// Retrieval among the items held out by `val_split`, each without itself.
    pub validation: Option<Quality>,
    /// Retrieval by the raw vectors on the same items as `metrics`; in epoch 0 only.
    pub raw: Option<Quality>,
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
    /// The encoder before training.
    pub untrained: Quality,
    /// The tuned encoder.
    pub tuned: Quality,
    /// The epoch after which the measured Recall@1 was best, from 1 (0: none was measured).
    pub best_epoch: usize,
    /// GeM's power at the end.
    pub gem_p: Option<f64>,
}
