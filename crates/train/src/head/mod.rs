//! A loss head: a loss with its class centres and their optimizer.
//!
//! The head owns what the loss learns, so that whoever trains with it hands over embeddings and gets back their
//! gradient. On a device the optimizer can then run inside the loss, and the centres' gradient need never exist as a
//! whole.

mod centres;
mod host;

pub use embedtune_losses::CentreInit;
use embedtune_losses::{Input, Loss, Stats};
use ndarray::{ArrayView2, ArrayViewMut2};

pub use centres::draw_centres;
pub use host::HostHead;

use crate::{Result, State};

/// What a step does to the centres.
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
    fn grad_norm(&self) -> f64;

    /// Moves the centres by `factor` times the accumulated gradient (one over the number of accumulated batches for
    /// their mean, less to clip) and forgets it. Without any this does nothing.
    ///
    /// # Errors
    /// What the optimizer says.
    fn apply(&mut self, factor: f32) -> Result<()>;

    /// The centres, `[classes * sub_centres, dim]`, of losses that have them.
    fn weights(&self) -> Option<ArrayView2<'_, f32>>;

    /// The rate at which the centres learn; `None` for a loss without centres.
    fn learning_rate(&self) -> Option<f64>;

    /// Sets the rate of the following steps; does nothing for a loss without centres.
    ///
    /// # Errors
    /// A rate that is negative or not finite.
    fn set_learning_rate(&mut self, learning_rate: f64) -> Result<()>;

    /// The tensor `centres`, the accumulated gradient if there is one, and the optimizer's state under `optimizer.`.
    fn state(&self) -> State;

    /// Replaces the state by one that [`state`](Self::state) returned. Nothing is changed if an error is returned.
    ///
    /// # Errors
    /// Centres that are missing or of another shape; state of another optimizer.
    fn load_state(&mut self, state: &State) -> Result<()>;
}
