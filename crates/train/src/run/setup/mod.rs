//! From options and data to a trainer that can start.

pub(in crate::run) mod begin;
pub(in crate::run) mod builder;
pub(in crate::run) mod init;
pub(in crate::run) mod place;
pub(in crate::run) mod plan;
pub(in crate::run) mod scale;
