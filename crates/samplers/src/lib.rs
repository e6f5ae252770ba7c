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
    /// A batch in which two classes have no room.
    #[error(
        "batch_size = {batch_size} has no room for two classes with num_items_per_class = {items_per_class}; write a \
         batch_size of {} or more, or fewer items of a class (at least 2)", .items_per_class.saturating_mul(2)
    )]
    Room {
        /// The items of a batch.
        batch_size: usize,
        /// Those of each class.
        items_per_class: usize,
    },
    /// Fewer than two classes.
    #[error("the class sampler needs at least two classes; {found}: add others, or use a random sampler")]
    Classes {
        /// What there is.
        found: String,
    },
    /// No class has two items, so there is no positive pair.
    #[error(
        "the class sampler needs a class with two items; each of the {classes} classes has one (class {example}, for one): \
         add items, or use a random sampler"
    )]
    NoPair {
        /// Number of classes.
        classes: usize,
        /// One of them.
        example: u32,
    },
    /// Nothing to sample.
    #[error("there are no items to sample; give a label or more")]
    Empty,
}

/// This crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;
