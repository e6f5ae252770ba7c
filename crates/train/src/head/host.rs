//! A loss head on the CPU.

use embedtune_core::{Grad, Value};
use embedtune_losses::{CentreInit, GradsMut, Input, Loss, Reference, Stats, Workspace, Write};
use ndarray::{ArrayD, ArrayView2, ArrayViewMut2, CowArray, Ix2, IxDyn};

use super::{
    CENTRES, GRADIENT, LossHead, OPTIMIZER, Parts, Update, draw_centres, matches_loss, no_centres, parts,
};
use crate::optim::{Optimizer, Param, norm};
use crate::{Error, Result, State};

/// A loss, its centres and their optimizer in main memory.
pub struct HostHead {
    loss: Box<dyn Loss>,
    learnt: Option<Learnt>,
    work: Workspace,
}

struct Learnt {
    centres: Value,
    optimizer: Box<dyn Optimizer>,
    /// Allocated at the first step that needs it and kept.
    gradient: Option<ArrayD<f32>>,
    /// Whether `gradient` holds something to apply.
    pending: bool,
}

impl HostHead {
    /// A head whose centres start as [`draw_centres`] draws them (both unused for a loss without centres).
    ///
    /// # Errors
    /// A loss with centres but no optimizer (they would never learn), an optimizer for a loss without centres, or
    /// options of `init` outside their range.
    pub fn new(
        loss: Box<dyn Loss>,
        optimizer: Option<Box<dyn Optimizer>>,
        init: CentreInit,
        seed: u64,
    ) -> Result<Self> {
        let shape = matches_loss(loss.as_ref(), optimizer.as_ref().map(|optimizer| optimizer.kind()))?;
        let learnt = match (shape, optimizer) {
            (Some(shape), Some(optimizer)) => {
                let centres = draw_centres(init, shape, seed)?.into_dyn().into_shared();
                Some(Learnt { centres, optimizer, gradient: None, pending: false })
            }
            _ => None,
        };
        Ok(Self { loss, learnt, work: Workspace::default() })
    }

    /// Takes the loss's scratch from `work` (shared with the training step's buffers) instead of a pool of its own.
    #[must_use]
    pub fn with_workspace(mut self, work: Workspace) -> Self {
        self.work = work;
        self
    }
}

impl LossHead for HostHead {
    fn loss(&self) -> &dyn Loss {
        self.loss.as_ref()
    }

    fn step(
        &mut self,
        input: Input<'_>,
        mut dx: Option<ArrayViewMut2<'_, f32>>,
        update: Update,
    ) -> Result<Stats> {
        no_centres(&input)?;
        let Some(learnt) = &mut self.learnt else {
            let grads = GradsMut { embeddings: dx, ..GradsMut::default() };
            return Ok(self.loss.forward_backward(input, grads, &mut self.work)?);
        };
        let weights = matrix(learnt.centres.view())?;
        let input = with_weights(input, weights);
        if update == Update::None {
            let grads = GradsMut { embeddings: dx, ..GradsMut::default() };
            return Ok(self.loss.forward_backward(input, grads, &mut self.work)?);
        }
        let gradient = learnt.gradient.get_or_insert_with(|| ArrayD::zeros(learnt.centres.raw_dim()));
        let write = if learnt.pending { Write::Add } else { Write::Overwrite };
        // One mode serves both gradients, and the embeddings' is always a fresh one.
        if let (Write::Add, Some(dx)) = (write, &mut dx) {
            dx.fill(0.0);
        }
        let grads =
            GradsMut { embeddings: dx, weights: Some(matrix_mut(gradient)?), write, ..GradsMut::default() };
        let stats = self.loss.forward_backward(input, grads, &mut self.work)?;
        if !stats.value.is_finite() {
            // Under `Add` the sum is spoilt with it, so what was accumulated goes too.
            learnt.pending = false;
            return Ok(stats);
        }
        learnt.pending = true;
        if update == Update::Apply {
            learnt.apply()?;
        }
        Ok(stats)
    }

