//! The `embedtune` program.
#![forbid(unsafe_code)]
mod figure;
fn main() {}
