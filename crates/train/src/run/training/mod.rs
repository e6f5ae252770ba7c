//! Training: the loop, its steps, schedules and batches, and how it ends.

pub(in crate::run) mod conclude;
pub(in crate::run) mod feed;
pub(in crate::run) mod progress;
mod saving;
pub(in crate::run) mod schedule;
pub(in crate::run) mod step;
pub(in crate::run) mod trainer;
