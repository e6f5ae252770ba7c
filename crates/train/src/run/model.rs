//! A trained encoder and what is needed to use it.

use std::collections::BTreeMap;

use ndarray::{Array2, ArrayView2, ArrayViewD};

use crate::data::{Dataset, Items, Split};
use crate::encoder::Encoder;
use crate::run::folder::store;
use crate::run::watch::quality;
use crate::run::{Monitor, Quality, RunFolder, RunOptions, raw_vectors};
use crate::{Error, Result, State};

/// A trained encoder with its class centres.
#[derive(Debug)]
pub struct Model {
    /// The options of its run.
    pub options: RunOptions,
    /// The encoder.
    pub encoder: Encoder,
    /// The classes it was trained on, in the order of the class centres.
    pub classes: Vec<String>,
    /// The class centres' state; empty for losses without any.
    pub head: State,
}

/// What [`Model::evaluate`] measures.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Evaluation {
    /// The model's vectors.
    pub tuned: Quality,
    /// The raw vectors of the same items.
    pub raw: Quality,
}

impl Model {
    /// Loads the model that a run has written so far.
    ///
    /// # Errors
    /// I/O; [`Error::Data`] naming the file that is not a run's, is damaged or does not belong to `run.toml`.
    pub fn load(folder: &RunFolder) -> Result<Self> {
        let run = folder.read_run_file()?;
        let path = folder.model();
        if !path.exists() {
            let detail = "not found: if the run has not completed an epoch yet, continue it with `fit --resume`; if the \
                          file was removed since, restore it or train again";
            return Err(Error::data(&path, detail));
        }
        let state = store::read(&path, store::Kind::Model)?;
        let mut encoder = Encoder::new(run.encoder, run.options.seed)?;
        encoder.load(&state.part("encoder")).map_err(|e| foreign(&path, &e))?;
        let model = Self { options: run.options, encoder, classes: run.classes, head: state.part("head") };
        let (classes, dim) = (model.classes.len(), model.encoder.output_dim());
        match model.centres().map(|centres| centres.dim()) {
            Some((rows, columns)) if columns != dim || classes == 0 || rows % classes != 0 => {
                let what = format!(
                    "{rows} class centres of length {columns} for {classes} classes and length {dim}"
                );
                Err(foreign(&path, &Error::Unsuitable(what)))
            }
            _ => Ok(model),
        }
    }

    /// The model's vectors of `items`, `[items, dim]`, not normalised.
    ///
    /// # Errors
    /// Items of another kind or shape than the encoder takes.
    pub fn embed(&self, items: &Items) -> Result<Array2<f32>> {
        embed(&self.encoder, items)
    }

    /// [`embed`](Self::embed) that calls `done` with the number of items after each part of them.
    ///
    /// # Errors
    /// As [`embed`](Self::embed).
    pub fn embed_watched(&self, items: &Items, done: &mut dyn FnMut(usize)) -> Result<Array2<f32>> {
        self.embed_block(items, 0, done)
    }

    /// As [`embed_watched`](Self::embed_watched), for a block of items of which the first is number `first` of all (from 0):
    /// errors name items by their place among all.
    ///
    /// # Errors
    /// As [`embed`](Self::embed).
    pub fn embed_block(
        &self,
        items: &Items,
        first: usize,
        done: &mut dyn FnMut(usize),
    ) -> Result<Array2<f32>> {
        embed_from(&self.encoder, items, first, done)
    }

    /// Retrieval by the model's vectors and by the raw ones.
    ///
    /// # Errors
    /// As [`embed`](Self::embed), and [`Error::Unsuitable`] if there is nothing to measure.
    pub fn evaluate(&self, split: &Split) -> Result<Evaluation> {
        Ok(Evaluation { tuned: quality(&self.encoder, split)?, raw: raw_quality(split)? })
    }

    /// The class centres, `[classes * sub_centres, dim]`, if the loss has any.
    pub fn centres(&self) -> Option<ArrayView2<'_, f32>> {
        self.head.tensors.get("centres")?.view().into_dimensionality().ok()
    }
}

/// An error of loading a state, under the name of its file.
pub(super) fn foreign(path: &std::path::Path, error: &Error) -> Error {
    Error::data(
        path,
        format!("does not belong to this run's run.toml ({error}); restore both, or train again"),
    )
}

/// The vectors that `encoder` makes of `items`.
pub(super) fn embed(encoder: &Encoder, items: &Items) -> Result<Array2<f32>> {
    embed_from(encoder, items, 0, &mut |_| ())
}

/// As [`embed`]; `first` is what errors call the first item, `done` hears of each part.
fn embed_from(
    encoder: &Encoder,
    items: &Items,
    first: usize,
    done: &mut dyn FnMut(usize),
) -> Result<Array2<f32>> {
    let rows: Vec<usize> = (0..items.len()).collect();
    let vectors = encoder.embed_watched(items, &rows, done)?;
    if let Some(((row, _), value)) = vectors.indexed_iter().find(|(_, v)| !v.is_finite()) {
        let what =
            format!("the embedding became {value}; check the item, or train with a lower learning_rate");
        return Err(match items {
            Items::Files(files) => match files.paths().nth(row) {
                Some(path) => Error::data(path, what),
                None => Error::Unsuitable(format!("item {row}: {what}")),
            },
            Items::VectorFile(file) => {
                Error::data(file.path(), format!("row {}: {what}", file.row_in_file(row).unwrap_or(row)))
            }
            _ => Error::Unsuitable(format!("item {}: {what}", first + row)),
        });
    }
    Ok(vectors)
}

/// An encoder's output as rows.
pub(super) fn as_rows(output: ArrayViewD<'_, f32>) -> Result<ArrayView2<'_, f32>> {
    let got = output.shape().to_vec();
    output.into_dimensionality().map_err(|_| {
        let expected = "[items, dim]: an encoder's last layer must give one vector for each item".to_owned();
        Error::Core(embedtune_core::Error::Shape { op: "encoder", expected, got })
    })
}

/// Retrieval by `encoder` on a split's evaluation items.
pub(super) fn quality(encoder: &Encoder, split: &Split) -> Result<Quality> {
    Quality::measure(&split.queries, split.gallery.as_ref(), |items| embed(encoder, items))
}

/// Retrieval by the raw vectors on a split's evaluation items.
pub(super) fn raw_quality(split: &Split) -> Result<Quality> {
    Quality::measure(&split.queries, split.gallery.as_ref(), raw_vectors)
}

/// Retrieval by `encoder`, with all figures by name.
pub(super) fn figures(
    encoder: &Encoder,
    queries: &Dataset,
    gallery: Option<&Dataset>,
    monitor: Monitor,
) -> Result<(Quality, BTreeMap<String, f64>)> {
    quality::measure(queries, gallery, |items| embed(encoder, items), Some(monitor))
}
