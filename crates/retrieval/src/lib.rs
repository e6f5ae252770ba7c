#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod error;
mod evaluate;
mod knn;
mod metrics;
mod ranks;
mod tiles;

pub use error::{Error, Result};
pub use evaluate::{EvaluateOptions, evaluate};
pub use knn::{Exclude, Hit, Index, Neighbours, knn};
pub use metrics::Metrics;
pub use ndarray;
pub use tiles::Metric;
