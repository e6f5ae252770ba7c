#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod agreement;
mod best;
mod bootstrap;
mod error;
mod evaluate;
mod file;
mod frame;
mod grid;
mod keys;
mod kmeans;
mod knn;
mod metrics;
mod npy;
mod panels;
mod plane;
mod product;
mod progress;
mod random;
mod ranks;
mod relevant;
mod roc;
mod rows;
mod search;
mod silhouette;
mod table;
mod verify;

pub use agreement::Agreement;
pub use bootstrap::{Bootstrap, Interval};
pub use error::{Error, Result};
pub use evaluate::{EvaluateOptions, Evaluation, evaluate};
pub use file::{FileRows, Number};
pub use frame::Metric;
pub use half;
pub use kmeans::{Clusters, KMeans, kmeans, kmeans_from, kmeans_watched};
pub use knn::{Exclude, Hit, Index, Neighbours, knn, search, search_watched};
pub use metrics::{ClassMetrics, Metrics};
pub use ndarray;
pub use npy::{NpyHeader, NpyRows};
pub use plane::{Projection, project, project_watched};
pub use progress::Progress;
pub use roc::{EqualError, Operating, Roc, RocPoint};
pub use rows::{Rows, SliceRows};
pub use silhouette::silhouette;
pub use table::Measure;
