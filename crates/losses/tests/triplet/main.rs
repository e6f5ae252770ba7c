//! The triplet margin loss, the miners and the memory bank against their definitions and against
//! pytorch-metric-learning.

mod definition;
mod naive;
mod support;
