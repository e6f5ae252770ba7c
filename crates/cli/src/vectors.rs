//! The vectors of a data set's evaluation items under each variant.

use std::path::Path;

use embedtune_train::data::Split;
use embedtune_train::ndarray::Array2;
use embedtune_train::run::{Model, RunFile, RunFolder, initial_encoder, raw_vectors};
use embedtune_train::{Result, data::Items};

/// Vectors of the queries, and of the gallery where they search one.
pub(crate) struct Vectors {
    pub(crate) queries: Array2<f32>,
    pub(crate) gallery: Option<Array2<f32>>,
}

impl Vectors {
    fn of(split: &Split, embed: impl Fn(&Items) -> Result<Array2<f32>>) -> Result<Self> {
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
    pub(crate) fn untrained(run: &RunFile, split: &Split) -> Result<Self> {
        let encoder = initial_encoder(&run.options, split)?;
        Self::of(split, |items| encoder.embed(items, &(0..items.len()).collect::<Vec<_>>()))
    }

    /// The run's model.
    ///
    /// # Errors
    /// Those of [`Model::load`]; data that the model does not take.
    pub(crate) fn tuned(run: &Path, split: &Split) -> Result<Self> {
        let model = Model::load(&RunFolder::new(run))?;
        Self::of(split, |items| model.embed(items))
    }
}
