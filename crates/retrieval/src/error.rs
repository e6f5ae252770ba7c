use std::path::PathBuf;

use thiserror::Error;

/// What can go wrong in a search or an evaluation. Every message names the array or row, the value, and what to do.
#[derive(Debug, Clone, PartialEq, Error)]
#[non_exhaustive]
pub enum Error {
    /// Arrays that do not fit together.
    #[error("{what} has shape {got:?}; expected {expected}")]
    Shape {
        /// Which array.
        what: &'static str,
        /// What was expected, in words.
        expected: String,
        /// The shape that came.
        got: Vec<usize>,
    },
    /// A value that is NaN or infinite.
    #[error("{what} hold {value} in row {row}, column {column}; remove the row or repair what made it")]
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
    /// A parameter outside its range.
    #[error("{name} = {value}: {remedy}")]
    Parameter {
        /// The parameter.
        name: &'static str,
        /// Its value, printed.
        value: String,
        /// The range and what to do.
        remedy: &'static str,
    },
    /// Nothing to measure: no query has a relevant item.
    #[error(
        "no query ({queries} in all) has another item of its class among the {items} items searched, so nothing \
         can be measured; give at least two items of a class"
    )]
    NoMatches {
        /// Number of queries.
        queries: usize,
        /// Number of items searched.
        items: usize,
    },
    /// Only one kind of pair: nothing can be told apart.
    #[error(
        "of {positives} pairs of one class and {negatives} of two neither may be 0; give at least two items of one \
         class and one of another"
    )]
    NoPairs {
        /// Pairs of one class.
        positives: u64,
        /// Pairs of two.
        negatives: u64,
    },
    /// A file that cannot be read as vectors.
    #[error("{}: {detail}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and what to do.
        detail: String,
    },
}

/// This crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;
