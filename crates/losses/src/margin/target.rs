//! The target's logit and its derivative, in `f64` and in tangent form: finite and accurate near 0 and pi, where
//! `acos(clamp(c))` loses the gradient.

use embedtune_core::linalg::{NORM_FLOOR as FLOOR, norm};
use ndarray::{ArrayView1, ArrayView2};

use super::{Edge, Margin, MarginGradient, MarginSoftmax};

/// Below this length the tangent has no direction; its gradient is then 0.
const NO_TANGENT: f64 = 1e-12;

/// One row against its own class.
pub(super) struct Target {
    /// Row of the centres: the class's nearest sub-centre.
    pub(super) row: usize,
    /// Cosine to it.
    pub(super) cosine: f64,
    /// Logit with margin.
    pub(super) logit: f64,
    /// SphereFace: `psi` (the part along the embedding); otherwise 0.
    pub(super) along: f64,
    /// `-d(logit / scale)/d theta` (per unit norm for SphereFace).
    pub(super) slope: f64,
    /// `|x|` and `|w|`.
    pub(super) norms: [f64; 2],
    /// `sin theta`, the tangent's length before normalisation.
    pub(super) sine: f64,
}

impl Margin {
    /// The target's logit before the scale, and its slope in the cosine, at `theta` (radians, 0 to pi) between a unit
    /// embedding and its centre: what training computes. The slope is `-1 / sin(theta)` times the one in `theta`; at 0 and
    /// pi it is the limit, which may be infinite. (Training divides it by nothing there: a direction without a tangent has no
    /// gradient.)
    pub fn target(&self, theta: f64) -> [f64; 2] {
        let sine = theta.sin();
        let [value, slope, _] = self.target_at(theta, theta.cos(), sine, 1.0);
        // The sine of the number nearest to pi is 1.2e-16.
        let slope = if sine.abs() < 1e-15 { self.slope_at_end(slope, sine) } else { slope / sine };
        [value, slope]
    }

    /// The limit of `slope / sine` at 0 and pi.
    fn slope_at_end(&self, slope: f64, sine: f64) -> f64 {
        match *self {
            Margin::Sphere { multiplier } => f64::from(multiplier).powi(2),
            // With a margin the slope in `theta` is not 0 there, unless it is taken without.
            Margin::Arc { angle, .. } if angle.as_radians() > 0.0 && slope != sine => {
                f64::INFINITY.copysign(slope)
            }
            Margin::Arc { .. } | Margin::Cos { .. } => 1.0,
        }
    }

    /// Logit (before the scale), `-d logit / d theta` (per unit norm for SphereFace), and SphereFace's `psi`.
    fn target_at(&self, theta: f64, cosine: f64, sine: f64, x_norm: f64) -> [f64; 3] {
        match *self {
            Margin::Cos { cosine: m } => [cosine - m, sine, 0.0],
            Margin::Arc { angle, edge, gradient } => {
                let m = angle.as_radians();
                let beyond = theta > std::f64::consts::PI - m;
                let value = match edge {
                    Edge::Jump if beyond => cosine - m * m.sin(),
                    Edge::Continuous if beyond => cosine - (1.0 - m.cos()),
                    _ => (theta + m).cos(),
                };
                let plain = gradient == MarginGradient::StraightThrough || (beyond && edge != Edge::None);
                [value, if plain { sine } else { (theta + m).sin() }, 0.0]
            }
            Margin::Sphere { multiplier } => {
                let m = f64::from(multiplier);
                let k = (m * theta / std::f64::consts::PI).floor().min(m - 1.0);
                let sign = if (k as u64).is_multiple_of(2) { 1.0 } else { -1.0 };
                let psi = sign * (m * theta).cos() - 2.0 * k;
                [x_norm * psi, m * sign * (m * theta).sin(), psi]
            }
        }
    }
}

