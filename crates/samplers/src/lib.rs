#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod class;
mod plan;
mod random;
mod shuffle;

pub use class::ClassSampler;
pub use random::RandomSampler;

use thiserror::Error;

/// Which sampler a run uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "lowercase"))]
#[non_exhaustive]
pub enum SamplerKind {
    /// By class for losses that compare items with each other, at random for losses with class centres.
    #[default]
    Auto,
    /// [`RandomSampler`].
    Random,
    /// [`ClassSampler`].
    Class,
}

/// Labels or options from which no batches can be made.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Error {
    /// A batch or group of no use.
    #[error("{option} = {value}: {reason}")]
    Option {
        /// The option.
        option: &'static str,
        /// Its value.
        value: usize,
        /// The range and why.
        reason: &'static str,
    },
    /// Fewer than two classes.
    #[error("the class sampler needs at least two classes; {found}")]
    Classes {
        /// What there is.
        found: String,
    },
    /// No class has two items, so there is no positive pair.
    #[error(
        "the class sampler needs a class with two items; each of the {classes} classes has one (class {example}, for one)"
    )]
    NoPair {
        /// Number of classes.
        classes: usize,
        /// One of them.
        example: u32,
    },
    /// Nothing to sample.
    #[error("there are no items to sample")]
    Empty,
}

/// This crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;
