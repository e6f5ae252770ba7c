//! Vectors from an ONNX model, run by tract.

use std::sync::Arc;

use embedtune_losses::ndarray::{Array2, ArrayViewD, Axis};
use tract_onnx::prelude::*;

use crate::Error;

/// Items that go through the model at once.
const BATCH: usize = 64;

/// The first output, `[items, dim]`, of the ONNX model `file` for its only input `items`, `[items, ...]`.
///
/// # Errors
/// Bytes that are no ONNX model, a model that tract cannot run on items of this shape, or an output that is no matrix
/// with a row for each item.
pub fn embed(file: &[u8], items: ArrayViewD<'_, f32>) -> Result<Array2<f32>, Error> {
    if items.is_empty() {
        return Err(format!("nothing to embed: the items have shape {:?}", items.shape()).into());
    }
    let count = items.len_of(Axis(0));
    let mut vectors = Vec::new();
    // tract plans for one shape: once for the full batches, and once for what is left.
    let mut planned: Option<(usize, Plan)> = None;
    for batch in items.axis_chunks_iter(Axis(0), BATCH) {
        let size = batch.len_of(Axis(0));
        let plan = match planned.take() {
            Some((of, plan)) if of == size => plan,
            _ => plan(file, batch.shape())?,
        };
        let values: Vec<f32> = batch.iter().copied().collect();
        let outputs = plan.run(tvec!(Tensor::from_shape(batch.shape(), &values)?.into()))?;
        let output = outputs.first().ok_or("the model has no output")?;
        if !matches!(output.shape(), &[rows, _] if rows == size) {
            let shape = output.shape();
            return Err(format!(
                "the model's first output has shape {shape:?} for {size} items, not [{size}, dim]: let the model pool \
                 (the mean of its tokens, GlobalAveragePool and Flatten)"
            )
            .into());
        }
        vectors.extend(output.to_plain_array_view::<f32>()?.iter());
        planned = Some((size, plan));
    }
    Ok(Array2::from_shape_vec((count, vectors.len() / count), vectors)?)
}

type Plan = Arc<TypedRunnableModel>;

fn plan(mut file: &[u8], shape: &[usize]) -> Result<Plan, Error> {
    let model = tract_onnx::onnx().model_for_read(&mut file)?.with_input_fact(0, f32::fact(shape).into())?;
    Ok(model.into_optimized()?.into_runnable()?)
}
