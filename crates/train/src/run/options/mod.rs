//! The options of a run: one type for the builder, the TOML file and the command line.

pub(in crate::run) mod borrowed;
pub(in crate::run) mod callbacks;
pub(in crate::run) mod check;
pub(in crate::run) mod foreign;
pub(in crate::run) mod overrides;
pub(in crate::run) mod resolved;

use embedtune_losses::{LossKind, LossOptions, MinerKind, MinerOptions};
use embedtune_pooling::{PoolerKind, PoolerOptions};
use embedtune_samplers::SamplerKind;
use serde::{Deserialize, Serialize};

use crate::data::DataOptions;
use crate::head::CentreSpace;
use crate::optim::{OptimizerKind, OptimizerOptions, ParamGroup};
use crate::run::{CallbackOptions, SchedulerKind, SchedulerOptions};
use crate::{Error, Result};

/// Items of each class in a batch drawn by class, where nothing else is asked for.
pub(in crate::run) const NUM_ITEMS_PER_CLASS: usize = 4;

/// The options of a run, named as Jina Finetuner names them.
///
/// Every field has a default, so a TOML file states only what differs:
///
/// ```
/// let options = embedtune_train::run::RunOptions::from_toml(r#"
///     loss = "ArcFaceLoss"
///     pooler = "GeM"
///     epochs = 3
///     [loss_options]
///     margin = "28.6deg"
///     scale = 16.0
/// "#)?;
/// assert_eq!(options.batch_size, 128);
/// # Ok::<(), embedtune_train::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RunOptions {
    /// The encoder. Default `auto`: `cnn` for images, `mlp` for vectors, `text` for text.
    pub encoder: EncoderChoice,
    /// Dimension of the embeddings. Default: the encoder's own (64 for images).
    pub output_dim: Option<usize>,
    /// Keep the encoder of `init_from` as it is and train a new head on it: linear, batch norm, ReLU, linear, batch norm.
    /// Default false.
    pub freeze: bool,
    /// Start from the model of the run in this folder instead of random weights; classes that it does not know get
    /// centres of their own. Default: none. (Finetuner's `model_artifact`.)
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init_from: Option<String>,
    /// Replaces the encoder's last pooling layer. Default: the encoder's own.
    pub pooler: Option<PoolerKind>,
    /// Options of `pooler`: `p` = 3, `eps` = 1e-6.
    pub pooler_options: PoolerOptions,
    /// The loss. Default `TripletMarginLoss`.
    pub loss: LossKind,
    /// Options of the loss. Default: those of the preset `finetuner`, except that a `scale` that is not given is
    /// chosen from the number of classes ([`crate::run::auto_scale`]).
    pub loss_options: LossOptions,
    /// Which triplets take part. Default: all.
    pub miner: Option<MinerKind>,
    /// Options of the miner.
    pub miner_options: MinerOptions,
    /// The model's optimizer. Default `Adam`.
    pub optimizer: OptimizerKind,
    /// Its options.
    pub optimizer_options: OptimizerOptions,
    /// The model's learning rate. Default 1e-3.
    pub learning_rate: f64,
    /// The class centres' optimizer. Default: the model's type.
    pub loss_optimizer: Option<OptimizerKind>,
    /// Its options. Default: `learning_rate` = 1e-2.
    pub loss_optimizer_options: OptimizerOptions,
    /// Where class centres may move: `plain` (anywhere) or `unit_sphere`, where `loss_optimizer_options.learning_rate` is in
    /// radians per step. Default `plain`.
    pub centers: CentreSpace,
    /// Embeddings of past batches that triplets take positives and negatives from (Wang et al. 2020). Default 0: none.
    pub memory_size: usize,
    /// Parameters with a learning rate or weight decay of their own.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub param_groups: Vec<ParamGroup>,
    /// Scale the encoder's gradient down to this L2 norm where it is longer. Default: never.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_grad_norm: Option<f64>,
    /// Batches whose mean gradient makes one step. Default 1.
    pub gradient_accumulation_steps: usize,
    /// How batches are drawn. Default `auto`: by class for triplet losses, at random for losses with centres.
    pub sampler: SamplerKind,
    /// Items of each class in a batch drawn by class. Default 4.
    pub num_items_per_class: usize,
    /// How the learning rates move. Default `constant`.
    pub scheduler: SchedulerKind,
    /// Options of the schedule.
    pub scheduler_options: SchedulerOptions,
    /// Passes over the data. Default 5.
    pub epochs: usize,
    /// Items in a batch. Default 128. 0, which files write as `"auto"`: the largest power of two up to 128 that fits the
    /// memory ([`crate::run::Forecast`]).
    #[serde(with = "auto")]
    pub batch_size: usize,
    /// Where the loss, the class centres and their optimizer are computed. Default `auto`. This and `device_options` are all
    /// that may change when a run is resumed.
    pub device: Device,
    /// How a GPU computes a margin loss.
    pub device_options: DeviceOptions,
    /// Share of each class's training items that is held out and measured after every epoch instead of the
    /// evaluation items, which are then measured at the end alone. Default 0.
    pub val_split: f64,
    /// Whether `val_split` is a share of each class's items or of the classes, whose centres then only repel. Default
    /// `item`.
    pub val_split_by: ValSplitBy,
    /// How the data are read.
    pub data_options: DataOptions,
    /// The seed of everything random: initial weights, centres, batches, dropout. Default 0.
    pub seed: u64,
    /// Measuring, keeping and stopping.
    pub callbacks: CallbackOptions,
}