impl Target {
    pub(super) fn new(
        loss: &MarginSoftmax,
        x: ArrayView1<'_, f32>,
        w: ArrayView2<'_, f32>,
        label: u32,
    ) -> Self {
        let k = loss.options.sub_centers;
        let first = label as usize * k;
        let x_norm = norm(x);
        let mut best = (first, f64::NEG_INFINITY, 0.0);
        for row in first..first + k {
            let centre = w.row(row);
            let length = norm(centre);
            let dot: f64 = x.iter().zip(centre).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum();
            let cosine = dot / (x_norm.max(FLOOR) * length.max(FLOOR));
            // A tie keeps the lowest row.
            if cosine > best.1 {
                best = (row, cosine, length);
            }
        }
        let (row, cosine, w_norm) = best;
        let (sx, sw) = (1.0 / x_norm.max(FLOOR), 1.0 / w_norm.max(FLOOR));
        let (sine, theta) = if x_norm <= FLOOR || w_norm <= FLOOR {
            // Rows that are shorter than 1 once they are divided by the floor: only the cosine says what the angle is.
            let cosine = cosine.clamp(-1.0, 1.0);
            ((1.0 - cosine * cosine).sqrt(), cosine.acos())
        } else {
            let tangent = |(&x, &w)| (f64::from(w) * sw - cosine * f64::from(x) * sx).powi(2);
            let sine = x.iter().zip(w.row(row)).map(tangent).sum::<f64>().sqrt();
            (sine, sine.atan2(cosine))
        };
        let [value, slope, along] = loss.options.margin.target_at(theta, cosine, sine, x_norm);
        let logit = loss.options.scale * value;
        Self { row, cosine, logit, along, slope, norms: [x_norm, w_norm], sine }
    }

    /// `factor * d logit / d x` (before the scale).
    pub(super) fn embedding_gradient<'a>(
        &self,
        factor: f64,
        x: ArrayView1<'a, f32>,
        w: ArrayView1<'a, f32>,
        sphere: bool,
    ) -> impl Iterator<Item = f64> + use<'a> {
        let [sx, sw] = self.inverse_norms();
        // d theta / d x = -t / |x|; SphereFace's logit carries |x|, which cancels it.
        let slope = factor * self.slope * if sphere { 1.0 } else { sx } * self.tangent();
        let (cosine, along) = (self.projected(0), factor * self.along);
        x.into_iter().zip(w).map(move |(&x, &w)| {
            let (x, w) = (f64::from(x) * sx, f64::from(w) * sw);
            slope * (w - cosine * x) + along * x
        })
    }

    /// `factor * d logit / d w` (before the scale).
    pub(super) fn centre_gradient<'a>(
        &self,
        factor: f64,
        x: ArrayView1<'a, f32>,
        w: ArrayView1<'a, f32>,
        sphere: bool,
    ) -> impl Iterator<Item = f64> + use<'a> {
        let [sx, sw] = self.inverse_norms();
        let slope = factor * self.slope * sw * if sphere { self.norms[0] } else { 1.0 } * self.tangent();
        let cosine = self.projected(1);
        x.into_iter().zip(w).map(move |(&x, &w)| {
            let (x, w) = (f64::from(x) * sx, f64::from(w) * sw);
            slope * (x - cosine * w)
        })
    }

    /// The share of a row's own direction in the other row that its gradient leaves out; none for a row that is divided by
    /// the floor instead of its length, of which the cosine is linear.
    fn projected(&self, row: usize) -> f64 {
        if self.norms[row] > FLOOR { self.cosine } else { 0.0 }
    }

    fn inverse_norms(&self) -> [f64; 2] {
        self.norms.map(|norm| 1.0 / norm.max(FLOOR))
    }

    /// `1 / sin theta`, or 0 where the tangent has no direction.
    fn tangent(&self) -> f64 {
        if self.sine < NO_TANGENT { 0.0 } else { 1.0 / self.sine }
    }
}
