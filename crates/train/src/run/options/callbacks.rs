//! What a run does beside training: when it measures, what it keeps, when it stops.
//!
//! Every decision is a function of the options and the records so far, so that a resumed run decides as one that was never
//! interrupted. One's own callbacks implement [`crate::run::Observer`].

use embedtune_retrieval::Measure;
use serde::{Deserialize, Serialize};

use crate::run::{EpochRecord, Monitor};
use crate::{Error, Result};

/// `callbacks`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CallbackOptions {
    /// What the best model and early stopping look at: any figure of [`Monitor`]. Default `recall_at_1`.
    pub monitor: Monitor,
    /// Measure retrieval after every so many epochs (and after the last). Default 1.
    pub evaluate_every: usize,
    /// Stop once `monitor` has not improved for so many measured epochs. Default: never. (Finetuner's default is 2.)
    #[serde(skip_serializing_if = "Option::is_none")]
    pub patience: Option<usize>,
    /// By how much it must improve to count, at least 0. Default 0.
    pub min_delta: f64,
    /// What it must be better than to count as improved at all. Default: nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub baseline: Option<f64>,
    /// End with the weights of the best epoch instead of the last. Default false.
    pub best_model: bool,
    /// Checkpoints of how many epochs are kept, in `checkpoints/`. Default 1: the last alone, in
    /// `checkpoint.safetensors`.
    pub last_k_epochs: usize,
    /// Write a checkpoint after every so many batches too. Default 0: at the end of an epoch and as `save_minutes` says.
    pub save_steps: usize,
    /// Write a checkpoint in the middle of an epoch too, once the last one is so many minutes old; what is trained does not
    /// depend on it. Default 10; 0: never.
    pub save_minutes: f64,
    /// After every so many batches, a line of `steps.jsonl` (and events, with `tensorboard`): the batch's loss, the learning
    /// rates, the gradient's norm and more. Default 50; 0: none.
    pub log_steps: usize,
    /// WiSE-FT (Wortsman et al. 2022): end with `(1 - alpha)` of the weights before training and `alpha` of those after;
    /// in [0, 1]. Default: none. (Finetuner's default is 0.4.)
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wise_ft_alpha: Option<f64>,
    /// Write TensorBoard event files into `tensorboard/`. Default false.
    pub tensorboard: bool,
}

impl Default for CallbackOptions {
    fn default() -> Self {
        Self {
            monitor: Monitor::RECALL_AT_1,
            evaluate_every: 1,
            patience: None,
            min_delta: 0.0,
            baseline: None,
            best_model: false,
            last_k_epochs: 1,
            save_steps: 0,
            save_minutes: 10.0,
            log_steps: 50,
            wise_ft_alpha: None,
            tensorboard: false,
        }
    }
}

impl CallbackOptions {
    /// Checks the ranges.
    ///
    /// # Errors
    /// [`Error::Option`] with the field.
    pub(in crate::run) fn check(&self) -> Result<()> {
        let refuse = |field: &str, value: String, remedy: &str| {
            Err(Error::option(format!("callbacks.{field}"), value, remedy))
        };
        if self.evaluate_every == 0 {
            return refuse("evaluate_every", "0".into(), "write 1 for every epoch, or more");
        }
        if self.patience == Some(0) {
            return refuse("patience", "0".into(), "write at least 1, or leave it out to train all epochs");
        }
        if !(self.min_delta >= 0.0 && self.min_delta.is_finite()) {
            return refuse("min_delta", self.min_delta.to_string(), "write a number of at least 0");
        }
        if let Some(baseline) = self.baseline.filter(|baseline| !baseline.is_finite()) {
            return refuse("baseline", baseline.to_string(), "write a number");
        }
        if self.patience.is_none() && (self.min_delta != 0.0 || self.baseline.is_some()) {
            let (field, value) = match self.baseline {
                Some(baseline) => ("baseline", baseline),
                None => ("min_delta", self.min_delta),
            };
            return refuse(field, value.to_string(), "only early stopping looks at it; write patience too");
        }
        if !(1..=1000).contains(&self.last_k_epochs) {
            return refuse(
                "last_k_epochs",
                self.last_k_epochs.to_string(),
                "write 1 to 1000 checkpoints to keep",
            );
        }
        if !(self.save_minutes >= 0.0 && self.save_minutes.is_finite()) {
            return refuse(
                "save_minutes",
                self.save_minutes.to_string(),
                "write the minutes between checkpoints, e.g. 10, or 0 for none within an epoch",
            );
        }
        if let Some(alpha) = self.wise_ft_alpha.filter(|alpha| !(0.0..=1.0).contains(alpha)) {
            return refuse("wise_ft_alpha", alpha.to_string(), "write a share from 0 to 1, e.g. 0.4");
        }
        Ok(())
    }

