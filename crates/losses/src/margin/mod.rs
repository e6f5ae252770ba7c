//! Margin-softmax losses: ArcFace, CosFace, SphereFace and sub-centre ArcFace on one engine.

mod engine;
mod plan;
mod state;
mod target;
mod tile;

use embedtune_core::linalg;
use ndarray::{Array2, ArrayView2};

use crate::check;
use crate::loss::whole_rows;
use crate::{Angle, Error, GradsMut, Input, Loss, Output, Result, Sampling, Stats, Workspace};

/// Where the target's margin acts, and how.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Margin {
    /// `cos(theta + m)` (Deng et al. 2019, "ArcFace", arXiv:1801.07698, equation 3).
    Arc {
        /// `m`.
        angle: Angle,
        /// What happens beyond `pi - m`.
        edge: Edge,
        /// How the margin's gradient is taken.
        gradient: MarginGradient,
    },
    /// `cos(theta) - m` (Wang et al. 2018, "CosFace", arXiv:1801.09414, equation 4); `m` is a cosine.
    Cos {
        /// `m`.
        cosine: f64,
    },
    /// `(-1)^k cos(m theta) - 2 k`, `k = floor(m theta / pi)`, times the embedding's norm (Liu et al. 2017,
    /// "SphereFace", arXiv:1704.08063, equation 7).
    Sphere {
        /// `m`, a whole number.
        multiplier: u32,
    },
}

/// ArcFace's target logit (before the scale) beyond `theta = pi - m`, where `cos(theta + m)` would rise again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "lowercase"))]
#[non_exhaustive]
pub enum Edge {
    /// `cos(theta) - m sin(m)`: pytorch-metric-learning's rule. Jumps down at the edge, slope 1 in the cosine.
    #[default]
    Jump,
    /// `cos(theta) - (1 - cos(m))`: the same slope without the jump.
    Continuous,
    /// `cos(theta + m)` everywhere: InsightFace's rule; the loss falls again near the antipode.
    None,
}

/// How ArcFace's margin is differentiated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "lowercase"))]
#[non_exhaustive]
pub enum MarginGradient {
    /// The gradient of the returned value.
    #[default]
    Exact,
    /// As if the logit's slope in the cosine were 1 (InsightFace's): not the gradient of the returned value.
    StraightThrough,
}

/// Options of a margin-softmax loss, checked by [`MarginSoftmax::new`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MarginOptions {
    /// The margin.
    pub margin: Margin,
    /// Factor on every logit.
    pub scale: f64,
    /// Centres of each class; the nearest counts (Deng et al. 2020, "Sub-center ArcFace").
    pub sub_centers: usize,
    /// Bytes of logits that may be held. If batch x classes fits, logits are kept between the passes (three
    /// products); otherwise only a tile of them exists at a time, and they are recomputed (four products).
    pub logits_budget_bytes: usize,
}

impl MarginOptions {
    /// ArcFace: 28.6 degrees, [`Edge::Jump`], exact gradient, scale 64, a budget of 256 MiB.
    pub fn arcface() -> Self {
        let margin =
            Margin::Arc { angle: Angle::degrees(28.6), edge: Edge::Jump, gradient: MarginGradient::Exact };
        Self { margin, scale: 64.0, sub_centers: 1, logits_budget_bytes: 256 << 20 }
    }

    /// CosFace: margin 0.35, scale 64.
    pub fn cosface() -> Self {
        Self { margin: Margin::Cos { cosine: 0.35 }, ..Self::arcface() }
    }

    /// SphereFace: multiplier 4, scale 1.
    pub fn sphereface() -> Self {
        Self { margin: Margin::Sphere { multiplier: 4 }, scale: 1.0, ..Self::arcface() }
    }

    /// Sub-centre ArcFace: ArcFace with three centres a class.
    pub fn sub_center_arcface() -> Self {
        Self { sub_centers: 3, ..Self::arcface() }
    }
}

