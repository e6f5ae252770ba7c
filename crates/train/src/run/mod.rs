//! Runs: options, the trainer, the run folder, resuming, using a trained model, and comparing losses.
//!
//! [`Trainer::builder`] collects [`RunOptions`], checks them and trains; a [`RunFolder`] holds what a run writes;
//! [`resume`] continues one to the same bits; [`Model`] loads, embeds and evaluates; [`compare`] trains several
//! losses from the same start.

mod alarms;
mod begin;
mod borrowed;
mod builder;
mod callbacks;
mod check;
mod checkpoint;
mod checksum;
mod compare;
mod conclude;
mod feed;
mod files;
mod folder;
mod forecast;
mod foreign;
mod init;
mod inspect;
mod measured;
mod memory;
mod model;
mod monitor;
mod observer;
mod options;
mod overrides;
mod place;
mod plan;
mod progress;
mod quality;
mod raw;
mod remedy;
mod resolved;
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
pub use begin::initial_encoder;
pub use builder::RunBuilder;
pub use callbacks::CallbackOptions;
pub use checksum::checksum;
pub use compare::{CompareOptions, Comparison, Projection, Variant, compare};
pub use folder::{DataRecord, RunFile, RunFolder, options_of_run};
pub use forecast::Forecast;
pub use memory::{assume_returned_from, peak_memory};
pub use model::{Evaluation, Model};
pub use monitor::Monitor;
pub use observer::{BatchReport, EpochRecord, Measured, Observer, Report, Start};
pub use options::{
    DEFAULT_CENTRE_RATE, Device, DeviceOptions, DevicePrecision, DeviceProducts, EncoderChoice, RunOptions,
    ValSplitBy,
};
pub use quality::Quality;
pub use raw::raw_vectors;
pub use resolved::Resolved;
pub use resume::{Resumed, changed_files, finished, resume};
pub use scale::{auto_scale, default_scale};
pub use schedule::{Schedule, SchedulerKind, SchedulerOptions, SchedulerStep};
pub use trainer::{Trained, Trainer};
