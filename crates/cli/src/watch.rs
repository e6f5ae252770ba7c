//! Progress of training on standard error.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use embedtune_train::run::{Alarm, BatchReport, EpochRecord, Measured, Monitor, Observer, Report, Start};

use crate::line::{Line, PATIENCE, Progress, Shows, duration};
use crate::{Stop, say};

/// What is done before the first batch.
const MEASURING: &str = "measuring the start";

/// Shows one run after another.
pub(crate) struct Watch {
    quiet: bool,
    shows: Shows,
    name: String,
    epochs: usize,
    batches: usize,
    /// Batches done, and how many of them by an earlier run.
    done: usize,
    earlier: usize,
    items: usize,
    /// For the first batch.
    waiting: bool,
    started: Instant,
    spoken: Instant,
    line: Line,
    training: Arc<AtomicBool>,
    measuring: Arc<AtomicBool>,
    monitor: Monitor,
}

impl Watch {
    pub(crate) fn new(quiet: bool, progress: Progress, stop: &Stop) -> Self {
        let now = Instant::now();
        Self {
            quiet,
            shows: Shows::new(quiet, progress),
            name: String::new(),
            epochs: 0,
            batches: 0,
            done: 0,
            earlier: 0,
            items: 0,
            waiting: true,
            started: now,
            spoken: now,
            line: Line::hidden(),
            training: stop.training.clone(),
            measuring: stop.measuring.clone(),
            monitor: Monitor::default(),
        }
    }

    /// The time left and items a second, by the batches of this run so far, each with a comma after it; empty where
    /// there is none to go by.
    fn pace(&self) -> [String; 2] {
        let seconds = self.started.elapsed().as_secs_f64();
        let (here, left) = (self.done - self.earlier, (self.epochs * self.batches).saturating_sub(self.done));
        if here == 0 || seconds <= 0.0 {
            return Default::default();
        }
        let seconds_left = duration(seconds / here as f64 * left as f64);
        [format!("{seconds_left} left, "), format!("{:.0} items/s, ", self.items as f64 / seconds)]
    }
}

impl Observer for Watch {
    fn on_start(&mut self, start: &Start<'_>) {
        (self.name, self.epochs, self.batches) = (start.name.to_owned(), start.epochs, start.batches);
        self.monitor = start.monitor;
        self.earlier = start.done.saturating_mul(start.batches);
        (self.done, self.items, self.waiting) = (self.earlier, 0, true);
        self.started = Instant::now();
        self.spoken = self.started;
        if self.shows.bars {
            let length = start.epochs.saturating_mul(start.batches) as u64;
            let words = [MEASURING.to_owned(), MEASURING.to_owned()];
            self.line = Line::begin(&self.name, length, self.earlier as u64, &words);
        }
    }

    fn on_notice(&mut self, notice: &str) {
        if !self.quiet {
            say(&format!("note: {notice}"));
        }
    }

    fn on_batch(&mut self, batch: &BatchReport) {
        self.training.store(true, Ordering::Relaxed);
        // A run that continues in the middle of an epoch has done the batches before.
        self.done = (batch.epoch - 1).saturating_mul(self.batches) + batch.batch;
        if self.waiting {
            // What comes before the first batch is measuring, not training: the pace is that of the batches after it.
            (self.waiting, self.started, self.earlier) = (false, Instant::now(), self.done);
        } else {
            self.items += batch.items;
        }
        if self.shows.bars {
            self.line.set_position(self.done as u64);
            let [left, rate] = self.pace();
            let (loss, whole) = (batch.loss, (self.epochs * self.batches).max(1));
            let long = format!("epoch {}/{}, {left}{rate}loss {loss:.4}", batch.epoch, self.epochs);
            self.line.show(&[
                long.clone(),
                long,
                format!("{left}loss {loss:.4}"),
                left.trim_end_matches(", ").to_owned(),
                format!("{}%, {left}{rate}loss {loss:.4}", 100 * self.done / whole),
            ]);
        } else if self.shows.lines && batch.batch < batch.batches && self.spoken.elapsed() >= PATIENCE {
            self.spoken = Instant::now();
            let [left, rate] = self.pace();
            say(&format!(
                "{}: epoch {}/{}, batch {}/{}, {left}{rate}loss {:.4}, {:.0}% active, gradient {:.3}, rate {:.1e}",
                self.name,
                batch.epoch,
                self.epochs,
                batch.batch,
                batch.batches,
                batch.loss,
                batch.active_fraction * 100.0,
                batch.grad_norm,
                batch.learning_rate
            ));
        }
    }

    fn on_evaluation_begin(&mut self, epoch: usize) {
        self.measuring.store(true, Ordering::Relaxed);
        // Before training the line says so from its beginning.
        if self.shows.bars && epoch > 0 {
            let long = format!("epoch {epoch}/{}, measuring", self.epochs);
            let short = "measuring".to_owned();
            self.line.show(&[long.clone(), long.clone(), short.clone(), short, long]);
        }
    }

    fn on_evaluation(&mut self, _: &Measured<'_>) {
        self.measuring.store(false, Ordering::Relaxed);
    }

    fn on_epoch(&mut self, epoch: &EpochRecord) {
        // That of the state before training comes just before the first batch.
        self.training.store(true, Ordering::Relaxed);
        let Some(loss) = epoch.loss else { return };
        let (done, all, rate) = (epoch.epoch, self.epochs, epoch.items_per_second);
        self.spoken = Instant::now();
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
        if epoch.waiting_seconds >= 0.05 {
            line += &format!(", {:.1} of {:.1} s waiting for data", epoch.waiting_seconds, epoch.seconds);
        }
        if done < all {
            let [left, _] = self.pace();
            line += format!(", {left}").trim_end_matches([',', ' ']);
        }
        if let Some(quality) = epoch.metrics {
            line += &format!(", Recall@1 {:.4}", quality.recall_at_1);
        }
        if let Some(quality) = epoch.validation {
            line += &format!(", Recall@1 held out {:.4}", quality.recall_at_1);
        }
        if self.monitor != Monitor::RECALL_AT_1
            && let Some(figure) = epoch.figures.get(&self.monitor.to_string())
        {
            line += &format!(", {} {figure:.4}", self.monitor);
        }
        if done == all {
            self.line.clear();
        }
        if self.shows.lines {
            say(&line);
        }
    }

    fn on_alarm(&mut self, alarm: &Alarm) {
        if !self.quiet {
            say(&format!("alarm: {alarm}"));
        }
    }

    fn on_end(&mut self, _: &Report) {
        self.line.clear();
        // The model is saved; what comes now can be made again.
        self.training.store(false, Ordering::Relaxed);
    }
}
