use cudarc::driver::DeviceRepr;

use super::Products;
use crate::{Error, Result};

/// Where the target's margin acts, and how.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Margin {
    /// `cos(theta + m)` (Deng et al. 2019, "ArcFace", equation 3).
    Arc {
        /// `m`, from 0 to below pi.
        radians: f64,
        /// What happens beyond `pi - m`.
        edge: Edge,
        /// The logit's slope in the cosine taken as 1 (InsightFace's gradient) instead of its own.
        straight_through: bool,
    },
    /// `cos(theta) - m` (Wang et al. 2018, "CosFace", equation 4).
    Cos {
        /// `m`, a cosine from 0 to 2.
        cosine: f64,
    },
    /// `(-1)^k cos(m theta) - 2 k`, `k = floor(m theta / pi)`, times the embedding's norm (Liu et al. 2017,
    /// "SphereFace", equation 7).
    Sphere {
        /// `m`, from 1 to 8.
        multiplier: u32,
    },
}

/// ArcFace's target logit (before the scale) beyond `theta = pi - m`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Edge {
    /// `cos(theta) - m sin(m)`: jumps down at the edge, slope 1 in the cosine.
    #[default]
    Jump,
    /// `cos(theta) - (1 - cos(m))`: the same slope without the jump.
    Continuous,
    /// `cos(theta + m)` everywhere.
    None,
}

/// What the tensor cores multiply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
#[non_exhaustive]
pub enum Precision {
    /// Each value as two f16 halves, three products for one: as accurate as f32 products, three times the work.
    #[default]
    F32,
    /// f16: gradients within about 1e-3 of f32's.
    F16,
}

impl Precision {
    pub(crate) fn suffix(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
        }
    }

    /// f16 values that stand for one.
    pub(crate) fn parts(self) -> usize {
        match self {
            Self::F32 => 2,
            Self::F16 => 1,
        }
    }

    /// f16 values in which one lies in a row that cuBLAS multiplies at once.
    pub(crate) fn pieces(self) -> usize {
        match self {
            Self::F32 => 3,
            Self::F16 => 1,
        }
    }

    /// Bytes of shared memory of a product's block: `Ring::bytes` in `product.cuh`.
    pub(crate) fn shared(self) -> u32 {
        let stages = match self {
            Self::F32 => 2,
            Self::F16 => 3,
        };
        stages * 2 * self.parts() as u32 * 128 * 40 * 2
    }
}

/// The kernels keep the nearest centre's place in 4 bits.
const MOST_SUB_CENTRES: usize = 16;

/// Options of [`MarginSoftmax`](super::MarginSoftmax), checked by its constructor.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MarginOptions {
    /// The margin.
    pub margin: Margin,
    /// Factor on every logit, above 0 and at most 1e6.
    pub scale: f64,
    /// Centres of each class, 1 to 16; the nearest counts (Deng et al. 2020, "Sub-center ArcFace"). Default 1.
    pub sub_centers: usize,
    /// Default [`Precision::F32`].
    pub precision: Precision,
    /// Default [`Products::Faster`].
    pub products: Products,
    /// Device memory that a call may hold beside its arguments: the batch's rows, and tiles of classes in what they leave
    /// (in half of it where they leave less); with cuBLAS a quarter is cuBLAS's. Default 64 MiB, so that tiles stay in a large
    /// GPU's second-level cache.
    pub tile_bytes: usize,
}

impl MarginOptions {
    /// With this margin, scale 64, one centre a class, f32-accurate products, whoever's are faster, and 64 MiB.
    pub fn new(margin: Margin) -> Self {
        Self {
            margin,
            scale: 64.0,
            sub_centers: 1,
            precision: Precision::F32,
            products: Products::Faster,
            tile_bytes: 64 << 20,
        }
    }

    pub(crate) fn check(&self) -> Result<()> {
        let fail = |option, value: String, reason| Err(Error::Option { option, value, reason });
        if !(self.scale > 0.0 && self.scale <= 1e6) {
            return fail(
                "scale",
                self.scale.to_string(),
                "give a number above 0, at most 1e6; 16 to 64 is usual",
            );
        }
        if !(1..=MOST_SUB_CENTRES).contains(&self.sub_centers) {
            return fail(
                "sub_centers",
                self.sub_centers.to_string(),
                "a whole number from 1 to 16; 3 is usual",
            );
        }
        match self.margin {
            Margin::Arc { radians, .. } if !(0.0..std::f64::consts::PI).contains(&radians) => {
                fail("margin", radians.to_string(), "radians from 0 to below pi; 0.5 is usual")
            }
            Margin::Cos { cosine } if !(0.0..=2.0).contains(&cosine) => {
                fail("margin", cosine.to_string(), "a cosine from 0 to 2; 0.35 is usual")
            }
            Margin::Sphere { multiplier } if !(1..=8).contains(&multiplier) => {
                fail("margin", multiplier.to_string(), "a whole number from 1 to 8; 4 is usual")
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn sphere(&self) -> bool {
        matches!(self.margin, Margin::Sphere { .. })
    }
}

/// `Margin` of `kernels/margin.cuh`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(crate) struct MarginArgument {
    kind: i32,
    edge: i32,
    straight: i32,
    multiplier: i32,
    scale: f64,
    m: f64,
    cos_m: f64,
    sin_m: f64,
}

// SAFETY: plain numbers, laid out as the kernels declare them.
#[expect(unsafe_code, reason = "what says that a structure may be a kernel's argument")]
unsafe impl DeviceRepr for MarginArgument {}

impl From<&MarginOptions> for MarginArgument {
    fn from(options: &MarginOptions) -> Self {
        let none = Self {
            kind: 0,
            edge: 0,
            straight: 0,
            multiplier: 0,
            scale: options.scale,
            m: 0.0,
            cos_m: 1.0,
            sin_m: 0.0,
        };
        match options.margin {
            Margin::Arc { radians, edge, straight_through } => Self {
                edge: match edge {
                    Edge::Jump => 0,
                    Edge::Continuous => 1,
                    Edge::None => 2,
                },
                straight: i32::from(straight_through),
                m: radians,
                cos_m: radians.cos(),
                sin_m: radians.sin(),
                ..none
            },
            Margin::Cos { cosine } => Self { kind: 1, m: cosine, ..none },
            Margin::Sphere { multiplier } => Self { kind: 2, multiplier: multiplier as i32, ..none },
        }
    }
}
