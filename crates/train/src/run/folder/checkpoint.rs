//! What a run writes and continues from.
//!
//! Order matters where a machine may stop between two files: metrics, then model, then checkpoint. A resumed run
//! trusts the checkpoint alone; it drops metrics of later epochs and writes the model again.

use std::collections::{BTreeMap, BTreeSet};

use embedtune_losses::CrossBatchMemory;
use embedtune_losses::memory::MemoryState;
use ndarray::{ArrayD, IxDyn};

use super::store;
use crate::run::training::progress::Progress;
use crate::run::training::trainer::Trainer;
use crate::run::{EpochRecord, RunFolder, model};
use crate::{Error, Result, State, io};

/// The one part of the head's state that a model keeps; the rest belongs to training.
const CENTRES: &str = "centres";

/// Encoder and class centres: what `model.safetensors` holds.
pub(in crate::run) fn model_state(trainer: &Trainer<'_>) -> Result<State> {
    let mut state = trainer.encoder.state().prefixed("encoder");
    state.merge(centres(trainer.head.state()?).prefixed("head"));
    Ok(state)
}

/// The head's state without its optimizer's.
pub(in crate::run) fn centres(head: State) -> State {
    let tensors = head.tensors.into_iter().filter(|(name, _)| name == CENTRES).collect();
    State { tensors, ..State::default() }
}

/// Everything that training continues from.
pub(in crate::run) fn write_checkpoint(trainer: &Trainer<'_>, folder: &RunFolder) -> Result<Vec<u8>> {
    let mut state = trainer.encoder.state().prefixed("encoder");
    state.merge(trainer.head.state()?.prefixed("head"));
    state.merge(trainer.optimizer.state().prefixed("optimizer"));
    state.merge(trainer.progress.state().prefixed("progress"));
    state.merge(trainer.telemetry.state(trainer.progress.batch > 0).prefixed("telemetry"));
    if let Some(memory) = &trainer.memory {
        state.merge(memory_state(memory).prefixed("memory"));
    }
    if let Some(initial) = &trainer.initial {
        state.merge(initial.clone().prefixed("initial"));
    }
    let path = folder.checkpoint();
    let bytes = store::encode(&path, store::Kind::Checkpoint, &state, Some(trainer.options.to_toml()?))?;
    io::write_atomically(&path, &bytes)?;
    Ok(bytes)
}

/// Puts a trainer where its checkpoint stands. Returns false, and changes nothing, if there is none yet.
pub(in crate::run) fn restore(trainer: &mut Trainer<'_>, folder: &RunFolder) -> Result<bool> {
    let path = folder.checkpoint();
    if !path.exists() {
        return Ok(false);
    }
    let read = store::read_with_options(&path, store::Kind::Checkpoint);
    let (state, options) = read.map_err(|error| with_spare(folder, error))?;
    if let Some(began) = options {
        check_options(folder, &began, &trainer.options.to_toml()?)?;
    }
    let named = |e| model::foreign(&path, &e);
    trainer.encoder.load(&state.part("encoder")).map_err(named)?;
    trainer.head.load_state(&state.part("head")).map_err(named)?;
    trainer.optimizer.load_state(&state.part("optimizer")).map_err(named)?;
    trainer.progress = Progress::from_state(&state.part("progress"))
        .ok_or_else(|| Error::data(&path, "holds no position in the run; restore it, or train again"))?;
    trainer.telemetry.load(&state.part("telemetry"));
    if let Some(memory) = &mut trainer.memory {
        *memory = load_memory(memory, &state.part("memory")).map_err(named)?;
    }
    if trainer.initial.is_some() {
        trainer.initial = Some(state.part("initial"));
    }
    trainer.records = records_until(folder, trainer.progress.epoch)?;
    Ok(true)
}

