//! Building a run.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use embedtune_losses::{LossKind, LossOptions, MinerKind, MinerOptions};
use embedtune_pooling::{PoolerKind, PoolerOptions};
use embedtune_samplers::SamplerKind;

use crate::data::Split;
use crate::encoder::EncoderSpec;
use crate::head::CentreSpace;
use crate::optim::{OptimizerKind, OptimizerOptions};
use crate::run::{
    CallbackOptions, Device, DeviceOptions, EncoderChoice, RunOptions, SchedulerKind, SchedulerOptions,
    Trainer, ValSplitBy,
};
use crate::{Result, State};

/// Collects the options of a run; [`build`](Self::build) checks them against each other and against the data.
///
/// Defaults are those of [`RunOptions`]; options without a method here are set there, and come first:
/// `Trainer::builder().options(RunOptions { max_grad_norm: Some(1.0), ..RunOptions::default() })`.
#[derive(Debug, Clone, Default)]
pub struct RunBuilder {
    pub(in crate::run) options: RunOptions,
    pub(in crate::run) folder: Option<PathBuf>,
    pub(in crate::run) overwrite: bool,
    pub(in crate::run) source: Option<String>,
    pub(in crate::run) data_folder: Option<PathBuf>,
    /// The list of the data's files that another run of the same data has made.
    pub(in crate::run) data_list: Option<PathBuf>,
    pub(in crate::run) stop: Option<Arc<AtomicBool>>,
    pub(in crate::run) encoder_state: Option<State>,
    pub(in crate::run) only_ends: bool,
    pub(in crate::run) known: Option<Known>,
}

/// What the files of a run that is resumed say.
#[derive(Debug, Clone)]
pub(in crate::run) struct Known {
    pub(in crate::run) spec: EncoderSpec,
    pub(in crate::run) classes: Vec<String>,
    /// Whether there is a checkpoint, which holds all that another run's model would give.
    pub(in crate::run) checkpointed: bool,
}

impl RunBuilder {
    /// A builder with the default options.
    pub fn new() -> Self {
        Self::default()
    }

    /// Replaces all options.
    #[must_use]
    pub fn options(mut self, options: RunOptions) -> Self {
        self.options = options;
        self
    }

    /// The loss.
    #[must_use]
    pub fn loss(mut self, loss: LossKind) -> Self {
        self.options.loss = loss;
        self
    }

    /// The loss's options.
    #[must_use]
    pub fn loss_options(mut self, options: LossOptions) -> Self {
        self.options.loss_options = options;
        self
    }

    /// Which triplets take part.
    #[must_use]
    pub fn miner(mut self, miner: MinerKind, options: MinerOptions) -> Self {
        self.options.miner = Some(miner);
        self.options.miner_options = options;
        self
    }

    /// The model's optimizer and learning rate.
    #[must_use]
    pub fn optimizer(mut self, optimizer: OptimizerKind, learning_rate: f64) -> Self {
        self.options.optimizer = optimizer;
        self.options.learning_rate = learning_rate;
        self
    }

    /// The model's learning rate.
    #[must_use]
    pub fn learning_rate(mut self, rate: f64) -> Self {
        self.options.learning_rate = rate;
        self
    }

    /// The model's optimizer's options.
    #[must_use]
    pub fn optimizer_options(mut self, options: OptimizerOptions) -> Self {
        self.options.optimizer_options = options;
        self
    }

    /// The class centres' optimizer.
    #[must_use]
    pub fn loss_optimizer(mut self, optimizer: OptimizerKind, options: OptimizerOptions) -> Self {
        self.options.loss_optimizer = Some(optimizer);
        self.options.loss_optimizer_options = options;
        self
    }

    /// How batches are drawn.
    #[must_use]
    pub fn sampler(mut self, sampler: SamplerKind) -> Self {
        self.options.sampler = sampler;
        self
    }

    /// Items of each class in a batch drawn by class.
    #[must_use]
    pub fn num_items_per_class(mut self, items: usize) -> Self {
        self.options.num_items_per_class = items;
        self
    }

    /// The encoder, and the dimension of its embeddings (`None`: its own default).
    #[must_use]
    pub fn encoder(mut self, encoder: EncoderChoice, output_dim: Option<usize>) -> Self {
        self.options.encoder = encoder;
        self.options.output_dim = output_dim;
        self
    }

