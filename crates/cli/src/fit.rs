//! `embedtune fit`.

use std::path::Path;

use embedtune_train::data::Split;
use embedtune_train::losses::MarginValue;
use embedtune_train::run::{
    DataRecord, Report, Resumed, RunFolder, RunOptions, Trainer, changed_files, checksum, finished,
    options_of_run, peak_memory, resume,
};
use embedtune_train::{Error, Result};
use serde::de::value::{Error as WordError, StrDeserializer};
use serde::{Deserialize, Serialize};

use crate::args::{Fit, NewRun};
use crate::figure::Projection;
use crate::line::Progress;
use crate::report::Confused;
use crate::source::Source;
use crate::watch::Watch;
use crate::work::Work;
use crate::{Stop, print, print_json, report, say, summary};

pub(crate) fn run(args: &Fit, quiet: bool, progress: Progress, stop: &Stop) -> Result<()> {
    if let Some(folder) = &args.resume {
        return continue_run(folder, args.json, quiet, progress, stop);
    }
    let new = &args.new;
    let (options, of_run) = options(new)?;
    // Before the data: an hour of loading must not end in a wrong word.
    options.check()?;
    RunFolder::new(&new.out).check_free(new.overwrite)?;
    stop.starts(&new.out);
    // A run file says where its data are, too.
    let recalled = of_run.filter(|_| new.data.is_none());
    let source = match &recalled {
        Some(data) => Source::recall(&data.source)?,
        None => Source::new(new.data.as_deref(), options.seed)?,
    };
    let reading = reading(quiet, progress);
    let split = source.load(&options.data_options)?;
    drop(reading);
    if let Some(data) = recalled {
        let changed = if checksum(&split) == data.checksum { "" } else { ", which have changed since" };
        if !quiet {
            say(&format!("note: options and data of an earlier run: {}{changed}", data.source));
        }
    }
    let mut builder = Trainer::builder()
        .options(options)
        .source(source.describe())
        .folder(&new.out)
        .overwrite(new.overwrite)
        .stop(stop.asked.clone());
    if let Some(folder) = source.folder() {
        builder = builder.data_folder(folder);
    }
    let trainer = builder.build(&split).map_err(|error| of_folder(&source, error))?;
    train(trainer, &new.out, &split, args.json, quiet, progress, stop)
}

fn continue_run(folder: &Path, json: bool, quiet: bool, progress: Progress, stop: &Stop) -> Result<()> {
    let run = RunFolder::new(folder);
    let file = run.read_run_file()?;
    stop.starts(folder);
    let source = Source::recall(&file.data.source)?;
    let reading = reading(quiet, progress);
    let loaded = source.load(&file.options.data_options);
    drop(reading);
    let split = match loaded {
        Ok(split) => split,
        // Nothing needs the data of a run that is finished.
        Err(error) => match finished(&run)? {
            Some(report) if gone(&error) => {
                if !quiet {
                    say(&format!("{}: this run is finished; nothing to do", folder.display()));
                    say(&format!("note: its data are not there any more: {}", file.data.source));
                }
                return tell(&report, folder, None, None, json);
            }
            _ if gone(&error) => {
                let detail = format!(
                    "the run's data are not there any more; put them back, or write where they are now as data.source in {}",
                    run.run_file().display()
                );
                return Err(Error::data(Path::new(&file.data.source), detail));
            }
            _ => return Err(error),
        },
    };
    let resumed = resume(&run, &split, Some(stop.asked.clone())).map_err(|error| match error {
        Error::Changed(what) => match source.folder().and_then(|data| changed_files(&run, data)) {
            Some(files) => Error::Changed(format!("{what}: {files}")),
            None => Error::Changed(what),
        },
        other => of_folder(&source, other),
    });
    match resumed? {
        Resumed::Finished(report) => {
            if !quiet {
                say(&format!("{}: this run is finished; nothing to do", folder.display()));
            }
            // A page that was lost is written again; where that cannot be, the run is finished all the same.
            if !report::path(folder).exists()
                && let Err(error) =
                    report::write(folder, &split, Projection::default(), &Work::new(quiet, progress))
            {
                say(&format!("note: no report is written: {error}"));
            }
            tell(&report, folder, None, None, json)
        }
        Resumed::Ready(trainer) => train(trainer, folder, &split, json, quiet, progress, stop),
    }
}

