//! Losses by name and options, as configuration files and command lines give them.

use std::fmt;
use std::str::FromStr;

use crate::{
    Angle, CentreInit, Distance, Edge, Error, Loss, Margin, MarginGradient, MarginOptions, MarginSoftmax,
    Miner, Preset, Reduction, Result, TripletKind, TripletMarginOptions,
};

/// The losses, under pytorch-metric-learning's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[allow(clippy::enum_variant_names)] // the names that users know
#[non_exhaustive]
pub enum LossKind {
    /// [`crate::TripletMargin`].
    #[default]
    TripletMarginLoss,
    /// [`MarginOptions::arcface`].
    ArcFaceLoss,
    /// [`MarginOptions::cosface`].
    CosFaceLoss,
    /// [`MarginOptions::sphereface`].
    SphereFaceLoss,
    /// [`MarginOptions::sub_center_arcface`].
    SubCenterArcFaceLoss,
}

impl LossKind {
    /// Every loss.
    pub const ALL: [Self; 5] = [
        Self::TripletMarginLoss,
        Self::ArcFaceLoss,
        Self::CosFaceLoss,
        Self::SphereFaceLoss,
        Self::SubCenterArcFaceLoss,
    ];

    /// The name in configuration files.
    pub fn name(self) -> &'static str {
        match self {
            Self::TripletMarginLoss => "TripletMarginLoss",
            Self::ArcFaceLoss => "ArcFaceLoss",
            Self::CosFaceLoss => "CosFaceLoss",
            Self::SphereFaceLoss => "SphereFaceLoss",
            Self::SubCenterArcFaceLoss => "SubCenterArcFaceLoss",
        }
    }
}

impl fmt::Display for LossKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for LossKind {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|kind| kind.name().eq_ignore_ascii_case(text)).ok_or_else(|| {
            Error::Option {
                option: "loss",
                value: text.to_owned(),
                reason: format!("unknown; the losses are {}", Self::ALL.map(Self::name).join(", ")),
            }
        })
    }
}

/// The miners, under pytorch-metric-learning's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[allow(clippy::enum_variant_names)] // the names that users know
#[non_exhaustive]
pub enum MinerKind {
    /// [`Miner::TripletMargin`].
    TripletMarginMiner,
    /// [`Miner::BatchHard`].
    BatchHardMiner,
}

impl FromStr for MinerKind {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "TripletMarginMiner" => Ok(Self::TripletMarginMiner),
            "BatchHardMiner" => Ok(Self::BatchHardMiner),
            _ => Err(Error::Option {
                option: "miner",
                value: text.to_owned(),
                reason: "unknown; the miners are TripletMarginMiner, BatchHardMiner".to_owned(),
            }),
        }
    }
}

/// Options of a miner.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(deny_unknown_fields, default)
)]
pub struct MinerOptions {
    /// `TripletMarginMiner`: default 0.2.
    #[cfg_attr(feature = "serde", serde(skip_serializing_if = "Option::is_none"))]
    pub margin: Option<f64>,
    /// `TripletMarginMiner`: default all.
    #[cfg_attr(feature = "serde", serde(skip_serializing_if = "Option::is_none"))]
    pub type_of_triplets: Option<TripletKind>,
}

impl MinerOptions {
    /// These options with the defaults where none are given: all that `kind` has.
    pub fn resolved(&self, kind: MinerKind) -> Self {
        match miner_of(Some((kind, self))) {
            Ok(Miner::TripletMargin { margin, kind }) => {
                Self { margin: Some(margin), type_of_triplets: Some(kind) }
            }
            _ => *self,
        }
    }
}

/// A margin with its unit: an angle (`"28.6deg"`, `"0.5rad"`) or a plain number (a cosine, a distance, a multiplier).
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum MarginValue {
    /// ArcFace's.
    Angle(Angle),
    /// The other losses'.
    Number(f64),
}

impl From<f64> for MarginValue {
    fn from(number: f64) -> Self {
        Self::Number(number)
    }
}

impl From<Angle> for MarginValue {
    fn from(angle: Angle) -> Self {
        Self::Angle(angle)
    }
}

#[cfg(feature = "serde")]
mod margin_serde {
    use super::MarginValue;
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Raw {
        Number(f64),
        Text(String),
    }

