//! NAdam.

use embedtune_core::Grad;

use super::adam::shrink_or_decay;
use super::pass::fused;
use super::rule::Rule;
use super::slots::{Layout, Slot};
use super::{OptimizerKind, OptimizerOptions, Param};
use crate::Result;

/// Dozat 2016, Algorithm 8 with its schedule `mu_t = b1 (1 - 0.96^(t momentum_decay) / 2)`: Adam's `m` and `v`;
/// `p -= lr ((1 - mu_t) / (1 - prod mu) g + mu_(t+1) / (1 - prod mu mu_(t+1)) m) / (sqrt(v / (1 - b2^t)) + eps)`. The
/// product of the `mu` is rounded to `f32` after each step, as PyTorch keeps it.
pub(super) struct NAdam {
    weight_decay: f64,
    decoupled: bool,
    betas: (f64, f64),
    eps: f32,
    momentum_decay: f64,
}

impl NAdam {
    pub(super) fn new(options: &OptimizerOptions) -> Self {
        Self {
            weight_decay: options.weight_decay.unwrap_or(0.0),
            decoupled: options.decoupled_weight_decay.unwrap_or(false),
            betas: options.betas.unwrap_or((0.9, 0.999)),
            eps: options.eps.unwrap_or(1e-8) as f32,
            momentum_decay: options.momentum_decay.unwrap_or(0.004),
        }
    }
}

impl Rule for NAdam {
    fn kind(&self) -> OptimizerKind {
        OptimizerKind::NAdam
    }

    fn layout(&self, _: f64) -> Layout {
        let buffers = vec![("exp_avg", 0.0), ("exp_avg_sq", 0.0)];
        Layout { buffers, scalars: vec![("mu_product", 1.0)] }
    }

    fn update(&self, lr: f64, param: &mut Param<'_>, grad: &Grad, slot: &mut Slot) -> Result<()> {
        let ((b1, b2), eps) = (self.betas, self.eps);
        let (shrink, decay) = shrink_or_decay(self.decoupled, lr, self.weight_decay);
        let idle = self.weight_decay == 0.0;
        let t = slot.step as f64;
        let mu = |t: f64| b1 * (1.0 - 0.5 * 0.96f64.powf(t * self.momentum_decay));
        let product = f64::from((slot.scalars.first().copied().unwrap_or(1.0) * mu(t)) as f32);
        slot.scalars = vec![product];
        let of_gradient = (lr * (1.0 - mu(t)) / (1.0 - product)) as f32;
        let of_mean = (lr * mu(t + 1.0) / (1.0 - product * mu(t + 1.0))) as f32;
        let (take1, keep2, take2) = ((1.0 - b1) as f32, b2 as f32, (1.0 - b2) as f32);
        let correction = (1.0 - b2.powf(t)) as f32;
        fused(param.value, grad, slot, idle, move |p, g, [m, v]| {
            let p = p * shrink;
            let g = g + decay * p;
            let (m, v) = (m + take1 * (g - m), keep2 * v + take2 * g * g);
            let size = (v / correction).sqrt() + eps;
            (p - of_gradient * g / size - of_mean * m / size, [m, v])
        })
    }
}
