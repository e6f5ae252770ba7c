//! Which pooling, and how.

use thiserror::Error;

/// A learnable power is kept at least this large: below it the root amplifies rounding beyond use.
pub const MIN_P: f32 = 0.1;

/// Raises powers below [`MIN_P`] to it, as after every step of an optimizer; NaN too.
pub fn keep_powers(p: &mut [f32]) {
    for p in p {
        *p = p.max(MIN_P);
    }
}

/// The pooling layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum PoolerKind {
    /// Generalised mean.
    GeM,
    /// Average.
    #[default]
    #[cfg_attr(feature = "serde", serde(alias = "average", alias = "mean"))]
    Avg,
    /// Maximum.
    #[cfg_attr(feature = "serde", serde(alias = "max"))]
    Max,
}

/// What GeM does with values that have no real power.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "lowercase"))]
#[non_exhaustive]
pub enum Sign {
    /// Values below `eps` count as `eps` and have no gradient: right after a ReLU.
    #[default]
    Clamp,
    /// The row's minimum is subtracted before (so that the smallest value is `eps`) and added back after. The first
    /// of equal minima takes the gradient of the shift.
    Shift,
    /// Signed powers, `sign(x) |x|^p`, and a signed root: for signed features such as token embeddings, where
    /// clamping would throw half of them away. Where positive and negative powers cancel to less than 1e-3 of the
    /// largest, the root is a straight line (its slope at 0 would be infinite); at `p = 1` it is the average.
    Signed,
}

/// Options of [`PoolerKind::GeM`] as configuration files give them.
#[derive(Debug, Clone, Copy, PartialEq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(deny_unknown_fields, default)
)]
pub struct PoolerOptions {
    /// The power, at least 0.1. Default 3.
    pub p: f64,
    /// Floor of the values where they are clamped. Default 1e-6.
    pub eps: f64,
    /// Default: clamp for images, signed for text.
    #[cfg_attr(feature = "serde", serde(skip_serializing_if = "Option::is_none"))]
    pub sign: Option<Sign>,
    /// Whether training moves the power. Default true.
    pub learnable: bool,
    /// One power for every channel instead of one for all. Default false.
    pub per_channel: bool,
}

impl Default for PoolerOptions {
    fn default() -> Self {
        Self { p: 3.0, eps: 1e-6, sign: None, learnable: true, per_channel: false }
    }
}

impl PoolerOptions {
    /// Checks the ranges.
    ///
    /// # Errors
    /// [`Error::Option`] naming the field.
    pub fn check(&self) -> Result<()> {
        GemOptions { eps: self.eps, ..GemOptions::default() }.build()?;
        if !(self.p >= f64::from(MIN_P) && self.p <= 1e3) {
            return Err(Error::Option {
                option: "p",
                value: self.p,
                reason: "from 0.1 (nearly a minimum of magnitudes) to 1000; 1 is the average, 3 is usual",
            });
        }
        Ok(())
    }
}

/// Options of the GeM kernels; [`build`](Self::build) checks them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GemOptions {
    /// Floor of clamped values. Default 1e-6.
    pub eps: f64,
    /// Default [`Sign::Clamp`].
    pub sign: Sign,
}

impl Default for GemOptions {
    fn default() -> Self {
        Self { eps: 1e-6, sign: Sign::Clamp }
    }
}

impl GemOptions {
    /// Checked options.
    ///
    /// # Errors
    /// [`Error::Option`] for an `eps` that is not from 1e-30 to 1.
    pub fn build(self) -> Result<Gem> {
        if !(1e-30..=1.0).contains(&self.eps) {
            return Err(Error::Option {
                option: "eps",
                value: self.eps,
                reason: "from 1e-30 to 1; 1e-6 is usual",
            });
        }
        Ok(Gem { eps: self.eps as f32, sign: self.sign })
    }
}

/// Checked [`GemOptions`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Gem {
    pub(crate) eps: f32,
    pub(crate) sign: Sign,
}

/// An option out of range.
#[derive(Debug, Clone, PartialEq, Error)]
#[non_exhaustive]
pub enum Error {
    /// An option out of range.
    #[error("{option} = {value}: give a number {reason}")]
    Option {
        /// The option.
        option: &'static str,
        /// Its value.
        value: f64,
        /// The range.
        reason: &'static str,
    },
}

/// This crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;
