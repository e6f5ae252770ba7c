//! Margin-softmax losses.

mod basic;
mod definition;
mod edge;
mod golden;
