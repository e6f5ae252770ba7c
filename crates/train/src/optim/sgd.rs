//! Stochastic gradient descent.

use super::options::rate;
use super::pass::fused;
use super::slots::Slots;
use super::{Optimizer, OptimizerKind, OptimizerOptions, Param, Reevaluate};
use crate::{Result, State};

/// `g = grad + weight_decay p`; `b = momentum b + (1 - dampening) g` (`b = g` at the first step);
/// `p -= lr b`, with Nesterov `p -= lr (g + momentum b)` (Sutskever et al. 2013, in PyTorch's form, where the rate
/// multiplies the momentum too).
pub(super) struct Sgd {
    lr: f64,
    weight_decay: f32,
    momentum: f32,
    take: f32,
    nesterov: bool,
    slots: Slots,
}

impl Sgd {
    pub(super) fn new(options: &OptimizerOptions, lr: f64) -> Self {
        let momentum = options.momentum.unwrap_or(0.0);
        let buffers = if momentum > 0.0 { vec!["momentum_buffer"] } else { vec![] };
        Self {
            lr,
            weight_decay: options.weight_decay.unwrap_or(0.0) as f32,
            momentum: momentum as f32,
            take: (1.0 - options.dampening.unwrap_or(0.0)) as f32,
            nesterov: options.nesterov.unwrap_or(false),
            slots: Slots::new(OptimizerKind::Sgd.name(), buffers),
        }
    }
}

impl Optimizer for Sgd {
    fn kind(&self) -> OptimizerKind {
        OptimizerKind::Sgd
    }

    fn learning_rate(&self) -> f64 {
        self.lr
    }

    fn set_learning_rate(&mut self, learning_rate: f64) -> Result<()> {
        self.lr = rate(learning_rate)?;
        Ok(())
    }

    fn step(&mut self, params: &mut [Param<'_>], _: Option<&mut Reevaluate<'_>>) -> Result<()> {
        let (lr, decay, momentum, nesterov) =
            (self.lr as f32, self.weight_decay, self.momentum, self.nesterov);
        let idle = decay == 0.0;
        self.slots.update(params, |param, grad, slot| {
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
        })
    }

    fn state(&self) -> State {
        self.slots.state()
    }

    fn load_state(&mut self, state: &State) -> Result<()> {
        self.slots.load(state)
    }
}
