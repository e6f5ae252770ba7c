//! Optimizers: PyTorch's, each with its arithmetic and its defaults ([`OptimizerKind`]).
//!
//! An optimizer holds its state (momenta, second moments, step counts) by parameter name, so a model may freeze or
//! thaw layers between steps, and [`Optimizer::state`] is what a checkpoint stores. Every update is one fused pass
//! over a parameter, in place, cut into blocks of fixed size: the bits of a result do not depend on the number of
//! threads.
//!
//! ```
//! use embedtune_core::{Grad, Value};
//! use embedtune_train::optim::{self, OptimizerKind, OptimizerOptions, Param};
//!
//! let options = OptimizerOptions { momentum: Some(0.9), ..OptimizerOptions::default() };
//! let mut sgd = optim::build(OptimizerKind::Sgd, &options, 0.1)?;
//! let mut weight: Value = ndarray::arr1(&[1.0f32, -2.0]).into_dyn().into_shared();
//! let gradient = Grad::Dense(ndarray::arr1(&[1.0f32, 0.0]).into_dyn());
//! sgd.step(&mut [Param { name: "weight", value: &mut weight, grad: Some(gradient) }], None)?;
//! assert_eq!(weight.as_slice().unwrap(), &[0.9, -2.0]);
//! # Ok::<(), embedtune_train::Error>(())
//! ```
//!
//! Gradients that are not finite are applied as they are: check [`grad_norm`] before the step.

mod adadelta;
mod adagrad;
mod adam;
mod adamax;
mod asgd;
mod groups;
mod kind;
pub(crate) mod lbfgs;
mod line_search;
mod nadam;
mod norm;
mod options;
mod pass;
mod radam;
mod rmsprop;
mod rprop;
mod rule;
mod sgd;
mod slots;
mod sparse_adam;

use embedtune_core::{Grad, Value};

pub use groups::{ParamGroup, ParamInfo, build_groups};
pub(crate) use groups::{check_groups, no_table};
pub use kind::OptimizerKind;
pub use norm::grad_norm;
pub(crate) use norm::norm;
pub use options::{LineSearch, OptimizerOptions};
use rule::{Elementwise, Rule};

use crate::{Error, Result, State};

/// A parameter as an optimizer sees it.
#[derive(Debug)]
pub struct Param<'a> {
    /// Its name: the key of its state. Unique within a step.
    pub name: &'a str,
    /// Its value, updated in place when this handle is the only one (drop the tape first), copied otherwise.
    pub value: &'a mut Value,
    /// Its gradient, of the value's shape. A parameter without one is left alone and its step count stays. Owned,
    /// so that a re-evaluating closure can replace it; take it back after the step to use its buffer again.
    pub grad: Option<Grad>,
}

/// Computes the loss again at the parameters' present values, replaces their gradients and returns the loss.
pub type Reevaluate<'a> = dyn FnMut(&mut [Param<'_>]) -> Result<f64> + 'a;

/// Updates parameters from their gradients.
pub trait Optimizer: Send {
    /// Which one this is.
    fn kind(&self) -> OptimizerKind;

    /// The rate of the next step.
    fn learning_rate(&self) -> f64;

    /// Sets the rate of the following steps (a schedule calls this before each).
    ///
    /// # Errors
    /// [`Error::Option`] if it is negative or not finite.
    fn set_learning_rate(&mut self, learning_rate: f64) -> Result<()>;

    /// Whether [`step`](Self::step) could be taken with these gradients: what its errors would be.
    ///
    /// # Errors
    /// A gradient or a loaded state whose shape is not the parameter's, a gradient that the method is not made for, or
    /// two parameters of one name; the message names the parameter.
    fn check(&self, params: &[Param<'_>]) -> Result<()>;

    /// Updates every parameter that has a gradient. Nothing is changed if an error is returned.
    ///
    /// A [`Grad::Rows`] means zero in all other rows, exactly as the same gradient in dense form would; rows that
    /// this cannot move are not touched (SparseAdam leaves all of them alone). `reevaluate` is for methods that look at
    /// the loss more than once in a step: LBFGS calls it before it looks at a gradient; the others ignore it.
    ///
    /// # Errors
    /// Those of [`check`](Self::check) and of `reevaluate`; LBFGS without a `reevaluate`.
    fn step(&mut self, params: &mut [Param<'_>], reevaluate: Option<&mut Reevaluate<'_>>) -> Result<()>;

    /// The state by parameter: tensors `NAME.SLOT` of the parameter's shape and counters `NAME.step` (and the bits of
    /// other numbers); of LBFGS, all parameters as one vector. The learning rate is not part of it: it belongs to the
    /// options and the schedule.
    fn state(&self) -> State;

    /// Replaces the state by one that [`state`](Self::state) returned. Shapes are compared with the parameters' at
    /// the next step.
    ///
    /// # Errors
    /// Tensors or counters that this optimizer, with these options, does not keep, or that are missing; the message
    /// names them.
    fn load_state(&mut self, state: &State) -> Result<()>;
}

/// Builds an optimizer. The rate is `options.learning_rate`, or `default_lr` where that is absent; other options
/// that are absent take PyTorch's defaults (see [`OptimizerOptions`]).
///
/// # Errors
/// [`Error::Option`] for an option that `kind` does not have, or a value outside its range.
pub fn build(kind: OptimizerKind, options: &OptimizerOptions, default_lr: f64) -> Result<Box<dyn Optimizer>> {
    options.check(kind)?;
    if let Some(decay) = options.layer_wise_lr_decay {
        let remedy = "a single optimizer knows no layers; build it with `build_groups`, or leave it out";
        return Err(Error::option("layer_wise_lr_decay", decay, remedy));
    }
    let lr = options::rate(options.learning_rate.unwrap_or(default_lr))?;
    Ok(match kind {
        OptimizerKind::Sgd => elementwise(sgd::Sgd::new(options), lr),
        OptimizerKind::Adam | OptimizerKind::AdamW => elementwise(adam::Adam::new(kind, options), lr),
        OptimizerKind::SparseAdam => elementwise(sparse_adam::SparseAdam::new(options), lr),
        OptimizerKind::RmsProp => elementwise(rmsprop::RmsProp::new(options), lr),
        OptimizerKind::Adadelta => elementwise(adadelta::Adadelta::new(options), lr),
        OptimizerKind::Adagrad => elementwise(adagrad::Adagrad::new(options), lr),
        OptimizerKind::Adamax => elementwise(adamax::Adamax::new(options), lr),
        OptimizerKind::Asgd => elementwise(asgd::Asgd::new(options), lr),
        OptimizerKind::NAdam => elementwise(nadam::NAdam::new(options), lr),
        OptimizerKind::RAdam => elementwise(radam::RAdam::new(options), lr),
        OptimizerKind::Rprop => elementwise(rprop::Rprop::new(options), lr),
        OptimizerKind::Lbfgs => Box::new(lbfgs::Lbfgs::new(options, lr)),
    })
}

fn elementwise(rule: impl Rule + 'static, lr: f64) -> Box<dyn Optimizer> {
    Box::new(Elementwise::new(rule, lr))
}
