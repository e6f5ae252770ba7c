//! The `embedtune` program: compare losses, fine-tune, evaluate, embed and search.
#![forbid(unsafe_code)]

mod apply;
mod args;
mod compare;
mod figure;
mod fit;
mod source;
mod watch;

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::Parser;
use embedtune_train::{Error, Result};

use args::{Arguments, Command};

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let stop = Arc::new(AtomicBool::new(false));
    let flag = stop.clone();
    // A second Ctrl-C does not wait for the batch. Without a handler Ctrl-C still ends the program, unsaved.
    let installed = ctrlc::set_handler(move || {
        if flag.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
    });
    if let Err(error) = installed {
        eprintln!("warning: Ctrl-C will not save a checkpoint: {error}");
    }
    match run(arguments, &stop) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(if matches!(error, Error::Interrupted { .. }) { 130 } else { 1 })
        }
    }
}

fn run(arguments: Arguments, stop: &Arc<AtomicBool>) -> Result<()> {
    let quiet = arguments.quiet;
    match arguments.command {
        Command::Compare(options) => compare::run(&options, quiet, stop),
        Command::Fit(options) => fit::run(&options, quiet, stop),
        Command::Evaluate(options) => apply::evaluate(&options),
        Command::Embed(options) => apply::embed(&options),
        Command::Search(options) => apply::search(&options),
    }
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
