//! embedtune inside burn.
//!
//! [`surrogate`] uses public tensor operations only, so it works on every backend and changes least between burn's
//! releases: prefer it. [`LossBackward`], through [`record`], keeps the loss's value on the graph.

mod record;
mod surrogate;

pub use record::{LossBackward, record};
pub use surrogate::{evaluate, surrogate};

/// What can go wrong: an input that is no matrix of floats, or what the loss says of shapes, labels and values.
pub type Error = Box<dyn std::error::Error + Send + Sync>;
