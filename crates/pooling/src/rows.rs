//! One row of values to one value, and back.

use embedtune_core::{simd, vecmath};

use crate::options::Gem;
use crate::{MIN_P, Sign};

/// Softening of the signed root, relative to the largest magnitude to the power `p`.
const SOFT: f64 = 1e-3;

/// A pooled row and what its backward pass needs.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Pooled {
    /// The pooled value.
    pub value: f32,
    /// `d value / d p`.
    pub d_p: f32,
    /// Largest magnitude of the row.
    top: f32,
    /// Factor of the values' gradient, see [`gem_backward`].
    slope: f32,
}

const LANES: usize = 16;

/// Generalised mean of `x` with power `p` (raised to [`MIN_P`] if lower). Of an empty row it is 0. Finite for
/// finite `x`; NaN gives NaN or is passed over as a small value.
pub fn gem(x: &[f32], p: f32, options: &Gem) -> Pooled {
    if x.is_empty() {
        return Pooled::default();
    }
    simd::dispatch(|| forward(x, p.max(MIN_P), options))
}

#[inline(always)]
fn forward(x: &[f32], p: f32, options: &Gem) -> Pooled {
    let floor = if options.sign == Sign::Clamp { options.eps } else { f32::MIN_POSITIVE };
    let mut tops = [floor; LANES];
    for chunk in x.chunks(LANES) {
        for (top, &v) in tops.iter_mut().zip(chunk) {
            let v = if options.sign == Sign::Clamp { v } else { v.abs() };
            *top = if v > *top { v } else { *top };
        }
    }
    let top = tops.iter().fold(floor, |a, &b| if b > a { b } else { a });
    // In relative terms every power lies in [0, 1].
    let (mut sums, mut logs) = ([0.0f32; LANES], [0.0f32; LANES]);
    let inverse = 1.0 / top;
    let (mut total, mut total_log) = (0.0f64, 0.0f64);
    for part in x.chunks(4096) {
        for chunk in part.chunks(LANES) {
            for (lane, &v) in chunk.iter().enumerate() {
                let (magnitude, sign) = split(v, floor, options.sign);
                let log = vecmath::ln(magnitude * inverse);
                let power = vecmath::exp(p * log) * sign;
                sums[lane] += power;
                logs[lane] += power * log;
            }
        }
        total += sums.iter().map(|&v| f64::from(v)).sum::<f64>();
        total_log += logs.iter().map(|&v| f64::from(v)).sum::<f64>();
        (sums, logs) = ([0.0; LANES], [0.0; LANES]);
    }
    let n = x.len() as f64;
    let (mean, mean_log, p) = (total / n, total_log / n, f64::from(p));
    let soft = if options.sign == Sign::Clamp { 0.0 } else { SOFT };
    // y / top = sign(S) ((|S| + soft)^(1/p) - soft^(1/p)).
    let inside = (mean.abs() + soft).max(f64::MIN_POSITIVE);
    let root = inside.powf(1.0 / p);
    let rest = if soft > 0.0 { soft.powf(1.0 / p) } else { 0.0 };
    let sign = if mean < 0.0 { -1.0 } else { 1.0 };
    let value = sign * (root - rest);
    let d_root = root / (p * inside);
    let soft_log = if soft > 0.0 { rest * soft.ln() } else { 0.0 };
    let d_p = d_root * mean_log - sign * (root * inside.ln() - soft_log) / (p * p);
    let top = f64::from(top);
    Pooled {
        value: (value * top) as f32,
        d_p: (d_p * top) as f32,
        top: top as f32,
        slope: (d_root * p / n) as f32,
    }
}

/// Magnitude (at least `floor`) and sign of a value under the sign policy.
#[inline(always)]
fn split(v: f32, floor: f32, sign: Sign) -> (f32, f32) {
    if sign == Sign::Clamp {
        return (if v > floor { v } else { floor }, 1.0);
    }
    let magnitude = v.abs();
    // A value that is 0 beside the largest keeps a tiny magnitude: its logarithm must exist.
    (if magnitude > floor { magnitude } else { floor }, if v < 0.0 { -1.0 } else { 1.0 })
}

/// Writes `upstream * d value / d x` into `dx`. `pooled` is what [`gem`] returned for the same `x`, `p`, `options`.
pub fn gem_backward(x: &[f32], p: f32, options: &Gem, pooled: &Pooled, upstream: f32, dx: &mut [f32]) {
    if x.is_empty() {
        return;
    }
    let p = p.max(MIN_P);
    simd::dispatch(|| {
        let floor = if options.sign == Sign::Clamp { options.eps } else { f32::MIN_POSITIVE };
        let (inverse, factor) = (1.0 / pooled.top, pooled.slope * upstream);
        for (dx, &v) in dx.iter_mut().zip(x) {
            let (magnitude, _) = split(v, floor, options.sign);
            let log = vecmath::ln(magnitude * inverse);
            // For p < 1 a vanishing value has an unbounded slope: the exponent is capped well inside f32.
            let exponent = (p - 1.0) * log;
            let power = vecmath::exp(if exponent > 40.0 { 40.0 } else { exponent });
            let passes = options.sign == Sign::Signed || v >= floor;
            *dx = if passes { factor * power } else { 0.0 };
        }
    });
}

