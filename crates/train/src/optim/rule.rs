//! Optimizers whose update of an element depends on that element's own value, gradient and state alone.

use embedtune_core::Grad;

use super::options::rate;
use super::slots::{Layout, Slot, Slots};
use super::{Optimizer, OptimizerKind, Param, Reevaluate};
use crate::{Result, State};

/// What tells one such optimizer from another.
pub(super) trait Rule: Send {
    fn kind(&self) -> OptimizerKind;

    /// The state of a parameter whose first step has the learning rate `lr`.
    fn layout(&self, lr: f64) -> Layout;

    /// Refuses a gradient that the method is not made for.
    fn accepts(&self, param: &str, grad: &Grad) -> Result<()> {
        let _ = (param, grad);
        Ok(())
    }

    /// Moves one parameter; `slot.step` counts from 1.
    fn update(&self, lr: f64, param: &mut Param<'_>, grad: &Grad, slot: &mut Slot) -> Result<()>;
}

/// A rule with its rate and its state.
pub(super) struct Elementwise<R> {
    rule: R,
    lr: f64,
    slots: Slots,
}

impl<R: Rule> Elementwise<R> {
    pub(super) fn new(rule: R, lr: f64) -> Self {
        let slots = Slots::new(rule.kind().name());
        Self { rule, lr, slots }
    }
}

impl<R: Rule> Optimizer for Elementwise<R> {
    fn kind(&self) -> OptimizerKind {
        self.rule.kind()
    }

    fn learning_rate(&self) -> f64 {
        self.lr
    }

    fn set_learning_rate(&mut self, learning_rate: f64) -> Result<()> {
        self.lr = rate(learning_rate)?;
        Ok(())
    }

    fn check(&self, params: &[Param<'_>]) -> Result<()> {
        self.slots.check(params)?;
        let given = params.iter().filter_map(|param| Some((param.name, param.grad.as_ref()?)));
        given.into_iter().try_for_each(|(name, grad)| self.rule.accepts(name, grad))
    }

    fn step(&mut self, params: &mut [Param<'_>], _: Option<&mut Reevaluate<'_>>) -> Result<()> {
        self.check(params)?;
        let (rule, lr) = (&self.rule, self.lr);
        self.slots
            .update(params, &rule.layout(lr), &mut |param, grad, slot| rule.update(lr, param, grad, slot))
    }

    fn state(&self) -> State {
        self.slots.state(&self.rule.layout(self.lr))
    }

    fn load_state(&mut self, state: &State) -> Result<()> {
        self.slots.load(state, &self.rule.layout(self.lr))
    }
}