/// A margin-softmax loss over `classes` classes of `dim`-dimensional centres.
///
/// Class `c` owns the rows `c * sub_centers ..` of the centres `[classes * sub_centers, dim]`. The value is the
/// mean over the batch of `-log softmax`, rows weighted by sample and class weights (the divisor stays the batch).
///
/// ```
/// use embedtune_losses::{MarginOptions, MarginSoftmax};
/// use ndarray::array;
///
/// let loss = MarginSoftmax::new(3, 2, MarginOptions::arcface())?;
/// let centres = array![[1.0f32, 0.0], [0.0, 1.0], [-1.0, 0.0]];
/// let out = loss.value_and_grad(array![[0.9f32, 0.1]].view(), centres.view(), &[1])?;
/// assert!(out.stats.value > 64.0);
/// assert_eq!(out.d_weights.unwrap().dim(), (3, 2));
/// # Ok::<(), embedtune_losses::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct MarginSoftmax {
    classes: usize,
    dim: usize,
    options: MarginOptions,
}

/// The smallest ArcFace margin beside none. One below it is 0.5 radians given as degrees: the losses of the literature
/// use 0.2 radians, 11 degrees, and more.
const LEAST_DEGREES: f64 = 1.0;

impl MarginSoftmax {
    /// Checks the options.
    ///
    /// # Errors
    /// [`Error::Option`] naming the option: fewer than two classes, no dimensions, a margin or scale out of range. An
    /// angle is out of range too where it is above 0 and below 1 degree, as radians given for degrees are.
    pub fn new(classes: usize, dim: usize, options: MarginOptions) -> Result<Self> {
        let fail = |option, value: String, reason: &str| {
            Err(Error::Option { option, value, reason: reason.to_owned() })
        };
        if classes == 0 || dim == 0 {
            return fail(
                "classes x dim",
                format!("{classes} x {dim}"),
                "a margin loss needs classes and dimensions: write at least 2 classes and the embeddings' dimension",
            );
        }
        if classes == 1 {
            return fail("classes", "1".into(), "one class leaves nothing to tell apart; at least 2");
        }
        if !(options.scale.is_finite() && options.scale > 0.0 && options.scale <= 1e6) {
            return fail(
                "scale",
                options.scale.to_string(),
                "give a number above 0, at most 1e6; 16 to 64 is usual",
            );
        }
        if options.sub_centers == 0 {
            return fail("sub_centers", "0".into(), "at least 1; 3 is usual");
        }
        // Labels are `u32`, and an array of centres counts its bytes in `isize`.
        let values = classes.checked_mul(options.sub_centers).and_then(|rows| rows.checked_mul(dim));
        if classes > u32::MAX as usize || values.is_none_or(|n| n > isize::MAX as usize / size_of::<f32>()) {
            return fail(
                "classes x sub_centers x dim",
                format!("{classes} x {} x {dim}", options.sub_centers),
                "no array holds so many centres: train on fewer classes or in fewer dimensions",
            );
        }
        match options.margin {
            Margin::Arc { angle, .. } if !(0.0..std::f64::consts::PI).contains(&angle.as_radians()) => fail(
                "margin",
                angle.in_both(),
                "an angle from 0deg to below 180deg; 28.6deg, which is 0.5rad, is usual",
            ),
            Margin::Arc { angle, .. } if angle.as_radians() > 0.0 && angle.as_degrees() < LEAST_DEGREES => {
                fail(
                    "margin",
                    angle.in_both(),
                    "less than a degree is hardly a margin: if radians were meant, write Angle::radians or \"0.5rad\"; \
                 0 is no margin",
                )
            }
            Margin::Cos { cosine } if !(0.0..=2.0).contains(&cosine) => {
                fail("margin", cosine.to_string(), "a cosine from 0 to 2; 0.35 is usual")
            }
            Margin::Sphere { multiplier } if !(1..=8).contains(&multiplier) => {
                fail("margin", multiplier.to_string(), "a whole number from 1 to 8; 4 is usual")
            }
            _ => Ok(Self { classes, dim, options }),
        }
    }

