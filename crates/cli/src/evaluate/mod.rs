//! `embedtune evaluate`.

mod args;
mod measure;
mod table;

pub(crate) use args::Evaluate;

use std::collections::HashSet;
use std::path::Path;

use embedtune_train::data::{Items, Split, tensors, vectors};
use embedtune_train::retrieval::Rows;
use embedtune_train::{Error, Result};
use serde::Serialize;

use crate::apply::open;
use crate::vectors::Vectors;
use crate::work::Work;
use crate::{print, print_json};
use measure::{Labelled, Measured, Watched, measure};

/// The JSON of a run: the two figures that it had at first, and all that was asked for.
#[derive(Serialize)]
struct OfRun<'a> {
    recall_at_1: f64,
    map_at_r: f64,
    items: usize,
    classes: usize,
    raw_recall_at_1: f64,
    raw_map_at_r: f64,
    tuned: &'a Measured,
    raw: &'a Measured,
}

/// The JSON of vectors.
#[derive(Serialize)]
struct OfVectors<'a> {
    recall_at_1: f64,
    map_at_r: f64,
    items: usize,
    classes: usize,
    vectors: &'a Measured,
}

pub(crate) fn run(args: &Evaluate, work: Work) -> Result<()> {
    if args.k.contains(&0) {
        return Err(Error::option("k", 0, "k counts neighbours from 1"));
    }
    if args.bootstrap == Some(0) {
        return Err(Error::option("bootstrap", 0, "1,000 resamples give intervals to two digits"));
    }
    if let Some(far) = args.far.iter().find(|far| !(0.0..=1.0).contains(*far)) {
        return Err(Error::option("far", far, "a false accept rate is from 0 to 1, for instance 0.001"));
    }
    match (&args.run, &args.vectors, &args.labels) {
        (Some(run), _, _) => of_run(args, run, work),
        (_, Some(vectors), Some(labels)) => of_vectors(args, vectors, labels, work),
        _ => Err(Error::Unsuitable("give --run, or --vectors and --labels".to_owned())),
    }
}

fn of_run(args: &Evaluate, run: &Path, work: Work) -> Result<()> {
    work.stage("reading the data", "items", 0);
    let (model, split) = open(run, args.data.as_deref())?;
    let tuned =
        of_split(args, &split, &Vectors::of_model("tuned", &model, &split, &work)?, "tuned: ", &work)?;
    let raw = of_split(args, &split, &Vectors::raw(&split)?, "raw: ", &work)?;
    drop(work);
    let (items, classes) = (split.queries.labels.len(), distinct(&split.queries.labels));
    if !args.json {
        let gallery = split.gallery.as_ref().map(|gallery| gallery.labels.len());
        print(&table::table(args, (items, classes, gallery), &[("raw", &raw), ("tuned", &tuned)]))?;
        return tuned.calibrated();
    }
    print_json(&OfRun {
        recall_at_1: tuned.recall_at_1,
        map_at_r: tuned.map_at_r,
        items,
        classes,
        raw_recall_at_1: raw.recall_at_1,
        raw_map_at_r: raw.map_at_r,
        tuned: &tuned,
        raw: &raw,
    })?;
    tuned.calibrated()
}

fn of_split(
    args: &Evaluate,
    split: &Split,
    vectors: &Vectors,
    stage: &'static str,
    work: &Work,
) -> Result<Measured> {
    let searched = vectors.gallery.as_ref().zip(split.gallery.as_ref());
    let vectors = Labelled {
        queries: &vectors.queries,
        labels: &split.queries.labels,
        gallery: searched.map(|(vectors, gallery)| (vectors as &dyn Rows, gallery.labels.as_slice())),
    };
    let name = |label: u32| split.queries.classes.get(label as usize).cloned();
    let watched = Watched { work, stage };
    measure(&vectors, args, &|label| name(label).unwrap_or_else(|| label.to_string()), watched)
}

/// Vectors in files, which are read block by block.
fn of_vectors(args: &Evaluate, vectors: &Path, labels: &Path, work: Work) -> Result<()> {
    let (queries, labels) = labelled(vectors, labels)?;
    let gallery = match (&args.gallery, &args.gallery_labels) {
        (Some(gallery), Some(labels)) => Some((gallery, labelled(gallery, labels)?)),
        _ => None,
    };
    if let Some((path, (rows, _))) = &gallery
        && rows.shape().1 != queries.shape().1
    {
        let (expected, got) = (queries.shape().1, rows.shape().1);
        let detail = format!(
            "holds vectors of length {got}, and {} of length {expected}; take both from one model",
            vectors.display()
        );
        return Err(Error::data(path, detail));
    }
    let gallery = gallery.as_ref().map(|(_, (rows, labels))| (rows.as_ref(), labels.as_slice()));
    let of = Labelled { queries: queries.as_ref(), labels: &labels, gallery };
    let watched = Watched { work: &work, stage: "" };
    let found = measure(&of, args, &|label| label.to_string(), watched)
        .map_err(|e| Error::data(vectors, e.to_string()))?;
    drop(work);
    let (items, classes) = (labels.len(), distinct(&labels));
    if !args.json {
        let gallery = of.gallery.map(|(_, labels)| labels.len());
        print(&table::table(args, (items, classes, gallery), &[("vectors", &found)]))?;
        return found.calibrated();
    }
    print_json(&OfVectors {
        recall_at_1: found.recall_at_1,
        map_at_r: found.map_at_r,
        items,
        classes,
        vectors: &found,
    })?;
    found.calibrated()
}

/// The vectors of one file and their classes in another (or the same one).
fn labelled(path: &Path, labels: &Path) -> Result<(Box<dyn Rows>, Vec<u32>)> {
    let is = |path: &Path, ending: &str| path.extension().is_some_and(|found| found == ending);
    let items = if is(path, "safetensors") {
        tensors::read_items(path)?
    } else {
        vectors::open_vectors(path, false)?
    };
    let rows: Box<dyn Rows> = match items {
        Items::VectorFile(file) => Box::new(file),
        Items::Vectors(vectors) => Box::new(vectors),
        other => {
            let detail = format!("holds {}, not vectors; embed them first (`embedtune embed`)", other.kind());
            return Err(Error::data(path, detail));
        }
    };
    let found =
        if is(labels, "safetensors") { tensors::read_labels(labels)? } else { vectors::read_labels(labels)? };
    if found.len() != rows.shape().0 {
        let detail = format!(
            "has {} labels for the {} vectors of {}; take both files from one place",
            found.len(),
            rows.shape().0,
            path.display()
        );
        return Err(Error::data(labels, detail));
    }
    Ok((rows, found))
}

fn distinct(labels: &[u32]) -> usize {
    labels.iter().collect::<HashSet<_>>().len()
}
