use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::io::shell_word;

/// What can go wrong. Every message names the file, field or row, the value, and what to do.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused to read or write.
    #[error("{}: {action} failed: {source}{}", .path.display(), remedy(.source.kind()))]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was attempted, e.g. "writing".
        action: &'static str,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A file whose contents are not what they should be.
    #[error("{}: {detail}", .path.display())]
    Data {
        /// The file.
        path: PathBuf,
        /// What is wrong, where (line, row, byte), and what was expected.
        detail: String,
    },
    /// An option outside its range, unknown, or at odds with another.
    #[error("{field} = {value}: {remedy}")]
    Option {
        /// The option's name as in configuration files.
        field: String,
        /// Its value, printed.
        value: String,
        /// What is wrong and what to write instead.
        remedy: String,
    },
    /// The data cannot be trained on as asked.
    #[error("{0}")]
    Unsuitable(String),
    /// A run's data are not those that it began with.
    #[error("{0}")]
    Changed(String),
    /// A computation produced NaN or infinity.
    #[error("{what} became {value} in epoch {epoch}, batch {batch}; {remedy}{}", inspection(.saved.as_deref()))]
    NotFinite {
        /// What: the loss, an embedding, a gradient.
        what: &'static str,
        /// Its value.
        value: f64,
        /// The epoch, from 1.
        epoch: usize,
        /// The batch, from 1.
        batch: usize,
        /// What to try.
        remedy: &'static str,
        /// Where the batch is saved for inspection; `None` for a run without a folder.
        saved: Option<PathBuf>,
    },
    /// Training was asked to stop (Ctrl-C).
    #[error("interrupted in epoch {epoch}; {}", continuation(.folder.as_deref()))]
    Interrupted {
        /// The epoch under way, from 1.
        epoch: usize,
        /// Where what was learnt so far is saved; `None` for a run without a folder.
        folder: Option<PathBuf>,
    },
    /// `device = "cuda"` in a build without CUDA support.
    #[error(
        "device = cuda: this build has no CUDA support; build it with the feature `cuda` (cargo build --release \
         --features cuda), or write cpu or auto"
    )]
    NoCudaSupport,
    /// What was asked for is not to be had on a GPU.
    #[error("device = cuda: {0}; write cpu or auto to compute it on the CPU")]
    Unsupported(String),
    /// The GPU or its driver.
    #[cfg(feature = "cuda")]
    #[error("device = cuda: {0}")]
    Device(#[from] embedtune_cuda_kernels::Error),
    /// An error of the numeric core.
    #[error(transparent)]
    Core(#[from] embedtune_core::Error),
    /// An error of a loss.
    #[error(transparent)]
    Loss(#[from] embedtune_losses::Error),
}

impl Error {
    /// For `map_err`: an I/O error with its file and what was attempted.
    pub fn io(path: &Path, action: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io { path, action, source }
    }

    /// Contents of a file that are not what they should be.
    pub fn data(path: &Path, detail: impl Into<String>) -> Self {
        Self::Data { path: path.to_path_buf(), detail: detail.into() }
    }

    /// A wrong option.
    pub fn option(field: impl Into<String>, value: impl ToString, remedy: impl Into<String>) -> Self {
        Self::Option { field: field.into(), value: value.to_string(), remedy: remedy.into() }
    }
}

impl From<embedtune_pooling::Error> for Error {
    /// Options of a pooling layer are given as `pooler_options`, wherever the layer stands.
    fn from(error: embedtune_pooling::Error) -> Self {
        match error {
            embedtune_pooling::Error::Option { option, value, reason } => {
                Self::option(format!("pooler_options.{option}"), value, format!("write a number {reason}"))
            }
            other => Self::Unsuitable(other.to_string()),
        }
    }
}

fn inspection(saved: Option<&Path>) -> String {
    saved.map_or_else(String::new, |path| format!("; the batch is saved in {}", path.display()))
}

fn continuation(folder: Option<&Path>) -> String {
    match folder {
        Some(folder) => {
            format!("the run is saved: continue with `embedtune fit --resume {}`", shell_word(folder))
        }
        None => "the run has no folder, so nothing is saved".to_owned(),
    }
}

/// What to do about the system's reason, where the reason alone does not say it.
fn remedy(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::NotFound => "; check the path",
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
            "; check its permissions, or name another place"
        }
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
            "; free some space there, or name another place"
        }
        ErrorKind::AlreadyExists | ErrorKind::NotADirectory => {
            "; a file stands where a folder is needed: name another place"
        }
        ErrorKind::IsADirectory => "; it is a folder: name a file",
        _ => "",
    }
}

/// This crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;
