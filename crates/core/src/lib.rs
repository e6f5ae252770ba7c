// The front page's example needs the tape.
#![cfg_attr(feature = "autodiff", doc = include_str!("../README.md"))]
#![cfg_attr(
    not(feature = "autodiff"),
    doc = "Linear algebra on rows and deterministic parallel helpers: embedtune-core without its feature `autodiff`."
)]

mod error;
pub mod linalg;
pub mod parallel;
pub mod pool;
pub mod simd;
pub mod vecmath;

#[cfg(feature = "autodiff")]
pub mod gradcheck;
#[cfg(feature = "autodiff")]
pub mod ops;
#[cfg(feature = "autodiff")]
pub mod tape;

pub use error::{Error, Result};
pub use ndarray;
pub use pool::Pool;
#[cfg(feature = "autodiff")]
pub use tape::{Grad, Grads, RowGrad, Tape, Value, Var};
