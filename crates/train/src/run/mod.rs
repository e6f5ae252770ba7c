//! Runs: options, the trainer, the run folder, resuming, using a trained model, and comparing losses.
//!
//! [`Trainer::builder`] collects [`RunOptions`], checks them and trains; a [`RunFolder`] holds what a run writes;
//! [`resume`] continues one to the same bits; [`Model`] loads, embeds and evaluates; [`compare`] trains several
//! losses from the same start.

mod alarms;
mod builder;
mod callbacks;
mod check;
mod checkpoint;
mod checksum;
mod compare;
mod folder;
mod init;
mod inspect;
mod model;
mod observer;
mod options;
mod plan;
mod progress;
mod quality;
mod raw;
mod resume;
mod scale;
mod schedule;
mod step;
mod store;
mod summary;
mod telemetry;
mod tensorboard;
mod trainer;

pub use alarms::{Alarm, AlarmKind};
pub use builder::RunBuilder;
pub use callbacks::{CallbackOptions, Monitor};
pub use checksum::checksum;
pub use compare::{CompareOptions, Comparison, Projection, Variant, compare};
pub use folder::{DataRecord, RunFile, RunFolder};
pub use model::{Evaluation, Model};
pub use observer::{BatchReport, EpochRecord, Observer, Report, Start};
pub use options::{DEFAULT_CENTRE_RATE, Device, EncoderChoice, RunOptions};
pub use quality::Quality;
pub use raw::raw_vectors;
pub use resume::{Resumed, resume};
pub use scale::{auto_scale, default_scale};
pub use schedule::{Schedule, SchedulerKind, SchedulerOptions, SchedulerStep};
pub use trainer::{Trained, Trainer};