    impl Serialize for MarginValue {
        fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
            match self {
                Self::Angle(angle) => to.collect_str(angle),
                Self::Number(number) => to.serialize_f64(*number),
            }
        }
    }

    impl<'de> Deserialize<'de> for MarginValue {
        fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
            match Raw::deserialize(from)? {
                Raw::Number(number) => Ok(Self::Number(number)),
                Raw::Text(text) => text.parse().map(Self::Angle).map_err(de::Error::custom),
            }
        }
    }
}

/// Options of a loss; those not given come from the preset. An option that the chosen loss does not have is an
/// error, not ignored.
#[derive(Debug, Clone, PartialEq, Default)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(deny_unknown_fields, default)
)]
pub struct LossOptions {
    /// Whose defaults; default `finetuner`.
    #[cfg_attr(feature = "serde", serde(skip_serializing_if = "Option::is_none"))]
    pub preset: Option<Preset>,
    /// ArcFace, SubCenterArcFace: an angle. CosFace: a cosine. SphereFace: a whole number. TripletMargin: a distance.
    #[cfg_attr(feature = "serde", serde(skip_serializing_if = "Option::is_none"))]
    pub margin: Option<MarginValue>,
    /// Losses with centres: the logits' factor.
    #[cfg_attr(feature = "serde", serde(skip_serializing_if = "Option::is_none"))]
    pub scale: Option<f64>,
    /// SubCenterArcFace: centres of each class, default 3.
    #[cfg_attr(feature = "serde", serde(skip_serializing_if = "Option::is_none"))]
    pub sub_centers: Option<usize>,
    /// ArcFace, SubCenterArcFace: the rule beyond `pi - m`.
    #[cfg_attr(feature = "serde", serde(skip_serializing_if = "Option::is_none"))]
    pub edge: Option<Edge>,
    /// ArcFace, SubCenterArcFace: how the margin is differentiated.
    #[cfg_attr(feature = "serde", serde(skip_serializing_if = "Option::is_none"))]
    pub margin_gradient: Option<MarginGradient>,
    /// Losses with centres: bytes of logits that may be held, default 256 MiB.
    #[cfg_attr(feature = "serde", serde(skip_serializing_if = "Option::is_none"))]
    pub logits_budget_bytes: Option<usize>,
    /// TripletMargin: the distance.
    #[cfg_attr(feature = "serde", serde(skip_serializing_if = "Option::is_none"))]
    pub distance: Option<Distance>,
    /// TripletMargin: unit embeddings first, default true.
    #[cfg_attr(feature = "serde", serde(skip_serializing_if = "Option::is_none"))]
    pub normalize: Option<bool>,
    /// TripletMargin: default false.
    #[cfg_attr(feature = "serde", serde(skip_serializing_if = "Option::is_none"))]
    pub swap: Option<bool>,
    /// TripletMargin: default false.
    #[cfg_attr(feature = "serde", serde(skip_serializing_if = "Option::is_none"))]
    pub smooth: Option<bool>,
    /// TripletMargin: how the triplets' losses become one number.
    #[cfg_attr(feature = "serde", serde(skip_serializing_if = "Option::is_none"))]
    pub reduction: Option<Reduction>,
}

impl LossOptions {
    /// How the class centres of this preset start.
    pub fn centre_init(&self) -> CentreInit {
        self.preset.unwrap_or_default().defaults().centres
    }

    /// These options with the preset's values where none are given: all that `kind` has, as it computes.
    ///
    /// # Errors
    /// [`Error::Option`] for a margin in the wrong unit or an option of another loss.
    ///
    /// ```
    /// use embedtune_losses::{LossKind, LossOptions, MarginValue};
    ///
    /// let given = LossOptions { scale: Some(16.0), ..LossOptions::default() };
    /// let whole = given.resolved(LossKind::CosFaceLoss)?;
    /// assert_eq!((whole.scale, whole.margin), (Some(16.0), Some(MarginValue::Number(0.35))));
    /// # Ok::<(), embedtune_losses::Error>(())
    /// ```
    pub fn resolved(&self, kind: LossKind) -> Result<Self> {
        let preset = Some(self.preset.unwrap_or_default());
        if kind == LossKind::TripletMarginLoss {
            let of = triplet_options(self)?;
            return Ok(Self {
                preset,
                margin: Some(of.margin.into()),
                distance: Some(of.distance),
                normalize: Some(of.normalize),
                swap: Some(of.swap),
                smooth: Some(of.smooth),
                reduction: Some(of.reduction),
                ..Self::default()
            });
        }
        let of = margin_options(kind, self)?;
        let (margin, edge, margin_gradient) = match of.margin {
            Margin::Arc { angle, edge, gradient } => (angle.into(), Some(edge), Some(gradient)),
            Margin::Cos { cosine } => (cosine.into(), None, None),
            Margin::Sphere { multiplier } => (f64::from(multiplier).into(), None, None),
        };
        Ok(Self {
            preset,
            margin: Some(margin),
            scale: Some(of.scale),
            sub_centers: (kind == LossKind::SubCenterArcFaceLoss).then_some(of.sub_centers),
            edge,
            margin_gradient,
            logits_budget_bytes: Some(of.logits_budget_bytes),
            ..Self::default()
        })
    }

