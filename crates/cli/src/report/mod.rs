//! `report.html`: what a run or a comparison has learnt, as one page that needs nothing else.
//!
//! Everything on it is computed from the run's folder and its data, so that `fit` and `embedtune report` write the
//! same bytes. What depends on how it is looked at (charts, the projection, the galleries) is drawn by the page's
//! own script from one JSON document; titles, tables, notes and options are there without it.

mod alarms;
mod entries;
mod histogram;
mod options;
mod page;
mod sprite;
mod variant;

use std::path::{Path, PathBuf};

use embedtune_train::data::Split;
use embedtune_train::losses::LossKind;
use embedtune_train::run::{EpochRecord, Quality, RunFile, RunFolder};
use embedtune_train::{Error, Result, io};
use serde_json::Value;

use crate::args;
use crate::figure::Projection;
use crate::source::Source;
use crate::summary;
use crate::vectors::Vectors;
use crate::work::Work;
use entries::Entries;
use variant::{Sample, Variant};

/// Items in the projection where nothing else is asked for.
pub(crate) const ITEMS: usize = 2000;
/// The most: what stays smooth on a phone.
const MOST_ITEMS: usize = 10_000;

/// The losses that `compare` trains, in the order of its table.
const COMPARED: [LossKind; 3] = [LossKind::TripletMarginLoss, LossKind::ArcFaceLoss, LossKind::CosFaceLoss];

/// A run as its folder holds it.
struct Run {
    folder: PathBuf,
    file: RunFile,
    records: Vec<EpochRecord>,
    /// The options as given and the encoder, as `run.toml` has them; what became of the options has a table of its own.
    options: String,
}

impl Run {
    fn read(folder: &Path) -> Result<Self> {
        let run = RunFolder::new(folder);
        let file = run.read_run_file()?;
        let options = file.options_and_encoder()?;
        Ok(Self { folder: folder.to_owned(), file, records: run.read_metrics()?, options })
    }

    fn loss(&self) -> &'static str {
        self.file.options.loss.name()
    }

    /// The state before training, by the first line of `metrics.jsonl`.
    fn first(&self) -> Option<&EpochRecord> {
        self.records.first()
    }

    fn tuned(&self) -> Option<Quality> {
        self.records.iter().rev().filter(|record| record.epoch > 0).find_map(EpochRecord::model_metrics)
    }
}

/// `embedtune report`.
pub(crate) fn run(args: &args::Report, work: Work) -> Result<()> {
    if args.items == 0 || args.items > MOST_ITEMS {
        return Err(Error::option(
            "items",
            args.items,
            format!("the projection shows 1 to {MOST_ITEMS} items"),
        ));
    }
    if let Some(out) = &args.out {
        io::check_place(out)?;
    }
    let runs = runs(&args.run)?;
    let Some(first) = runs.first() else {
        let detail = "is not the folder of a run or a comparison; name one that `fit` or `compare` wrote";
        return Err(Error::data(&args.run, detail));
    };
    let source = match &args.data {
        Some(data) => Source::new(Some(data), 0)?,
        None => Source::recall(&first.file.data.source)?,
    };
    work.stage("reading the data", "items", 0);
    let split = source.load(&first.file.options.data_options)?;
    let (html, _) = render(&args.run, &runs, &split, args.projection, args.items, &work)?;
    drop(work);
    let out = args.out.clone().unwrap_or_else(|| path(&args.run));
    io::write_atomically(&out, html.as_bytes())?;
    crate::print(&format!("{}  open it in a browser\n", out.display()))
}

/// Where a folder's report is.
pub(crate) fn path(folder: &Path) -> PathBuf {
    RunFolder::new(folder).report()
}

/// The class that is taken for another most often, by the first item that a query finds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Confused {
    pub(crate) own: String,
    pub(crate) found: String,
    /// How often, of how many queries of the class.
    pub(crate) times: u32,
    pub(crate) queries: u32,
}

/// Writes the report of the run or the comparison that `folder` holds; what the tuned vectors, or those of the loss that
/// retrieves best, confuse most.
///
/// # Errors
/// I/O; a folder that holds neither; data that are not those of the run.
pub(crate) fn write(
    folder: &Path,
    split: &Split,
    projection: Projection,
    work: &Work,
) -> Result<Option<Confused>> {
    let (html, confused) = render(folder, &runs(folder)?, split, projection, ITEMS, work)?;
    io::write_atomically(&path(folder), html.as_bytes())?;
    Ok(confused)
}

/// The run in `folder`, or those of the comparison there.
fn runs(folder: &Path) -> Result<Vec<Run>> {
    if RunFolder::new(folder).run_file().exists() {
        return Ok(vec![Run::read(folder)?]);
    }
    COMPARED
        .iter()
        .map(|loss| folder.join(loss.name()))
        .filter(|folder| RunFolder::new(folder).run_file().exists())
        .map(|folder| Run::read(&folder))
        .collect()
}

fn render(
    folder: &Path,
    runs: &[Run],
    split: &Split,
    projection: Projection,
    items: usize,
    work: &Work,
) -> Result<(String, Option<Confused>)> {
    let Some(first) = runs.first() else {
        return Err(Error::data(folder, "holds no run"));
    };
    let sample = Sample::new(split, items);
    let mut entries = Entries::new(split, &sample.shown);
    let mut variants = Vec::new();
    let mut add = |name: &str, quality: Option<Quality>, vectors: &Vectors| -> Result<()> {
        variants.push(Variant::new(name, quality, vectors, split, &sample, projection, &mut entries, work)?);
        Ok(())
    };
    let before = first.first();
    add("raw", before.and_then(|record| record.raw), &Vectors::raw(split)?)?;
    let init_from = first.file.options.init_from.as_deref();
    match Vectors::untrained(&first.file, split, work) {
        Ok(vectors) => add(summary::before(init_from), before.and_then(|record| record.metrics), &vectors)?,
        // The run that this one started from may be gone; the rest of the page does without it.
        Err(_) if init_from.is_some() => {}
        Err(error) => return Err(RunFolder::new(&first.folder).of_options(error)),
    }
    for run in runs {
        let name = if runs.len() == 1 { "tuned" } else { run.loss() };
        add(name, run.tuned(), &Vectors::tuned(name, &run.folder, split, work)?)?;
    }
    let content = page::Content {
        source: &first.file.data.source,
        runs,
        variants: &variants,
        entries: entries.finish(split)?,
        split,
        projection,
        claims: claims(folder)?,
    };
    let confused = content.leaders().first().and_then(|leader| leader.confused(&split.queries.classes));
    Ok((page::render(&content)?, confused))
}

/// What `compare --seeds` found, from its summary.
fn claims(folder: &Path) -> Result<Value> {
    let path = folder.join("summary.json");
    if !path.exists() {
        return Ok(Value::Null);
    }
    let text = std::fs::read_to_string(&path).map_err(Error::io(&path, "reading"))?;
    let summary: Value = serde_json::from_str(&text).map_err(|e| Error::data(&path, e.to_string()))?;
    Ok(summary.get("claims").cloned().unwrap_or(Value::Null))
}
