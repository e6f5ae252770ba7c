//! The files of a run.

pub(in crate::run) mod checkpoint;
pub(in crate::run) mod checksum;
pub(in crate::run) mod files;
pub(in crate::run) mod resume;
pub(in crate::run) mod store;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::encoder::EncoderSpec;
use crate::run::{EpochRecord, Resolved, RunOptions};
use crate::{Error, Result, io};

const FORMAT: u32 = 1;
/// What to do about a damaged file of a run.
const RESTORE: &str = "restore the file, or train again into another folder";

/// A run's folder: `run.toml`, `metrics.jsonl`, `model.safetensors`, `checkpoint.safetensors`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunFolder {
    path: PathBuf,
}

/// `run.toml`: all that is needed to build the model again and to repeat or continue the run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunFile {
    /// The format of this file.
    pub format: u32,
    /// The version of embedtune that wrote it.
    pub version: String,
    /// The classes trained on, in the order of the class centres.
    pub classes: Vec<String>,
    /// Whether retrieval is measured after every epoch, or only at the start and the end.
    pub measure_epochs: bool,
    /// What the user was told when the run began: options that have no effect here, batches arranged differently
    /// from what was asked.
    #[serde(default)]
    pub notices: Vec<String>,
    /// The data.
    pub data: DataRecord,
    /// The options as given; what was left to `auto` stays `auto`.
    pub options: RunOptions,
    /// What the run took where the options leave it open; `None` where nobody has noted it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resolved: Option<Resolved>,
    /// The encoder's layers.
    pub encoder: EncoderSpec,
}

/// Where the data came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataRecord {
    /// A path, or `built-in`.
    pub source: String,
    /// CRC-32 of the contents ([`checksum`](fn@crate::run::checksum)).
    pub checksum: String,
}

/// What of a [`RunFile`] tells how a model was trained.
#[derive(Serialize)]
struct Given<'a> {
    options: &'a RunOptions,
    encoder: &'a EncoderSpec,
}

impl RunFile {
    /// The options as given and the encoder, in TOML as in the file.
    ///
    /// # Errors
    /// [`Error::Option`] for a value that TOML cannot hold.
    pub fn options_and_encoder(&self) -> Result<String> {
        let given = Given { options: &self.options, encoder: &self.encoder };
        toml::to_string(&given).map_err(|e| Error::option("options", "?", e.to_string()))
    }

    /// A run file of this version, without notices and without what the options resolve to.
    pub fn new(
        options: RunOptions,
        encoder: EncoderSpec,
        classes: Vec<String>,
        data: DataRecord,
        measure_epochs: bool,
    ) -> Self {
        let version = env!("CARGO_PKG_VERSION").to_owned();
        let notices = Vec::new();
        Self {
            format: FORMAT,
            version,
            classes,
            measure_epochs,
            notices,
            data,
            options,
            resolved: None,
            encoder,
        }
    }
}

impl RunFolder {
    /// The folder at `path`, whether it exists or not.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether a new run can have this folder: as [`create`](Self::create), but touches nothing, to be asked before work is
    /// put into the run.
    ///
    /// # Errors
    /// As [`create`](Self::create).
    pub fn check_free(&self, overwrite: bool) -> Result<()> {
        if self.path.as_os_str().is_empty() {
            return Err(Error::option("out", "\"\"", "name the folder that the run is written into"));
        }
        let above = self.path.ancestors().find(|path| path.exists()).unwrap_or(Path::new(""));
        if !above.as_os_str().is_empty() && !above.is_dir() {
            return Err(Error::io(&self.path, "creating")(std::io::ErrorKind::NotADirectory.into()));
        }
        if above != self.path || self.is_free()? {
            return Ok(());
        }
        if self.path.join(crate::run::compare::SUMMARY).exists() {
            return Err(Error::option(
                "out",
                self.path.display(),
                "the folder holds a comparison (summary.json); name another",
            ));
        }
        if !overwrite {
            return Err(Error::option(
                "out",
                self.path.display(),
                "the folder is not empty; name another, continue its run with --resume, or replace it with --overwrite (in \
                 code: `run::resume`, or `overwrite(true)`)",
            ));
        }
        Ok(())
    }

