//! Continuing a run.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::{checkpoint, checksum, files};
use crate::data::Split;
use crate::run::setup::builder::Known;
use crate::run::training::conclude;
use crate::run::{Report, RunBuilder, RunFolder, Trainer};
use crate::{Error, Result};

/// A run found in its folder: one of the two, in every version.
#[expect(clippy::large_enum_variant, reason = "made once a run and taken apart at once")]
pub enum Resumed<'a> {
    /// Nothing is left to do; what it reached.
    Finished(Report),
    /// It continues where its checkpoint stands, or at the start if there is none yet.
    Ready(Trainer<'a>),
}

/// The report of the run in `folder` if it is finished, which takes none of its data.
///
/// # Errors
/// As [`resume`].
pub fn finished(folder: &RunFolder) -> Result<Option<Report>> {
    let run = folder.read_run_file()?;
    match checkpoint::closed(folder)? {
        Some(records) => conclude::report(&run.options, &records).map(Some),
        None => Ok(None),
    }
}

/// Which files below `data` are not those that the run in `folder` began with, in words: `train.npy is another (...)`. `None`
/// where the run has no list of them ([`RunBuilder::data_folder`]), or all are the same.
pub fn changed_files(folder: &RunFolder, data: &Path) -> Option<String> {
    files::changed(data, &folder.data_files())
}

/// Prepares the run in `folder` to continue on `split`, which must be the data that it began with
/// ([`RunFolder::read_run_file`] says where they came from).
///
/// A resumed run ends in the same bits as one that was never interrupted. (Its `device` and `device_options` may be changed
/// in `run.toml` before; results then differ by rounding, or by what f16 rounds.)
///
/// # Errors
/// [`Error::Data`] naming the file that is damaged, missing or of another run; [`Error::Changed`] if the data have
/// changed.
pub fn resume<'a>(
    folder: &RunFolder,
    split: &'a Split,
    stop: Option<Arc<AtomicBool>>,
) -> Result<Resumed<'a>> {
    let run = folder.read_run_file()?;
    folder.sweep()?;
    let now = checksum::checksum(split);
    if now != run.data.checksum {
        return Err(Error::Changed(format!(
            "{}: the data have changed since this run began (checksum {now}, then {}; source {}); \
             give the data it began with, or start a new run",
            folder.run_file().display(),
            run.data.checksum,
            run.data.source
        )));
    }
    let options = run.options.clone();
    let mut builder = RunBuilder::new()
        .options(run.options)
        .folder(folder.path())
        .source(run.data.source)
        .measure_epochs(run.measure_epochs);
    builder.stop = stop;
    // What another run gave this one is in its own files by now.
    builder.known = Some(Known {
        spec: run.encoder.clone(),
        classes: run.classes,
        checkpointed: folder.checkpoint().exists(),
    });
    let mut trainer = builder.build(split).map_err(|error| folder.of_options(error))?;
    if *trainer.encoder().spec() != run.encoder {
        return Err(Error::data(
            &folder.run_file(),
            "its encoder is not the one that its options give; restore the file, or start a new run",
        ));
    }
    trainer.restore()?;
    if trainer.finished() {
        return conclude::report(&options, &trainer.records).map(Resumed::Finished);
    }
    Ok(Resumed::Ready(trainer))
}
