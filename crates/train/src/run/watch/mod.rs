//! What is watched while a run trains: figures, alarms, items to look at, and who is told.

pub(in crate::run) mod alarms;
pub(in crate::run) mod inspect;
pub(in crate::run) mod measured;
pub(in crate::run) mod monitor;
pub(in crate::run) mod observer;
pub(in crate::run) mod quality;
pub(in crate::run) mod steps;
pub(in crate::run) mod telemetry;
pub(in crate::run) mod tensorboard;
