//! Runs: options, the trainer, the run folder, resuming, using a trained model, and comparing losses.
//!
//! [`Trainer::builder`] collects [`RunOptions`], checks them and trains; a [`RunFolder`] holds what a run writes;
//! [`resume`] continues one to the same bits; [`Model`] loads, embeds and evaluates; [`compare`] trains several
//! losses from the same start.

mod compare;
mod folder;
mod memory;
mod model;
mod options;
mod raw;
mod setup;
mod training;
mod watch;

pub use compare::{CompareOptions, Comparison, Projection, Variant, compare};
pub use folder::checksum::checksum;
pub use folder::resume::{Resumed, changed_files, finished, resume};
pub use folder::{DataRecord, RunFile, RunFolder, options_of_run};
pub use memory::forecast::Forecast;
pub use memory::process::{assume_returned_from, peak_memory};
pub use model::{Evaluation, Model};
pub use options::callbacks::CallbackOptions;
pub use options::resolved::Resolved;
pub use options::{
    DEFAULT_CENTRE_RATE, Device, DeviceOptions, DevicePrecision, DeviceProducts, EncoderChoice, RunOptions,
    ValSplitBy,
};
pub use raw::raw_vectors;
pub use setup::begin::initial_encoder;
pub use setup::builder::RunBuilder;
pub use setup::scale::{auto_scale, default_scale};
pub use training::schedule::{Schedule, SchedulerKind, SchedulerOptions, SchedulerStep};
pub use training::trainer::{Trained, Trainer};
pub use watch::alarms::{Alarm, AlarmKind};
pub use watch::monitor::Monitor;
pub use watch::observer::{BatchReport, EpochRecord, Kept, Measured, Observer, Report, Start};
pub use watch::quality::Quality;
pub use watch::steps::StepRecord;
