//! What the triplet margin loss computes, checked once.

use super::TripletMargin;
use crate::miner::Miner;
use crate::{Error, Result};

/// How far two embeddings are from each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Distance {
    /// `d = |a - b|`. Rows nearer than 1e-14 of the longest row's length coincide: their distance is 0, without a gradient.
    #[default]
    L2,
    /// `d = |a - b|^2` (FaceNet's).
    SquaredL2,
    /// The cosine `s` of the angle between `a` and `b`. A similarity: the loss's argument is
    /// `s(a, n) - s(a, p) + margin`. A zero vector has cosine 0 with everything.
    Cosine,
}

/// How the losses of the triplets become one number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Reduction {
    /// Mean over all triplets (after mining).
    Mean,
    /// Mean over the triplets whose loss is above zero: the gradient keeps its size while the set of active
    /// triplets shrinks, so the value does not fall to 0 smoothly; watch
    /// [`Stats::active_fraction`](crate::Stats::active_fraction) as well. With `smooth` every loss is above zero
    /// and this is the mean, unless distances differ by so much that a loss is below the numbers of `f32`.
    #[default]
    MeanNonZero,
    /// Sum over the triplets.
    Sum,
}

/// Options of [`TripletMargin`]; [`build`](Self::build) checks them.
///
/// In configuration files absent fields take their defaults and unknown fields are errors.
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default, deny_unknown_fields))]
pub struct TripletMarginOptions {
    /// How much nearer than a negative a positive must be, in units of `distance`; 0 to 1e15. Default 0.05.
    pub margin: f64,
    /// Default [`Distance::L2`].
    pub distance: Distance,
    /// Scale embeddings to length 1 first (`x / max(|x|, 1e-12)`). Default true. [`Distance::Cosine`] needs it.
    pub normalize: bool,
    /// Measure a negative from the positive where that is nearer: `d(a, n) <- min(d(a, n), d(p, n))` (Balntas et
    /// al. 2016, section 3.2). Default false.
    pub swap: bool,
    /// `log(1 + exp(v))` in place of `max(v, 0)`: no triplet ever stops contributing. Default false.
    pub smooth: bool,
    /// Default [`Reduction::MeanNonZero`].
    pub reduction: Reduction,
    /// Which triplets take part. Default [`Miner::All`].
    pub miner: Miner,
}

impl Default for TripletMarginOptions {
    fn default() -> Self {
        Self {
            margin: 0.05,
            distance: Distance::L2,
            normalize: true,
            swap: false,
            smooth: false,
            reduction: Reduction::MeanNonZero,
            miner: Miner::All,
        }
    }
}

impl TripletMarginOptions {
    /// Sets the margin.
    #[must_use]
    pub fn margin(self, margin: f64) -> Self {
        Self { margin, ..self }
    }

    /// Sets the distance.
    #[must_use]
    pub fn distance(self, distance: Distance) -> Self {
        Self { distance, ..self }
    }

    /// Whether embeddings are scaled to length 1 first.
    #[must_use]
    pub fn normalize(self, normalize: bool) -> Self {
        Self { normalize, ..self }
    }

    /// Whether a negative may be measured from the positive.
    #[must_use]
    pub fn swap(self, swap: bool) -> Self {
        Self { swap, ..self }
    }

    /// Whether the hinge is softened.
    #[must_use]
    pub fn smooth(self, smooth: bool) -> Self {
        Self { smooth, ..self }
    }

    /// Sets the reduction.
    #[must_use]
    pub fn reduction(self, reduction: Reduction) -> Self {
        Self { reduction, ..self }
    }

    /// Sets the miner.
    #[must_use]
    pub fn miner(self, miner: Miner) -> Self {
        Self { miner, ..self }
    }

    /// The loss with these options.
    ///
    /// # Errors
    /// [`Error::Option`] for a margin (the loss's or the miner's) that is not finite or out of range, for one that no
    /// triplet of unit vectors can meet, and for [`Distance::Cosine`] without `normalize`.
    pub fn build(self) -> Result<TripletMargin> {
        check_margin("margin", self.margin)?;
        // Of unit vectors no distance is larger, and none smaller than 0.
        let most = if self.distance == Distance::SquaredL2 { 4.0 } else { 2.0 };
        if self.normalize && !self.smooth && self.margin > most {
            return Err(Error::Option {
                option: "margin",
                value: self.margin.to_string(),
                reason: format!(
                    "distances of unit vectors are at most {most}, so no triplet could ever be met; 0.05 to 0.5 is usual"
                ),
            });
        }
        self.miner.check()?;
        if self.distance == Distance::Cosine && !self.normalize {
            return Err(Error::Option {
                option: "normalize",
                value: "false".into(),
                reason: "a cosine is that of unit vectors; set normalize = true or choose another distance"
                    .into(),
            });
        }
        Ok(TripletMargin::new(self))
    }
}

/// A margin beyond 1e15 has no use and would leave `f32`'s range once scaled.
pub(crate) fn check_margin(option: &'static str, margin: f64) -> Result<()> {
    if (0.0..=1e15).contains(&margin) {
        return Ok(());
    }
    Err(Error::Option {
        option,
        value: margin.to_string(),
        reason: "must be between 0 and 1e15; 0.05 to 0.5 is usual for unit vectors".into(),
    })
}
