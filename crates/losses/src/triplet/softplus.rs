//! `log(1 + exp(v))` and its slope, without a branch, so that a loop over them becomes vector instructions.

/// The unit in which arguments and values are measured, and its reciprocal. Distances of scaled rows come in another
/// unit than 1, and the soft hinge's bend is 1 wide.
#[derive(Clone, Copy)]
pub(crate) struct Unit {
    unit: f32,
    inverse: f32,
}

impl Unit {
    /// `unit` is a power of two.
    pub(crate) fn new(unit: f64) -> Self {
        Self { unit: unit as f32, inverse: unit.recip().min(2.0f64.powi(127)) as f32 }
    }
}

/// For `v` in units of `u`: `(u log(1 + exp(v / u)), 1 / (1 + exp(-v / u)))`. Relative error below 3e-7 for `v / u`
/// above -87; below that both stay at about 1e-38 and never reach 0.
#[inline(always)]
pub(crate) fn softplus(v: f32, u: Unit) -> (f32, f32) {
    let e = exp_negative(-(v.abs() * u.inverse));
    let inverse = 1.0 / (1.0 + e);
    (v.max(0.0) + u.unit * ln_1p_unit(e), if v >= 0.0 { inverse } else { e * inverse })
}

/// `exp(x)` for `x <= 0`, at least `exp(-87.3)`: `2^k exp(r)` with `|r| <= ln(2) / 2`; the polynomial is Cephes'
/// `expf`.
#[inline(always)]
fn exp_negative(x: f32) -> f32 {
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    // Adding 1.5 * 2^23 rounds to an integer and leaves it in the low bits; a cast would check for NaN, lane by lane.
    const ROUND: f32 = 12_582_912.0;
    let x = x.max(-87.3);
    let rounded = x * std::f32::consts::LOG2_E + ROUND;
    let k = rounded - ROUND;
    let r = x - k * LN2_HIGH - k * LN2_LOW;
    let mut p = 1.987_569_2e-4;
    for c in [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 5e-1] {
        p = p * r + c;
    }
    let exp = p * r * r + r + 1.0;
    let exponent = rounded.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127);
    exp * f32::from_bits(exponent << 23)
}

/// `ln(1 + e)` for `0 <= e <= 1`; Cephes' `logf` on `1 + e`, or on its half where it exceeds the root of 2, so that
/// a small `e` keeps its digits.
#[inline(always)]
fn ln_1p_unit(e: f32) -> f32 {
    let halve = e > std::f32::consts::SQRT_2 - 1.0;
    let z = if halve { 0.5 * e - 0.5 } else { e };
    let base = if halve { std::f32::consts::LN_2 } else { 0.0 };
    let mut p = 7.037_683_6e-2;
    for c in [
        -1.151_461e-1,
        1.167_699_9e-1,
        -1.242_014_1e-1,
        1.424_932_3e-1,
        -1.666_805_8e-1,
        2.000_071_5e-1,
        -2.499_999_4e-1,
        3.333_333e-1,
    ] {
        p = p * z + c;
    }
    let square = z * z;
    base + (z - 0.5 * square + p * z * square)
}

#[cfg(test)]
mod tests {
    use super::{Unit, softplus};

    #[test]
    fn agrees_with_f64_everywhere() {
        for i in -87_000..=90_000i32 {
            let v = i as f32 * 1e-3;
            let x = f64::from(v);
            let (value, slope) = softplus(v, Unit::new(1.0));
            let expected = x.max(0.0) + (-x.abs()).exp().ln_1p();
            let expected_slope = if x >= 0.0 { 1.0 / (1.0 + (-x).exp()) } else { x.exp() / (1.0 + x.exp()) };
            assert!(
                (f64::from(value) / expected - 1.0).abs() < 3e-7,
                "softplus({v}) = {value}, not {expected}"
            );
            assert!((f64::from(slope) / expected_slope - 1.0).abs() < 3e-7, "slope at {v}: {slope}");
        }
    }

    #[test]
    fn is_finite_at_the_extremes() {
        for v in [f32::MIN, -1e30, -100.0, 100.0, 1e30, f32::MAX] {
            let (value, slope) = softplus(v, Unit::new(1.0));
            assert!(value.is_finite() && value > 0.0 && value >= v, "{v}: {value}");
            assert!((0.0..=1.0).contains(&slope), "{v}: {slope}");
        }
    }
}
