#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

pub mod advice;
pub mod data;
pub mod encoder;
mod error;
pub mod export;
pub mod guide;
pub mod head;
pub mod io;
pub mod optim;
pub mod run;
mod state;

pub use embedtune_core::{self as core, ndarray};
pub use embedtune_losses as losses;
pub use embedtune_pooling as pooling;
pub use embedtune_retrieval as retrieval;
pub use embedtune_samplers as samplers;
pub use error::{Error, Result};
pub use state::State;

/// The examples of the repository's front page, compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct FrontPage;
