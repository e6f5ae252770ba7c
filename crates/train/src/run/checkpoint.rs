//! What a run writes and continues from.
//!
//! Order matters where a machine may stop between two files: metrics, then model, then checkpoint. A resumed run
//! trusts the checkpoint alone; it drops metrics of later epochs and writes the model again.

use super::progress::Progress;
use super::trainer::Trainer;
use super::{EpochRecord, RunFolder, model, store};
use crate::head::LossHead;
use crate::{Error, Result, State};

/// The one part of the head's state that a model keeps; the rest belongs to training.
const CENTRES: &str = "centres";

/// Encoder and class centres: what `model.safetensors` holds.
pub(super) fn model_state(trainer: &Trainer<'_>) -> State {
    let mut state = trainer.encoder.state().prefixed("encoder");
    state.merge(centres(trainer.head.state()).prefixed("head"));
    state
}

/// The head's state without its optimizer's.
pub(super) fn centres(head: State) -> State {
    let tensors = head.tensors.into_iter().filter(|(name, _)| name == CENTRES).collect();
    State { tensors, ..State::default() }
}

/// Everything that training continues from.
pub(super) fn write_checkpoint(trainer: &Trainer<'_>, folder: &RunFolder) -> Result<()> {
    let mut state = trainer.encoder.state().prefixed("encoder");
    state.merge(trainer.head.state().prefixed("head"));
    state.merge(trainer.optimizer.state().prefixed("optimizer"));
    state.merge(trainer.progress.state().prefixed("progress"));
    store::write(&folder.checkpoint(), store::Kind::Checkpoint, &state)
}

/// Puts a trainer where its checkpoint stands. Returns false, and changes nothing, if there is none yet.
pub(super) fn restore(trainer: &mut Trainer<'_>, folder: &RunFolder) -> Result<bool> {
    let path = folder.checkpoint();
    if !path.exists() {
        return Ok(false);
    }
    let state = store::read(&path, store::Kind::Checkpoint)?;
    let named = |e| model::foreign(&path, &e);
    trainer.encoder.load(&state.part("encoder")).map_err(named)?;
    trainer.head.load_state(&state.part("head")).map_err(named)?;
    trainer.optimizer.load_state(&state.part("optimizer")).map_err(named)?;
    trainer.progress = Progress::from_state(&state.part("progress"))
        .ok_or_else(|| Error::data(&path, "holds no position in the run; restore it, or train again"))?;
    trainer.records = records_until(folder, trainer.progress.epoch)?;
    Ok(true)
}

/// The records of epochs 0 to `epoch`.
fn records_until(folder: &RunFolder, epoch: usize) -> Result<Vec<EpochRecord>> {
    let mut records = folder.read_metrics()?;
    records.truncate(epoch + 1);
    let complete = records.len() == epoch + 1 && records.iter().enumerate().all(|(i, r)| r.epoch == i);
    if complete {
        return Ok(records);
    }
    Err(Error::data(
        &folder.metrics(),
        format!(
            "lacks a line for some of the epochs 0 to {epoch} of the checkpoint; restore it, or train again"
        ),
    ))
}
