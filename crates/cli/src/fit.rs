//! `embedtune fit`.

use std::path::Path;

use embedtune_train::data::Split;
use embedtune_train::losses::MarginValue;
use embedtune_train::run::{Report, Resumed, RunFolder, RunOptions, Trainer, resume};
use embedtune_train::{Error, Result};
use serde::Deserialize;
use serde::de::value::{Error as WordError, StrDeserializer};

use crate::args::{Fit, NewRun};
use crate::figure::Projection;
use crate::source::Source;
use crate::watch::{Progress, Watch};
use crate::{Stop, print, print_json, report, say, summary};

pub(crate) fn run(args: &Fit, quiet: bool, progress: Progress, stop: &Stop) -> Result<()> {
    if let Some(folder) = &args.resume {
        return continue_run(folder, args.json, quiet, progress, stop);
    }
    let new = &args.new;
    let options = options(new)?;
    // Before the data: an hour of loading must not end in a wrong word.
    options.check()?;
    let source = Source::new(new.data.as_deref(), options.seed)?;
    let split = source.load()?;
    let trainer = Trainer::builder()
        .options(options)
        .source(source.describe())
        .folder(&new.out)
        .overwrite(new.overwrite)
        .stop(stop.asked.clone())
        .build(&split)?;
    let report = trainer.fit(&mut Watch::new(quiet, progress, stop))?.report;
    finish(&report, &new.out, &split, args.json, quiet)
}

fn continue_run(folder: &Path, json: bool, quiet: bool, progress: Progress, stop: &Stop) -> Result<()> {
    let run = RunFolder::new(folder);
    let source = Source::recall(&run.read_run_file()?.data.source)?;
    let split = source.load()?;
    match resume(&run, &split, Some(stop.asked.clone()))? {
        Resumed::Finished(report) => {
            if !quiet {
                say(&format!("{}: this run is finished; nothing to do", folder.display()));
            }
            // A page that was lost is written again; where that cannot be, the run is finished all the same.
            if !report::path(folder).exists()
                && let Err(error) = report::write(folder, &split, Projection::default())
            {
                say(&format!("note: no report is written: {error}"));
            }
            tell(&report, folder, json)
        }
        Resumed::Ready(trainer) => {
            let report = trainer.fit(&mut Watch::new(quiet, progress, stop))?.report;
            finish(&report, folder, &split, json, quiet)
        }
    }
}

/// The configuration file's options with the flags over them. A flag's word is read as the file's would be.
fn options(args: &NewRun) -> Result<RunOptions> {
    let mut options = match &args.config {
        None => RunOptions::default(),
        Some(path) => {
            let text = std::fs::read_to_string(path).map_err(Error::io(path, "reading"))?;
            RunOptions::from_toml(&text).map_err(|e| Error::data(path, e.to_string()))?
        }
    };
    set(&mut options.loss, word("loss", &args.loss)?);
    set(&mut options.optimizer, word("optimizer", &args.optimizer)?);
    set(&mut options.sampler, word("sampler", &args.sampler)?);
    set(&mut options.device, word("device", &args.device)?);
    set(&mut options.miner, word("miner", &args.miner)?.map(Some));
    set(&mut options.loss_optimizer, word("loss_optimizer", &args.loss_optimizer)?.map(Some));
    set(&mut options.pooler, word("pooler", &args.pooler)?.map(Some));
    set(&mut options.num_items_per_class, args.num_items_per_class);
    set(&mut options.output_dim, args.output_dim.map(Some));
    set(&mut options.epochs, args.epochs);
    set(&mut options.batch_size, args.batch_size);
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
    set(&mut callbacks.wise_ft_alpha, args.wise_ft_alpha.map(Some));
    callbacks.best_model |= args.best_model;
    callbacks.tensorboard |= args.tensorboard;
    set(&mut options.loss_options.margin, margin(&args.margin)?.map(Some));
    set(&mut options.loss_options.scale, args.scale.map(Some));
    Ok(options)
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

/// Writes the page, says what was reached.
fn finish(report: &Report, folder: &Path, split: &Split, json: bool, quiet: bool) -> Result<()> {
    if !quiet {
        say("writing the report");
    }
    report::write(folder, split, Projection::default())?;
    tell(report, folder, json)
}

/// Says what was reached.
fn tell(report: &Report, folder: &Path, json: bool) -> Result<()> {
    if json {
        return print_json(report);
    }
    let records = RunFolder::new(folder).read_metrics()?;
    print(&summary::fit(report, &records, folder))
}
