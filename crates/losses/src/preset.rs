//! What the reference systems compute by default, as one table.

use std::fmt;
use std::str::FromStr;

use crate::{Angle, Edge, Error, MarginGradient, Result};

/// Whose defaults a loss takes. Options that are given win over the preset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "lowercase"))]
#[non_exhaustive]
pub enum Preset {
    /// Jina Finetuner; pytorch-metric-learning 2 where Finetuner is silent. Centres start at a standard deviation
    /// of 0.01 instead of 1: long centres turn too slowly to follow their class at usual learning rates.
    #[default]
    Finetuner,
    /// pytorch-metric-learning 2.
    Pml2,
    /// pytorch-metric-learning 3, from its documentation. Its "linear continuation" beyond `pi - m` is taken as
    /// [`Edge::Jump`], the rule of its version 2.
    Pml3,
    /// InsightFace's `arcface_torch`.
    Insightface,
    /// The papers'.
    Paper,
}

/// How class centres start.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum CentreInit {
    /// Independent normal values.
    Normal {
        /// Their standard deviation.
        std: f64,
    },
    /// Uniform on the unit sphere.
    UnitSphere,
}

/// One preset's defaults.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Defaults {
    /// Triplet margin, in units of its distance.
    pub triplet_margin: f64,
    /// Whether the triplet distance is squared and its reduction the plain mean (FaceNet), instead of L2 and the
    /// mean over non-zero losses.
    pub squared_triplet: bool,
    /// ArcFace's margin.
    pub arc_margin: Angle,
    /// ArcFace's rule beyond `pi - m`.
    pub edge: Edge,
    /// ArcFace's gradient.
    pub margin_gradient: MarginGradient,
    /// CosFace's margin.
    pub cos_margin: f64,
    /// How centres start.
    pub centres: CentreInit,
}

impl Preset {
    /// Every preset.
    pub const ALL: [Self; 5] = [Self::Finetuner, Self::Pml2, Self::Pml3, Self::Insightface, Self::Paper];

    /// The name in configuration files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Finetuner => "finetuner",
            Self::Pml2 => "pml2",
            Self::Pml3 => "pml3",
            Self::Insightface => "insightface",
            Self::Paper => "paper",
        }
    }

    /// The table. Scales are the same everywhere: 64 for ArcFace and CosFace, 1 for SphereFace (multiplier 4).
    pub fn defaults(self) -> Defaults {
        let finetuner = Defaults {
            triplet_margin: 0.05,
            squared_triplet: false,
            arc_margin: Angle::degrees(28.6),
            edge: Edge::Jump,
            margin_gradient: MarginGradient::Exact,
            cos_margin: 0.35,
            centres: CentreInit::Normal { std: 0.01 },
        };
        let wide = CentreInit::Normal { std: 1.0 };
        match self {
            Self::Finetuner => finetuner,
            Self::Pml2 => Defaults { centres: wide, ..finetuner },
            Self::Pml3 => {
                Defaults { triplet_margin: 0.2, arc_margin: Angle::radians(0.5), centres: wide, ..finetuner }
            }
            Self::Insightface => Defaults {
                arc_margin: Angle::radians(0.5),
                edge: Edge::None,
                margin_gradient: MarginGradient::StraightThrough,
                cos_margin: 0.40,
                ..finetuner
            },
            Self::Paper => Defaults {
                triplet_margin: 0.2,
                squared_triplet: true,
                arc_margin: Angle::radians(0.5),
                edge: Edge::Continuous,
                centres: CentreInit::UnitSphere,
                ..finetuner
            },
        }
    }
}

impl fmt::Display for Preset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Preset {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|preset| preset.name().eq_ignore_ascii_case(text)).ok_or_else(|| {
            Error::Option {
                option: "preset",
                value: text.to_owned(),
                reason: format!("unknown; the presets are {}", Self::ALL.map(Self::name).join(", ")),
            }
        })
    }
}
