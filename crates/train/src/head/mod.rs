//! A loss head: a loss with its class centres and their optimizer.
//!
//! The head owns what the loss learns, so that whoever trains with it hands over embeddings and gets back their
//! gradient. On a device the optimizer can then run inside the loss, and the centres' gradient need never exist as a
//! whole.

mod centres;
#[cfg(feature = "cuda")]
mod cuda;
mod host;
mod sphere;
mod state;

pub use embedtune_losses::CentreInit;
use embedtune_losses::{Input, Loss, Stats};
use ndarray::{ArrayViewMut2, CowArray, Ix2};

pub use centres::draw_centres;
#[cfg(feature = "cuda")]
pub use cuda::{CudaHead, CudaLoss, CudaOptimizer, CudaOptions, CudaPlan, Gpu};
pub use host::HostHead;
use serde::{Deserialize, Serialize};

use state::{CENTRES, GRADIENT, OPTIMIZER, Parts, matches_loss, no_centres, parts};

use crate::optim::{Optimizer, OptimizerKind, OptimizerOptions};
use crate::{Error, Result, State};

/// Where class centres may move.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum CentreSpace {
    /// Anywhere: an optimizer moves them as it moves any parameter, and a step turns a centre the less the longer it is.
    #[default]
    Plain,
    /// On the unit sphere: a step turns a centre by at most the learning rate, in radians (Becigneul and Ganea 2019).
    UnitSphere,
}

/// The optimizer of centres on the unit sphere: Adam in their tangent spaces, with Adam's `betas` and `eps`.
///
/// # Errors
/// Another optimizer than Adam or an option besides these two; a rate that is negative or above half a turn.
pub fn sphere_optimizer(
    kind: OptimizerKind,
    options: &OptimizerOptions,
    default_lr: f64,
) -> Result<Box<dyn Optimizer>> {
    if kind != OptimizerKind::Adam {
        let remedy = "centers = \"unit_sphere\" has a method of its own, Adam on the sphere; write Adam, or leave it out";
        return Err(Error::option("loss_optimizer", kind, remedy));
    }
    options.check(kind)?;
    let allowed = OptimizerOptions {
        learning_rate: options.learning_rate,
        betas: options.betas,
        eps: options.eps,
        ..OptimizerOptions::default()
    };
    if *options != allowed {
        let remedy = "centers = \"unit_sphere\" knows learning_rate, betas and eps; leave the others out";
        return Err(Error::option("loss_optimizer_options", format!("{options:?}"), remedy));
    }
    let mut optimizer = sphere::SphereAdam::new(options, 0.0);
    optimizer.set_learning_rate(options.learning_rate.unwrap_or(default_lr))?;
    Ok(Box::new(optimizer))
}

/// What a step does to the centres. Every head has to do all of them: another would be another trait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Update {
    /// Move them now, by this step's gradient and what was accumulated before.
    Apply,
    /// Add this step's gradient to what was accumulated; [`LossHead::apply`] moves them.
    Accumulate,
    /// Leave them: validation, or a frozen head.
    None,
}

/// A loss that owns what it learns.
pub trait LossHead: Send {
    /// The loss: its name, its sampling and its centres' shape.
    fn loss(&self) -> &dyn Loss;

    /// The loss of a batch; writes the embeddings' gradient to `dx` (`[batch, dim]`, overwritten) if given, and moves
    /// the centres as `update` says.
    ///
    /// `input` comes without [`Input::weights`]: the head adds its centres. Where the loss is not finite the centres
    /// are not moved and nothing is accumulated; the caller sees it in [`Stats::value`].
    ///
    /// # Errors
    /// What the loss says of shapes, labels and values; weights in `input`.
    fn step(&mut self, input: Input<'_>, dx: Option<ArrayViewMut2<'_, f32>>, update: Update)
    -> Result<Stats>;

    /// L2 norm of the accumulated gradient of the centres; 0 if there is none.
    ///
    /// # Errors
    /// What the device says that holds it.
    fn grad_norm(&self) -> Result<f64>;

    /// Moves the centres by `factor` times the accumulated gradient (one over the number of accumulated batches for
    /// their mean, less to clip) and forgets it. Without any this does nothing.
    ///
    /// # Errors
    /// What the optimizer says.
    fn apply(&mut self, factor: f32) -> Result<()>;

    /// The centres, `[classes * sub_centres, dim]`, of losses that have them: copied where a device holds them.
    ///
    /// # Errors
    /// What the device says that holds them.
    fn weights(&self) -> Result<Option<CowArray<'_, f32, Ix2>>>;

    /// The rate at which the centres learn; `None` for a loss without centres.
    fn learning_rate(&self) -> Option<f64>;

    /// Sets the rate of the following steps; does nothing for a loss without centres.
    ///
    /// # Errors
    /// A rate that is negative or not finite.
    fn set_learning_rate(&mut self, learning_rate: f64) -> Result<()>;

    /// The tensor `centres`, the accumulated gradient if there is one, and the optimizer's state under `optimizer.`:
    /// the same wherever they are held.
    ///
    /// # Errors
    /// What the device says that holds them.
    fn state(&self) -> Result<State>;

    /// Replaces the state by one that [`state`](Self::state) returned. Nothing is changed if an error is returned.
    ///
    /// # Errors
    /// Centres that are missing or of another shape; state of another optimizer.
    fn load_state(&mut self, state: &State) -> Result<()>;
}
