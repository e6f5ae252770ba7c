//! What a run takes where its options leave it open.

use embedtune_losses::{LossOptions, MinerOptions};
use embedtune_samplers::SamplerKind;
use serde::{Deserialize, Serialize};

use crate::data::Items;
use crate::optim::OptimizerKind;
use crate::run::EncoderChoice;

/// What a run takes where its options leave it open: the table `resolved` of `run.toml`, for whoever reads it. A run that
/// continues resolves its options anew, to the same values.
///
/// Where it computes is not among them, as that may change when it continues; its notices say it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Resolved {
    /// The encoder, by the kind of data.
    pub encoder: EncoderChoice,
    /// Dimension of the embeddings.
    pub output_dim: usize,
    /// How batches are drawn.
    pub sampler: SamplerKind,
    /// The class centres' optimizer; none for losses without any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss_optimizer: Option<OptimizerKind>,
    /// The class centres' learning rate, before the schedule.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss_learning_rate: Option<f64>,
    /// All options that the loss has: those given, the scale chosen for the classes, and the preset's.
    pub loss_options: LossOptions,
    /// Those of the miner, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub miner_options: Option<MinerOptions>,
}

/// The encoder that `auto` takes.
pub(in crate::run) fn encoder(chosen: EncoderChoice, items: &Items) -> EncoderChoice {
    match (chosen, items) {
        (EncoderChoice::Auto, Items::Images(_) | Items::Files(_)) => EncoderChoice::Cnn,
        (EncoderChoice::Auto, Items::Text(_)) => EncoderChoice::Text,
        (EncoderChoice::Auto, Items::Vectors(_) | Items::VectorFile(_) | Items::Sequences(_)) => {
            EncoderChoice::Mlp
        }
        (chosen, _) => chosen,
    }
}
