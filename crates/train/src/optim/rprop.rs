//! Rprop.

use embedtune_core::Grad;

use super::pass::fused;
use super::rule::Rule;
use super::slots::{Layout, Slot};
use super::{OptimizerKind, OptimizerOptions, Param};
use crate::Result;

/// Riedmiller and Braun 1993, in the form without backtracking (Igel and Huesken 2000, iRprop-): each element has a step
/// size, which grows by `etas[1]` while its gradient keeps its sign and shrinks by `etas[0]` where the sign changes (the
/// element then waits a step), within `step_sizes`; `p -= size sign(g)`. The sizes start at the first step's rate, and
/// later rates have no effect.
pub(super) struct Rprop {
    etas: (f32, f32),
    step_sizes: (f32, f32),
}

impl Rprop {
    pub(super) fn new(options: &OptimizerOptions) -> Self {
        Self {
            etas: options.etas.map_or((0.5, 1.2), |(down, up)| (down as f32, up as f32)),
            step_sizes: options.step_sizes.map_or((1e-6, 50.0), |(least, most)| (least as f32, most as f32)),
        }
    }
}

impl Rule for Rprop {
    fn kind(&self) -> OptimizerKind {
        OptimizerKind::Rprop
    }

    fn layout(&self, lr: f64) -> Layout {
        // Within the limits from the start, where PyTorch brings it with the first step.
        let start = (lr as f32).clamp(self.step_sizes.0, self.step_sizes.1);
        Layout { buffers: vec![("prev", 0.0), ("step_size", start)], ..Layout::default() }
    }

    fn update(&self, _: f64, param: &mut Param<'_>, grad: &Grad, slot: &mut Slot) -> Result<()> {
        let ((down, up), (least, most)) = (self.etas, self.step_sizes);
        fused(param.value, grad, slot, true, move |p, g, [prev, size]| {
            let turn = g * prev;
            let factor = if turn > 0.0 {
                up
            } else if turn < 0.0 {
                down
            } else {
                1.0
            };
            let size = (size * factor).max(least).min(most);
            let g = if turn < 0.0 { 0.0 } else { g };
            let sign = if g > 0.0 {
                1.0
            } else if g < 0.0 {
                -1.0
            } else {
                0.0
            };
            (p - sign * size, [g, size])
        })
    }
}
