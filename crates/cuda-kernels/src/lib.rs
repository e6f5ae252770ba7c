#![doc = include_str!("../README.md")]
// One foreign call is unsafe: the look for the driver in `probe`.
#![deny(unsafe_code)]

mod error;
mod probe;

pub use cudarc;
pub use error::{Error, Result};
pub use probe::{Device, devices, is_available};