    /// Refuses options of other losses.
    fn check(&self, kind: LossKind) -> Result<()> {
        let triplet = kind == LossKind::TripletMarginLoss;
        let arc = matches!(kind, LossKind::ArcFaceLoss | LossKind::SubCenterArcFaceLoss);
        let sub = kind == LossKind::SubCenterArcFaceLoss;
        const TRIPLET: &str = "TripletMarginLoss";
        const CENTRES: &str = "ArcFaceLoss, CosFaceLoss, SphereFaceLoss and SubCenterArcFaceLoss";
        const ARC: &str = "ArcFaceLoss and SubCenterArcFaceLoss";
        for (option, given, has, owners) in [
            ("scale", self.scale.is_some(), !triplet, CENTRES),
            ("logits_budget_bytes", self.logits_budget_bytes.is_some(), !triplet, CENTRES),
            ("sub_centers", self.sub_centers.is_some(), sub, "SubCenterArcFaceLoss"),
            ("edge", self.edge.is_some(), arc, ARC),
            ("margin_gradient", self.margin_gradient.is_some(), arc, ARC),
            ("distance", self.distance.is_some(), triplet, TRIPLET),
            ("normalize", self.normalize.is_some(), triplet, TRIPLET),
            ("swap", self.swap.is_some(), triplet, TRIPLET),
            ("smooth", self.smooth.is_some(), triplet, TRIPLET),
            ("reduction", self.reduction.is_some(), triplet, TRIPLET),
        ] {
            if given && !has {
                return Err(Error::Option {
                    option,
                    value: "given".to_owned(),
                    reason: format!("{kind} has no such option (it belongs to {owners}); leave it out"),
                });
            }
        }
        Ok(())
    }

    fn number(&self, default: f64, unit: &str) -> Result<f64> {
        match self.margin {
            None => Ok(default),
            Some(MarginValue::Number(number)) => Ok(number),
            Some(MarginValue::Angle(angle)) => Err(Error::Option {
                option: "margin",
                value: angle.in_both(),
                reason: format!("this loss's margin is {unit}: write a plain number"),
            }),
        }
    }

    fn angle(&self, default: Angle) -> Result<Angle> {
        match self.margin {
            None => Ok(default),
            Some(MarginValue::Angle(angle)) => Ok(angle),
            Some(MarginValue::Number(number)) => Err(Error::Option {
                option: "margin",
                value: number.to_string(),
                reason: format!(
                    "this loss's margin is an angle and needs its unit: \"{number}deg\" or \"{number}rad\"?"
                ),
            }),
        }
    }
}

/// Builds a loss for `classes` classes of `dim`-dimensional embeddings.
///
/// # Errors
/// [`Error::Option`] for an option out of range, in the wrong unit, or of another loss; a miner with a loss that
/// takes none.
pub fn build(
    kind: LossKind,
    options: &LossOptions,
    miner: Option<(MinerKind, &MinerOptions)>,
    classes: usize,
    dim: usize,
) -> Result<Box<dyn Loss>> {
    if kind == LossKind::TripletMarginLoss {
        let loss = TripletMarginOptions { miner: miner_of(miner)?, ..triplet_options(options)? };
        return Ok(Box::new(loss.build()?));
    }
    if let Some((miner, _)) = miner {
        return Err(Error::Option {
            option: "miner",
            value: format!("{miner:?}"),
            reason: format!(
                "{kind} compares items with class centres and takes no triplets; leave the miner out"
            ),
        });
    }
    Ok(Box::new(MarginSoftmax::new(classes, dim, margin_options(kind, options)?)?))
}

