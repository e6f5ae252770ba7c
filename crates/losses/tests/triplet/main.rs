//! The triplet margin loss, the miners and the memory bank against their definitions and against
//! pytorch-metric-learning.

mod cosines;
mod definition;
mod determinism;
mod edge;
mod golden;
mod memory;
mod naive;
mod support;
