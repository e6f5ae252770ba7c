//! Adam and AdamW.

use embedtune_core::Grad;

use super::pass::fused;
use super::rule::Rule;
use super::slots::{Layout, Slot};
use super::{OptimizerKind, OptimizerOptions, Param};
use crate::Result;

/// Kingma and Ba 2015, Algorithm 1: `m = b1 m + (1 - b1) g`, `v = b2 v + (1 - b2) g^2`,
/// `p -= lr / (1 - b1^t) * m / (sqrt(v / (1 - b2^t)) + eps)`. Weight decay adds `weight_decay p` to the gradient; for
/// AdamW (Loshchilov and Hutter 2019, Algorithm 2) `p` is multiplied by `1 - lr weight_decay` first instead. AMSGrad
/// (Reddi et al. 2018) divides by the largest `v` so far.
pub(super) struct Adam {
    kind: OptimizerKind,
    weight_decay: f64,
    decoupled: bool,
    betas: (f64, f64),
    eps: f32,
    amsgrad: bool,
}

impl Adam {
    /// `kind` is `Adam` or `AdamW`.
    pub(super) fn new(kind: OptimizerKind, options: &OptimizerOptions) -> Self {
        let w = kind == OptimizerKind::AdamW;
        Self {
            kind,
            weight_decay: options.weight_decay.unwrap_or(if w { 0.01 } else { 0.0 }),
            decoupled: w || options.decoupled_weight_decay.unwrap_or(false),
            betas: options.betas.unwrap_or((0.9, 0.999)),
            eps: options.eps.unwrap_or(1e-8) as f32,
            amsgrad: options.amsgrad.unwrap_or(false),
        }
    }
}

impl Rule for Adam {
    fn kind(&self) -> OptimizerKind {
        self.kind
    }

    fn layout(&self, _: f64) -> Layout {
        let mut buffers = vec![("exp_avg", 0.0), ("exp_avg_sq", 0.0)];
        if self.amsgrad {
            buffers.push(("max_exp_avg_sq", 0.0));
        }
        Layout { buffers, ..Layout::default() }
    }

    fn update(&self, lr: f64, param: &mut Param<'_>, grad: &Grad, slot: &mut Slot) -> Result<()> {
        let ((b1, b2), eps) = (self.betas, self.eps);
        let (shrink, decay) = shrink_or_decay(self.decoupled, lr, self.weight_decay);
        let idle = self.weight_decay == 0.0;
        let (take1, keep2, take2) = ((1.0 - b1) as f32, b2 as f32, (1.0 - b2) as f32);
        // Corrections in f64: 1 - b2^t loses half its digits in f32 at the first steps.
        let t = slot.step as f64;
        let size = (lr / (1.0 - b1.powf(t))) as f32;
        let root = (1.0 - b2.powf(t)).sqrt() as f32;
        let moments = move |p: f32, g: f32, m: f32, v: f32| {
            let p = p * shrink;
            let g = g + decay * p;
            (p, m + take1 * (g - m), keep2 * v + take2 * g * g)
        };
        if self.amsgrad {
            fused(param.value, grad, slot, idle, move |p, g, [m, v, top]| {
                let (p, m, v) = moments(p, g, m, v);
                let top = if v > top { v } else { top };
                (p - size * m / (top.sqrt() / root + eps), [m, v, top])
            })
        } else {
            fused(param.value, grad, slot, idle, move |p, g, [m, v]| {
                let (p, m, v) = moments(p, g, m, v);
                (p - size * m / (v.sqrt() / root + eps), [m, v])
            })
        }
    }
}

/// The factor on the parameter and the share of it that is added to the gradient: decoupled weight decay is the first,
/// the L2 penalty the second.
pub(super) fn shrink_or_decay(decoupled: bool, lr: f64, weight_decay: f64) -> (f32, f32) {
    if decoupled { ((1.0 - lr * weight_decay) as f32, 0.0) } else { (1.0, weight_decay as f32) }
}