    /// What to say of a patience that cannot end a run of so many epochs before its last.
    pub(in crate::run) fn idle_patience(&self, epochs: usize) -> Option<String> {
        let patience = self.patience?;
        // Every epoch has a loss. The first figure is an improvement unless there is a baseline.
        let (every, what) = match self.monitor {
            Monitor::Loss => (1, "epochs"),
            _ => (self.evaluate_every.max(1), "measured epochs"),
        };
        let before_last = epochs.saturating_sub(1) / every;
        let needed = patience.saturating_add(usize::from(self.baseline.is_none()));
        (needed > before_last).then(|| {
            format!(
                "callbacks.patience = {patience} cannot end this run early: stopping takes {needed} {what}, and before \
                 its last the run has {before_last}; write a smaller patience or more epochs"
            )
        })
    }

    /// What to say where the best model is one of one.
    pub(in crate::run) fn no_choice(&self, epochs: usize) -> Option<String> {
        let every = self.evaluate_every.max(1);
        let idle = self.best_model && self.monitor != Monitor::Loss && epochs > 1 && every >= epochs;
        idle.then(|| {
            format!(
                "callbacks.best_model chooses nothing: with evaluate_every = {every} the last of {epochs} epochs alone is \
                 measured; write a smaller evaluate_every"
            )
        })
    }

    /// What to say of a figure whose name means another one elsewhere.
    pub(in crate::run) fn namesake(&self) -> Option<String> {
        let Monitor::Measure(Measure::Hit(k)) = self.monitor else { return None };
        (k > 1).then(|| {
            format!(
                "callbacks.monitor = {}: the share of queries that find an item of their class among the first {k}, as papers \
                 on metric learning count; the share of a class that is found, which Finetuner and search engines call \
                 recall, is ir_recall_at_{k}",
                self.monitor
            )
        })
    }

    /// Whether retrieval is measured after `epoch`.
    pub(in crate::run) fn measures(&self, epoch: usize) -> bool {
        epoch.is_multiple_of(self.evaluate_every)
    }

    /// The monitored figure, turned so that higher is better.
    pub(in crate::run) fn figure(&self, record: &EpochRecord) -> Option<f64> {
        let figure = match self.monitor {
            Monitor::Loss => record.loss,
            monitor => record.figures.get(&monitor.to_string()).copied().or_else(|| {
                // Runs that began before there were figures.
                let quality = record.validation.or(record.metrics)?;
                match monitor {
                    Monitor::RECALL_AT_1 => Some(quality.recall_at_1),
                    Monitor::Measure(Measure::MapAtR) => Some(quality.map_at_r),
                    _ => None,
                }
            }),
        };
        figure.map(|figure| if self.monitor.lower_is_better() { -figure } else { figure })
    }

    /// The epoch whose figure is best, the first of equals; none before an epoch has one.
    pub(in crate::run) fn best(&self, records: &[EpochRecord]) -> Option<usize> {
        let trained = records.iter().filter(|record| record.epoch > 0);
        let figures = trained.filter_map(|record| Some((record.epoch, self.figure(record)?)));
        figures.reduce(|best, next| if next.1 > best.1 { next } else { best }).map(|best| best.0)
    }

