//! GeM (generalised mean), average and maximum pooling with gradients.
//!
//! GeM (Radenovic, Tolias and Chum 2019, "Fine-tuning CNN Image Retrieval with No Human Annotation",
//! arXiv:1711.02512, equation 3) is `y = (mean x^p)^(1/p)`: at `p = 1` the average, for large `p` the maximum. It is
//! computed relative to the largest value, so that no power overflows, and the gradient of `p` comes from the same
//! pass.
//!
//! The kernels of [`rows`] work on plain slices; with feature `autodiff`, `ops` records them on embedtune-core's
//! tape, for feature maps `[batch, channels, height, width]` and masked tokens `[batch, tokens, dim]`.
//!
//! ```
//! use embedtune_pooling::{GemOptions, rows};
//!
//! let gem = GemOptions::default().build()?;
//! let x = [1.0f32, 2.0, 3.0, 2.0];
//! let (mean, top) = (rows::gem(&x, 1.0, &gem).value, rows::gem(&x, 200.0, &gem).value);
//! assert!((mean - 2.0).abs() < 1e-6 && (top - 3.0).abs() < 0.03);
//! # Ok::<(), embedtune_pooling::Error>(())
//! ```
#![forbid(unsafe_code)]

#[cfg(feature = "autodiff")]
pub mod ops;
mod options;
pub mod rows;

pub use options::{Error, Gem, GemOptions, MIN_P, PoolerKind, PoolerOptions, Result, Sign};
