//! Where a run stands: what a checkpoint must hold besides weights and optimizers.

use crate::State;
use crate::run::EpochRecord;

/// Position in the run and the running sums of the epoch under way. Batches are a pure function of the seed and
/// the epoch, so a position is enough to continue in the middle of an epoch.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(in crate::run) struct Progress {
    /// Complete epochs.
    pub(in crate::run) epoch: usize,
    /// Batches done of the epoch under way.
    pub(in crate::run) batch: usize,
    /// Batches done in all.
    pub(in crate::run) step: u64,
    /// Steps of the optimizer in all.
    pub(in crate::run) updates: u64,
    /// Whether the run is closed: nothing is left to train, and the final weights are chosen.
    pub(in crate::run) closed: bool,
    items: u64,
    zero_signal: u64,
    loss: f64,
    active: f64,
    accuracy: f64,
    with_accuracy: u64,
    seconds: f64,
    waited: f64,
}

/// One batch's share of the sums.
#[derive(Debug, Clone, Copy)]
pub(in crate::run) struct Step {
    pub(in crate::run) stats: embedtune_losses::Stats,
    pub(in crate::run) items: usize,
    pub(in crate::run) seconds: f64,
    /// Of these, waiting for data.
    pub(in crate::run) waited: f64,
}

impl Progress {
    /// Counts a batch.
    pub(in crate::run) fn add(&mut self, step: Step) {
        self.batch += 1;
        self.step += 1;
        self.items += step.items as u64;
        self.zero_signal += u64::from(step.stats.zero_signal);
        self.loss += step.stats.value;
        self.active += step.stats.active_fraction;
        if let Some(accuracy) = step.stats.accuracy {
            self.accuracy += accuracy;
            self.with_accuracy += 1;
        }
        self.seconds += step.seconds;
        self.waited += step.waited;
    }

    /// Seconds trained in the epoch so far.
    pub(in crate::run) fn trained(&self) -> f64 {
        self.seconds
    }

    /// Seconds a batch and items a second, over the epoch so far.
    pub(in crate::run) fn pace(&self) -> (f64, f64) {
        let rate = if self.seconds > 0.0 { self.items as f64 / self.seconds } else { 0.0 };
        (self.seconds / self.batch.max(1) as f64, rate)
    }

    /// Closes the epoch: its record, still without rates and metrics.
    pub(in crate::run) fn finish_epoch(&mut self) -> EpochRecord {
        let batches = self.batch.max(1) as f64;
        let record = EpochRecord {
            epoch: self.epoch + 1,
            loss: Some(self.loss / batches),
            active_fraction: Some(self.active / batches),
            accuracy: (self.with_accuracy > 0).then(|| self.accuracy / self.with_accuracy as f64),
            zero_signal_batches: self.zero_signal,
            seconds: self.seconds,
            waiting_seconds: self.waited,
            items_per_second: if self.seconds > 0.0 { self.items as f64 / self.seconds } else { 0.0 },
            ..EpochRecord::default()
        };
        *self = Self { epoch: self.epoch + 1, step: self.step, updates: self.updates, ..Self::default() };
        record
    }

    /// As counters; sums as the bits of their `f64`, so that a resumed epoch ends in the same digits.
    pub(in crate::run) fn state(&self) -> State {
        let counters = [
            ("epoch", self.epoch as u64),
            ("batch", self.batch as u64),
            ("step", self.step),
            ("updates", self.updates),
            ("closed", u64::from(self.closed)),
            ("items", self.items),
            ("zero_signal", self.zero_signal),
            ("loss", self.loss.to_bits()),
            ("active", self.active.to_bits()),
            ("accuracy", self.accuracy.to_bits()),
            ("with_accuracy", self.with_accuracy),
            ("seconds", self.seconds.to_bits()),
            ("waited", self.waited.to_bits()),
        ];
        State {
            counters: counters.into_iter().map(|(name, count)| (name.to_owned(), count)).collect(),
            ..State::default()
        }
    }

    /// From [`state`](Self::state); `None` if a counter is missing.
    pub(in crate::run) fn from_state(state: &State) -> Option<Self> {
        let count = |name: &str| state.counters.get(name).copied();
        Some(Self {
            epoch: usize::try_from(count("epoch")?).ok()?,
            batch: usize::try_from(count("batch")?).ok()?,
            step: count("step")?,
            updates: count("updates")?,
            closed: count("closed")? != 0,
            items: count("items")?,
            zero_signal: count("zero_signal")?,
            loss: f64::from_bits(count("loss")?),
            active: f64::from_bits(count("active")?),
            accuracy: f64::from_bits(count("accuracy")?),
            with_accuracy: count("with_accuracy")?,
            seconds: f64::from_bits(count("seconds")?),
            waited: f64::from_bits(count("waited")?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(value: f64, accuracy: Option<f64>) -> Step {
        let mut stats = embedtune_losses::Stats::default();
        (stats.value, stats.active_fraction, stats.accuracy) = (value, 0.5, accuracy);
        stats.zero_signal = value == 0.0;
        Step { stats, items: 8, seconds: 0.25, waited: 0.125 }
    }

    #[test]
    fn an_epoch_averages_its_batches_and_starts_afresh() {
        let mut progress = Progress::default();
        for (value, accuracy) in [(1.0, Some(0.5)), (0.0, None), (3.5, Some(1.0))] {
            progress.add(step(value, accuracy));
        }
        let kept = Progress::from_state(&progress.state()).unwrap();
        assert_eq!(kept, progress);
        let record = progress.finish_epoch();
        assert_eq!((record.epoch, record.loss, record.accuracy), (1, Some(1.5), Some(0.75)));
        assert_eq!(
            (record.zero_signal_batches, record.seconds, record.waiting_seconds, record.items_per_second),
            (1, 0.75, 0.375, 32.0)
        );
        assert_eq!(progress, Progress { epoch: 1, step: 3, ..Progress::default() });
    }

    #[test]
    fn a_missing_counter_is_noticed() {
        let mut state = Progress::default().state();
        state.counters.remove("step");
        assert_eq!(Progress::from_state(&state), None);
    }
}