/// The options of `TripletMarginLoss`, the preset's where none are given; without a miner.
///
/// # Errors
/// [`Error::Option`] for a margin in the wrong unit or an option of another loss.
pub fn triplet_options(options: &LossOptions) -> Result<TripletMarginOptions> {
    options.check(LossKind::TripletMarginLoss)?;
    let defaults = options.preset.unwrap_or_default().defaults();
    let squared = defaults.squared_triplet;
    Ok(TripletMarginOptions {
        margin: options.number(defaults.triplet_margin, "a distance")?,
        distance: options.distance.unwrap_or(if squared { Distance::SquaredL2 } else { Distance::L2 }),
        normalize: options.normalize.unwrap_or(true),
        swap: options.swap.unwrap_or(false),
        smooth: options.smooth.unwrap_or(false),
        reduction: options.reduction.unwrap_or(if squared {
            Reduction::Mean
        } else {
            Reduction::MeanNonZero
        }),
        miner: Miner::All,
    })
}

/// The options of a loss with class centres, the preset's where none are given.
///
/// # Errors
/// [`Error::Option`] for a margin in the wrong unit, an option of another loss, or a loss without centres.
pub fn margin_options(kind: LossKind, options: &LossOptions) -> Result<MarginOptions> {
    options.check(kind)?;
    let defaults = options.preset.unwrap_or_default().defaults();
    let mut margin = match kind {
        LossKind::CosFaceLoss => {
            let cosine = options.number(defaults.cos_margin, "a cosine")?;
            MarginOptions { margin: Margin::Cos { cosine }, ..MarginOptions::cosface() }
        }
        LossKind::SphereFaceLoss => {
            let multiplier = options.number(4.0, "a whole number")?;
            if multiplier.fract() != 0.0 || !(1.0..=8.0).contains(&multiplier) {
                return Err(Error::Option {
                    option: "margin",
                    value: multiplier.to_string(),
                    reason: "SphereFace multiplies the angle by a whole number from 1 to 8; 4 is usual"
                        .to_owned(),
                });
            }
            MarginOptions {
                margin: Margin::Sphere { multiplier: multiplier as u32 },
                ..MarginOptions::sphereface()
            }
        }
        LossKind::TripletMarginLoss => {
            return Err(Error::Option {
                option: "loss",
                value: kind.to_string(),
                reason: "it has no class centres, so none of these options".to_owned(),
            });
        }
        LossKind::ArcFaceLoss | LossKind::SubCenterArcFaceLoss => {
            let arc = Margin::Arc {
                angle: options.angle(defaults.arc_margin)?,
                edge: options.edge.unwrap_or(defaults.edge),
                gradient: options.margin_gradient.unwrap_or(defaults.margin_gradient),
            };
            let sub_centers =
                if kind == LossKind::ArcFaceLoss { 1 } else { options.sub_centers.unwrap_or(3) };
            MarginOptions { margin: arc, sub_centers, ..MarginOptions::arcface() }
        }
    };
    margin.scale = options.scale.unwrap_or(margin.scale);
    margin.logits_budget_bytes = options.logits_budget_bytes.unwrap_or(margin.logits_budget_bytes);
    Ok(margin)
}

/// The miner of that kind and options; all triplets without one.
///
/// # Errors
/// [`Error::Option`] for options that the miner does not have.
pub fn miner_of(miner: Option<(MinerKind, &MinerOptions)>) -> Result<Miner> {
    match miner {
        None => Ok(Miner::All),
        Some((MinerKind::TripletMarginMiner, options)) => Ok(Miner::TripletMargin {
            margin: options.margin.unwrap_or(0.2),
            kind: options.type_of_triplets.unwrap_or_default(),
        }),
        Some((MinerKind::BatchHardMiner, options)) if *options == MinerOptions::default() => {
            Ok(Miner::BatchHard)
        }
        Some((MinerKind::BatchHardMiner, _)) => Err(Error::Option {
            option: "miner_options",
            value: "given".to_owned(),
            reason: "BatchHardMiner has no options; leave them out".to_owned(),
        }),
    }
}