    fn grad_norm(&self) -> Result<f64> {
        Ok(match &self.learnt {
            Some(Learnt { gradient: Some(gradient), pending: true, .. }) => norm(gradient.view()),
            _ => 0.0,
        })
    }

    fn apply(&mut self, factor: f32) -> Result<()> {
        let Some(learnt) = &mut self.learnt else { return Ok(()) };
        if let (true, Some(gradient)) = (learnt.pending && factor != 1.0, &mut learnt.gradient) {
            gradient.mapv_inplace(|g| g * factor);
        }
        learnt.apply()
    }

    fn weights(&self) -> Result<Option<CowArray<'_, f32, Ix2>>> {
        let Some(learnt) = &self.learnt else { return Ok(None) };
        Ok(Some(matrix(learnt.centres.view())?.into()))
    }

    fn learning_rate(&self) -> Option<f64> {
        Some(self.learnt.as_ref()?.optimizer.learning_rate())
    }

    fn set_learning_rate(&mut self, learning_rate: f64) -> Result<()> {
        self.learnt.as_mut().map_or(Ok(()), |learnt| learnt.optimizer.set_learning_rate(learning_rate))
    }

    fn state(&self) -> Result<State> {
        let Some(learnt) = &self.learnt else { return Ok(State::default()) };
        let mut state = learnt.optimizer.state().prefixed(OPTIMIZER);
        state.tensors.insert(CENTRES.to_owned(), learnt.centres.to_owned());
        if let Some(gradient) = learnt.gradient.as_ref().filter(|_| learnt.pending) {
            state.tensors.insert(GRADIENT.to_owned(), gradient.clone());
        }
        Ok(state)
    }

    fn load_state(&mut self, state: &State) -> Result<()> {
        let shape = self.learnt.as_ref().map(|learnt| learnt.centres.shape().to_vec());
        let tensors = parts(state, self.loss.name(), shape.as_deref())?;
        let (Some(learnt), Some(Parts { centres, gradient })) = (&mut self.learnt, tensors) else {
            return Ok(());
        };
        learnt.optimizer.load_state(&state.part(OPTIMIZER))?;
        learnt.centres = centres.to_shared();
        learnt.pending = gradient.is_some();
        learnt.gradient = gradient.cloned();
        Ok(())
    }
}

impl Learnt {
    /// Moves the centres by what is pending.
    fn apply(&mut self) -> Result<()> {
        if !std::mem::take(&mut self.pending) {
            return Ok(());
        }
        let grad = self.gradient.take().map(Grad::Dense);
        let mut params = [Param { name: CENTRES, value: &mut self.centres, grad }];
        let result = self.optimizer.step(&mut params, None);
        let [Param { grad, .. }] = params;
        self.gradient = grad.map(Grad::into_dense).transpose()?;
        result
    }
}

/// `input` with the centres. (`Input` is invariant in its lifetime, so `Input::with_weights` would need centres that
/// live as long as the embeddings.)
fn with_weights<'a, 'long: 'a>(input: Input<'long>, weights: ArrayView2<'a, f32>) -> Input<'a> {
    Input {
        embeddings: input.embeddings.reborrow(),
        weights: Some(weights),
        reference: input.reference.map(|r| Reference {
            embeddings: r.embeddings.reborrow(),
            labels: r.labels,
            same_item: r.same_item,
        }),
        labels: input.labels,
        sample_weights: input.sample_weights,
        class_weights: input.class_weights,
    }
}

fn matrix<'a>(view: ndarray::ArrayView<'a, f32, IxDyn>) -> Result<ArrayView2<'a, f32>> {
    view.into_dimensionality::<Ix2>().map_err(|_| not_a_matrix())
}

fn matrix_mut(array: &mut ArrayD<f32>) -> Result<ArrayViewMut2<'_, f32>> {
    array.view_mut().into_dimensionality::<Ix2>().map_err(|_| not_a_matrix())
}

fn not_a_matrix() -> Error {
    Error::Unsuitable("class centres must be a matrix, [classes, dim]".to_owned())
}
