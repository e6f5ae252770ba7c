//! Progress on standard error.

use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::ValueEnum;
use embedtune_train::run::{Alarm, BatchReport, EpochRecord, Monitor, Observer, Report, Start};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::Stop;
use crate::columns::{cell, width};

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum Progress {
    /// A bar on a terminal, lines elsewhere.
    #[default]
    Auto,
    /// A line after every epoch, and at least every half minute.
    Plain,
    /// A bar, and a line after every epoch. Lines alone where no terminal can show a bar.
    Bar,
    /// Nothing but notes.
    None,
}

/// Between two lines of one epoch.
const PATIENCE: Duration = Duration::from_secs(30);
/// The shortest bar that shows anything.
const BAR: usize = 8;
/// What is done before the first batch.
const MEASURING: &str = "measuring the start";
/// The window's columns where they cannot be known.
const WINDOW: usize = 80;

/// What the window has room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// The loss's name, a bar and figures.
    Named,
    /// A bar and figures.
    Bar,
    Text,
}

/// Shows one run after another.
pub(crate) struct Watch {
    quiet: bool,
    bars: bool,
    lines: bool,
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
    bar: ProgressBar,
    form: Option<Form>,
    training: Arc<AtomicBool>,
    seconds_left: f64,
    monitor: Monitor,
}

impl Watch {
    pub(crate) fn new(quiet: bool, progress: Progress, stop: &Stop) -> Self {
        let terminal =
            std::io::stderr().is_terminal() && std::env::var_os("TERM").is_none_or(|t| t != "dumb");
        let wanted = matches!(progress, Progress::Auto | Progress::Bar);
        let now = Instant::now();
        Self {
            quiet,
            bars: wanted && terminal && !quiet,
            lines: progress != Progress::None && !quiet,
            name: String::new(),
            epochs: 0,
            batches: 0,
            done: 0,
            earlier: 0,
            items: 0,
            waiting: true,
            started: now,
            spoken: now,
            bar: ProgressBar::hidden(),
            form: None,
            training: stop.training.clone(),
            seconds_left: 0.0,
            monitor: Monitor::default(),
        }
    }

    fn say(&self, line: &str) {
        self.bar.suspend(|| crate::say(line));
    }

    /// Shows a bar with the first of the messages that leaves room for one, or where the window is too narrow for all
    /// of them the last, cut to the window. The loss's name stands before the first alone.
    fn show(&mut self, messages: &[String]) {
        let columns = match usize::from(console::Term::stderr().size().1) {
            0 => WINDOW,
            columns => columns,
        };
        let name = width(&self.name) + 1;
        let fits = |(at, message): (usize, &String)| {
            let before = if at == 0 { name } else { 0 };
            before + BAR + " 100%  ".len() + width(message) <= columns
        };
        let chosen = messages.iter().enumerate().position(fits);
        let form = chosen.map_or(Form::Text, |at| if at == 0 { Form::Named } else { Form::Bar });
        if self.form != Some(form) {
            self.form = Some(form);
            let template = match form {
                Form::Named => "{prefix} {wide_bar} {percent:>3}%  {msg}",
                Form::Bar => "{wide_bar} {percent:>3}%  {msg}",
                Form::Text => "{msg}",
            };
            if let Ok(style) = ProgressStyle::with_template(template) {
                self.bar.set_style(style.progress_chars("━╸─"));
            }
        }
        let message = chosen.map_or(messages.last(), |at| messages.get(at));
        let message = message.map_or("", String::as_str);
        self.bar.set_message(if form == Form::Text { cell(message, columns) } else { message.to_owned() });
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
        if self.bars {
            let length = start.epochs.saturating_mul(start.batches) as u64;
            // Shown once it looks as it should.
            self.bar = ProgressBar::with_draw_target(Some(length), ProgressDrawTarget::hidden());
            self.form = None;
            self.bar.set_prefix(self.name.clone());
            self.bar.set_position(self.earlier as u64);
            self.show(&[MEASURING.to_owned()]);
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
        }
    }

    fn on_notice(&mut self, notice: &str) {
        if !self.quiet {
            self.say(&format!("note: {notice}"));
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
        if self.bars {
            self.bar.set_position(self.done as u64);
            let [left, rate] = self.pace();
            let (loss, whole) = (batch.loss, (self.epochs * self.batches).max(1));
            let long = format!("epoch {}/{}, {left}{rate}loss {loss:.4}", batch.epoch, self.epochs);
            self.show(&[
                long.clone(),
                long,
                format!("{left}loss {loss:.4}"),
                left.trim_end_matches(", ").to_owned(),
                format!("{}%, {left}{rate}loss {loss:.4}", 100 * self.done / whole),
            ]);
        } else if self.lines && batch.batch < batch.batches && self.spoken.elapsed() >= PATIENCE {
            self.spoken = Instant::now();
            let [left, rate] = self.pace();
            self.say(&format!(
                "{}: epoch {}/{}, batch {}/{}, {left}{rate}loss {:.4}",
                self.name, batch.epoch, self.epochs, batch.batch, batch.batches, batch.loss
            ));
        }
        self.seconds_left = batch.seconds_left;
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
            line += &format!(", {:.0} s left", self.seconds_left);
        }
        if let Some(quality) = epoch.metrics {
            line += &format!(", Recall@1 {:.4}", quality.recall_at_1);
        }
        if let Some(quality) = epoch.validation {
            line += &format!(", held out {:.4}", quality.recall_at_1);
        }
        if self.monitor != Monitor::RECALL_AT_1
            && let Some(figure) = epoch.figures.get(&self.monitor.to_string())
        {
            line += &format!(", {} {figure:.4}", self.monitor);
        }
        if done == all {
            self.bar.finish_and_clear();
        }
        if self.lines {
            self.say(&line);
        }
    }

    fn on_alarm(&mut self, alarm: &Alarm) {
        if !self.quiet {
            self.say(&format!("alarm: {alarm}"));
        }
    }

    fn on_end(&mut self, _: &Report) {
        self.bar.finish_and_clear();
        // The model is saved; what comes now can be made again.
        self.training.store(false, Ordering::Relaxed);
    }
}

/// Seconds in the two largest units that matter.
fn duration(seconds: f64) -> String {
    let seconds = seconds.round() as u64;
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {:02} s", seconds / 60, seconds % 60),
        _ => format!("{} h {:02} min", seconds / 3600, seconds / 60 % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_well() {
        for (seconds, words) in [(0.4, "0 s"), (59.4, "59 s"), (61.0, "1 min 01 s"), (7260.0, "2 h 01 min")] {
            assert_eq!(duration(seconds), words);
        }
    }
}
