//! What an encoder measures on its training data before the first step.

use embedtune_core::{Value, parallel};
use ndarray::{Array1, ArrayView2};
use rayon::prelude::*;

use super::batch::check_rows;
use super::{Encoder, InputSpec, Layer, TokenSpec};
use crate::data::{Items, VectorFile};
use crate::{Error, Result};

/// Texts or vectors that one task measures.
const BLOCK: usize = 256;

impl Encoder {
    /// Measures the training items, those in `rows`, before training: the rows' inverse document frequencies for a table of tokens,
    /// the vectors' root mean square for a residual. Other encoders measure nothing. What is measured is part of
    /// [`state`](Self::state), so a loaded encoder needs no items.
    ///
    /// A row's weight is `ln((1 + n) / (1 + df)) + 1` for `n` texts of which `df` hold it, scikit-learn's
    /// `smooth_idf`, and 0 for rows in no text: their random vectors would only be noise in texts met later.
    ///
    /// # Errors
    /// Items of another kind or shape than the encoder takes; a row past the end.
    pub fn prepare(&mut self, items: &Items, rows: &[usize]) -> Result<()> {
        self.spec.input.accepts(items)?;
        check_rows(items, rows)?;
        match (&self.spec.input, items) {
            (InputSpec::Text(spec), Items::Text(texts)) if !rows.is_empty() => {
                let weights = inverse_document_frequencies(spec, texts, rows);
                self.set_first(|layer| matches!(layer, Layer::Embedding { .. }), weights)
            }
            // The data's scale is that of the first residual's input; behind another layer it means nothing.
            (InputSpec::Vector { .. }, _)
                if !matches!(self.spec.layers.first(), Some(Layer::Residual { .. })) =>
            {
                Ok(())
            }
            (InputSpec::Vector { .. }, Items::Vectors(vectors)) => {
                self.set_scale(root_mean_square(vectors.view(), rows))
            }
            (InputSpec::Vector { .. }, Items::VectorFile(file)) => {
                self.set_scale(root_mean_square_of(file, rows)?)
            }
            // Averages stand for whatever pooling there is: only the order of magnitude matters.
            (InputSpec::Sequence { .. }, Items::Sequences(sequences)) => match self.spec.layers.as_slice() {
                [Layer::Pool { .. }, Layer::Residual { .. }, ..] => {
                    let means = sequences.select(rows).averages();
                    let rows: Vec<usize> = (0..means.nrows()).collect();
                    self.set_scale(root_mean_square(means.view(), &rows))
                }
                _ => Ok(()),
            },
            _ => Ok(()),
        }
    }

    /// Sets the scale of the first residual.
    fn set_scale(&mut self, scale: f64) -> Result<()> {
        // All zeros, or not a number: 1 leaves the residual as it is.
        let scale = if scale > 0.0 && scale.is_finite() { scale } else { 1.0 };
        let residual = |layer: &Layer| matches!(layer, Layer::Residual { .. });
        self.set_first(residual, Array1::from_elem(1, scale as f32))
    }

    /// Sets the first buffer of the first layer that `is` so.
    fn set_first(&mut self, is: impl Fn(&Layer) -> bool, value: Array1<f32>) -> Result<()> {
        let Some(at) = self.spec.layers.iter().position(is) else { return Ok(()) };
        let buffer: usize = self.spec.layers.iter().take(at).map(Layer::buffer_count).sum();
        let value: Value = value.into_dyn().into_shared();
        match self.buffers.get_mut(buffer) {
            Some(named) if named.value.shape() == value.shape() => named.value = value,
            _ => {
                return Err(Error::Unsuitable(format!(
                    "layer {at} has no buffer of shape {:?}",
                    value.shape()
                )));
            }
        }
        Ok(())
    }
}

fn inverse_document_frequencies(spec: &TokenSpec, texts: &[String], rows: &[usize]) -> Array1<f32> {
    let mut frequencies = Array1::<f64>::zeros(spec.rows);
    for rows in rows.chunks(BLOCK) {
        let texts: Vec<&str> = rows.iter().map(|&row| texts[row].as_str()).collect();
        for id in spec.tokens(&texts).ids {
            if let Some(frequency) = frequencies.get_mut(id as usize) {
                *frequency += 1.0;
            }
        }
    }
    let count = rows.len() as f64;
    frequencies.mapv(|df| if df > 0.0 { (((1.0 + count) / (1.0 + df)).ln() + 1.0) as f32 } else { 0.0 })
}

/// As [`root_mean_square`], to the same bits: the blocks are the same.
fn root_mean_square_of(file: &VectorFile, rows: &[usize]) -> Result<f64> {
    let squares = |rows: &[usize]| -> Result<f64> {
        Ok(file.read(rows)?.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>())
    };
    let blocks: Vec<f64> = rows.par_chunks(BLOCK).map(squares).collect::<Result<_>>()?;
    let sum = blocks.into_iter().fold(0.0, |sum, block| sum + block);
    Ok((sum / (rows.len() * file.dim()).max(1) as f64).sqrt())
}

fn root_mean_square(vectors: ArrayView2<'_, f32>, rows: &[usize]) -> f64 {
    let squares = parallel::sum(rows.len(), BLOCK, |block| {
        rows[block].iter().flat_map(|&row| vectors.row(row)).map(|&v| f64::from(v).powi(2)).sum()
    });
    (squares / (rows.len() * vectors.ncols()).max(1) as f64).sqrt()
}
