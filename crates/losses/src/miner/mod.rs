//! Which triplets of a batch take part.

mod list;

pub use list::{Triplets, mine};

use crate::triplet::check_margin;
use crate::{Error, Result};

/// A choice of triplets. Mining measures the L2 distance of unit vectors, whatever the loss measures.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(tag = "name"))]
#[non_exhaustive]
pub enum Miner {
    /// Every anchor with every positive and every negative.
    #[default]
    All,
    /// The triplets whose `d(a, n) - d(a, p)` lies where `kind` says.
    #[cfg_attr(feature = "serde", serde(rename = "TripletMarginMiner"))]
    TripletMargin {
        /// The mining margin, apart from the loss's; 0 to 2. Default 0.2.
        #[cfg_attr(feature = "serde", serde(default = "default_margin"))]
        margin: f64,
        /// Default [`TripletKind::All`].
        #[cfg_attr(feature = "serde", serde(default, alias = "type_of_triplets"))]
        kind: TripletKind,
    },
    /// Each anchor's farthest positive and nearest negative (the first on ties); anchors that lack either are
    /// dropped (Hermans et al. 2017, equation 5).
    #[cfg_attr(feature = "serde", serde(rename = "BatchHardMiner"))]
    BatchHard,
}

/// With `t = d(a, n) - d(a, p)`, which triplets [`Miner::TripletMargin`] keeps. A tie (`t = 0`) is hard; `t = margin`
/// is semi-hard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum TripletKind {
    /// `t <= margin`.
    #[default]
    All,
    /// `t <= 0`.
    Hard,
    /// `0 < t <= margin`.
    Semihard,
    /// `t > margin`.
    Easy,
}

impl Miner {
    /// `margin` 0.2 and the given kind: pytorch-metric-learning's `TripletMarginMiner`.
    pub fn triplet_margin(kind: TripletKind) -> Self {
        Self::TripletMargin { margin: default_margin(), kind }
    }

    pub(crate) fn check(&self) -> Result<()> {
        match *self {
            Self::TripletMargin { margin, .. } => {
                check_margin("miner margin", margin)?;
                if margin <= 2.0 {
                    return Ok(());
                }
                Err(Error::Option {
                    option: "miner margin",
                    value: margin.to_string(),
                    reason: "miners measure unit vectors, which are at most 2 apart: nothing lies beyond; \
                             0.05 to 0.5 is usual"
                        .to_owned(),
                })
            }
            Self::All | Self::BatchHard => Ok(()),
        }
    }
}

fn default_margin() -> f64 {
    0.2
}
