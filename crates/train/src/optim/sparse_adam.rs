//! SparseAdam.

use embedtune_core::Grad;

use super::pass::named_rows;
use super::rule::Rule;
use super::slots::{Layout, Slot};
use super::{OptimizerKind, OptimizerOptions, Param};
use crate::{Error, Result};

/// Adam for tables of which a step sees few rows: rows without a gradient keep their value and their moments, where
/// Adam would let them drift on along their momentum. For the rows with one: Adam's `m` and `v`,
/// `p -= lr sqrt(1 - b2^t) / (1 - b1^t) m / (sqrt(v) + eps)`, with `t` counting the table's steps, not the row's.
pub(super) struct SparseAdam {
    betas: (f64, f64),
    eps: f32,
}

impl SparseAdam {
    pub(super) fn new(options: &OptimizerOptions) -> Self {
        Self { betas: options.betas.unwrap_or((0.9, 0.999)), eps: options.eps.unwrap_or(1e-8) as f32 }
    }
}

impl Rule for SparseAdam {
    fn kind(&self) -> OptimizerKind {
        OptimizerKind::SparseAdam
    }

    fn layout(&self, _: f64) -> Layout {
        Layout { buffers: vec![("exp_avg", 0.0), ("exp_avg_sq", 0.0)], ..Layout::default() }
    }

    fn accepts(&self, param: &str, grad: &Grad) -> Result<()> {
        match grad {
            Grad::Rows(_) => Ok(()),
            Grad::Dense(_) => Err(Error::Unsuitable(format!(
                "parameter `{param}`: SparseAdam takes row-sparse gradients, those of embedding tables, and this one is \
                 dense; give it to Adam"
            ))),
        }
    }

    fn update(&self, lr: f64, param: &mut Param<'_>, grad: &Grad, slot: &mut Slot) -> Result<()> {
        let ((b1, b2), eps) = (self.betas, self.eps);
        let (take1, take2) = ((1.0 - b1) as f32, (1.0 - b2) as f32);
        let t = slot.step as f64;
        let size = (lr * (1.0 - b2.powf(t)).sqrt() / (1.0 - b1.powf(t))) as f32;
        named_rows(param.value, grad, slot, move |p, g, [m, v]| {
            let (m, v) = (m + take1 * (g - m), v + take2 * (g * g - v));
            (p - size * m / (v.sqrt() + eps), [m, v])
        })
    }
}
