//! Tensors, an autodiff tape, linear algebra on rows and deterministic parallel helpers.
//!
//! This crate knows no loss and no model. It is what embedtune's losses, pooling and encoders stand on, and it
//! can be used alone: [`tape`] to differentiate, [`linalg`] for fast products whose bits do not depend on the
//! number of threads, [`gradcheck`] to test a gradient of one's own.
//!
//! Without the default feature `autodiff` only [`linalg`], [`parallel`], [`pool`] and [`simd`] are compiled.

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