    /// Whether nothing is there, or only what a run leaves that was killed before its run file was written.
    fn is_free(&self) -> Result<bool> {
        for entry in std::fs::read_dir(&self.path).map_err(Error::io(&self.path, "reading"))? {
            let name = entry.map_err(Error::io(&self.path, "reading"))?.file_name();
            let known = name.to_string_lossy().starts_with(io::TEMPORARY)
                || Some(name.as_os_str()) == self.data_files().file_name();
            if !known {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Makes the folder for a new run.
    ///
    /// # Errors
    /// [`Error::Option`] if it exists, is not empty, and `overwrite` is false: a run is hours of work; for an empty name; I/O.
    /// With `overwrite` only the files that a run writes are removed.
    pub fn create(&self, overwrite: bool) -> Result<()> {
        self.check_free(overwrite)?;
        std::fs::create_dir_all(&self.path).map_err(Error::io(&self.path, "creating"))?;
        self.clear()
    }

    /// Removes the files that a run writes, and nothing else.
    ///
    /// # Errors
    /// I/O.
    pub fn clear(&self) -> Result<()> {
        for file in [
            self.checkpoint(),
            self.model(),
            self.metrics(),
            self.run_file(),
            self.best(),
            self.events(),
            self.steps(),
            self.step_events(),
            self.report(),
            self.data_files(),
        ] {
            io::remove(&file)?;
        }
        for name in ["outliers.csv", "nonfinite.json", "nonfinite.npy"] {
            io::remove(&self.path.join(name))?;
        }
        for file in std::fs::read_dir(self.path.join("checkpoints")).into_iter().flatten().flatten() {
            let name = file.file_name();
            if name.to_string_lossy().starts_with("epoch-") {
                io::remove(&file.path())?;
            }
        }
        self.sweep()
    }

    /// `run.toml`.
    pub fn run_file(&self) -> PathBuf {
        self.path.join("run.toml")
    }

    /// `model.safetensors`: encoder and class centres after the last complete epoch.
    pub fn model(&self) -> PathBuf {
        self.path.join("model.safetensors")
    }

    /// `checkpoint.safetensors`: all that training continues from.
    pub fn checkpoint(&self) -> PathBuf {
        self.path.join("checkpoint.safetensors")
    }

    /// `best.safetensors`: the model of the best epoch so far, with `callbacks.best_model`.
    pub fn best(&self) -> PathBuf {
        self.path.join("best.safetensors")
    }

    /// `checkpoints/epoch-N.safetensors`: the checkpoint after epoch `N`, with `callbacks.last_k_epochs` above 1.
    pub fn epoch_checkpoint(&self, epoch: usize) -> PathBuf {
        self.path.join("checkpoints").join(format!("epoch-{epoch}.safetensors"))
    }

    /// The TensorBoard event file.
    pub fn events(&self) -> PathBuf {
        // TensorBoard takes any file with `tfevents` in its name.
        self.path.join("tensorboard").join("events.out.tfevents.0.embedtune")
    }

    /// `steps.jsonl`: a line after every `callbacks.log_steps` batches.
    pub fn steps(&self) -> PathBuf {
        self.path.join("steps.jsonl")
    }

    /// The TensorBoard event file of the curves within epochs: TensorBoard shows it as a run of its own, whose steps are
    /// batches.
    pub fn step_events(&self) -> PathBuf {
        self.path.join("tensorboard").join("steps").join("events.out.tfevents.0.embedtune")
    }

    /// `data_files.csv`: the files that the data were read from, with their lengths and checksums.
    pub fn data_files(&self) -> PathBuf {
        self.path.join("data_files.csv")
    }

    /// Removes what a process that was killed while writing has left.
    ///
    /// # Errors
    /// I/O.
    pub(in crate::run) fn sweep(&self) -> Result<()> {
        for folder in [self.path.clone(), self.path.join("checkpoints"), self.path.join("tensorboard")] {
            let Ok(entries) = std::fs::read_dir(&folder) else { continue };
            for entry in entries.flatten() {
                if entry.file_name().to_string_lossy().starts_with(io::TEMPORARY) {
                    io::remove(&entry.path())?;
                }
            }
        }
        Ok(())
    }

    /// `metrics.jsonl`: a line per epoch.
    pub fn metrics(&self) -> PathBuf {
        self.path.join("metrics.jsonl")
    }

    /// `report.html`: what the program shows of the run.
    pub fn report(&self) -> PathBuf {
        self.path.join("report.html")
    }

    /// Writes `run.toml`.
    ///
    /// # Errors
    /// I/O.
    pub fn write_run_file(&self, run: &RunFile) -> Result<()> {
        let path = self.run_file();
        let text = toml::to_string(run).map_err(|e| Error::data(&path, e.to_string()))?;
        io::write_atomically(&path, text.as_bytes())
    }

    /// Reads `run.toml`.
    ///
    /// # Errors
    /// I/O (with a remark if the folder is no run's), and [`Error::Data`] for contents that are not a run file's.
    pub fn read_run_file(&self) -> Result<RunFile> {
        let path = self.run_file();
        if !path.exists() {
            return Err(Error::data(
                &path,
                "not found, so this is not the folder of a run; name one that `fit` wrote",
            ));
        }
        let text = text_of(&path)?;
        // The version first: a newer format's fields would only be reported as unknown.
        #[derive(Deserialize)]
        struct Format {
            format: u32,
            version: String,
        }
        let wrong = |e: toml::de::Error| {
            let detail = format!("{}; {RESTORE}", e.to_string().trim_end());
            Error::data(&path, detail)
        };
        let head: Format = toml::from_str(&text).map_err(wrong)?;
        if head.format != FORMAT {
            let detail = format!(
                "format {} (embedtune {}); this program reads format {FORMAT}: use that version, or train again",
                head.format, head.version
            );
            return Err(Error::data(&path, detail));
        }
        toml::from_str(&text).map_err(wrong)
    }

    /// What is wrong with the options of a run that has begun, with the file that holds them; other errors as they are.
    pub fn of_options(&self, error: Error) -> Error {
        match error {
            Error::Option { .. } => Error::data(&self.run_file(), format!("options.{error}")),
            other => other,
        }
    }

    /// Writes all lines of `metrics.jsonl`.
    ///
    /// # Errors
    /// I/O.
    pub fn write_metrics(&self, records: &[EpochRecord]) -> Result<()> {
        let path = self.metrics();
        let mut text = String::new();
        for record in records {
            text += &serde_json::to_string(record).map_err(|e| Error::data(&path, e.to_string()))?;
            text.push('\n');
        }
        io::write_atomically(&path, text.as_bytes())
    }

    /// Reads `metrics.jsonl`.
    ///
    /// # Errors
    /// I/O, and [`Error::Data`] with the line that is not a record.
    pub fn read_metrics(&self) -> Result<Vec<EpochRecord>> {
        let path = self.metrics();
        let text = text_of(&path)?;
        text.lines()
            .enumerate()
            .map(|(i, line)| {
                serde_json::from_str(line)
                    .map_err(|e| Error::data(&path, format!("line {}: {e}; {RESTORE}", i + 1)))
            })
            .collect()
    }
}

/// A text file of a run.
fn text_of(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(|e| match e.kind() {
        std::io::ErrorKind::InvalidData => Error::data(path, format!("is not UTF-8 text; {RESTORE}")),
        _ => Error::io(path, "reading")(e),
    })
}

/// The options and the data of a run file's text; `None` for a file of options alone.
///
/// # Errors
/// [`Error::Unsuitable`] for a run file's text that is damaged.
pub fn options_of_run(text: &str) -> Result<Option<(RunOptions, DataRecord)>> {
    let is_run = |table: &toml::Table| table.contains_key("format") && table.contains_key("options");
    if !text.parse().is_ok_and(|table| is_run(&table)) {
        return Ok(None);
    }
    let run: RunFile = toml::from_str(text)
        .map_err(|e| Error::Unsuitable(format!("{}; {RESTORE}", e.to_string().trim_end())))?;
    Ok(Some((run.options, run.data)))
}
