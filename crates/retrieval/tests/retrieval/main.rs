//! The public API against reference systems, obvious algorithms and real data.

mod clusters;
mod common;
mod evaluate;
mod intervals;
mod knn;
mod progress;
mod real;
mod storage;
mod verify;
