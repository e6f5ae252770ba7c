//! Items on their way into an encoder.

use ndarray::{Array2, Array4, Axis};
use rayon::prelude::*;

use crate::data::Items;
use crate::{Error, Result};

/// Some items of a data set.
#[derive(Debug, Clone, PartialEq)]
pub enum Batch {
    /// `[batch, channels, height, width]`, 0 to 1.
    Images(Array4<f32>),
    /// `[batch, dim]`.
    Vectors(Array2<f32>),
    /// Texts.
    Text(Vec<String>),
}

impl Batch {
    /// The items in `rows`.
    ///
    /// # Errors
    /// [`Error::Unsuitable`] for a row past the end.
    pub fn gather(items: &Items, rows: &[usize]) -> Result<Self> {
        check_rows(items, rows)?;
        Ok(match items {
            Items::Images(images) => {
                let shape = images.shape();
                let mut batch = Array4::zeros((rows.len(), shape[1], shape[2], shape[3]));
                batch.axis_iter_mut(Axis(0)).into_par_iter().zip(rows).for_each(|(mut to, &row)| {
                    to.zip_mut_with(&images.index_axis(Axis(0), row), |to, &v| *to = f32::from(v) / 255.0);
                });
                Self::Images(batch)
            }
            Items::Vectors(vectors) => Self::Vectors(vectors.select(Axis(0), rows)),
            Items::Text(texts) => Self::Text(rows.iter().map(|&row| texts[row].clone()).collect()),
        })
    }
}

/// Errors with the first row that is past the end.
pub(super) fn check_rows(items: &Items, rows: &[usize]) -> Result<()> {
    match rows.iter().find(|&&row| row >= items.len()) {
        Some(row) => Err(Error::Unsuitable(format!("item {row} was asked for; there are {}", items.len()))),
        None => Ok(()),
    }
}
