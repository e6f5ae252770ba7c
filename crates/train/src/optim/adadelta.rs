//! Adadelta.

use embedtune_core::Grad;

use super::pass::fused;
use super::rule::Rule;
use super::slots::{Layout, Slot};
use super::{OptimizerKind, OptimizerOptions, Param};
use crate::Result;

/// Zeiler 2012, Algorithm 1: `v = rho v + (1 - rho) g^2`, `d = sqrt(u + eps) / sqrt(v + eps) g`,
/// `u = rho u + (1 - rho) d^2`, `p -= lr d` (the paper has no rate: 1).
pub(super) struct Adadelta {
    weight_decay: f32,
    rho: f64,
    eps: f32,
}

impl Adadelta {
    pub(super) fn new(options: &OptimizerOptions) -> Self {
        Self {
            weight_decay: options.weight_decay.unwrap_or(0.0) as f32,
            rho: options.rho.unwrap_or(0.9),
            eps: options.eps.unwrap_or(1e-6) as f32,
        }
    }
}

impl Rule for Adadelta {
    fn kind(&self) -> OptimizerKind {
        OptimizerKind::Adadelta
    }

    fn layout(&self, _: f64) -> Layout {
        Layout { buffers: vec![("square_avg", 0.0), ("acc_delta", 0.0)], ..Layout::default() }
    }

    fn update(&self, lr: f64, param: &mut Param<'_>, grad: &Grad, slot: &mut Slot) -> Result<()> {
        let (lr, decay, eps) = (lr as f32, self.weight_decay, self.eps);
        let (keep, take) = (self.rho as f32, (1.0 - self.rho) as f32);
        fused(param.value, grad, slot, decay == 0.0, move |p, g, [v, u]| {
            let g = g + decay * p;
            let v = keep * v + take * g * g;
            let d = (u + eps).sqrt() / (v + eps).sqrt() * g;
            (p - lr * d, [v, keep * u + take * d * d])
        })
    }
}
