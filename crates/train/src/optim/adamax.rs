//! Adamax.

use embedtune_core::Grad;

use super::pass::fused;
use super::rule::Rule;
use super::slots::{Layout, Slot};
use super::{OptimizerKind, OptimizerOptions, Param};
use crate::Result;

/// Kingma and Ba 2015, Algorithm 2: `m = b1 m + (1 - b1) g`, `u = max(b2 u, |g| + eps)`,
/// `p -= lr / (1 - b1^t) m / u`.
pub(super) struct Adamax {
    weight_decay: f32,
    betas: (f64, f64),
    eps: f32,
}

impl Adamax {
    pub(super) fn new(options: &OptimizerOptions) -> Self {
        Self {
            weight_decay: options.weight_decay.unwrap_or(0.0) as f32,
            betas: options.betas.unwrap_or((0.9, 0.999)),
            eps: options.eps.unwrap_or(1e-8) as f32,
        }
    }
}

impl Rule for Adamax {
    fn kind(&self) -> OptimizerKind {
        OptimizerKind::Adamax
    }

    fn layout(&self, _: f64) -> Layout {
        // PyTorch starts `u` at 0; the first step makes it at least eps, and from eps it gives the same.
        Layout { buffers: vec![("exp_avg", 0.0), ("exp_inf", self.eps)], ..Layout::default() }
    }

    fn update(&self, lr: f64, param: &mut Param<'_>, grad: &Grad, slot: &mut Slot) -> Result<()> {
        let ((b1, b2), decay, eps) = (self.betas, self.weight_decay, self.eps);
        let (take, keep) = ((1.0 - b1) as f32, b2 as f32);
        let size = (lr / (1.0 - b1.powf(slot.step as f64))) as f32;
        fused(param.value, grad, slot, decay == 0.0, move |p, g, [m, u]| {
            let g = g + decay * p;
            let m = m + take * (g - m);
            let u = (keep * u).max(g.abs() + eps);
            (p - size * m / u, [m, u])
        })
    }
}
