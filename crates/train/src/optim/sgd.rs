//! Stochastic gradient descent.

use embedtune_core::Grad;

use super::pass::fused;
use super::rule::Rule;
use super::slots::{Layout, Slot};
use super::{OptimizerKind, OptimizerOptions, Param};
use crate::Result;

/// `g = grad + weight_decay p`; `b = momentum b + (1 - dampening) g` (`b = g` at the first step);
/// `p -= lr b`, with Nesterov `p -= lr (g + momentum b)` (Sutskever et al. 2013, in PyTorch's form, where the rate
/// multiplies the momentum too).
pub(super) struct Sgd {
    weight_decay: f32,
    momentum: f32,
    take: f32,
    nesterov: bool,
}

impl Sgd {
    pub(super) fn new(options: &OptimizerOptions) -> Self {
        Self {
            weight_decay: options.weight_decay.unwrap_or(0.0) as f32,
            momentum: options.momentum.unwrap_or(0.0) as f32,
            take: (1.0 - options.dampening.unwrap_or(0.0)) as f32,
            nesterov: options.nesterov.unwrap_or(false),
        }
    }
}

impl Rule for Sgd {
    fn kind(&self) -> OptimizerKind {
        OptimizerKind::Sgd
    }

    fn layout(&self, _: f64) -> Layout {
        let buffers = if self.momentum > 0.0 { vec![("momentum_buffer", 0.0)] } else { vec![] };
        Layout { buffers, ..Layout::default() }
    }

    fn update(&self, lr: f64, param: &mut Param<'_>, grad: &Grad, slot: &mut Slot) -> Result<()> {
        let (lr, decay, momentum, nesterov) = (lr as f32, self.weight_decay, self.momentum, self.nesterov);
        let idle = decay == 0.0;
        if slot.buffers.is_empty() {
            let plain = move |p: f32, g: f32, []: [f32; 0]| (p - lr * (g + decay * p), []);
            return fused(param.value, grad, slot, idle, plain);
        }
        let (keep, take) = if slot.step == 1 { (0.0, 1.0) } else { (momentum, self.take) };
        fused(param.value, grad, slot, idle, move |p, g, [b]| {
            let g = g + decay * p;
            let b = keep * b + take * g;
            let direction = if nesterov { g + momentum * b } else { b };
            (p - lr * direction, [b])
        })
    }
}
