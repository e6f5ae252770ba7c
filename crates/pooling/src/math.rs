//! `exp` and `ln` for powers, with fused products where the instruction set has them. Element by element, in loops
//! that the compiler vectorises.

use pulp::Simd;

/// Adding and subtracting 1.5 * 2^23 rounds to the nearest whole number in any instruction set.
const ROUND: f32 = 12_582_912.0;
const LN2_HIGH: f32 = 0.693_359_4;
const LN2_LOW: f32 = -2.121_944_4e-4;

/// Writes the logarithms of values above 0.
#[inline(always)]
pub(crate) fn ln_all<S: Simd>(values: &[f32], logs: &mut [f32]) {
    let pairs = logs.iter_mut().zip(values);
    if fused::<S>() {
        for (log, &v) in pairs {
            *log = ln::<true>(v);
        }
    } else {
        for (log, &v) in pairs {
            *log = ln::<false>(v);
        }
    }
}

/// Writes `exp(p log)` of each logarithm.
#[inline(always)]
pub(crate) fn exp_all<S: Simd>(p: f32, logs: &[f32], powers: &mut [f32]) {
    let pairs = powers.iter_mut().zip(logs);
    if fused::<S>() {
        for (power, &log) in pairs {
            *power = exp::<true>(p * log);
        }
    } else {
        for (power, &log) in pairs {
            *power = exp::<false>(p * log);
        }
    }
}

/// Replaces values above 0 by `exp(p ln v)`, in two passes: together they need more registers than there are.
#[inline(always)]
pub(crate) fn power_all<S: Simd>(p: f32, values: &mut [f32]) {
    if fused::<S>() {
        values.iter_mut().for_each(|v| *v = ln::<true>(*v));
        values.iter_mut().for_each(|v| *v = exp::<true>(p * *v));
    } else {
        values.iter_mut().for_each(|v| *v = ln::<false>(*v));
        values.iter_mut().for_each(|v| *v = exp::<false>(p * *v));
    }
}

/// `ln(mean)` and `mean^(1 / p)` of each; means in `(0, 1]`, powers of at least 1. To 1e-13, much more than the `f32` that
/// they become needs, in the vectors that the library's functions of one number have not.
#[inline(always)]
pub(crate) fn roots<S: Simd, const N: usize>(means: &[f64; N], p: &[f64; N]) -> ([f64; N], [f64; N]) {
    let (mut logs, mut roots) = ([0.0; N], [0.0; N]);
    if fused::<S>() {
        logs.iter_mut().zip(means).for_each(|(log, &mean)| *log = ln_64::<true>(mean));
        roots.iter_mut().zip(logs.iter().zip(p)).for_each(|(root, (log, p))| *root = exp_64::<true>(log / p));
    } else {
        logs.iter_mut().zip(means).for_each(|(log, &mean)| *log = ln_64::<false>(mean));
        roots
            .iter_mut()
            .zip(logs.iter().zip(p))
            .for_each(|(root, (log, p))| *root = exp_64::<false>(log / p));
    }
    (logs, roots)
}

/// Whether the vectors are those of AVX2 with FMA or AVX-512; elsewhere `mul_add` might be a slow call.
fn fused<S: Simd>() -> bool {
    S::F32_LANES >= 8
}

#[inline(always)]
fn mul_add<const FUSED: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FUSED { a.mul_add(b, c) } else { a * b + c }
}

