//! The vectors of a data set's evaluation items under each variant.

use std::path::Path;

use embedtune_train::data::Split;
use embedtune_train::ndarray::Array2;
use embedtune_train::retrieval::Progress;
use embedtune_train::run::{Model, RunFile, RunFolder, initial_encoder, raw_vectors};
use embedtune_train::{Result, data::Items};

use crate::work::Work;

/// Vectors of the queries, and of the gallery where they search one.
pub(crate) struct Vectors {
    pub(crate) queries: Array2<f32>,
    pub(crate) gallery: Option<Array2<f32>>,
}

impl Vectors {
    fn of(split: &Split, mut embed: impl FnMut(&Items) -> Result<Array2<f32>>) -> Result<Self> {
        Ok(Self {
            queries: embed(&split.queries.items)?,
            gallery: split.gallery.as_ref().map(|gallery| embed(&gallery.items)).transpose()?,
        })
    }

    /// The data as they are.
    ///
    /// # Errors
    /// Those of [`raw_vectors`].
    pub(crate) fn raw(split: &Split) -> Result<Self> {
        Self::of(split, raw_vectors)
    }

    /// The encoder as the run found it: its weights are a function of the run's options and the data.
    ///
    /// # Errors
    /// Options that do not fit the data.
    pub(crate) fn untrained(run: &RunFile, split: &Split, work: &Work) -> Result<Self> {
        let encoder = initial_encoder(&run.options, split)?;
        Self::begin("untrained", split, work);
        Self::of(split, |items| {
            let rows: Vec<usize> = (0..items.len()).collect();
            encoder.embed_watched(items, &rows, &mut |done| work.advance(done as u64))
        })
    }

    /// The run's model, under its name.
    ///
    /// # Errors
    /// Those of [`Model::load`]; data that the model does not take.
    pub(crate) fn tuned(name: &str, run: &Path, split: &Split, work: &Work) -> Result<Self> {
        Self::of_model(name, &Model::load(&RunFolder::new(run))?, split, work)
    }

    /// A model's, under its name.
    ///
    /// # Errors
    /// Data that the model does not take.
    pub(crate) fn of_model(name: &str, model: &Model, split: &Split, work: &Work) -> Result<Self> {
        Self::begin(name, split, work);
        Self::of(split, |items| model.embed_watched(items, &mut |done| work.advance(done as u64)))
    }

    fn begin(name: &str, split: &Split, work: &Work) {
        let items = split.queries.labels.len() + split.gallery.as_ref().map_or(0, |all| all.labels.len());
        work.stage(&format!("{name}: embedding"), "items", items);
    }
}
