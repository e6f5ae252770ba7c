//! Items on their way into an encoder.

use ndarray::{Array2, Array3, Array4, ArrayView4, Axis, Slice};
use rayon::prelude::*;

use crate::data::Items;
use crate::{Error, Result};

/// Some items of a data set.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Batch {
    /// `[batch, channels, height, width]`, 0 to 1.
    Images(Array4<f32>),
    /// `[batch, dim]`.
    Vectors(Array2<f32>),
    /// Token vectors `[batch, tokens, dim]` and how many count of each item.
    Sequences(Array3<f32>, Vec<usize>),
    /// Texts.
    Text(Vec<String>),
}

impl Batch {
    /// The items in `rows`.
    ///
    /// # Errors
    /// [`Error::Unsuitable`] for a row past the end; [`Error::Data`] naming a file that cannot be read.
    pub fn gather(items: &Items, rows: &[usize]) -> Result<Self> {
        check_rows(items, rows)?;
        Ok(match items {
            Items::Images(images) => Self::Images(scaled(images.view(), rows)),
            Items::Files(files) => {
                let images = files.read(rows)?;
                Self::Images(scaled(images.view(), &(0..rows.len()).collect::<Vec<_>>()))
            }
            Items::Vectors(vectors) => Self::Vectors(vectors.select(Axis(0), rows)),
            Items::VectorFile(file) => Self::Vectors(file.read(rows)?),
            Items::Sequences(sequences) => {
                let lengths: Vec<usize> = rows.iter().map(|&row| sequences.lengths()[row]).collect();
                // No wider than the batch's longest item.
                let longest = lengths.iter().copied().max().unwrap_or(0).max(1);
                let values = sequences.values().slice_axis(Axis(1), Slice::from(..longest));
                Self::Sequences(values.select(Axis(0), rows), lengths)
            }
            Items::Text(texts) => Self::Text(rows.iter().map(|&row| texts[row].clone()).collect()),
        })
    }
}

/// The images in `rows`, 0 to 1.
fn scaled(images: ArrayView4<'_, u8>, rows: &[usize]) -> Array4<f32> {
    let shape = images.shape();
    let mut batch = Array4::zeros((rows.len(), shape[1], shape[2], shape[3]));
    batch.axis_iter_mut(Axis(0)).into_par_iter().zip(rows).for_each(|(mut to, &row)| {
        to.zip_mut_with(&images.index_axis(Axis(0), row), |to, &v| *to = f32::from(v) / 255.0);
    });
    batch
}

/// Errors with the first row that is past the end.
pub(super) fn check_rows(items: &Items, rows: &[usize]) -> Result<()> {
    match rows.iter().find(|&&row| row >= items.len()) {
        Some(row) => Err(Error::Unsuitable(format!("item {row} was asked for; there are {}", items.len()))),
        None => Ok(()),
    }
}
