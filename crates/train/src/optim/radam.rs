//! RAdam.

use embedtune_core::Grad;

use super::adam::shrink_or_decay;
use super::pass::fused;
use super::rule::Rule;
use super::slots::{Layout, Slot};
use super::{OptimizerKind, OptimizerOptions, Param};
use crate::Result;

/// Liu et al. 2020, Algorithm 2: Adam's `m` and `v`; with `rho = 2 / (1 - b2) - 1` and
/// `rho_t = rho - 2 t b2^t / (1 - b2^t)`, a plain step `p -= lr m / (1 - b1^t)` while `rho_t <= 5`, and from there
/// on Adam's, times `sqrt((rho_t - 4) (rho_t - 2) rho / ((rho - 4) (rho - 2) rho_t))`. (The paper changes at 4; PyTorch at
/// 5, as the authors' own code.)
pub(super) struct RAdam {
    weight_decay: f64,
    decoupled: bool,
    betas: (f64, f64),
    eps: f32,
}

impl RAdam {
    pub(super) fn new(options: &OptimizerOptions) -> Self {
        Self {
            weight_decay: options.weight_decay.unwrap_or(0.0),
            decoupled: options.decoupled_weight_decay.unwrap_or(false),
            betas: options.betas.unwrap_or((0.9, 0.999)),
            eps: options.eps.unwrap_or(1e-8) as f32,
        }
    }
}

impl Rule for RAdam {
    fn kind(&self) -> OptimizerKind {
        OptimizerKind::RAdam
    }

    fn layout(&self, _: f64) -> Layout {
        Layout { buffers: vec![("exp_avg", 0.0), ("exp_avg_sq", 0.0)], ..Layout::default() }
    }

    fn update(&self, lr: f64, param: &mut Param<'_>, grad: &Grad, slot: &mut Slot) -> Result<()> {
        let ((b1, b2), eps) = (self.betas, self.eps);
        let (shrink, decay) = shrink_or_decay(self.decoupled, lr, self.weight_decay);
        let idle = self.weight_decay == 0.0;
        let t = slot.step as f64;
        let (take1, keep2, take2) = ((1.0 - b1) as f32, b2 as f32, (1.0 - b2) as f32);
        let correction = 1.0 - b2.powf(t);
        let longest = 2.0 / (1.0 - b2) - 1.0;
        let length = longest - 2.0 * t * b2.powf(t) / correction;
        let plain = lr / (1.0 - b1.powf(t));
        let adaptive = length > 5.0;
        let size = if adaptive {
            let rectified = (length - 4.0) * (length - 2.0) * longest;
            plain * correction.sqrt() * (rectified / ((longest - 4.0) * (longest - 2.0) * length)).sqrt()
        } else {
            plain
        } as f32;
        fused(param.value, grad, slot, idle, move |p, g, [m, v]| {
            let p = p * shrink;
            let g = g + decay * p;
            let (m, v) = (m + take1 * (g - m), keep2 * v + take2 * g * g);
            let step = if adaptive { size * m / (v.sqrt() + eps) } else { size * m };
            (p - step, [m, v])
        })
    }
}
