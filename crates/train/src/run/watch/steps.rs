//! The curves within an epoch: a line of `steps.jsonl`, and TensorBoard events, after every so many batches.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::tensorboard;
use crate::run::RunFolder;
use crate::{Error, Result};

/// One line of `steps.jsonl`: what a batch did.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StepRecord {
    /// Batches trained on in all.
    pub step: u64,
    /// The epoch, from 1.
    pub epoch: usize,
    /// The batch of the epoch, from 1.
    pub batch: usize,
    /// Its loss.
    pub loss: f64,
    /// Share of its triplets or rows that carried a gradient.
    pub active_fraction: f64,
    /// Share of its rows whose own class centre was the nearest; losses with centres only.
    pub accuracy: Option<f64>,
    /// L2 norm of the encoder's gradient in the last step, before clipping.
    pub grad_norm: f64,
    /// The model's learning rate.
    pub learning_rate: f64,
    /// The class centres' learning rate, for losses with centres.
    pub loss_learning_rate: Option<f64>,
    /// Items trained on per second, over the epoch so far.
    pub items_per_second: f64,
    /// Seconds of training (without evaluation) since the run began.
    pub seconds: f64,
}

impl StepRecord {
    fn scalars(&self) -> impl Iterator<Item = (&'static str, f64)> {
        let all = [
            ("step/loss", Some(self.loss)),
            ("step/active_fraction", Some(self.active_fraction)),
            ("step/accuracy", self.accuracy),
            ("step/grad_norm", Some(self.grad_norm)),
            ("step/items_per_second", Some(self.items_per_second)),
            ("step/rate_model", Some(self.learning_rate)),
            ("step/rate_centres", self.loss_learning_rate),
        ];
        all.into_iter().filter_map(|(tag, value)| Some((tag, value?)))
    }
}

/// The files, which are added to.
#[derive(Debug)]
pub(in crate::run) struct StepLog {
    lines: (PathBuf, File),
    events: Option<(PathBuf, File)>,
    /// When the run began, in seconds since 1970.
    start: f64,
}

impl StepLog {
    /// The files of a run that has trained on `done` batches. Lines of later ones, as a kill leaves them, are cut off: they
    /// come again. Files keep their place, so that whoever follows them goes on.
    pub(in crate::run) fn open(folder: &RunFolder, events: bool, start: f64, done: u64) -> Result<Self> {
        let path = folder.steps();
        let bytes = there(&path)?;
        let (mut length, mut last, mut kept) = (0, 0, Vec::new());
        for line in bytes.split_inclusive(|&byte| byte == b'\n').filter(|line| line.ends_with(b"\n")) {
            let record = std::str::from_utf8(line).ok().and_then(|line| serde_json::from_str(line).ok());
            match record {
                Some(record @ StepRecord { step, .. }) if (last + 1..=done).contains(&step) => {
                    last = step;
                    kept.push(record);
                }
                _ => break,
            }
            length += line.len();
        }
        let lines = (path.clone(), cut(&path, length)?);
        let events = match events {
            true => Some(open_events(&folder.step_events(), start, &kept)?),
            false => None,
        };
        Ok(Self { lines, events, start })
    }

    /// Adds a line.
    pub(in crate::run) fn add(&mut self, record: &StepRecord) -> Result<()> {
        let (path, file) = &mut self.lines;
        let mut line = serde_json::to_string(record).map_err(|e| Error::data(path, e.to_string()))?;
        line.push('\n');
        file.write_all(line.as_bytes()).map_err(Error::io(path, "adding to it"))?;
        if let Some((path, file)) = &mut self.events {
            file.write_all(&events(self.start, record)).map_err(Error::io(path, "adding to it"))?;
        }
        Ok(())
    }

    /// Waits until all lines are on the disk: a checkpoint follows, and what came before it does not come again.
    pub(in crate::run) fn sync(&self) -> Result<()> {
        for (path, file) in [Some(&self.lines), self.events.as_ref()].into_iter().flatten() {
            file.sync_data().map_err(Error::io(path, "syncing"))?;
        }
        Ok(())
    }
}

fn events(start: f64, record: &StepRecord) -> Vec<u8> {
    let mut events = Vec::new();
    for (tag, value) in record.scalars() {
        tensorboard::scalar(&mut events, start + record.seconds, record.step, tag, value);
    }
    events
}