/// Within 2 ulp (tested) by reduction to `[sqrt(1/2), sqrt(2)]` and the polynomial of Cephes' `logf`.
#[inline(always)]
fn ln<const FUSED: bool>(x: f32) -> f32 {
    // Denormals are scaled up, so that their exponent field means what it says.
    let small = x < f32::MIN_POSITIVE;
    let x = if small { x * 8_388_608.0 } else { x };
    // Centre the mantissa around 1 by moving the exponent's cut to sqrt(1/2).
    let shifted = x.to_bits().wrapping_sub(0x3f35_04f3);
    let exponent = ((shifted as i32) >> 23) as f32 - if small { 23.0 } else { 0.0 };
    let m = f32::from_bits((shifted & 0x007f_ffff).wrapping_add(0x3f35_04f3)) - 1.0;
    let square = m * m;
    let p = 7.037_683_6e-2;
    let p = mul_add::<FUSED>(p, m, -1.151_461e-1);
    let p = mul_add::<FUSED>(p, m, 1.167_699_9e-1);
    let p = mul_add::<FUSED>(p, m, -1.242_014_1e-1);
    let p = mul_add::<FUSED>(p, m, 1.424_932_3e-1);
    let p = mul_add::<FUSED>(p, m, -1.666_805_7e-1);
    let p = mul_add::<FUSED>(p, m, 2.000_071_5e-1);
    let p = mul_add::<FUSED>(p, m, -2.499_999_4e-1);
    let p = mul_add::<FUSED>(p, m, 3.333_333e-1);
    let low = mul_add::<FUSED>(p * m, square, exponent * LN2_LOW);
    let low = mul_add::<FUSED>(square, -0.5, low);
    mul_add::<FUSED>(exponent, LN2_HIGH, m + low)
}

/// Within 2 ulp on `[-87, 88]` (tested) by Cody-Waite reduction to `[-ln 2 / 2, ln 2 / 2]` and the Taylor polynomial
/// of degree 7. Below -87.3 the result is 0 (denormals are flushed), above 88 that at 88.
#[inline(always)]
fn exp<const FUSED: bool>(x: f32) -> f32 {
    let clamped = x.clamp(-87.336, 88.0);
    let n = mul_add::<FUSED>(clamped, std::f32::consts::LOG2_E, ROUND) - ROUND;
    let r = mul_add::<FUSED>(n, -LN2_HIGH, clamped);
    let r = mul_add::<FUSED>(n, -LN2_LOW, r);
    let p = 1.0 / 5040.0;
    let p = mul_add::<FUSED>(p, r, 1.0 / 720.0);
    let p = mul_add::<FUSED>(p, r, 1.0 / 120.0);
    let p = mul_add::<FUSED>(p, r, 1.0 / 24.0);
    let p = mul_add::<FUSED>(p, r, 1.0 / 6.0);
    let p = mul_add::<FUSED>(p, r, 0.5);
    let p = mul_add::<FUSED>(p * r, r, r) + 1.0;
    // 2^n: the last bits of `n + ROUND` are the whole number.
    let power = f32::from_bits((n + ROUND).to_bits().wrapping_sub(ROUND.to_bits() - 127) << 23);
    if x < -87.336 { 0.0 } else { p * power }
}

#[inline(always)]
fn mul_add_64<const FUSED: bool>(a: f64, b: f64, c: f64) -> f64 {
    if FUSED { a.mul_add(b, c) } else { a * b + c }
}

/// Adding 1.5 * 2^52 rounds to the nearest whole number, which then is the last bits.
const ROUND_64: f64 = 6_755_399_441_055_744.0;

/// Of normal numbers above 0: `ln m = 2 artanh((m - 1) / (m + 1))` by its series for `m` between the roots of 1/2 and 2.
#[inline(always)]
fn ln_64<const FUSED: bool>(x: f64) -> f64 {
    // The bits of the root of 1/2, where the exponent is cut.
    const CUT: u64 = 0x3fe6_a09e_667f_3bcd;
    let shifted = x.to_bits().wrapping_sub(CUT);
    // The exponent, below 0 or not, as the last bits of a float; then that float's value.
    let exponent = (shifted >> 52) ^ 0x800;
    let exponent = f64::from_bits(exponent | 0x4330_0000_0000_0000) - (4_503_599_627_370_496.0 + 2048.0);
    let m = f64::from_bits((shifted & 0x000f_ffff_ffff_ffff).wrapping_add(CUT));
    let s = (m - 1.0) / (m + 1.0);
    let square = s * s;
    let mut sum = 1.0 / 19.0;
    for odd in [17.0, 15.0, 13.0, 11.0, 9.0, 7.0, 5.0, 3.0, 1.0] {
        sum = mul_add_64::<FUSED>(sum, square, 1.0 / odd);
    }
    mul_add_64::<FUSED>(exponent, std::f64::consts::LN_2, 2.0 * s * sum)
}

