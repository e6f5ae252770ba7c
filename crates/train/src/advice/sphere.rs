//! How far apart so many directions can stand.

use std::f64::consts::{FRAC_PI_2, PI};

use serde::Serialize;

/// Where a separation comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Source {
    /// `dim >= classes - 1`: the regular simplex, all cosines `-1 / (classes - 1)`; exact.
    Simplex,
    /// `classes <= 2 dim`: at best all cosines are at most 0 and one is 0; exact.
    Rankin,
    /// `dim = 2`: equal steps around the circle; exact.
    Circle,
    /// `dim = 1` holds two directions; more classes share one.
    Line,
    /// No formula is known: an estimate between two bounds.
    Estimate,
}

impl Source {
    /// In words, with the reference.
    pub fn describe(self) -> &'static str {
        match self {
            Self::Simplex => "exact: the simplex bound, cos = -1/(classes - 1) (Rankin 1955, theorem 1)",
            Self::Rankin => {
                "exact: Rankin's bound, 90 degrees for dim + 1 < classes <= 2 dim (Rankin 1955, theorem 2)"
            }
            Self::Circle => "exact: equal steps around the circle, 360 degrees / classes",
            Self::Line => "exact: one dimension holds two directions",
            Self::Estimate => {
                "an estimate: one third of the way down from the least known upper bound (caps of half the angle do \
                 not overlap; Levenshtein 1998, L3) to what greedy placement reaches for certain (Shannon 1959); the \
                 best known arrangements of 10 to 196560 directions in 3 to 24 dimensions are within 15% of it"
            }
        }
    }

    /// Whether the angle is the true one.
    pub fn exact(self) -> bool {
        self != Self::Estimate
    }
}

/// The largest smallest angle between any two of some directions, in radians.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Separation {
    /// The angle; exact or an estimate, as `source` says.
    pub angle: f64,
    /// Reached for certain.
    pub at_least: f64,
    /// Exceeded by no arrangement.
    pub at_most: f64,
    /// How it is known.
    pub source: Source,
}

/// How far apart `classes` directions in `dim` dimensions can stand at best. `classes` and `dim` are at least 1; a
/// single direction has no neighbour and gets pi.
pub fn separation(classes: usize, dim: usize) -> Separation {
    let exact = |angle, source| Separation { angle, at_least: angle, at_most: angle, source };
    let count = classes as f64;
    match (classes, dim) {
        (0..=2, _) => exact(PI, Source::Simplex),
        (_, 0 | 1) => exact(0.0, Source::Line),
        _ if dim >= classes - 1 => exact((-1.0 / (count - 1.0)).acos(), Source::Simplex),
        (_, 2) => exact(2.0 * PI / count, Source::Circle),
        _ if classes <= dim.saturating_mul(2) => exact(FRAC_PI_2, Source::Rankin),
        _ => {
            let (at_least, at_most) = (greedy(count, dim), upper(count, dim));
            let angle = at_most - (at_most - at_least) / 3.0;
            Separation { angle, at_least, at_most, source: Source::Estimate }
        }
    }
}

/// As long as caps of this radius around all others leave a point free, another direction fits.
fn greedy(count: f64, dim: usize) -> f64 {
    increasing(FRAC_PI_2, |angle| ln_cap(angle, dim) + (count - 1.0).ln())
}

fn upper(count: f64, dim: usize) -> f64 {
    let packing = 2.0 * increasing(FRAC_PI_2, |radius| ln_cap(radius, dim) + count.ln());
    FRAC_PI_2.min(packing).min(levenshtein(count, dim as f64))
}

/// `count <= n (1 - s) (2 + (n + 1) s) / (1 - n s^2)` for cosines up to `s`, which holds for `s` from 0 to
/// `(sqrt(n + 3) - 1) / (n + 2)`; beyond that this bound says nothing.
fn levenshtein(count: f64, n: f64) -> f64 {
    let most = |s: f64| n * (1.0 - s) * (2.0 + (n + 1.0) * s) / (1.0 - n * s * s);
    let end = ((n + 3.0).sqrt() - 1.0) / (n + 2.0);
    if most(end) < count { PI } else { increasing(end, |s| most(s) - count).acos() }
}

/// The zero of an increasing function between 0 and `end`, or `end` where it stays below.
fn increasing(end: f64, of: impl Fn(f64) -> f64) -> f64 {
    let (mut low, mut high) = (0.0, end);
    for _ in 0..60 {
        let middle = 0.5 * (low + high);
        if of(middle) < 0.0 { low = middle } else { high = middle }
    }
    0.5 * (low + high)
}

