//! The memory of a run: forecast, measured, and what to do where it does not fit.

pub(in crate::run) mod forecast;
pub(in crate::run) mod process;
pub(in crate::run) mod remedy;
