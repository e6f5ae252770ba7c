#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod check;
mod config;
#[cfg(feature = "cuda")]
pub mod cuda;
mod error;
mod loss;
mod margin;
pub mod memory;
pub mod miner;
mod preset;
#[cfg(feature = "autodiff")]
pub mod tape;
pub mod triplet;
mod units;

pub use config::{
    LossKind, LossOptions, MarginValue, MinerKind, MinerOptions, build, margin_options, miner_of,
    triplet_options,
};
pub use embedtune_core::{self as core, Pool};
pub use error::{Error, Result};
pub use loss::{GradsMut, Input, Loss, Output, Reference, Sampling, Stats, Workspace, Write};
pub use margin::{Edge, Margin, MarginGradient, MarginOptions, MarginSoftmax};
pub use memory::CrossBatchMemory;
pub use miner::{Miner, TripletKind};
pub use ndarray;
pub use preset::{CentreInit, Defaults, Preset};
pub use triplet::{Distance, Reduction, TripletMargin, TripletMarginOptions};
pub use units::Angle;