/// Of numbers from -700 to 0, by Taylor's polynomial of degree 12 around the next multiple of `ln 2`.
#[inline(always)]
fn exp_64<const FUSED: bool>(x: f64) -> f64 {
    let shifted = mul_add_64::<FUSED>(x, std::f64::consts::LOG2_E, ROUND_64);
    let r = mul_add_64::<FUSED>(shifted - ROUND_64, -std::f64::consts::LN_2, x);
    let mut sum = 1.0 / 479_001_600.0;
    for factorial in
        [39_916_800.0, 3_628_800.0, 362_880.0, 40_320.0, 5_040.0, 720.0, 120.0, 24.0, 6.0, 2.0, 1.0, 1.0]
    {
        sum = mul_add_64::<FUSED>(sum, r, 1.0 / factorial);
    }
    f64::from_bits(sum.to_bits().wrapping_add(shifted.to_bits() << 52))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The largest error of `f` over `inputs`, in ulp of the exact value, but at least of `least`.
    fn worst(inputs: impl Iterator<Item = f32>, f: fn(f32) -> f32, exact: fn(f64) -> f64, least: f64) -> f64 {
        let error = |x: f32| {
            let exact = exact(f64::from(x));
            let ulp = f64::from(f32::EPSILON) * exact.abs().max(least).log2().floor().exp2();
            (f64::from(f(x)) - exact).abs() / ulp
        };
        inputs.map(error).fold(0.0, |a, b| if b <= a { a } else { b })
    }

    #[test]
    fn roots_are_those_of_the_library() {
        let means: Vec<f64> = (0..200_000).map(|i| (f64::from(i) * -3e-4).exp()).collect();
        for (ln, exp) in [
            (ln_64::<true> as fn(f64) -> f64, exp_64::<true> as fn(f64) -> f64),
            (ln_64::<false>, exp_64::<false>),
        ] {
            for &mean in &means {
                let log = mean.ln();
                assert!(
                    (ln(mean) - log).abs() <= 1e-14 * log.abs().max(1e-2),
                    "ln {mean}: {} {log}",
                    ln(mean)
                );
                assert!((exp(log) / mean - 1.0).abs() <= 1e-13, "exp {log}: {} {mean}", exp(log));
            }
            assert_eq!((ln(1.0), exp(0.0)), (0.0, 1.0));
        }
    }

    #[test]
    fn both_variants_are_within_two_ulp() {
        for (ln, exp) in
            [(ln::<true> as fn(f32) -> f32, exp::<true> as fn(f32) -> f32), (ln::<false>, exp::<false>)]
        {
            let positive = || (0..0x7f80_0000u32).step_by(1499).map(|bits| f32::from_bits(bits.max(1)));
            let error = worst(positive(), ln, f64::ln, 1.0);
            assert!(error <= 2.0, "ln: {error}");
            // Near 1 the result is small and its ulp with it.
            let near = (0..200_000).map(|i| 0.95 + i as f32 * 5e-7);
            let error = worst(near, ln, f64::ln, 1e-3);
            assert!(error <= 2.0, "ln near 1: {error}");
            let error = worst((0..1_750_000).map(|i| -87.0 + i as f32 * 1e-4), exp, f64::exp, 0.0);
            assert!(error <= 2.0, "exp: {error}");
            assert_eq!((ln(1.0), exp(0.0), exp(-1e30), exp(f32::NEG_INFINITY)), (0.0, 1.0, 0.0, 0.0));
            assert!(exp(1e30).is_finite());
        }
    }
}
