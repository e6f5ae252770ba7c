//! The inputs, checked once at the boundary.

use crate::check::{batch, factors, outputs};
use crate::{Error, GradsMut, Input, Result};

/// Counts of negatives are kept in `f32` coefficients, which hold integers to 2^24.
const MOST_ROWS: usize = 1 << 24;

/// Checks shapes, indices and finiteness of everything that the loss reads and writes. Returns each row's weight.
pub(crate) fn check(input: &Input<'_>, grads: &GradsMut<'_>) -> Result<Vec<f64>> {
    let dim = input.embeddings.ncols();
    batch("embeddings", &input.embeddings, ("labels", input.labels), dim)?;
    if let Some(centres) = &input.weights {
        return Err(Error::Shape {
            what: "class centres",
            expected: "none: this loss compares rows with rows; leave Input::weights out".to_owned(),
            got: centres.shape().to_vec(),
        });
    }
    let mut rows = input.labels.len();
    if let Some(reference) = &input.reference {
        batch("reference embeddings", &reference.embeddings, ("reference labels", reference.labels), dim)?;
        same_item(reference.same_item, input.labels.len(), reference.labels.len())?;
        rows = rows.max(reference.labels.len());
    }
    if rows > MOST_ROWS {
        let expected = format!("at most {MOST_ROWS} rows");
        return Err(Error::Shape { what: "embeddings", expected, got: vec![rows, dim] });
    }
    outputs(grads, input.embeddings.dim(), None)?;
    factors(input)
}

fn same_item(same: Option<&[u32]>, batch: usize, reference: usize) -> Result<()> {
    let Some(same) = same else { return Ok(()) };
    if same.len() != batch {
        let expected = format!(
            "[{batch}], one for each row of the batch; a CrossBatchMemory's `reference` goes with the batch pushed last: \
             push this one before, or take `past`"
        );
        return Err(Error::Shape { what: "same_item", expected, got: vec![same.len()] });
    }
    match same.iter().enumerate().find(|&(_, &i)| i != u32::MAX && i as usize >= reference) {
        None => Ok(()),
        Some((row, at)) => Err(Error::Option {
            option: "same_item",
            value: format!("{at} in row {row}"),
            reason: format!("there are {reference} reference rows; use u32::MAX for a row without one"),
        }),
    }
}
