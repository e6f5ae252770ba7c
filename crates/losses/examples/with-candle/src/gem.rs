//! GeM pooling of masked tokens as a candle custom operation.

use std::sync::Mutex;

use candle_core::{CpuStorage, CustomOp2, Error, Layout, Result, Shape, Tensor, WithDType, bail};
use embedtune_pooling::ndarray::{Array2, Array3, ArrayView2, ArrayView3};
use embedtune_pooling::tokens::{self, Valid};
use embedtune_pooling::{Gem, Pooling, Saved};

use crate::loss::floats;

/// GeM over the tokens that count: `tokens.apply_op2(&p, GemOp::new(gem, valid))` takes `[batch, tokens, dim]` and the
/// power, `[1]` or `[dim]`, to `[batch, dim]`. Call `embedtune_pooling::keep_powers` on the power after each step of
/// the optimizer.
pub struct GemOp {
    gem: Gem,
    valid: Valid,
    saved: Mutex<Saved>,
}

impl GemOp {
    /// `gem` says what is done with negative values, `valid` which tokens count.
    pub fn new(gem: Gem, valid: Valid) -> Self {
        Self { gem, valid, saved: Mutex::new(Saved::default()) }
    }
}

impl CustomOp2 for GemOp {
    fn name(&self) -> &'static str {
        "gem"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        p: &CpuStorage,
        p_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let dims = x_layout.shape().dims3()?;
        let x = ArrayView3::from_shape(dims, floats(x, x_layout)?).map_err(Error::wrap)?;
        let mut y = Array2::zeros((dims.0, dims.2));
        let pooling = Pooling::GeM { p: floats(p, p_layout)?, options: &self.gem, learnable: true };
        let Ok(mut saved) = self.saved.lock() else { bail!("another thread failed in gem") };
        tokens::forward(x, &self.valid, pooling, y.view_mut(), &mut saved).map_err(Error::wrap)?;
        let (y, _) = y.into_raw_vec_and_offset();
        Ok((f32::to_cpu_storage_owned(y), Shape::from((dims.0, dims.2))))
    }

    fn bwd(
        &self,
        x: &Tensor,
        p: &Tensor,
        _: &Tensor,
        upstream: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let host = |t: &Tensor| t.flatten_all()?.to_vec1::<f32>();
        let (x_host, powers, dy) = (host(x)?, host(p)?, host(upstream)?);
        let view = ArrayView3::from_shape(x.dims3()?, &x_host).map_err(Error::wrap)?;
        let dy = ArrayView2::from_shape(upstream.dims2()?, &dy).map_err(Error::wrap)?;
        let (mut dx, mut d_p) = (Array3::zeros(x.dims3()?), vec![0.0; powers.len()]);
        let pooling = Pooling::GeM { p: &powers, options: &self.gem, learnable: true };
        let Ok(saved) = self.saved.lock() else { bail!("another thread failed in gem") };
        tokens::backward(view, &self.valid, pooling, &saved, dy, Some(dx.view_mut()), Some(&mut d_p))
            .map_err(Error::wrap)?;
        let (dx, _) = dx.into_raw_vec_and_offset();
        let dx = Tensor::from_vec(dx, x.shape(), x.device())?;
        Ok((Some(dx), Some(Tensor::from_vec(d_p, p.shape(), p.device())?)))
    }
}
