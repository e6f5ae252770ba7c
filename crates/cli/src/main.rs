//! The `embedtune` program: compare losses, fine-tune, evaluate, embed and search.
// But for one call of the C library's: `allocator`.
#![deny(unsafe_code)]
// They panic where the reader has gone away (`2>&1 | head`) or the disk is full.
#![deny(clippy::print_stdout, clippy::print_stderr)]

mod advice;
mod allocator;
mod apply;
mod args;
mod claims;
mod columns;
mod compare;
mod embed;
mod evaluate;
mod export;
mod figure;
mod fit;
mod line;
mod markup;
mod names;
mod report;
mod source;
mod standing;
mod summary;
mod vectors;
mod watch;
mod work;

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use clap::Parser;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use embedtune_train::io::shell_word;
use embedtune_train::run::RunFolder;
use embedtune_train::{Error, Result, io};

use args::{Arguments, Command};
use work::Work;

fn main() -> ExitCode {
    allocator::settle();
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        // clap would list every option of a new run.
        Err(error)
            if error.kind() == ErrorKind::ArgumentConflict && error.to_string().contains("--resume") =>
        {
            let arguments = [ContextKind::InvalidArg, ContextKind::PriorArg].into_iter();
            let named = arguments.filter_map(|kind| match error.get(kind) {
                Some(ContextValue::String(one)) => Some(vec![one.clone()]),
                Some(ContextValue::Strings(all)) => Some(all.clone()),
                _ => None,
            });
            // As `--set <NAME=VALUE>`, and all that a new run has.
            let names =
                named.flatten().filter_map(|argument| argument.split_whitespace().next().map(str::to_owned));
            let given = |name: &str| {
                let begins = format!("{name}=");
                std::env::args().any(|argument| argument == name || argument.starts_with(&begins))
            };
            let other = names.filter(|name| name != "--resume").find(|name| given(name));
            let leave =
                other.map_or_else(|| "leave them out".to_owned(), |other| format!("leave out {other}"));
            say(&format!(
                "error: --resume goes with no other option of a new run: run.toml holds them all; {leave}, or start from the \
                 run's model with --init-from"
            ));
            return ExitCode::from(2);
        }
        // clap would end well where what was asked for could not be written.
        Err(error) if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            let text = error.render();
            let text =
                if std::io::stdout().is_terminal() { text.ansi().to_string() } else { text.to_string() };
            return match print(&text) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => {
                    say(&format!("error: {error}"));
                    ExitCode::FAILURE
                }
            };
        }
        Err(error) => error.exit(),
    };
    let stop = Stop::default();
    let Stop { asked, training, measuring, run: under_way } = stop.clone();
    // Training stops after the current batch and saves; a second Ctrl-C does not wait for it, and where nothing is
    // trained yet there is nothing to save. Either way no file is left half-written.
    let installed = ctrlc::set_handler(move || {
        if asked.swap(true, Ordering::Relaxed) || !training.load(Ordering::Relaxed) {
            let _none = io::between_writes();
            say(&format!(
                "error: interrupted{}",
                what_is_there(&under_way, training.load(Ordering::Relaxed))
            ));
            std::process::exit(INTERRUPTED.into());
        }
        let until = if measuring.load(Ordering::Relaxed) { "measuring" } else { "this batch" };
        say(&format!("stopping after {until}; Ctrl-C again stops at once"));
    });
    if let Err(error) = installed {
        say(&format!("warning: Ctrl-C will not save a checkpoint: {error}"));
    }
    match run(arguments, &stop) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("error: {error}"));
            ExitCode::from(if matches!(error, Error::Interrupted { .. }) { INTERRUPTED } else { 1 })
        }
    }
}

/// Between the handler of Ctrl-C and the work.
#[derive(Debug, Clone, Default)]
struct Stop {
    /// Ctrl-C was pressed.
    asked: Arc<AtomicBool>,
    /// Batches are being trained on: an end would lose something.
    training: Arc<AtomicBool>,
    /// Retrieval is being measured, between two epochs or after the last.
    measuring: Arc<AtomicBool>,
    /// The folder of the run that is trained.
    run: Arc<Mutex<Option<PathBuf>>>,
}

impl Stop {
    /// A run begins whose folder this is.
    fn starts(&self, folder: &Path) {
        *self.run.lock().unwrap_or_else(PoisonError::into_inner) = Some(folder.to_path_buf());
    }
}

/// What an end at once leaves, and what to do.
fn what_is_there(run: &Mutex<Option<PathBuf>>, training: bool) -> String {
    let run = run.lock().unwrap_or_else(PoisonError::into_inner).clone();
    match run {
        None => "; nothing is left half-written: give the command again".to_owned(),
        Some(folder) if RunFolder::new(&folder).checkpoint().exists() => {
            format!(
                "; continue from the last checkpoint with `embedtune fit --resume {}`",
                shell_word(&folder)
            )
        }
        Some(folder) if RunFolder::new(&folder).run_file().exists() => {
            let when = if training { "before anything was saved" } else { "before the first batch" };
            format!(" {when}; `embedtune fit --resume {}` starts this run over", shell_word(&folder))
        }
        Some(_) => " before the first batch; nothing was written: give the command again".to_owned(),
    }
}

/// What shells report for a program that Ctrl-C ended: 128 + SIGINT.
const INTERRUPTED: u8 = 130;

fn run(arguments: Arguments, stop: &Stop) -> Result<()> {
    let (quiet, progress) = (arguments.quiet, arguments.progress);
    match arguments.command {
        Command::Compare(options) => compare::run(&options, quiet, progress, stop),
        Command::Fit(options) => fit::run(&options, quiet, progress, stop),
        Command::Evaluate(options) => evaluate::run(&options, Work::new(quiet, progress)),
        Command::Embed(options) => embed::run(&options, Work::new(quiet, progress)),
        Command::Export(options) => export::run(&options),
        Command::Search(options) => apply::search(&options, Work::new(quiet, progress)),
        Command::Explain(options) => advice::run_explain(&options),
        Command::Advise(options) => advice::run_advise(&options),
        Command::Report(options) => report::run(&options, Work::new(quiet, progress)),
    }
}

/// A line on standard error; where nobody can read it there is nobody to tell.
fn say(line: &str) {
    use std::io::Write;
    line::aside(|| {
        let _ = writeln!(std::io::stderr(), "{line}");
    });
}

/// Prints to standard output; a reader that has gone away (`| head`) is no error.
fn print(text: &str) -> Result<()> {
    use std::io::Write;
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Error::io(std::path::Path::new("standard output"), "writing")(e))
        }
        _ => Ok(()),
    }
}

/// A value as one JSON document.
fn print_json(value: &impl serde::Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value).map_err(|e| Error::Unsuitable(format!("JSON: {e}")))?;
    print(&(text + "\n"))
}