fn open_events(path: &Path, start: f64, kept: &[StepRecord]) -> Result<(PathBuf, File)> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(Error::io(folder, "creating"))?;
    }
    let mut expected = tensorboard::head(start);
    kept.iter().for_each(|record| expected.extend(events(start, record)));
    let there = there(path)?;
    let same = there.iter().zip(&expected).take_while(|(there, expected)| there == expected).count();
    let mut file = cut(path, same)?;
    file.write_all(&expected[same..]).map_err(Error::io(path, "adding to it"))?;
    Ok((path.to_path_buf(), file))
}

/// A file's bytes; none where it is not there.
fn there(path: &Path) -> Result<Vec<u8>> {
    match std::fs::read(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(Error::io(path, "reading")(error)),
        bytes => Ok(bytes.unwrap_or_default()),
    }
}

/// The file to be added to after its first `length` bytes.
fn cut(path: &Path, length: usize) -> Result<File> {
    let open = || {
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        if file.metadata()?.len() > length as u64 {
            // Where a file is only added to, some systems do not shorten it.
            OpenOptions::new().write(true).open(path)?.set_len(length as u64)?;
        }
        Ok(file)
    };
    open().map_err(Error::io(path, "opening"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(step: u64) -> StepRecord {
        StepRecord {
            step,
            epoch: 1,
            batch: step as usize,
            loss: 1.0 / step as f64,
            active_fraction: 0.5,
            accuracy: None,
            grad_norm: 2.0,
            learning_rate: 0.001,
            loss_learning_rate: Some(0.01),
            items_per_second: 100.0,
            seconds: step as f64,
        }
    }

    #[test]
    fn a_run_that_was_killed_goes_on_where_its_checkpoint_stands() {
        let folder = tempfile::tempdir().unwrap();
        let folder = RunFolder::new(folder.path());
        let files = || [folder.steps(), folder.step_events()].map(|path| std::fs::read(path).unwrap());
        let add = |log: &mut StepLog, steps: std::ops::RangeInclusive<u64>| {
            steps.for_each(|step| log.add(&record(step)).unwrap());
            log.sync().unwrap();
        };
        let mut log = StepLog::open(&folder, true, 10.0, 0).unwrap();
        add(&mut log, 1..=9);
        let whole = files();
        let text = String::from_utf8(whole[0].clone()).unwrap();
        let read: Vec<StepRecord> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(read, (1..=9).map(record).collect::<Vec<_>>());
        // Killed in the middle of a line and of an event, the last checkpoint after batch 6.
        for lost in [0, 1, 40] {
            for path in [folder.steps(), folder.step_events()] {
                let file = OpenOptions::new().write(true).open(path).unwrap();
                file.set_len(file.metadata().unwrap().len() - lost).unwrap();
            }
            let mut log = StepLog::open(&folder, true, 10.0, 6).unwrap();
            let cut = files();
            assert!((0..2).all(|i| whole[i].starts_with(&cut[i])));
            assert_eq!(String::from_utf8_lossy(&cut[0]).lines().count(), 6);
            add(&mut log, 7..=9);
            assert_eq!(files(), whole);
        }
        // A byte that is no text takes no more with it than its line and those behind.
        let mut damaged = whole[0].clone();
        let third = damaged.iter().enumerate().filter(|(_, byte)| **byte == b'\n').nth(1).unwrap().0 + 3;
        damaged[third] = 0xff;
        std::fs::write(folder.steps(), damaged).unwrap();
        add(&mut StepLog::open(&folder, true, 10.0, 9).unwrap(), 3..=9);
        assert_eq!(files(), whole);
        // Two that went on at once.
        std::fs::write(folder.steps(), whole[0].repeat(2)).unwrap();
        StepLog::open(&folder, true, 10.0, 9).unwrap();
        assert_eq!(files(), whole);
        // What is no line of ours does not stay, and nothing behind it.
        std::fs::write(folder.steps(), [b"{\"step\": 1}\n", &whole[0][..]].concat()).unwrap();
        add(&mut StepLog::open(&folder, true, 10.0, 9).unwrap(), 1..=9);
        assert_eq!(files(), whole);
    }
}
