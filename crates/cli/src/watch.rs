//! Progress on standard error.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use embedtune_train::run::{Alarm, BatchReport, EpochRecord, Observer, Report, Start};
use indicatif::{ProgressBar, ProgressStyle};

use crate::Stop;

/// A bar for each run on a terminal; one line an epoch elsewhere (indicatif hides the bar there).
pub(crate) struct Watch {
    quiet: bool,
    name: String,
    epochs: usize,
    bar: ProgressBar,
    training: Arc<AtomicBool>,
    seconds_left: f64,
}

impl Watch {
    pub(crate) fn new(quiet: bool, stop: &Stop) -> Self {
        let training = stop.training.clone();
        Self {
            quiet,
            name: String::new(),
            epochs: 0,
            bar: ProgressBar::hidden(),
            training,
            seconds_left: 0.0,
        }
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
        let BatchReport { loss, items_per_second, active_fraction, grad_norm, learning_rate, .. } = batch;
        self.bar.set_message(format!(
            "loss {loss:.4}, {items_per_second:.0} items/s, {:.0}% active, gradient {grad_norm:.3}, rate {learning_rate:.1e}",
            active_fraction * 100.0
        ));
        self.seconds_left = batch.seconds_left;
    }

    fn on_epoch(&mut self, epoch: &EpochRecord) {
        // That of the state before training comes just before the first batch.
        self.training.store(true, Ordering::Relaxed);
        let Some(loss) = epoch.loss else { return };
        let recall = epoch.metrics.map_or(String::new(), |m| format!(", Recall@1 {:.4}", m.recall_at_1));
        let (done, all, rate) = (epoch.epoch, self.epochs, epoch.items_per_second);
        let mut line = format!("{}: epoch {done}/{all}, loss {loss:.4}, {rate:.0} items/s", self.name);
        if let Some(active) = epoch.active_fraction {
            line += &format!(", {:.0}% active", active * 100.0);
        }
        if let Some(norm) = epoch.grad_norm {
            line += &format!(", gradient {norm:.3}");
        }
        match (epoch.learning_rate, epoch.loss_learning_rate) {
            (Some(rate), Some(centres)) => line += &format!(", rates {rate:.1e} and {centres:.1e}"),
            (Some(rate), None) => line += &format!(", rate {rate:.1e}"),
            _ => {}
        }
        if let (Some(turn), Some(angle)) = (epoch.centre_turn_degrees, epoch.centre_angle_degrees) {
            line += &format!(", centres turned {turn:.1} and are {angle:.1} degrees off");
        }
        if done < all {
            line += &format!(", {:.0} s left", self.seconds_left);
        }
        self.say(&(line + &recall));
        if done == all {
            self.bar.finish_and_clear();
        }
    }

    fn on_alarm(&mut self, alarm: &Alarm) {
        self.say(&format!("alarm: {alarm}"));
    }

    fn on_end(&mut self, _: &Report) {
        self.bar.finish_and_clear();
    }
}
