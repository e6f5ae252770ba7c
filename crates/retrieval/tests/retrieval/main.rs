//! The public API against reference systems, obvious algorithms and real data.

mod common;
mod evaluate;
mod knn;
mod real;