/// The error of a damaged checkpoint with the one that could stand in for it, where `last_k_epochs` has kept some.
fn with_spare(folder: &RunFolder, error: Error) -> Error {
    let kept = std::fs::read_dir(folder.path().join("checkpoints")).into_iter().flatten().flatten();
    let epoch = |name: &str| name.strip_prefix("epoch-")?.split('.').next()?.parse::<usize>().ok();
    let newest = kept.filter_map(|entry| epoch(entry.file_name().to_str()?)).max();
    match (error, newest) {
        (Error::Data { path, detail }, Some(newest)) => {
            let spare = folder.epoch_checkpoint(newest);
            let detail = format!("{detail}; or copy {} to its place and resume from there", spare.display());
            Error::Data { path, detail }
        }
        (error, _) => error,
    }
}

/// The records of a run that is closed; `None` of one that goes on.
pub(in crate::run) fn closed(folder: &RunFolder) -> Result<Option<Vec<EpochRecord>>> {
    let path = folder.checkpoint();
    if !path.exists() {
        return Ok(None);
    }
    let state = store::read(&path, store::Kind::Checkpoint)?;
    match Progress::from_state(&state.part("progress")) {
        Some(progress) if progress.closed => records_until(folder, progress.epoch).map(Some),
        _ => Ok(None),
    }
}

/// The options that may change: either device continues from the other's state, however it computed.
const DEVICE: [&str; 3] =
    ["options.device", "options.device_options.precision", "options.device_options.products"];

/// Refuses options that are not those that the run began with, by name.
fn check_options(folder: &RunFolder, began: &str, now: &str) -> Result<()> {
    if began == now {
        return Ok(());
    }
    let flat = |text: &str| {
        let mut flat = BTreeMap::new();
        if let Ok(table) = text.parse::<toml::Table>() {
            flatten(&mut flat, "options", &toml::Value::Table(table));
        }
        flat
    };
    let (began, now) = (flat(began), flat(now));
    let names: BTreeSet<&String> = began.keys().chain(now.keys()).collect();
    let said = |value: Option<&String>| value.map_or("not given", String::as_str).to_owned();
    let changed: Vec<String> = names
        .into_iter()
        .filter(|name| !DEVICE.contains(&name.as_str()) && began.get(*name) != now.get(*name))
        .map(|name| {
            format!("{name} = {} (the run began with {})", said(now.get(name)), said(began.get(name)))
        })
        .collect();
    if changed.is_empty() {
        return Ok(());
    }
    Err(Error::data(
        &folder.run_file(),
        format!(
            "options have changed since the run began: {}; write them as they were, or start a new run",
            changed.join(", ")
        ),
    ))
}

fn flatten(into: &mut BTreeMap<String, String>, name: &str, value: &toml::Value) {
    match value {
        toml::Value::Table(table) => {
            table.iter().for_each(|(key, value)| flatten(into, &format!("{name}.{key}"), value));
        }
        value => drop(into.insert(name.to_owned(), value.to_string())),
    }
}

/// The queue; labels as the bits of their `f32`.
fn memory_state(memory: &CrossBatchMemory) -> State {
    let held = memory.state();
    let mut state = State::default();
    let labels: Vec<f32> = held.labels.iter().map(|&label| f32::from_bits(label)).collect();
    let rows = held.labels.len();
    if let Ok(embeddings) = ArrayD::from_shape_vec(IxDyn(&[rows, held.dim]), held.embeddings) {
        state.tensors.insert("embeddings".to_owned(), embeddings);
    }
    if let Ok(labels) = ArrayD::from_shape_vec(IxDyn(&[rows]), labels) {
        state.tensors.insert("labels".to_owned(), labels);
    }
    state.counters.insert("next".to_owned(), held.next as u64);
    state
}

fn load_memory(empty: &CrossBatchMemory, state: &State) -> Result<CrossBatchMemory> {
    let MemoryState { capacity, dim, .. } = empty.state();
    let lacks = |key: &str| Error::Unsuitable(format!("the memory's `{key}` is missing"));
    let tensor = |key: &str| state.tensors.get(key).ok_or_else(|| lacks(key));
    let next = *state.counters.get("next").ok_or_else(|| lacks("next"))?;
    Ok(CrossBatchMemory::from_state(MemoryState {
        capacity,
        dim,
        next: usize::try_from(next).unwrap_or(usize::MAX),
        embeddings: tensor("embeddings")?.iter().copied().collect(),
        labels: tensor("labels")?.iter().map(|label| label.to_bits()).collect(),
    })?)
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
