//! Optimizers: SGD, Adam, AdamW and RMSprop, each with PyTorch's arithmetic and defaults.
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

mod adam;
mod kind;
mod norm;
mod options;
mod pass;
mod rmsprop;
mod sgd;
mod slots;

use embedtune_core::{Grad, Value};

pub use kind::OptimizerKind;
pub use norm::grad_norm;
pub(crate) use norm::norm;
pub use options::OptimizerOptions;

use crate::{Result, State};

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
    /// [`Error::Option`](crate::Error::Option) if it is negative or not finite.
    fn set_learning_rate(&mut self, learning_rate: f64) -> Result<()>;

    /// Updates every parameter that has a gradient. Nothing is changed if an error is returned.
    ///
    /// A [`Grad::Rows`] means zero in all other rows, exactly as the same gradient in dense form would; rows that
    /// this cannot move are not touched. `reevaluate` is for methods that look at the loss more than once in a
    /// step; the methods here ignore it.
    ///
    /// # Errors
    /// A gradient or a loaded state whose shape is not the parameter's, or two parameters of one name; the message
    /// names the parameter.
    fn step(&mut self, params: &mut [Param<'_>], reevaluate: Option<&mut Reevaluate<'_>>) -> Result<()>;

    /// The state by parameter: tensors `NAME.SLOT` of the parameter's shape and counters `NAME.step`. The learning
    /// rate is not part of it: it belongs to the options and the schedule.
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
/// [`Error::Option`](crate::Error::Option) for an option that `kind` does not have, or a value outside its range.
pub fn build(kind: OptimizerKind, options: &OptimizerOptions, default_lr: f64) -> Result<Box<dyn Optimizer>> {
    options.check(kind)?;
    let lr = options::rate(options.learning_rate.unwrap_or(default_lr))?;
    Ok(match kind {
        OptimizerKind::Sgd => Box::new(sgd::Sgd::new(options, lr)),
        OptimizerKind::Adam | OptimizerKind::AdamW => Box::new(adam::Adam::new(kind, options, lr)),
        OptimizerKind::RmsProp => Box::new(rmsprop::RmsProp::new(options, lr)),
    })
}
