//! embedtune inside candle.
//!
//! [`LossOp`] makes any embedtune loss one node of candle's graph; [`GemOp`] does the same for GeM pooling over masked
//! tokens. [`surrogate`] needs no custom operation at all. Copy the file that you need: this package is an example,
//! not a crate to depend on.

mod gem;
mod loss;
mod surrogate;

pub use gem::GemOp;
pub use loss::LossOp;
pub use surrogate::surrogate;
