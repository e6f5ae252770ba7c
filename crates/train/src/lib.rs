#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

pub mod data;
pub mod encoder;
mod error;
pub mod head;
pub mod io;
pub mod optim;
pub mod run;
mod state;

pub use embedtune_core::ndarray;
pub use embedtune_retrieval as retrieval;
pub use error::{Error, Result};
pub use state::State;