    /// Replaces the encoder's last pooling layer.
    #[must_use]
    pub fn pooler(mut self, pooler: PoolerKind, options: PoolerOptions) -> Self {
        self.options.pooler = Some(pooler);
        self.options.pooler_options = options;
        self
    }

    /// How the learning rates move.
    #[must_use]
    pub fn scheduler(mut self, scheduler: SchedulerKind, options: SchedulerOptions) -> Self {
        self.options.scheduler = scheduler;
        self.options.scheduler_options = options;
        self
    }

    /// Passes over the data.
    #[must_use]
    pub fn epochs(mut self, epochs: usize) -> Self {
        self.options.epochs = epochs;
        self
    }

    /// Items in a batch; 0 for the largest power of two up to 128 that fits the memory.
    #[must_use]
    pub fn batch_size(mut self, batch_size: usize) -> Self {
        self.options.batch_size = batch_size;
        self
    }

    /// Share of the training items that is held out and measured after every epoch.
    #[must_use]
    pub fn val_split(mut self, share: f64) -> Self {
        self.options.val_split = share;
        self
    }

    /// Whether that share is of each class's items or of the classes.
    #[must_use]
    pub fn val_split_by(mut self, by: ValSplitBy) -> Self {
        self.options.val_split_by = by;
        self
    }

    /// Where to compute.
    #[must_use]
    pub fn device(mut self, device: Device) -> Self {
        self.options.device = device;
        self
    }

    /// How a GPU computes.
    #[must_use]
    pub fn device_options(mut self, options: DeviceOptions) -> Self {
        self.options.device_options = options;
        self
    }

    /// The seed of everything random.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.options.seed = seed;
        self
    }

    /// Writes the run into this folder (run file, metrics, model, checkpoint). Without it nothing is written.
    #[must_use]
    pub fn folder(mut self, folder: impl Into<PathBuf>) -> Self {
        self.folder = Some(folder.into());
        self
    }

    /// Whether a folder that is not empty may be used; its run is then lost. Default false.
    #[must_use]
    pub fn overwrite(mut self, overwrite: bool) -> Self {
        self.overwrite = overwrite;
        self
    }

    /// Where the data came from, for the run file: what a resumed run will load.
    #[must_use]
    pub fn source(mut self, source: impl Into<String>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// The folder that the data were read from: the run lists its files with their checksums (`data_files.csv`), so that a
    /// resumed run can name the one that has changed ([`crate::run::changed_files`]).
    #[must_use]
    pub fn data_folder(mut self, folder: impl Into<PathBuf>) -> Self {
        self.data_folder = Some(folder.into());
        self
    }

    /// A flag that stops the run after the current batch once it is set, e.g. on Ctrl-C.
    #[must_use]
    pub fn stop(mut self, stop: Arc<AtomicBool>) -> Self {
        self.stop = Some(stop);
        self
    }

    /// Starts from these weights of an encoder of the same shape, instead of random ones.
    #[must_use]
    pub fn encoder_state(mut self, state: State) -> Self {
        self.encoder_state = Some(state);
        self
    }

    /// Whether retrieval is measured after every epoch (the default) or only before the first and after the last.
    #[must_use]
    pub fn measure_epochs(mut self, every: bool) -> Self {
        self.only_ends = !every;
        self
    }

    /// Starts from the model of the run in this folder; see [`RunOptions::init_from`].
    #[must_use]
    pub fn init_from(mut self, folder: impl AsRef<Path>) -> Self {
        self.options.init_from = Some(folder.as_ref().display().to_string());
        self
    }

    /// Where class centres may move.
    #[must_use]
    pub fn centers(mut self, space: CentreSpace) -> Self {
        self.options.centers = space;
        self
    }

    /// Takes positives and negatives from the last `size` embeddings; see [`RunOptions::memory_size`].
    #[must_use]
    pub fn memory_size(mut self, size: usize) -> Self {
        self.options.memory_size = size;
        self
    }

    /// Measuring, keeping and stopping.
    #[must_use]
    pub fn callbacks(mut self, callbacks: CallbackOptions) -> Self {
        self.options.callbacks = callbacks;
        self
    }

    /// Checks everything and makes the trainer. Writes nothing yet.
    ///
    /// # Errors
    /// [`crate::Error::Option`] naming the field, the value and what to write instead;
    /// [`crate::Error::Unsuitable`] for data that cannot be trained on.
    pub fn build(self, split: &Split) -> Result<Trainer<'_>> {
        Trainer::new(self, split)
    }
}