    /// The options.
    pub fn options(&self) -> &MarginOptions {
        &self.options
    }

    /// Value and gradients of embeddings `[batch, dim]` with centres `[classes * sub_centers, dim]`.
    ///
    /// # Errors
    /// As [`Loss::forward_backward`].
    pub fn value_and_grad(
        &self,
        x: ArrayView2<'_, f32>,
        w: ArrayView2<'_, f32>,
        labels: &[u32],
    ) -> Result<Output> {
        self.evaluate(Input::new(x, labels).with_weights(w))
    }

    /// `scale * cos` for every class, `[batch, classes]` in standard layout, without margin: what to classify with. Of a class's
    /// sub-centres the nearest counts.
    ///
    /// # Errors
    /// Shapes that do not fit, values that are not finite.
    pub fn logits(&self, x: ArrayView2<'_, f32>, w: ArrayView2<'_, f32>) -> Result<Array2<f32>> {
        check::matrix("embeddings", &x, None, self.dim)?;
        check::matrix("class centres", &w, Some(self.rows()), self.dim)?;
        let (mut xu, mut wu) = (Array2::zeros(x.dim()), Array2::zeros(w.dim()));
        linalg::normalize_rows(x, linalg::NORM_FLOOR as f32, xu.view_mut())?;
        linalg::normalize_rows(w, linalg::NORM_FLOOR as f32, wu.view_mut())?;
        let mut cosines = Array2::zeros((x.nrows(), w.nrows()));
        linalg::matmul(1.0, xu.view(), wu.t(), 0.0, cosines.view_mut())?;
        let (k, scale) = (self.options.sub_centers, self.options.scale as f32);
        Ok(Array2::from_shape_fn((x.nrows(), self.classes), |(i, c)| {
            scale * (c * k..(c + 1) * k).map(|j| cosines[[i, j]]).fold(f32::NEG_INFINITY, f32::max)
        }))
    }

    /// [`logits`](Self::logits) of row-major slices: `x`, `[batch, dim]`, and the centres `w`, to `[batch, classes]`,
    /// row-major.
    ///
    /// # Errors
    /// Lengths that are no whole number of rows; as [`logits`](Self::logits).
    pub fn logits_of_slices(&self, x: &[f32], w: &[f32]) -> Result<Vec<f32>> {
        let x = whole_rows("embeddings", x, self.dim)?;
        let logits = self.logits(x, whole_rows("class centres", w, self.dim)?)?;
        Ok(logits.into_raw_vec_and_offset().0)
    }

    /// Classes and dimensions.
    #[cfg(feature = "cuda")]
    pub(crate) fn sizes(&self) -> [usize; 2] {
        [self.classes, self.dim]
    }

    fn rows(&self) -> usize {
        self.classes * self.options.sub_centers
    }

    fn sphere(&self) -> bool {
        matches!(self.options.margin, Margin::Sphere { .. })
    }
}

impl Loss for MarginSoftmax {
    fn name(&self) -> &'static str {
        match self.options.margin {
            Margin::Arc { .. } if self.options.sub_centers > 1 => "SubCenterArcFaceLoss",
            Margin::Arc { .. } => "ArcFaceLoss",
            Margin::Cos { .. } => "CosFaceLoss",
            Margin::Sphere { .. } => "SphereFaceLoss",
        }
    }

    fn weight_shape(&self) -> Option<[usize; 2]> {
        Some([self.rows(), self.dim])
    }

    fn sampling(&self) -> Sampling {
        Sampling::Random
    }

    fn workspace_bytes(&self, batch: usize, _reference: usize, dim: usize) -> usize {
        plan::Plan::new(self, batch).bytes(batch, dim, rayon::current_num_threads())
    }

    fn forward_backward(&self, input: Input<'_>, grads: GradsMut<'_>, work: &mut Workspace) -> Result<Stats> {
        engine::run(self, input, grads, work)
    }
}