/// Shows that data are being read, until it is dropped.
fn reading(quiet: bool, progress: Progress) -> Work {
    let work = Work::new(quiet, progress);
    work.stage("reading the data", "items", 0);
    work
}

/// What is wrong with data that could be read, with where they are.
fn of_folder(source: &Source, error: Error) -> Error {
    match (error, source.folder()) {
        (Error::Unsuitable(what), Some(folder)) => Error::Unsuitable(format!("{}: {what}", folder.display())),
        (other, _) => other,
    }
}

/// Whether what was to be read is not there.
fn gone(error: &Error) -> bool {
    matches!(error, Error::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound)
}

/// Bytes at the peak.
#[derive(Serialize)]
struct Memory {
    predicted: usize,
    /// `null` where the system does not say.
    measured: Option<usize>,
}

/// Trains, and sets the memory that it took beside what was predicted.
fn train(
    trainer: Trainer<'_>,
    folder: &Path,
    split: &Split,
    json: bool,
    quiet: bool,
    progress: Progress,
    stop: &Stop,
) -> Result<()> {
    let mib = |bytes: usize| bytes.div_ceil(1 << 20);
    let forecast = trainer.forecast();
    if !quiet {
        say(&format!(
            "memory: {} MiB at the peak, of which {} for a step and {} for class centres",
            mib(forecast.peak),
            mib(forecast.step),
            mib(forecast.centres)
        ));
        if let Some(bytes) = forecast.device {
            say(&format!("GPU memory: {} MiB for class centres, their optimizer and a step", mib(bytes)));
        }
    }
    let report = trainer.fit(&mut Watch::new(quiet, progress, stop))?.report;
    let memory = Memory { predicted: forecast.peak, measured: peak_memory() };
    if let (false, Some(measured)) = (quiet, memory.measured) {
        say(&format!("memory: {} MiB measured, {} MiB predicted", mib(measured), mib(memory.predicted)));
    }
    if !quiet {
        say("writing the report");
    }
    let confused = report::write(folder, split, Projection::default(), &Work::new(quiet, progress))?;
    tell(&report, folder, Some(memory), confused.as_ref(), json)
}

/// The configuration file's options with the flags over them. A flag's word is read as the file's would be.
///
/// The file may be the `run.toml` of a run: then its options are taken, and where its data are is returned too.
fn options(args: &NewRun) -> Result<(RunOptions, Option<DataRecord>)> {
    let mut of_run = None;
    let text = match &args.config {
        None => String::new(),
        Some(path) => {
            let text = text_of(path)?;
            let named = |e: Error| Error::data(path, e.to_string());
            match options_of_run(&text).map_err(named)? {
                Some((options, data)) => {
                    of_run = Some(data);
                    options.to_toml()?
                }
                None => {
                    RunOptions::from_toml(&text).map_err(named)?;
                    text
                }
            }
        }
    };
    let mut pairs: Vec<(String, String)> =
        args.set.iter().map(|pair| assignment(pair)).collect::<Result<_>>()?;
    // As in a file, so that other libraries' names for these are refused with what is nearest.
    for (name, given) in [("loss", &args.loss), ("miner", &args.miner), ("device", &args.device)] {
        pairs.extend(given.iter().map(|value| (name.to_owned(), value.clone())));
    }
    let mut options = RunOptions::from_toml_with(&text, &pairs)?;
    set(&mut options.optimizer, word("optimizer", &args.optimizer)?);
    set(&mut options.sampler, word("sampler", &args.sampler)?);
    set(&mut options.device_options.precision, word("device_options.precision", &args.precision)?);
    set(&mut options.loss_optimizer, word("loss_optimizer", &args.loss_optimizer)?.map(Some));
    set(&mut options.pooler, word("pooler", &args.pooler)?.map(Some));
    set(&mut options.num_items_per_class, args.num_items_per_class);
    set(&mut options.output_dim, args.output_dim.map(Some));
    set(&mut options.epochs, args.epochs);
    set(&mut options.batch_size, batch_size(&args.batch_size)?);
    set(&mut options.learning_rate, args.learning_rate);
    set(&mut options.seed, args.seed);
    set(&mut options.centers, word("centers", &args.centers)?);
    set(&mut options.scheduler, word("scheduler", &args.scheduler)?);
    set(&mut options.scheduler_options.num_warmup_steps, args.num_warmup_steps);
    set(&mut options.optimizer_options.layer_wise_lr_decay, args.layer_wise_lr_decay.map(Some));
    set(&mut options.loss_optimizer_options.learning_rate, args.loss_learning_rate.map(Some));
    set(&mut options.max_grad_norm, args.max_grad_norm.map(Some));
    set(&mut options.gradient_accumulation_steps, args.gradient_accumulation_steps);
    set(&mut options.memory_size, args.memory_size);
    set(&mut options.val_split, args.val_split);
    if let Some(run) = &args.init_from {
        // Absolute, so that a run can be continued from another folder.
        let run = run.canonicalize().map_err(Error::io(run, "opening"))?;
        options.init_from = Some(run.display().to_string());
    }
    options.freeze |= args.freeze;
    let callbacks = &mut options.callbacks;
    set(&mut callbacks.monitor, word("callbacks.monitor", &args.monitor)?);
    set(&mut callbacks.evaluate_every, args.evaluate_every);
    set(&mut callbacks.patience, args.patience.map(Some));
    set(&mut callbacks.last_k_epochs, args.last_k_epochs);
    set(&mut callbacks.save_steps, args.save_steps);
    set(&mut callbacks.save_minutes, args.save_minutes);
    set(&mut callbacks.log_steps, args.log_steps);
    set(&mut callbacks.wise_ft_alpha, args.wise_ft_alpha.map(Some));
    callbacks.best_model |= args.best_model;
    callbacks.tensorboard |= args.tensorboard;
    set(&mut options.loss_options.margin, margin(&args.margin)?.map(Some));
    set(&mut options.loss_options.scale, args.scale.map(Some));
    Ok((options, of_run))
}

