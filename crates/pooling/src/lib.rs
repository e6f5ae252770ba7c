#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

#[cfg(feature = "cuda")]
pub mod cuda;
mod layout;
pub mod maps;
mod math;
#[cfg(feature = "autodiff")]
pub mod ops;
mod options;
mod reduce;
mod root;
pub mod rows;
pub mod slices;
pub mod tokens;
mod vectors;

pub use embedtune_core as core;
pub use layout::{Pooling, Saved};
pub use ndarray;
pub use options::{Error, Gem, GemOptions, MIN_P, PoolerKind, PoolerOptions, Result, Sign, keep_powers};