/// Arithmetic mean in `f64`; 0 for an empty row.
pub fn average(x: &[f32]) -> f32 {
    (x.iter().map(|&v| f64::from(v)).sum::<f64>() / x.len().max(1) as f64) as f32
}

/// Position of the largest value; the first of equals; 0 for an empty row.
pub fn argmax(x: &[f32]) -> usize {
    x.iter()
        .enumerate()
        .fold((0, f32::NEG_INFINITY), |best, (i, &v)| if v > best.1 { (i, v) } else { best })
        .0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::GemOptions;

    fn wave(n: usize) -> Vec<f32> {
        (0..n).map(|i| 2.0 * (0.7 * i as f32 + 0.3).sin()).collect()
    }

    fn exact(x: &[f32], p: f64, sign: Sign) -> f64 {
        let n = x.len() as f64;
        match sign {
            Sign::Clamp => (x.iter().map(|&v| f64::from(v).max(1e-6).powf(p)).sum::<f64>() / n).powf(1.0 / p),
            Sign::Signed => {
                let top = x.iter().fold(0.0f64, |m, &v| m.max(f64::from(v).abs()));
                let s = x
                    .iter()
                    .map(|&v| f64::from(v).signum() * (f64::from(v).abs() / top).powf(p))
                    .sum::<f64>()
                    / n;
                top * s.signum() * ((s.abs() + SOFT).powf(1.0 / p) - SOFT.powf(1.0 / p))
            }
        }
    }

    #[test]
    fn value_and_gradients_match_the_definition() {
        for sign in [Sign::Clamp, Sign::Signed] {
            let options = GemOptions { sign, ..GemOptions::default() }.build().unwrap();
            for p in [0.5f32, 1.0, 2.4, 3.0, 7.5] {
                let x = wave(49);
                let pooled = gem(&x, p, &options);
                let p64 = f64::from(p);
                let value = exact(&x, p64, sign);
                assert!(
                    (f64::from(pooled.value) - value).abs() < 2e-5 * value.abs().max(1.0),
                    "{sign:?} {p}"
                );
                let d_p = (exact(&x, p64 + 1e-5, sign) - exact(&x, p64 - 1e-5, sign)) / 2e-5;
                assert!(
                    (f64::from(pooled.d_p) - d_p).abs() < 1e-3 * d_p.abs().max(0.1),
                    "{sign:?} {p} {} {d_p}",
                    pooled.d_p
                );
                let mut dx = vec![0.0; x.len()];
                gem_backward(&x, p, &options, &pooled, 1.0, &mut dx);
                for i in [0, 3, 11, 40] {
                    let at = |step: f32| {
                        let mut x = x.clone();
                        x[i] += step;
                        exact(&x, p64, sign)
                    };
                    let step = 1e-3f32;
                    let moved = f64::from(x[i] + step) - f64::from(x[i] - step);
                    let numeric = (at(step) - at(-step)) / moved;
                    // The largest magnitude also sets the softening's unit, which the gradient leaves out.
                    assert!(
                        (f64::from(dx[i]) - numeric).abs() < 2e-3 * numeric.abs().max(1.0),
                        "{sign:?} {p} {i} {} {numeric}",
                        dx[i]
                    );
                }
            }
        }
    }

    #[test]
    fn limits_and_extremes() {
        let clamp = GemOptions::default().build().unwrap();
        let signed = GemOptions { sign: Sign::Signed, ..GemOptions::default() }.build().unwrap();
        let x: Vec<f32> = wave(30).iter().map(|v| v.abs() + 0.1).collect();
        assert!((gem(&x, 1.0, &clamp).value - average(&x)).abs() < 1e-5);
        assert!((gem(&x, 500.0, &clamp).value - x[argmax(&x)]).abs() < 0.02);
        assert!((gem(&wave(30), 1.0, &signed).value - average(&wave(30))).abs() < 1e-5);
        for options in [clamp, signed] {
            for x in [
                vec![0.0f32; 9],
                vec![3e38; 9],
                vec![1e-38; 9],
                vec![-3e38, 3e38, 0.0],
                vec![41.0; 4],
                vec![-1.0; 5],
                vec![f32::MIN_POSITIVE / 8.0; 3],
            ] {
                for p in [0.1f32, 0.5, 1.0, 3.0, 100.0] {
                    let pooled = gem(&x, p, &options);
                    let mut dx = vec![0.0; x.len()];
                    gem_backward(&x, p, &options, &pooled, 1.0, &mut dx);
                    assert!(pooled.value.is_finite() && pooled.d_p.is_finite(), "{x:?} {p} {pooled:?}");
                    assert!(dx.iter().all(|v| v.is_finite()), "{x:?} {p} {dx:?}");
                }
            }
        }
        assert_eq!(gem(&[], 3.0, &clamp).value, 0.0);
    }
}
