//! What heads have in common, wherever they hold their centres.

use embedtune_losses::{Input, Loss};
use ndarray::ArrayD;

use crate::optim::OptimizerKind;
use crate::{Error, Result, State};

/// Names in a head's state.
pub(super) const CENTRES: &str = "centres";
pub(super) const GRADIENT: &str = "accumulated_gradient";
pub(super) const OPTIMIZER: &str = "optimizer";

/// A head's tensors in a state, of its shape.
pub(super) struct Parts<'a> {
    pub(super) centres: &'a ArrayD<f32>,
    pub(super) gradient: Option<&'a ArrayD<f32>>,
}

/// The shape of the loss's centres, if it has any. They need an optimizer, and without them one has nothing to do.
pub(super) fn matches_loss(loss: &dyn Loss, optimizer: Option<OptimizerKind>) -> Result<Option<[usize; 2]>> {
    match (loss.weight_shape(), optimizer) {
        (Some(_), None) => {
            let remedy = format!("{} has class centres, which need an optimizer; name one", loss.name());
            Err(Error::option("loss_optimizer", "none", remedy))
        }
        (None, Some(optimizer)) => {
            let remedy =
                format!("{} has nothing to learn, so no optimizer is needed; remove it", loss.name());
            Err(Error::option("loss_optimizer", optimizer, remedy))
        }
        (shape, _) => Ok(shape),
    }
}

/// Refuses centres from outside.
pub(super) fn no_centres(input: &Input<'_>) -> Result<()> {
    if input.weights.is_none() {
        return Ok(());
    }
    let problem = "class centres were passed to a loss head, which has its own; leave Input::weights empty";
    Err(Error::Unsuitable(problem.to_owned()))
}

/// What `state` holds for a head of the loss `name` with centres of `shape`; `None` for a loss without any.
pub(super) fn parts<'a>(state: &'a State, name: &str, shape: Option<&[usize]>) -> Result<Option<Parts<'a>>> {
    let Some(shape) = shape else {
        return match state.tensors.keys().chain(state.counters.keys()).next() {
            None => Ok(None),
            Some(key) => Err(Error::Unsuitable(format!(
                "the saved loss state holds `{key}`, but {name} has nothing to learn; \
                 it was written with another loss"
            ))),
        };
    };
    let fits = |key: &str, tensor: &'a ArrayD<f32>| {
        if tensor.shape() == shape {
            return Ok(tensor);
        }
        Err(Error::Unsuitable(format!(
            "the saved `{key}` has shape {:?}, but {name} has centres of shape {shape:?}; \
             it was written with other classes or another output_dim",
            tensor.shape()
        )))
    };
    let Some(centres) = state.tensors.get(CENTRES) else {
        return Err(Error::Unsuitable(format!("the saved loss state lacks `{CENTRES}`, which {name} has")));
    };
    let gradient = state.tensors.get(GRADIENT).map(|tensor| fits(GRADIENT, tensor)).transpose()?;
    Ok(Some(Parts { centres: fits(CENTRES, centres)?, gradient }))
}
