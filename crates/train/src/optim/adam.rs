//! Adam and AdamW.

use super::options::rate;
use super::pass::fused;
use super::slots::Slots;
use super::{Optimizer, OptimizerKind, OptimizerOptions, Param, Reevaluate};
use crate::{Result, State};

/// Kingma and Ba 2015, Algorithm 1: `m = b1 m + (1 - b1) g`, `v = b2 v + (1 - b2) g^2`,
/// `p -= lr / (1 - b1^t) * m / (sqrt(v / (1 - b2^t)) + eps)`. Weight decay adds `weight_decay p` to the gradient; for
/// AdamW (Loshchilov and Hutter 2019, Algorithm 2) `p` is multiplied by `1 - lr weight_decay` first instead. AMSGrad
/// (Reddi et al. 2018) divides by the largest `v` so far.
pub(super) struct Adam {
    kind: OptimizerKind,
    lr: f64,
    weight_decay: f64,
    betas: (f64, f64),
    eps: f32,
    slots: Slots,
}

impl Adam {
    /// `kind` is `Adam` or `AdamW`.
    pub(super) fn new(kind: OptimizerKind, options: &OptimizerOptions, lr: f64) -> Self {
        let mut buffers = vec!["exp_avg", "exp_avg_sq"];
        if options.amsgrad.unwrap_or(false) {
            buffers.push("max_exp_avg_sq");
        }
        let default_decay = if kind == OptimizerKind::AdamW { 0.01 } else { 0.0 };
        Self {
            kind,
            lr,
            weight_decay: options.weight_decay.unwrap_or(default_decay),
            betas: options.betas.unwrap_or((0.9, 0.999)),
            eps: options.eps.unwrap_or(1e-8) as f32,
            slots: Slots::new(kind.name(), buffers),
        }
    }
}

impl Optimizer for Adam {
    fn kind(&self) -> OptimizerKind {
        self.kind
    }

    fn learning_rate(&self) -> f64 {
        self.lr
    }

    fn set_learning_rate(&mut self, learning_rate: f64) -> Result<()> {
        self.lr = rate(learning_rate)?;
        Ok(())
    }

    fn step(&mut self, params: &mut [Param<'_>], _: Option<&mut Reevaluate<'_>>) -> Result<()> {
        let ((b1, b2), eps) = (self.betas, self.eps);
        let (shrink, decay) = match self.kind {
            OptimizerKind::AdamW => ((1.0 - self.lr * self.weight_decay) as f32, 0.0),
            _ => (1.0, self.weight_decay as f32),
        };
        let idle = self.weight_decay == 0.0;
        let (take1, keep2, take2) = ((1.0 - b1) as f32, b2 as f32, (1.0 - b2) as f32);
        let lr = self.lr;
        self.slots.update(params, |param, grad, slot| {
            // Corrections in f64: 1 - b2^t loses half its digits in f32 at the first steps.
            let t = slot.step as f64;
            let size = (lr / (1.0 - b1.powf(t))) as f32;
            let root = (1.0 - b2.powf(t)).sqrt() as f32;
            let moments = move |p: f32, g: f32, m: f32, v: f32| {
                let p = p * shrink;
                let g = g + decay * p;
                (p, m + take1 * (g - m), keep2 * v + take2 * g * g)
            };
            if slot.buffers.len() == 2 {
                fused(param.value, grad, slot, idle, move |p, g, [m, v]| {
                    let (p, m, v) = moments(p, g, m, v);
                    (p - size * m / (v.sqrt() / root + eps), [m, v])
                })
            } else {
                fused(param.value, grad, slot, idle, move |p, g, [m, v, top]| {
                    let (p, m, v) = moments(p, g, m, v);
                    let top = if v > top { v } else { top };
                    (p - size * m / (top.sqrt() / root + eps), [m, v, top])
                })
            }
        })
    }

    fn state(&self) -> State {
        self.slots.state()
    }

    fn load_state(&mut self, state: &State) -> Result<()> {
        self.slots.load(state)
    }
}
