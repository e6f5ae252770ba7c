//! Averaged stochastic gradient descent.

use embedtune_core::Grad;

use super::pass::fused;
use super::rule::Rule;
use super::slots::{Layout, Slot};
use super::{OptimizerKind, OptimizerOptions, Param};
use crate::Result;

/// Polyak and Juditsky 1992, with the step sizes of Bottou's SGD: `p = (1 - lambd eta) p - eta g` with
/// `eta_t = lr / (1 + lambd lr t)^alpha` (`lr` at the first step), and from step `t0` on the mean `ax` of the
/// parameters (before: the parameters as they are), which the state holds and no step uses. `eta` is rounded to `f32`
/// between steps, as PyTorch keeps it.
pub(super) struct Asgd {
    weight_decay: f32,
    lambd: f64,
    alpha: f64,
    t0: f64,
}

impl Asgd {
    pub(super) fn new(options: &OptimizerOptions) -> Self {
        Self {
            weight_decay: options.weight_decay.unwrap_or(0.0) as f32,
            lambd: options.lambd.unwrap_or(1e-4),
            alpha: options.alpha.unwrap_or(0.75),
            t0: options.t0.unwrap_or(1e6),
        }
    }
}

impl Rule for Asgd {
    fn kind(&self) -> OptimizerKind {
        OptimizerKind::Asgd
    }

    fn layout(&self, lr: f64) -> Layout {
        Layout { buffers: vec![("ax", 0.0)], scalars: vec![("eta", f64::from(lr as f32))] }
    }

    fn update(&self, lr: f64, param: &mut Param<'_>, grad: &Grad, slot: &mut Slot) -> Result<()> {
        let decay = self.weight_decay;
        let eta = slot.scalars.first().copied().unwrap_or(lr);
        // The weight of this step in the mean.
        let mean = 1.0 / (slot.step as f64 - 1.0 - self.t0).max(1.0);
        let (shrink, size, mean) = ((1.0 - self.lambd * eta) as f32, eta as f32, mean as f32);
        fused(param.value, grad, slot, false, move |p, g, [ax]| {
            let g = g + decay * p;
            let p = p * shrink - size * g;
            (p, [if mean == 1.0 { p } else { ax + (p - ax) * mean }])
        })?;
        let next = lr / (1.0 + self.lambd * lr * slot.step as f64).powf(self.alpha);
        slot.scalars = vec![f64::from(next as f32)];
        Ok(())
    }
}