/// A configuration file's text.
fn text_of(path: &Path) -> Result<String> {
    let bytes = std::fs::read(path).map_err(Error::io(path, "reading"))?;
    String::from_utf8(bytes).map_err(|e| {
        let before = &e.as_bytes()[..e.utf8_error().valid_up_to()];
        let line = 1 + before.iter().filter(|&&byte| byte == b'\n').count();
        Error::data(path, format!("line {line}: not UTF-8; save the file as UTF-8"))
    })
}

fn assignment(pair: &str) -> Result<(String, String)> {
    let wrong = || Error::option("set", pair, "write a name and a value, e.g. --set loss_options.scale=32");
    pair.split_once('=')
        .map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned()))
        .ok_or_else(wrong)
}

/// A number of items, or `auto` (0).
fn batch_size(text: &Option<String>) -> Result<Option<usize>> {
    let Some(text) = text else { return Ok(None) };
    let number = text.parse().ok().filter(|items| *items > 0);
    let items = if text == "auto" { Some(0) } else { number };
    items.map(Some).ok_or_else(|| Error::option("batch_size", text, "write 2 or more items, or auto"))
}

fn set<T>(option: &mut T, given: Option<T>) {
    if let Some(value) = given {
        *option = value;
    }
}

fn word<T: for<'de> Deserialize<'de>>(field: &str, text: &Option<String>) -> Result<Option<T>> {
    let Some(text) = text else { return Ok(None) };
    T::deserialize(StrDeserializer::<WordError>::new(text)).map(Some).map_err(|e| {
        // Some kinds say "name = value: " themselves.
        let message = e.to_string();
        let remedy = message.split_once(&format!(" = {text}: ")).map_or(&*message, |(_, remedy)| remedy);
        Error::option(field, text, remedy)
    })
}

pub(crate) fn margin(text: &Option<String>) -> Result<Option<MarginValue>> {
    match text.as_deref().map(str::parse::<f64>) {
        Some(Ok(number)) => Ok(Some(number.into())),
        _ => word("margin", text),
    }
}

/// Says what was reached.
fn tell(
    report: &Report,
    folder: &Path,
    memory: Option<Memory>,
    confused: Option<&Confused>,
    json: bool,
) -> Result<()> {
    if json {
        #[derive(Serialize)]
        struct Whole<'a> {
            #[serde(flatten)]
            report: &'a Report,
            memory: Option<Memory>,
        }
        return print_json(&Whole { report, memory });
    }
    let run = RunFolder::new(folder);
    print(&summary::fit(report, &run.read_metrics()?, &run.read_run_file()?.options, folder, confused))
}
