//! `embedtune fit`.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use embedtune_train::run::{Report, Resumed, RunFolder, RunOptions, Trainer, resume};
use embedtune_train::{Error, Result};

use crate::args::Fit;
use crate::source::Source;
use crate::watch::Watch;
use crate::{print, print_json};

pub(crate) fn run(args: &Fit, quiet: bool, stop: &Arc<AtomicBool>) -> Result<()> {
    if let Some(folder) = &args.resume {
        return continue_run(folder, args.json, quiet, stop);
    }
    let options = options(args)?;
    let source = Source::new(args.data.as_deref(), options.seed)?;
    let split = source.load()?;
    let trainer = Trainer::builder()
        .options(options)
        .source(source.describe())
        .folder(&args.out)
        .overwrite(args.overwrite)
        .stop(stop.clone())
        .build(&split)?;
    let report = trainer.fit(&mut Watch::new(quiet))?.report;
    finish(&report, &args.out, args.json)
}

fn continue_run(folder: &Path, json: bool, quiet: bool, stop: &Arc<AtomicBool>) -> Result<()> {
    let run = RunFolder::new(folder);
    let source = Source::recall(&run.read_run_file()?.data.source)?;
    let split = source.load()?;
    match resume(&run, &split, Some(stop.clone()))? {
        Resumed::Finished(report) => {
            if !quiet {
                eprintln!("{}: this run is finished; nothing to do", folder.display());
            }
            finish(&report, folder, json)
        }
        Resumed::Ready(trainer) => {
            let report = trainer.fit(&mut Watch::new(quiet))?.report;
            finish(&report, folder, json)
        }
    }
}

/// The configuration file's options with the flags over them. Flags go through the same TOML as the file, so that
/// both accept the same words and give the same errors.
fn options(args: &Fit) -> Result<RunOptions> {
    let mut text = toml_of(args.config.as_deref())?;
    let string = |v: &Option<String>| v.clone().map(serde_json::Value::from);
    let number = |v: Option<usize>| v.map(serde_json::Value::from);
    for (name, value) in [
        ("loss", string(&args.loss)),
        ("miner", string(&args.miner)),
        ("optimizer", string(&args.optimizer)),
        ("loss_optimizer", string(&args.loss_optimizer)),
        ("sampler", string(&args.sampler)),
        ("pooler", string(&args.pooler)),
        ("device", string(&args.device)),
        ("num_items_per_class", number(args.num_items_per_class)),
        ("output_dim", number(args.output_dim)),
        ("epochs", number(args.epochs)),
        ("batch_size", number(args.batch_size)),
        ("learning_rate", args.learning_rate.map(serde_json::Value::from)),
        ("seed", args.seed.map(serde_json::Value::from)),
    ] {
        if let Some(value) = value {
            text.insert(name.to_owned(), value);
        }
    }
    let mut loss_options = match text.remove("loss_options") {
        Some(serde_json::Value::Object(map)) => map,
        _ => serde_json::Map::new(),
    };
    if let Some(margin) = &args.margin {
        let value = margin.parse::<f64>().map_or_else(|_| margin.clone().into(), serde_json::Value::from);
        loss_options.insert("margin".into(), value);
    }
    if let Some(scale) = args.scale {
        loss_options.insert("scale".into(), scale.into());
    }
    text.insert("loss_options".into(), loss_options.into());
    serde_json::from_value(text.into()).map_err(|e| Error::option("options", "as given", e.to_string()))
}

fn toml_of(path: Option<&Path>) -> Result<serde_json::Map<String, serde_json::Value>> {
    let options = match path {
        None => return Ok(serde_json::Map::new()),
        Some(path) => {
            let text = std::fs::read_to_string(path).map_err(Error::io(path, "reading"))?;
            RunOptions::from_toml(&text).map_err(|e| Error::data(path, e.to_string()))?
        }
    };
    match serde_json::to_value(options) {
        Ok(serde_json::Value::Object(map)) => Ok(map),
        _ => Err(Error::Unsuitable("the options cannot be represented".into())),
    }
}

fn finish(report: &Report, folder: &Path, json: bool) -> Result<()> {
    if json {
        return print_json(report);
    }
    print(&format!(
        "{}, {} epochs, {:.1} s of training\n{:<12} {:>9} {:>8}\n{:<12} {:>9.4} {:>8.4}\n{:<12} {:>9.4} {:>8.4}\n{:<12} {:>9.4} {:>8.4}\nrun in {}; measure it with `embedtune evaluate --run {}`\n",
        report.loss,
        report.epochs,
        report.seconds,
        "",
        "Recall@1",
        "MAP@R",
        "raw",
        report.raw.recall_at_1,
        report.raw.map_at_r,
        "untrained",
        report.untrained.recall_at_1,
        report.untrained.map_at_r,
        "tuned",
        report.tuned.recall_at_1,
        report.tuned.map_at_r,
        folder.display(),
        folder.display()
    ))
}
