//! RMSprop.

use embedtune_core::Grad;

use super::pass::fused;
use super::rule::Rule;
use super::slots::{Layout, Slot};
use super::{OptimizerKind, OptimizerOptions, Param};
use crate::Result;

/// `v = alpha v + (1 - alpha) g^2` and `p -= lr g / (sqrt(v) + eps)` (Hinton 2012, lecture 6). Centred, `sqrt(v - a^2)`
/// with `a` the running mean of `g` (Graves 2013, equations 38 to 41); with momentum, `b = momentum b + g / (...)` and
/// `p -= lr b`. A difference `v - a^2` that rounding made negative counts as 0 (PyTorch takes its root: NaN).
pub(super) struct RmsProp {
    weight_decay: f32,
    alpha: f64,
    eps: f32,
    momentum: f32,
    centered: bool,
}

impl RmsProp {
    pub(super) fn new(options: &OptimizerOptions) -> Self {
        Self {
            weight_decay: options.weight_decay.unwrap_or(0.0) as f32,
            alpha: options.alpha.unwrap_or(0.99),
            eps: options.eps.unwrap_or(1e-8) as f32,
            momentum: options.momentum.unwrap_or(0.0) as f32,
            centered: options.centered.unwrap_or(false),
        }
    }
}

impl Rule for RmsProp {
    fn kind(&self) -> OptimizerKind {
        OptimizerKind::RmsProp
    }

    fn layout(&self, _: f64) -> Layout {
        let mut buffers = vec![("square_avg", 0.0)];
        if self.centered {
            buffers.push(("grad_avg", 0.0));
        }
        if self.momentum > 0.0 {
            buffers.push(("momentum_buffer", 0.0));
        }
        Layout { buffers, ..Layout::default() }
    }

    fn update(&self, lr: f64, param: &mut Param<'_>, grad: &Grad, slot: &mut Slot) -> Result<()> {
        let (lr, decay, momentum, eps) = (lr as f32, self.weight_decay, self.momentum, self.eps);
        let (keep, take) = (self.alpha as f32, (1.0 - self.alpha) as f32);
        let (idle, centered, heavy) = (decay == 0.0, self.centered, momentum > 0.0);
        let square = move |v: f32, g: f32| keep * v + take * g * g;
        let mean = move |a: f32, g: f32| a + take * (g - a);
        let deviation = |v: f32, a: f32| (v - a * a).max(0.0).sqrt();
        let value = &mut *param.value;
        match (centered, heavy) {
            (false, false) => fused(value, grad, slot, idle, move |p, g, [v]| {
                let g = g + decay * p;
                let v = square(v, g);
                (p - lr * g / (v.sqrt() + eps), [v])
            }),
            (false, true) => fused(value, grad, slot, idle, move |p, g, [v, b]| {
                let g = g + decay * p;
                let v = square(v, g);
                let b = momentum * b + g / (v.sqrt() + eps);
                (p - lr * b, [v, b])
            }),
            (true, false) => fused(value, grad, slot, idle, move |p, g, [v, a]| {
                let g = g + decay * p;
                let (v, a) = (square(v, g), mean(a, g));
                (p - lr * g / (deviation(v, a) + eps), [v, a])
            }),
            (true, true) => fused(value, grad, slot, idle, move |p, g, [v, a, b]| {
                let g = g + decay * p;
                let (v, a) = (square(v, g), mean(a, g));
                let b = momentum * b + g / (deviation(v, a) + eps);
                (p - lr * b, [v, a, b])
            }),
        }
    }
}