    /// Whether training has stopped improving.
    pub(in crate::run) fn stops(&self, records: &[EpochRecord]) -> bool {
        let Some(patience) = self.patience else { return false };
        let start = self.baseline.map_or(f64::NEG_INFINITY, |baseline| {
            if self.monitor.lower_is_better() { -baseline } else { baseline }
        });
        let (mut best, mut waited) = (start, 0);
        for record in records.iter().filter(|record| record.epoch > 0) {
            let Some(figure) = self.figure(record) else { continue };
            // A figure that is not a number is no improvement.
            if figure > best + self.min_delta {
                (best, waited) = (figure, 0);
            } else {
                waited += 1;
            }
        }
        waited >= patience
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::Quality;

    fn records(recalls: &[f64]) -> Vec<EpochRecord> {
        let record = |(epoch, &recall_at_1): (usize, &f64)| EpochRecord {
            epoch,
            loss: (epoch > 0).then_some(1.0 - recall_at_1),
            metrics: Some(Quality { recall_at_1, ..Quality::default() }),
            ..EpochRecord::default()
        };
        recalls.iter().enumerate().map(record).collect()
    }

    #[test]
    fn a_patience_that_cannot_act_is_said() {
        let with = |patience, evaluate_every, baseline, monitor| CallbackOptions {
            patience: Some(patience),
            evaluate_every,
            baseline,
            monitor,
            ..CallbackOptions::default()
        };
        let recall = Monitor::RECALL_AT_1;
        for (options, epochs, idle) in [
            (with(2, 1, None, recall), 5, false),
            (with(3, 1, None, recall), 5, false),
            (with(4, 1, None, recall), 5, true),
            (with(4, 1, Some(0.5), recall), 5, false),
            (with(2, 3, None, recall), 9, true),
            (with(2, 3, None, recall), 10, false),
            (with(2, 3, None, Monitor::Loss), 4, false),
            (CallbackOptions::default(), 1, false),
        ] {
            assert_eq!(options.idle_patience(epochs).is_some(), idle, "{options:?}, {epochs} epochs");
            // As the run itself would decide if nothing ever improved.
            let measured = (1..epochs).filter(|&e| options.monitor == Monitor::Loss || options.measures(e));
            let figures: Vec<EpochRecord> = measured
                .map(|epoch| EpochRecord {
                    epoch,
                    loss: Some(1.0),
                    metrics: Some(Quality { recall_at_1: 0.1, ..Quality::default() }),
                    ..EpochRecord::default()
                })
                .collect();
            if options.patience.is_some() {
                assert_eq!(options.stops(&figures), !idle, "{options:?}, {epochs} epochs");
            }
        }
    }

    #[test]
    fn stops_when_nothing_improves_and_knows_the_best() {
        let with = |change: fn(&mut CallbackOptions)| {
            let mut options = CallbackOptions { patience: Some(2), ..CallbackOptions::default() };
            change(&mut options);
            options
        };
        // Epoch 0, before training, counts for neither.
        for (options, recalls, stops, best) in [
            (with(|_| ()), &[0.9, 0.5, 0.6, 0.6, 0.6][..], true, Some(2)),
            (with(|_| ()), &[0.9, 0.5, 0.6, 0.6][..], false, Some(2)),
            (with(|o| o.monitor = Monitor::Loss), &[0.9, 0.5, 0.6, 0.6, 0.5][..], true, Some(2)),
            (with(|o| o.min_delta = 0.2), &[0.0, 0.5, 0.6, 0.65][..], true, Some(3)),
            (with(|o| o.baseline = Some(0.8)), &[0.0, 0.5, 0.6][..], true, Some(2)),
            (with(|o| o.patience = None), &[0.0, 0.5, 0.5, 0.5, 0.5][..], false, Some(1)),
            (with(|_| ()), &[0.9][..], false, None),
            (with(|_| ()), &[0.0, f64::NAN, f64::NAN][..], true, Some(1)),
        ] {
            assert_eq!(options.stops(&records(recalls)), stops, "{recalls:?}");
            assert_eq!(options.best(&records(recalls)), best, "{recalls:?}");
        }
    }

    #[test]
    fn wrong_values_are_named() {
        type Change = fn(&mut CallbackOptions);
        let cases: [(Change, &str); 7] = [
            (|o| o.evaluate_every = 0, "callbacks.evaluate_every = 0: write 1"),
            (|o| o.patience = Some(0), "callbacks.patience = 0: write at least 1"),
            (|o| o.min_delta = f64::NAN, "callbacks.min_delta = NaN: write a number"),
            (|o| o.min_delta = 0.1, "callbacks.min_delta = 0.1: only early stopping looks at it"),
            (|o| o.baseline = Some(0.1), "callbacks.baseline = 0.1: only early stopping looks at it"),
            (|o| o.last_k_epochs = 0, "callbacks.last_k_epochs = 0: write 1"),
            (|o| o.wise_ft_alpha = Some(1.5), "callbacks.wise_ft_alpha = 1.5: write a share"),
        ];
        for (change, expected) in cases {
            let mut options = CallbackOptions::default();
            change(&mut options);
            let message = options.check().unwrap_err().to_string();
            assert!(message.starts_with(expected), "{message}");
        }
    }
}