/// The kinds of encoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum EncoderChoice {
    /// By the kind of data.
    #[default]
    Auto,
    /// Convolutions, for images.
    Cnn,
    /// A residual head, for vectors.
    Mlp,
    /// Hashed n-grams, for text.
    Text,
}

/// What `val_split` is a share of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum ValSplitBy {
    /// Each class's items: how well known classes are found.
    #[default]
    Item,
    /// The classes: how well classes are found that were never trained on.
    Class,
}

/// Where the loss, the class centres and their optimizer are computed; the encoder is on the CPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Device {
    /// An NVIDIA GPU, where this build (feature `cuda`), the machine and the kernels have what the run asks for; else the
    /// CPU. A notice says which, and why.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// An NVIDIA GPU; refused with the reason where it cannot be.
    Cuda,
}

impl Device {
    /// The name in configuration files.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
        }
    }
}

/// How a GPU computes a margin loss. The default is as accurate as the CPU, and gives the same bits on every run; anything
/// else is refused with `device = "cpu"`, and with `auto` says nothing about the CPU, which computes in f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DeviceOptions {
    /// What is multiplied: `f32` (the default) or, at a third of the work and with gradients within about 1e-3 of its,
    /// `f16`. Centres and sums are f32 either way.
    pub precision: DevicePrecision,
    /// Whose matrix products: `own` (the default), `cublas`, or `faster`, whichever the first batches show to be.
    pub products: DeviceProducts,
}

/// What a GPU multiplies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum DevicePrecision {
    /// Each value as two f16 halves: as accurate as f32.
    #[default]
    F32,
    /// f16.
    F16,
}

/// Whose matrix products a GPU takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum DeviceProducts {
    /// Our own: the same bits on every run with one driver on one kind of GPU.
    #[default]
    Own,
    /// cuBLAS's, which must be there: the same bits on every run with its version and the kind of GPU.
    Cublas,
    /// The faster of the two, by the clock of the first four batches: two runs may differ in rounding.
    Faster,
}

impl DevicePrecision {
    /// The name in configuration files.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
        }
    }
}

impl DeviceProducts {
    /// The name in configuration files.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Own => "own",
            Self::Cublas => "cublas",
            Self::Faster => "faster",
        }
    }
}

/// The class centres' learning rate where `loss_optimizer_options.learning_rate` is not given: ten times the model's default,
/// because a centre is moved only by the items of its class and its neighbours.
pub const DEFAULT_CENTRE_RATE: f64 = 1e-2;

impl Default for RunOptions {
    fn default() -> Self {
        Self {
            encoder: EncoderChoice::Auto,
            output_dim: None,
            freeze: false,
            init_from: None,
            pooler: None,
            pooler_options: PoolerOptions::default(),
            loss: LossKind::TripletMarginLoss,
            loss_options: LossOptions::default(),
            miner: None,
            miner_options: MinerOptions::default(),
            optimizer: OptimizerKind::Adam,
            optimizer_options: OptimizerOptions::default(),
            learning_rate: 1e-3,
            loss_optimizer: None,
            loss_optimizer_options: OptimizerOptions::default(),
            centers: CentreSpace::Plain,
            memory_size: 0,
            param_groups: Vec::new(),
            max_grad_norm: None,
            gradient_accumulation_steps: 1,
            sampler: SamplerKind::Auto,
            num_items_per_class: NUM_ITEMS_PER_CLASS,
            scheduler: SchedulerKind::Constant,
            scheduler_options: SchedulerOptions::default(),
            epochs: 5,
            batch_size: 128,
            device: Device::Auto,
            device_options: DeviceOptions::default(),
            val_split: 0.0,
            val_split_by: ValSplitBy::Item,
            data_options: DataOptions::default(),
            seed: 0,
            callbacks: CallbackOptions::default(),
        }
    }
}

/// A number of items, or the word `auto` for 0.
mod auto {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    const WORD: &str = "auto";

    #[derive(Deserialize)]
    #[serde(untagged, expecting = "expected a whole number of items, 2 or more, or \"auto\"")]
    enum Given {
        Items(usize),
        Word(String),
    }

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
    pub(in crate::run) fn serialize<S: Serializer>(items: &usize, to: S) -> Result<S::Ok, S::Error> {
        if *items == 0 { to.serialize_str(WORD) } else { to.serialize_u64(*items as u64) }
    }

    pub(in crate::run) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<usize, D::Error> {
        match Given::deserialize(from)? {
            Given::Items(0) => {
                Err(D::Error::custom("a batch needs at least 2 items; write 128, or \"auto\""))
            }
            Given::Items(items) => Ok(items),
            Given::Word(word) if word == WORD => Ok(0),
            Given::Word(word) => {
                Err(D::Error::custom(format!("`{word}` is no number of items; write 128, or \"auto\"")))
            }
        }
    }
}

impl RunOptions {
    /// Reads options from TOML; what is absent has its default.
    ///
    /// # Errors
    /// [`Error::Option`] with the parser's position for unknown names and values of the wrong type.
    pub fn from_toml(text: &str) -> Result<Self> {
        if let Ok(table) = text.parse() {
            overrides::known(&table, "")?;
        }
        toml::from_str(text).map_err(|e| {
            let value = e.span().and_then(|span| text.get(span)).unwrap_or("?").to_owned();
            Error::option("options", value, overrides::with_nearest(&e.to_string()))
        })
    }

    /// These options as TOML, complete.
    ///
    /// # Errors
    /// [`Error::Option`] for a value that TOML cannot hold.
    pub fn to_toml(&self) -> Result<String> {
        toml::to_string(self).map_err(|e| Error::option("options", "?", e.to_string()))
    }
}
