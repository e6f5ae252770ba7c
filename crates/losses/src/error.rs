use thiserror::Error;

/// What can go wrong in a loss. Every message names the field or row, the value, and what to do.
#[derive(Debug, Clone, PartialEq, Error)]
#[non_exhaustive]
pub enum Error {
    /// An array's shape does not fit the others.
    #[error("{what} has shape {got:?}; expected {expected}")]
    Shape {
        /// Which array.
        what: &'static str,
        /// What was expected, in words or as a shape.
        expected: String,
        /// The shape that came.
        got: Vec<usize>,
    },
    /// A label that names no class.
    #[error("label {label} in row {row} is out of range: there are {classes} classes (0 to {}); \
             re-index the labels or build the loss with more classes", .classes.saturating_sub(1))]
    Label {
        /// The row of the batch.
        row: usize,
        /// Its label.
        label: u32,
        /// Number of classes.
        classes: usize,
    },
    /// A value that is NaN or infinite.
    #[error(
        "{what} holds {value} in row {row}, column {column}; losses need finite values: repair the item, \
             or lower the learning rate if training made it"
    )]
    NotFinite {
        /// Which array.
        what: &'static str,
        /// Row.
        row: usize,
        /// Column.
        column: usize,
        /// The value.
        value: f32,
    },
    /// An option outside its range.
    #[error("{option} = {value}: {reason}")]
    Option {
        /// The option's name.
        option: &'static str,
        /// Its value, printed.
        value: String,
        /// The range and what to do.
        reason: String,
    },
    /// Something the loss needs was not given.
    #[error("{loss} needs {what}")]
    Missing {
        /// The loss.
        loss: &'static str,
        /// What is missing and where it goes.
        what: &'static str,
    },
    /// The GPU or its driver (feature `cuda`).
    #[cfg(feature = "cuda")]
    #[error(transparent)]
    Cuda(embedtune_cuda_kernels::Error),
    /// An error of the numeric core.
    #[error(transparent)]
    Core(#[from] embedtune_core::Error),
}

/// This crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;
