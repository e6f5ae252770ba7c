//! The recipe that works on any backend: a scalar whose gradients are the loss's.

use burn::tensor::{Tensor, TensorData};
use embedtune_losses::{Input, Loss, Output};

use crate::Error;

/// The loss of the embeddings `x`, `[batch, dim]`, with class centres `w` for a loss that has them. The tensors come to
/// the host for it.
pub fn evaluate(
    loss: &dyn Loss,
    x: &Tensor<2>,
    w: Option<&Tensor<2>>,
    labels: &[u32],
) -> Result<Output, Error> {
    let host = |t: &Tensor<2>| {
        t.to_data().convert::<f32>().try_to_vec::<f32>().map_err(|e| Error::from(format!("{e:?}")))
    };
    let (x_host, w_host) = (host(x)?, w.map(host).transpose()?);
    let mut input = Input::from_slices(&x_host, x.dims()[1], labels)?;
    if let Some(w) = &w_host {
        input = input.with_weight_slice(w)?;
    }
    Ok(loss.evaluate(input)?)
}

/// The loss's value, and a scalar with its gradients: `sum(x * stop(dX)) + sum(w * stop(dW))`. Call `backward` on the
/// scalar; report the value. The scalar's own number means nothing.
pub fn surrogate(
    loss: &dyn Loss,
    x: Tensor<2>,
    w: Option<Tensor<2>>,
    labels: &[u32],
) -> Result<(f64, Tensor<1>), Error> {
    let (stats, dx, dw) = evaluate(loss, &x, w.as_ref(), labels)?.into_vecs();
    let times = |t: Tensor<2>, gradient: Vec<f32>| {
        let fixed = Tensor::<2>::from_data(TensorData::new(gradient, t.dims()), &t.device());
        (t * fixed).sum()
    };
    let mut scalar = times(x, dx);
    if let (Some(w), Some(dw)) = (w, dw) {
        scalar = scalar + times(w, dw);
    }
    Ok((stats.value, scalar))
}
