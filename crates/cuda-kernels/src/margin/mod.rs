//! Margin-softmax losses (ArcFace, CosFace, SphereFace) over class centres, without a batch x classes matrix.
//!
//! Forward: unit rows as f16 (or as two f16 halves), tiles of classes through the tensor cores, a running log-sum-exp
//! without the target's column; the target in f64 and in tangent form. Backward: each tile's shares again, two more
//! products, and the tile's centres at once by their optimizer, so that their gradient never exists in full.
//! Four products of batch x dim x classes in all, by our own kernels or by cuBLAS ([`Products`]). Our own give the same
//! bits on every run on one kind of GPU with one driver.

mod buffers;
mod cublas;
pub(crate) mod jobs;
mod options;
mod own;
mod products;
mod run;
mod tasks;
mod tiles;

pub(crate) use options::MarginArgument;
pub use options::{Edge, Margin, MarginOptions, Precision};
pub(crate) use products::Choices;
pub use products::Products;
pub use run::{Batch, Centres, MarginSoftmax, MarginStats, Pending};

pub use crate::optimizer::{Adam, Sgd};
