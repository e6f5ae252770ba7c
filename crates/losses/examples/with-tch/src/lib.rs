//! The snippet for tch in embedtune-losses' README, as a function.

use embedtune_losses::{Input, Loss};
use tch::nn::Optimizer;
use tch::{Device, Kind, TchError, Tensor};

/// What can go wrong.
pub type Error = Box<dyn std::error::Error + Send + Sync>;

/// One step of `optimizer` for the loss of the embeddings `x`, `[batch, dim]`, with the class centres `w`,
/// `[classes, dim]`, of whose graph the optimizer has the parameters.
///
/// # Errors
/// What the loss says of shapes, labels and values, and what tch says.
pub fn step(
    loss: &dyn Loss,
    x: &Tensor,
    w: &Tensor,
    labels: &[u32],
    optimizer: &mut Optimizer,
) -> Result<f64, Error> {
    let dim = usize::try_from(x.size2()?.1)?;
    let labels = labels.to_vec();
    include!(concat!(env!("OUT_DIR"), "/snippet.rs"))
}
