//! A loss as a candle custom operation.

use std::sync::{Arc, Mutex};

use candle_core::{CpuStorage, CustomOp1, CustomOp2, Error, Layout, Result, Shape, Tensor, WithDType, bail};
use embedtune_losses::{Input, Loss, Output};

/// One evaluation of a loss. The loss computes its gradients together with its value, so they wait here for the backward
/// pass; make a new `LossOp` for every step.
///
/// - a loss without class centres: `embeddings.apply_op1(LossOp::new(loss.clone(), labels))`
/// - a loss with class centres: `embeddings.apply_op2(&centres, LossOp::new(loss.clone(), labels))`
pub struct LossOp {
    loss: Arc<dyn Loss>,
    labels: Vec<u32>,
    output: Mutex<Option<Output>>,
}

impl LossOp {
    /// `labels` has the class of each row of the embeddings.
    pub fn new(loss: Arc<dyn Loss>, labels: Vec<u32>) -> Self {
        Self { loss, labels, output: Mutex::new(None) }
    }

    fn forward(
        &self,
        x: (&CpuStorage, &Layout),
        w: Option<(&CpuStorage, &Layout)>,
    ) -> Result<(CpuStorage, Shape)> {
        let (_, dim) = x.1.shape().dims2()?;
        let mut input = Input::from_slices(floats(x.0, x.1)?, dim, &self.labels).map_err(Error::wrap)?;
        if let Some((storage, layout)) = w {
            input = input.with_weight_slice(floats(storage, layout)?).map_err(Error::wrap)?;
        }
        let output = self.loss.evaluate(input).map_err(Error::wrap)?;
        let value = f32::to_cpu_storage_owned(vec![
            output.stats.value.clamp(-f64::from(f32::MAX), f64::from(f32::MAX)) as f32,
        ]);
        if let Ok(mut place) = self.output.lock() {
            *place = Some(output);
        }
        Ok((value, Shape::from(())))
    }

    /// The gradients, each scaled by that of the loss's value. A second backward pass finds them again.
    fn gradients(&self, upstream: &Tensor) -> Result<(Tensor, Option<Tensor>)> {
        let Ok(output) = self.output.lock() else { bail!("another thread failed in this operation") };
        let Some(output) = output.as_ref() else { bail!("backward before forward") };
        let tensor = |gradient: &embedtune_losses::ndarray::Array2<f32>| {
            let values: Vec<f32> = gradient.iter().copied().collect();
            Tensor::from_vec(values, gradient.dim(), upstream.device())?.broadcast_mul(upstream)
        };
        Ok((tensor(&output.d_embeddings)?, output.d_weights.as_ref().map(tensor).transpose()?))
    }
}

/// The values that `storage` and `layout` describe.
pub(crate) fn floats<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let Some((start, end)) = layout.contiguous_offsets() else {
        bail!("the input has gaps or is transposed: call contiguous() on it before")
    };
    Ok(&storage.as_slice::<f32>()?[start..end])
}

impl CustomOp1 for LossOp {
    fn name(&self) -> &'static str {
        self.loss.name()
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        self.forward((storage, layout), None)
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, upstream: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(self.gradients(upstream)?.0))
    }
}

impl CustomOp2 for LossOp {
    fn name(&self) -> &'static str {
        self.loss.name()
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        w: &CpuStorage,
        w_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.forward((x, x_layout), Some((w, w_layout)))
    }

    fn bwd(
        &self,
        _: &Tensor,
        _: &Tensor,
        _: &Tensor,
        upstream: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (dx, dw) = self.gradients(upstream)?;
        Ok((Some(dx), dw))
    }
}
