//! Metric-learning losses that return their value and their gradients together.
#![forbid(unsafe_code)]

mod error;
mod loss;
mod units;

pub use embedtune_core::Pool;
pub use error::{Error, Result};
pub use loss::{GradsMut, Input, Loss, Output, Reference, Sampling, Stats, Workspace, Write};
pub use ndarray;
pub use units::Angle;
