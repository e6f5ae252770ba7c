//! One line of progress on standard error, drawn in place: what the window has room for.

use std::io::IsTerminal;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::columns::{cell, width};

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum Progress {
    /// A bar on a terminal; lines elsewhere, and where the variable CI is set: its log keeps every frame.
    #[default]
    Auto,
    /// Lines: after every epoch, and at least every half minute.
    Plain,
    /// A bar, and a line after every epoch. Lines alone where no terminal can show a bar.
    Bar,
    /// Nothing but notes.
    None,
}

/// What is shown of progress, where standard error leads.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shows {
    /// The line that is drawn in place.
    pub(crate) bars: bool,
    /// Lines that stay.
    pub(crate) lines: bool,
}

impl Shows {
    pub(crate) fn new(quiet: bool, progress: Progress) -> Self {
        let terminal =
            std::io::stderr().is_terminal() && std::env::var_os("TERM").is_none_or(|t| t != "dumb");
        let wanted = match progress {
            Progress::Auto => !logged(std::env::var("CI").ok().as_deref()),
            Progress::Bar => true,
            Progress::Plain | Progress::None => false,
        };
        Self { bars: wanted && terminal && !quiet, lines: progress != Progress::None && !quiet }
    }
}

/// Whether the variable CI, which build services set, says that what is written becomes a log, terminal or not.
fn logged(ci: Option<&str>) -> bool {
    ci.is_some_and(|value| !["", "0", "false"].contains(&value))
}

/// Between two lines that stay.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// The shortest bar that shows anything.
const BAR: usize = 8;
/// The window's columns where they cannot be known.
const WINDOW: usize = 80;

/// What the window has room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// A name, a bar and figures.
    Named,
    /// A bar and figures.
    Bar,
    Text,
}

/// The line that is drawn now: what is written beside it must go around it.
static SHOWN: Mutex<Option<ProgressBar>> = Mutex::new(None);

/// Calls `write` with no line in the way.
pub(crate) fn aside(write: impl FnOnce()) {
    let shown = SHOWN.lock().unwrap_or_else(PoisonError::into_inner).clone();
    match shown {
        Some(bar) => bar.suspend(write),
        None => write(),
    }
}

/// The line.
pub(crate) struct Line {
    name: String,
    bar: ProgressBar,
    form: Option<Form>,
}

impl Line {
    /// None yet.
    pub(crate) fn hidden() -> Self {
        Self { name: String::new(), bar: ProgressBar::hidden(), form: None }
    }

    /// Begins one for work of `length` parts, of which `position` are done.
    pub(crate) fn begin(name: &str, length: u64, position: u64, messages: &[String]) -> Self {
        // Shown once it looks as it should.
        let bar = ProgressBar::with_draw_target(Some(length), ProgressDrawTarget::hidden());
        bar.set_prefix(name.to_owned());
        bar.set_position(position);
        let mut line = Self { name: name.to_owned(), bar, form: None };
        line.show(messages);
        line.bar.set_draw_target(ProgressDrawTarget::stderr());
        *SHOWN.lock().unwrap_or_else(PoisonError::into_inner) = Some(line.bar.clone());
        line
    }

    pub(crate) fn set_position(&self, position: u64) {
        self.bar.set_position(position);
    }

    /// Shows a bar with the first of the messages that leaves room for one, or where the window is too narrow for all
    /// of them the last, cut to the window. The name stands before the first alone. A single message stands alone.
    pub(crate) fn show(&mut self, messages: &[String]) {
        let columns = match usize::from(console::Term::stderr().size().1) {
            0 => WINDOW,
            columns => columns,
        };
        let name = width(&self.name) + 1;
        let fits = |(at, message): (usize, &String)| {
            let before = if at == 0 { name } else { 0 };
            messages.len() > 1 && before + BAR + " 100%  ".len() + width(message) <= columns
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

    /// Takes it away.
    pub(crate) fn clear(&mut self) {
        self.bar.finish_and_clear();
        *SHOWN.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// Seconds in the two largest units that matter.
pub(crate) fn duration(seconds: f64) -> String {
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
    fn build_services_keep_logs() {
        for (ci, is) in [
            (None, false),
            (Some(""), false),
            (Some("false"), false),
            (Some("true"), true),
            (Some("1"), true),
        ] {
            assert_eq!(logged(ci), is, "{ci:?}");
        }
    }

    #[test]
    fn durations_read_well() {
        for (seconds, words) in [(0.4, "0 s"), (59.4, "59 s"), (61.0, "1 min 01 s"), (7260.0, "2 h 01 min")] {
            assert_eq!(duration(seconds), words);
        }
    }
}
