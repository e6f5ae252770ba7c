//! The inputs, checked once at the boundary.

use ndarray::ArrayView2;

use crate::{Error, GradsMut, Input, Result};

/// Checks shapes, indices and finiteness of everything that a triplet loss reads and writes.
pub(crate) fn check(input: &Input<'_>, grads: &GradsMut<'_>) -> Result<()> {
    let (batch, dim) = input.embeddings.dim();
    rows("embeddings", input.embeddings, "labels", input.labels)?;
    if let Some(reference) = &input.reference {
        rows("reference embeddings", reference.embeddings, "reference labels", reference.labels)?;
        if reference.embeddings.ncols() != dim {
            return Err(shape(
                "reference embeddings",
                format!("{dim} columns, as the embeddings"),
                reference.embeddings.shape(),
            ));
        }
        let count = reference.labels.len();
        if let Some(same) = reference.same_item {
            length("same_item", same.len(), batch)?;
            let wrong = same.iter().position(|&i| i != u32::MAX && i as usize >= count);
            if let Some((row, &value)) = wrong.and_then(|row| same.get(row).map(|value| (row, value))) {
                return Err(Error::Option {
                    option: "same_item",
                    value: format!("{value} in row {row}"),
                    reason: format!("there are {count} reference rows; use u32::MAX for a row without one"),
                });
            }
        }
    }
    if let Some(weights) = input.sample_weights {
        length("sample_weights", weights.len(), batch)?;
        finite("sample_weights", weights)?;
    }
    if let Some(weights) = input.class_weights {
        finite("class_weights", weights)?;
        let classes = weights.len();
        if let Some((row, &label)) =
            input.labels.iter().enumerate().find(|&(_, &label)| label as usize >= classes)
        {
            return Err(Error::Label { row, label, classes });
        }
    }
    if let Some(d) = grads.embeddings.as_ref().filter(|d| d.dim() != (batch, dim)) {
        return Err(shape(
            "gradient of the embeddings",
            format!("[{batch}, {dim}], as the embeddings"),
            d.shape(),
        ));
    }
    if let Some(d) = &grads.weights {
        return Err(shape(
            "gradient of the class centres",
            "none: a triplet loss has no centres".into(),
            d.shape(),
        ));
    }
    if let Some(per_sample) = &grads.per_sample {
        length("per_sample", per_sample.len(), batch)?;
    }
    finite("upstream", &[grads.upstream])
}

/// One label a row, few enough rows for `u32` indices, and finite values.
pub(crate) fn rows(
    what: &'static str,
    x: ArrayView2<'_, f32>,
    labels_name: &'static str,
    labels: &[u32],
) -> Result<()> {
    length(labels_name, labels.len(), x.nrows())?;
    // Counts of triplets' terms are kept in `f32`, which holds integers to 2^24.
    if x.nrows() > 1 << 24 {
        return Err(shape(what, "at most 16,777,216 rows".into(), x.shape()));
    }
    for (row, values) in x.rows().into_iter().enumerate() {
        // A sum is finite wherever all its terms are, unless it overflows: then look closer.
        if values.sum().is_finite() {
            continue;
        }
        if let Some((column, &value)) = values.iter().enumerate().find(|(_, v)| !v.is_finite()) {
            return Err(Error::NotFinite { what, row, column, value });
        }
    }
    Ok(())
}

fn finite(what: &'static str, values: &[f32]) -> Result<()> {
    match values.iter().enumerate().find(|(_, v)| !v.is_finite()) {
        Some((row, &value)) => Err(Error::NotFinite { what, row, column: 0, value }),
        None => Ok(()),
    }
}

fn length(what: &'static str, got: usize, batch: usize) -> Result<()> {
    if got == batch {
        return Ok(());
    }
    Err(shape(what, format!("[{batch}], one a row"), &[got]))
}

fn shape(what: &'static str, expected: String, got: &[usize]) -> Error {
    Error::Shape { what, expected, got: got.to_vec() }
}
