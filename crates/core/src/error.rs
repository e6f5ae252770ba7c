use thiserror::Error;

/// What can go wrong in this crate. Every message names the operation, what it got and what it needs.
#[derive(Debug, Clone, PartialEq, Error)]
#[non_exhaustive]
pub enum Error {
    /// Shapes that do not fit together.
    #[error("{op}: shape {got:?} does not fit; expected {expected}")]
    Shape {
        /// The operation.
        op: &'static str,
        /// What was expected, in words or as a shape.
        expected: String,
        /// The shape that came.
        got: Vec<usize>,
    },
    /// A parameter outside its range.
    #[error("{op}: {name} = {value} is out of range; {expected}")]
    Parameter {
        /// The operation.
        op: &'static str,
        /// The parameter.
        name: &'static str,
        /// Its value, printed.
        value: String,
        /// The range and what to do.
        expected: String,
    },
    /// An index past the end of a table.
    #[error("{op}: index {index} at position {position} is out of range; the table has {rows} rows")]
    Index {
        /// The operation.
        op: &'static str,
        /// Where the index stands.
        position: usize,
        /// The index.
        index: usize,
        /// Rows in the table.
        rows: usize,
    },
    /// Two variables of different tapes were combined.
    #[error("{op}: the variables belong to different tapes; make all leaves of a step on one tape")]
    ForeignVar {
        /// The operation.
        op: &'static str,
    },
    /// `backward` was called twice, or on a tape that was already run.
    #[error("backward already ran on this tape; record the forward pass again on a new one")]
    TapeConsumed,
    /// A gradient check failed.
    #[error("gradient check failed: {0}")]
    GradCheck(String),
}

/// This crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;
