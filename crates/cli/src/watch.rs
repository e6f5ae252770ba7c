//! Progress on standard error.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use embedtune_train::run::{BatchReport, EpochRecord, Observer, Start};
use indicatif::{ProgressBar, ProgressStyle};

use crate::Stop;

/// A bar for each run on a terminal; one line an epoch elsewhere (indicatif hides the bar there).
pub(crate) struct Watch {
    quiet: bool,
    name: String,
    epochs: usize,
    bar: ProgressBar,
    training: Arc<AtomicBool>,
}

impl Watch {
    pub(crate) fn new(quiet: bool, stop: &Stop) -> Self {
        let training = stop.training.clone();
        Self { quiet, name: String::new(), epochs: 0, bar: ProgressBar::hidden(), training }
    }

    fn say(&self, line: &str) {
        if !self.quiet {
            self.bar.suspend(|| crate::say(line));
        }
    }
}

impl Observer for Watch {
    fn on_start(&mut self, start: &Start<'_>) {
        (self.name, self.epochs) = (start.name.to_owned(), start.epochs);
        if self.quiet {
            return;
        }
        self.bar = ProgressBar::new(start.epochs.saturating_mul(start.batches) as u64);
        let style =
            ProgressStyle::with_template("{prefix} [{bar:30}] {pos}/{len} batches, {eta} left, {msg}");
        if let Ok(style) = style {
            self.bar.set_style(style.progress_chars("=> "));
        }
        self.bar.set_prefix(self.name.clone());
        self.bar.set_position(start.done.saturating_mul(start.batches) as u64);
    }

    fn on_notice(&mut self, notice: &str) {
        self.say(&format!("note: {notice}"));
    }

    fn on_batch(&mut self, batch: &BatchReport) {
        self.training.store(true, Ordering::Relaxed);
        self.bar.inc(1);
        self.bar.set_message(format!("loss {:.4}", batch.loss));
    }

    fn on_epoch(&mut self, epoch: &EpochRecord) {
        // That of the state before training comes just before the first batch.
        self.training.store(true, Ordering::Relaxed);
        let Some(loss) = epoch.loss else { return };
        let recall = epoch.metrics.map_or(String::new(), |m| format!(", Recall@1 {:.4}", m.recall_at_1));
        let (done, all, rate) = (epoch.epoch, self.epochs, epoch.items_per_second);
        self.say(&format!("{}: epoch {done}/{all}, loss {loss:.4}, {rate:.0} items/s{recall}", self.name));
        if done == all {
            self.bar.finish_and_clear();
        }
    }
}
