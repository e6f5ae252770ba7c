//! The recipe that works in any framework: a scalar whose gradients are the loss's.

use candle_core::{Error, Result, Tensor};
use embedtune_losses::{Input, Loss};

/// The loss's value, and a scalar with its gradients: `sum(x * stop(dX)) + sum(w * stop(dW))`. Call `backward` on the
/// scalar; report the value. The scalar's own number means nothing.
pub fn surrogate(loss: &dyn Loss, x: &Tensor, w: Option<&Tensor>, labels: &[u32]) -> Result<(f64, Tensor)> {
    let (_, dim) = x.dims2()?;
    let x_host = x.flatten_all()?.to_vec1::<f32>()?;
    let w_host = w.map(|w| w.flatten_all()?.to_vec1::<f32>()).transpose()?;
    let mut input = Input::from_slices(&x_host, dim, labels).map_err(Error::wrap)?;
    if let Some(w) = &w_host {
        input = input.with_weight_slice(w).map_err(Error::wrap)?;
    }
    let out = loss.evaluate(input).map_err(Error::wrap)?;
    let (dx, _) = out.d_embeddings.into_raw_vec_and_offset();
    let mut scalar = (x * Tensor::from_vec(dx, x.shape(), x.device())?)?.sum_all()?;
    if let (Some(w), Some(dw)) = (w, out.d_weights) {
        let (dw, _) = dw.into_raw_vec_and_offset();
        scalar = (scalar + (w * Tensor::from_vec(dw, w.shape(), w.device())?)?.sum_all()?)?;
    }
    Ok((out.stats.value, scalar))
}
