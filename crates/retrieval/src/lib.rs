#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod best;
mod error;
mod evaluate;
mod frame;
mod keys;
mod knn;
mod metrics;
mod panels;
mod product;
mod ranks;
mod relevant;
mod rows;
mod search;
mod table;

pub use error::{Error, Result};
pub use evaluate::{EvaluateOptions, Evaluation, evaluate};
pub use frame::Metric;
pub use half;
pub use knn::{Exclude, Hit, Index, Neighbours, knn, search};
pub use metrics::{ClassMetrics, Metrics};
pub use ndarray;
pub use rows::Rows;
pub use table::Measure;