/// Logarithm of the share of the unit sphere in `dim` dimensions within `angle` (above 0, at most pi / 2) of a point:
/// the integral of `sin^(dim - 2)` from 0 to `angle` over that from 0 to pi.
fn ln_cap(angle: f64, dim: usize) -> f64 {
    let power = dim as f64 - 2.0;
    if angle <= 0.0 {
        return f64::NEG_INFINITY;
    }
    let (part, whole) = (scaled_integral(angle, power), 2.0 * scaled_integral(FRAC_PI_2, power));
    part.ln() + power * angle.sin().ln() - whole.ln()
}

/// `integral of (sin t / sin end)^power` from 0 to `end` by Simpson's rule, over the stretch where it is not below
/// e^-30 of its largest value: within 1e-7 of the result at any power.
fn scaled_integral(end: f64, power: f64) -> f64 {
    const STEPS: usize = 2000;
    let slope = power / end.tan().max(f64::MIN_POSITIVE) + power.sqrt();
    let length = end.min(60.0 / slope.max(f64::MIN_POSITIVE));
    let at = |step: usize| {
        let t = end - length * step as f64 / STEPS as f64;
        ((t.sin().max(f64::MIN_POSITIVE) / end.sin()).ln() * power).exp()
    };
    let inner: f64 = (1..STEPS).map(|step| if step % 2 == 1 { 4.0 } else { 2.0 } * at(step)).sum();
    (at(0) + inner + at(STEPS)) * length / (3.0 * STEPS as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn caps_have_their_share() {
        // In three dimensions (1 - cos) / 2; in four (angle - sin cos) / pi.
        for angle in [0.05f64, 0.7, 1.3, FRAC_PI_2] {
            approx::assert_relative_eq!(
                ln_cap(angle, 3).exp(),
                (1.0 - angle.cos()) / 2.0,
                max_relative = 1e-7
            );
            let four = (angle - angle.sin() * angle.cos()) / PI;
            approx::assert_relative_eq!(ln_cap(angle, 4).exp(), four, max_relative = 1e-7);
        }
        // scipy 1.16: log(betainc((d - 1) / 2, 1 / 2, sin(angle)^2) / 2).
        for (dim, degrees, expected) in
            [(512, 79.21695412315277, 1e-5f64.ln()), (64, 67.89138816795804, (1.0f64 / 999.0).ln())]
        {
            let got = ln_cap(f64::to_radians(degrees), dim);
            assert!((got - expected).abs() < 2e-5 * expected.abs(), "{dim}: {got} {expected}");
        }
    }

    #[test]
    fn exact_cases_are_exact() {
        for (classes, dim, degrees, source) in [
            (2, 1, 180.0, Source::Simplex),
            (3, 2, 120.0, Source::Simplex),
            (4, 2, 90.0, Source::Circle),
            (10, 2, 36.0, Source::Circle),
            (10, 9, 96.379_370_208_442_8, Source::Simplex),
            (10, 8, 90.0, Source::Rankin),
            (10, 5, 90.0, Source::Rankin),
            (3, 1, 0.0, Source::Line),
        ] {
            let found = separation(classes, dim);
            assert_eq!(found.source, source, "{classes} in {dim}");
            approx::assert_relative_eq!(found.angle.to_degrees(), degrees, max_relative = 1e-12);
        }
    }

    /// Sloane's tables of spherical codes and the sharp configurations (Cohn and Kumar 2007, table 1).
    #[test]
    fn estimates_stand_by_the_best_known_arrangements() {
        for (dim, classes, degrees) in [
            (3, 12, 63.434_95),
            (3, 24, 43.690_77),
            (3, 32, 37.377_37),
            (4, 10, 80.405_93),
            (4, 24, 60.0),
            (4, 120, 36.0),
            (5, 16, 78.463_04),
            (6, 27, 75.522_49),
            (7, 126, 60.0),
            (8, 240, 60.0),
            (22, 275, 80.405_93),
            (24, 196_560, 60.0),
        ] {
            let found = separation(classes, dim);
            let [low, angle, high] = [found.at_least, found.angle, found.at_most].map(f64::to_degrees);
            assert_eq!(found.source, Source::Estimate);
            assert!(low < degrees && degrees < high + 1e-3, "{classes} in {dim}: {low} {degrees} {high}");
            assert!((angle / degrees - 1.0).abs() < 0.15, "{classes} in {dim}: {angle} {degrees}");
        }
    }

    #[test]
    fn sizes_of_any_kind_give_a_number() {
        for classes in [0, 1, 5, 1_000_000, usize::MAX] {
            for dim in [0, 1, 2, 3, 512, 1 << 20, usize::MAX] {
                let found = separation(classes, dim);
                assert!((0.0..=PI).contains(&found.angle), "{classes} in {dim}: {found:?}");
                assert!(found.at_least <= found.at_most);
            }
        }
    }
}
