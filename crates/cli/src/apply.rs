//! `search`, and opening a trained run.

use std::path::Path;

use embedtune_train::data::{Items, Split};
use embedtune_train::retrieval::Progress;
use embedtune_train::run::{Model, RunFolder};
use embedtune_train::{Error, Result, retrieval};
use serde::Serialize;

use crate::args::Search;
use crate::columns::{cell, padded, width};
use crate::source::Source;
use crate::work::Work;
use crate::{print, print_json};

/// Columns of a class's name, and of an item's text.
const NAME: usize = 40;
const TEXT: usize = 300;

/// A run's model, and data: those given, or what it was trained on.
pub(crate) fn open(run: &Path, data: Option<&Path>) -> Result<(Model, Split)> {
    let folder = RunFolder::new(run);
    let model = Model::load(&folder)?;
    let source = match data {
        Some(data) => Source::new(Some(data), 0)?,
        None => Source::recall(&folder.read_run_file()?.data.source)?,
    };
    let split = source.load(&model.options.data_options)?;
    Ok((model, split))
}

#[derive(Serialize)]
struct Found {
    item: u32,
    class: String,
    similarity: f32,
    text: Option<String>,
    /// Where an image is read from.
    file: Option<String>,
}

pub(crate) fn search(args: &Search, work: Work) -> Result<()> {
    work.stage("reading the data", "items", 0);
    let (model, split) = open(&args.run, args.data.as_deref())?;
    let count = split.queries.items.len();
    if args.query >= count {
        return Err(Error::option(
            "query",
            args.query,
            format!("the evaluation items are 0 to {}", count.saturating_sub(1)),
        ));
    }
    if args.k == 0 {
        return Err(Error::option("k", 0, "write 1 or more neighbours to show"));
    }
    let query = model.embed(&split.queries.items.select(&[args.query]))?;
    let within = split.gallery.is_none();
    let gallery = split.gallery.as_ref().unwrap_or(&split.queries);
    work.stage("embedding", "items", gallery.items.len());
    let vectors = model.embed_watched(&gallery.items, &mut |done| work.advance(done as u64))?;
    let own = [args.query as u32];
    let exclude = if within { retrieval::Exclude::SelfById(&own) } else { retrieval::Exclude::None };
    let found = retrieval::knn(query.view(), vectors.view(), args.k, retrieval::Metric::Cosine, exclude)
        .map_err(|e| Error::Unsuitable(e.to_string()))?;
    drop(work);
    let name = |label: Option<&u32>, classes: &[String]| {
        label.and_then(|&label| classes.get(label as usize)).cloned().unwrap_or_default()
    };
    let rows: Vec<Found> = found
        .row(0)
        .iter()
        .map(|hit| Found {
            item: hit.index,
            class: name(gallery.labels.get(hit.index as usize), &gallery.classes),
            similarity: hit.score,
            text: match &gallery.items {
                Items::Text(texts) => texts.get(hit.index as usize).cloned(),
                _ => None,
            },
            file: file(&gallery.items, hit.index as usize),
        })
        .collect();
    if args.json {
        return print_json(&rows);
    }
    let class = name(split.queries.labels.get(args.query), &split.queries.classes);
    let from = file(&split.queries.items, args.query).map_or_else(String::new, |file| format!(" {file}"));
    let mut text = format!("item {} ({}){from}\n", args.query, cell(&class, NAME));
    let names: Vec<String> = rows.iter().map(|row| cell(&row.class, NAME)).collect();
    let widest = names.iter().map(|name| width(name)).max().unwrap_or(0);
    for (row, name) in rows.iter().zip(&names) {
        let item = cell(row.text.as_deref().or(row.file.as_deref()).unwrap_or_default(), TEXT);
        let line = format!("{:>8.4}  {:>8}  {}  {item}", row.similarity, row.item, padded(name, widest));
        text += &format!("{}\n", line.trim_end());
    }
    print(&text)
}

/// The file that an item is read from, for image files.
fn file(items: &Items, row: usize) -> Option<String> {
    match items {
        Items::Files(files) => files.paths().nth(row).map(|path| path.display().to_string()),
        _ => None,
    }
}
