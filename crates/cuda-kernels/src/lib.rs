#![doc = include_str!("../README.md")]
// Unsafe stands at the edge of the device only: the look for the driver and the setting of its memory pool in `probe`, the
// calls of cuBLAS in `cublas`, and in `kernels` the memory that a kernel fills and the one call that launches them all.
#![deny(unsafe_code)]

mod check;
mod convert;
mod cublas;
#[cfg(feature = "emulator")]
pub mod emulator;
mod error;
mod kernels;
pub mod margin;
pub mod optimizer;
pub mod pooling;
mod probe;
mod scratch;
mod storage;
pub mod triplet;

pub use convert::{narrow, widen};
pub use cudarc;
pub use error::{Error, Result};
pub use half;
pub use kernels::Kernels;
pub use probe::{Device, context, devices, is_available};
pub use storage::Storage;

/// Whether a gradient replaces what is there or is added to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Write {
    /// Replaces it.
    #[default]
    Overwrite,
    /// Is added to it.
    Add,
}
