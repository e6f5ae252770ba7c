//! Metric-learning losses that return their value and their gradients together.
#![forbid(unsafe_code)]

mod error;
mod loss;
pub mod miner;
pub mod triplet;
mod units;

pub use embedtune_core::Pool;
pub use error::{Error, Result};
pub use loss::{GradsMut, Input, Loss, Output, Reference, Sampling, Stats, Workspace, Write};
pub use miner::{Miner, TripletKind};
pub use ndarray;
pub use triplet::{Distance, Reduction, TripletMargin, TripletMarginOptions};
pub use units::Angle;
