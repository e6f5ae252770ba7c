//! Adagrad.

use embedtune_core::Grad;

use super::pass::fused;
use super::rule::Rule;
use super::slots::{Layout, Slot};
use super::{OptimizerKind, OptimizerOptions, Param};
use crate::Result;

/// Duchi et al. 2011, equation 1 with a diagonal matrix: `s += g^2`,
/// `p -= lr / (1 + (t - 1) lr_decay) g / (sqrt(s) + eps)`.
pub(super) struct Adagrad {
    weight_decay: f32,
    lr_decay: f64,
    start: f32,
    eps: f32,
}

impl Adagrad {
    pub(super) fn new(options: &OptimizerOptions) -> Self {
        Self {
            weight_decay: options.weight_decay.unwrap_or(0.0) as f32,
            lr_decay: options.lr_decay.unwrap_or(0.0),
            start: options.initial_accumulator_value.unwrap_or(0.0) as f32,
            eps: options.eps.unwrap_or(1e-10) as f32,
        }
    }
}

impl Rule for Adagrad {
    fn kind(&self) -> OptimizerKind {
        OptimizerKind::Adagrad
    }

    fn layout(&self, _: f64) -> Layout {
        Layout { buffers: vec![("sum", self.start)], ..Layout::default() }
    }

    fn update(&self, lr: f64, param: &mut Param<'_>, grad: &Grad, slot: &mut Slot) -> Result<()> {
        let (decay, eps) = (self.weight_decay, self.eps);
        let size = (lr / (1.0 + (slot.step - 1) as f64 * self.lr_decay)) as f32;
        fused(param.value, grad, slot, decay == 0.0, move |p, g, [s]| {
            let g = g + decay * p;
            let s = s + g * g;
            (p - size * g / (s.sqrt() + eps), [s])
        })
    }
}
