//! Powers of clamped rows in explicit vectors: a value goes from the input to its power, or to its gradient, without
//! leaving the registers. Only where nothing can leave the normal range; `rows` does everything else.

use pulp::Simd;

/// Values whose `f32` lane sums are added to the row's `f64` sums at once.
const PART: usize = 1024;
/// Adding and subtracting 1.5 * 2^23 rounds to the nearest whole number in any instruction set.
const ROUND: f32 = 12_582_912.0;
/// `log2(1 + m) / m` between the roots of 1/2 and 2, less 1: minimax, relative error 3e-8.
const LOG2: [f32; 9] = [
    std::f32::consts::LOG2_E,
    -0.721_347_33,
    0.480_910_63,
    -0.360_703_68,
    0.287_916_24,
    -0.238_944_83,
    0.215_715_6,
    -0.207_269_74,
    0.125_837_01,
];
/// `2^r` from -1/2 to 1/2: minimax, relative error 2e-9.
const EXP2: [f32; 7] = [
    1.0,
    std::f32::consts::LN_2,
    0.240_226_46,
    0.055_503_286,
    0.009_618_489,
    0.001_339_993_1,
    0.000_153_458_12,
];

/// A power that products make.
pub(crate) fn whole(power: f32) -> Option<u32> {
    (power.fract() == 0.0 && (0.0..=4.0).contains(&power)).then_some(power as u32)
}

/// How the values of a row become numbers in `(0, 1]`: raised to `eps`, divided by the largest (or `eps`).
#[derive(Clone, Copy)]
pub(crate) struct Clamped {
    eps: f32,
    inverse: f32,
}

impl Clamped {
    /// `None` where a quotient could leave the normal range.
    #[inline(always)]
    pub(crate) fn new(eps: f32, top: f32) -> Option<Self> {
        let inverse = 1.0 / top;
        (inverse.is_normal() && eps * inverse >= f32::MIN_POSITIVE).then_some(Self { eps, inverse })
    }

    #[inline(always)]
    fn of<S: Simd>(self, simd: S, v: S::f32s) -> S::f32s {
        simd.mul_f32s(simd.max_f32s(v, simd.splat_f32s(self.eps)), simd.splat_f32s(self.inverse))
    }
}

/// The largest value of a row; NaN if one is not finite.
#[inline(always)]
pub(crate) fn largest<S: Simd>(simd: S, x: &[f32]) -> f32 {
    let (full, tail) = S::as_simd_f32s(x);
    let (zero, low) = (simd.splat_f32s(0.0), simd.splat_f32s(f32::MIN));
    let (mut highs, mut zeros) = ([low; 2], [zero; 2]);
    let (pairs, last) = full.as_chunks::<2>();
    for pair in pairs {
        for (lane, &v) in pair.iter().enumerate() {
            highs[lane] = simd.max_f32s(highs[lane], v);
            // NaN and infinity times 0 are NaN, and stay so.
            zeros[lane] = simd.mul_add_e_f32s(v, zero, zeros[lane]);
        }
    }
    for &v in last {
        highs[0] = simd.max_f32s(highs[0], v);
        zeros[0] = simd.mul_add_e_f32s(v, zero, zeros[0]);
    }
    let mut high = simd.reduce_max_f32s(simd.max_f32s(highs[0], highs[1]));
    let mut zero = simd.reduce_sum_f32s(simd.add_f32s(zeros[0], zeros[1]));
    for &v in tail {
        high = if v > high { v } else { high };
        zero += v * 0.0;
    }
    if zero == 0.0 { high } else { f32::NAN }
}

/// `sum u^p` and, if asked for (else 0), `sum u^p ln u`; `p` is above 0.
#[inline(always)]
pub(crate) fn sums<S: Simd>(simd: S, x: &[f32], clamped: Clamped, p: f32, logs: bool) -> (f64, f64) {
    match (whole(p), logs) {
        (Some(1), false) => sums_of::<S, 1, false>(simd, x, clamped, p),
        (Some(2), false) => sums_of::<S, 2, false>(simd, x, clamped, p),
        (Some(3), false) => sums_of::<S, 3, false>(simd, x, clamped, p),
        (Some(4), false) => sums_of::<S, 4, false>(simd, x, clamped, p),
        (_, false) => sums_of::<S, REAL, false>(simd, x, clamped, p),
        (Some(1), true) => sums_of::<S, 1, true>(simd, x, clamped, p),
        (Some(2), true) => sums_of::<S, 2, true>(simd, x, clamped, p),
        (Some(3), true) => sums_of::<S, 3, true>(simd, x, clamped, p),
        (Some(4), true) => sums_of::<S, 4, true>(simd, x, clamped, p),
        (_, true) => sums_of::<S, REAL, true>(simd, x, clamped, p),
    }
}

/// No whole power.
const REAL: u32 = u32::MAX;

#[inline(always)]
fn sums_of<S: Simd, const K: u32, const LOGS: bool>(
    simd: S,
    x: &[f32],
    clamped: Clamped,
    p: f32,
) -> (f64, f64) {
    let (p, zero) = (simd.splat_f32s(p), simd.splat_f32s(0.0));
    let (mut total, mut total_logs) = (0.0, 0.0);
    for part in x.chunks(PART) {
        let (full, tail) = S::as_simd_f32s(part);
        let (pairs, last) = full.as_chunks::<2>();
        let (mut sums, mut of_logs) = ([zero; 2], [zero; 2]);
        for pair in pairs {
            for (lane, &v) in pair.iter().enumerate() {
                let (power, log) = term::<S, K, LOGS>(simd, v, clamped, p);
                sums[lane] = simd.add_f32s(sums[lane], power);
                of_logs[lane] = simd.mul_add_e_f32s(power, log, of_logs[lane]);
            }
        }
        for &v in last {
            let (power, log) = term::<S, K, LOGS>(simd, v, clamped, p);
            sums[0] = simd.add_f32s(sums[0], power);
            of_logs[0] = simd.mul_add_e_f32s(power, log, of_logs[0]);
        }
        if !tail.is_empty() {
            let (power, log) = term::<S, K, LOGS>(simd, simd.partial_load_f32s(tail), clamped, p);
            let keep = simd.mask_between_m32s(0, tail.len() as u32).mask();
            let power = simd.select_f32s(keep, power, zero);
            sums[1] = simd.add_f32s(sums[1], power);
            of_logs[1] = simd.mul_add_e_f32s(power, log, of_logs[1]);
        }
        total += f64::from(simd.reduce_sum_f32s(simd.add_f32s(sums[0], sums[1])));
        if LOGS {
            total_logs += f64::from(simd.reduce_sum_f32s(simd.add_f32s(of_logs[0], of_logs[1])));
        }
    }
    (total, total_logs * std::f64::consts::LN_2)
}

/// `u^p` and `log2 u` (0 where nothing needs it).
#[inline(always)]
fn term<S: Simd, const K: u32, const LOGS: bool>(
    simd: S,
    v: S::f32s,
    clamped: Clamped,
    p: S::f32s,
) -> (S::f32s, S::f32s) {
    let u = clamped.of(simd, v);
    let log = if LOGS || K == REAL { log2(simd, u) } else { simd.splat_f32s(0.0) };
    let power = if K == REAL { exp2(simd, simd.mul_f32s(p, log)) } else { product::<S, K>(simd, u) };
    (power, log)
}

/// `dx_i = factor u_i^power` where `x_i` is not below `eps`, else 0. `power` is the row's less 1.
#[inline(always)]
pub(crate) fn slopes<S: Simd>(simd: S, x: &[f32], clamped: Clamped, power: f32, factor: f32, dx: &mut [f32]) {
    match whole(power) {
        Some(0) => slopes_of::<S, 0>(simd, x, clamped, power, factor, dx),
        Some(1) => slopes_of::<S, 1>(simd, x, clamped, power, factor, dx),
        Some(2) => slopes_of::<S, 2>(simd, x, clamped, power, factor, dx),
        Some(3) => slopes_of::<S, 3>(simd, x, clamped, power, factor, dx),
        Some(4) => slopes_of::<S, 4>(simd, x, clamped, power, factor, dx),
        _ => slopes_of::<S, REAL>(simd, x, clamped, power, factor, dx),
    }
}

#[inline(always)]
fn slopes_of<S: Simd, const K: u32>(
    simd: S,
    x: &[f32],
    clamped: Clamped,
    p: f32,
    factor: f32,
    dx: &mut [f32],
) {
    let p = simd.splat_f32s(p);
    // NaN stays NaN.
    let factors = (simd.splat_f32s(factor), simd.splat_f32s(factor * 0.0));
    let ((full, tail), (to, to_tail)) = (S::as_simd_f32s(x), S::as_mut_simd_f32s(dx));
    for (to, &v) in to.iter_mut().zip(full) {
        *to = slope::<S, K>(simd, v, clamped, p, factors);
    }
    if !tail.is_empty() {
        let v = simd.partial_load_f32s(tail);
        simd.partial_store_f32s(to_tail, slope::<S, K>(simd, v, clamped, p, factors));
    }
}

#[inline(always)]
fn slope<S: Simd, const K: u32>(
    simd: S,
    v: S::f32s,
    clamped: Clamped,
    p: S::f32s,
    (factor, below): (S::f32s, S::f32s),
) -> S::f32s {
    let (power, _) = term::<S, K, false>(simd, v, clamped, p);
    let at_least = simd.less_than_or_equal_f32s(simd.splat_f32s(clamped.eps), v);
    simd.mul_f32s(simd.select_f32s(at_least, factor, below), power)
}

#[inline(always)]
fn product<S: Simd, const K: u32>(simd: S, u: S::f32s) -> S::f32s {
    match K {
        0 => simd.splat_f32s(1.0),
        1 => u,
        2 => simd.mul_f32s(u, u),
        3 => simd.mul_f32s(simd.mul_f32s(u, u), u),
        _ => {
            let square = simd.mul_f32s(u, u);
            simd.mul_f32s(square, square)
        }
    }
}

/// Of normal numbers above 0, within 2 ulp (tested).
#[inline(always)]
fn log2<S: Simd>(simd: S, u: S::f32s) -> S::f32s {
    // The exponent is cut at the root of 1/2, so that the mantissa lies around 1.
    const CUT: u32 = 0x3f35_04f3;
    let bits = simd.add_u32s(simd.transmute_u32s_f32s(u), simd.splat_u32s(0x3f80_0000 - CUT));
    // The biased exponent as the last bits of a float of 2^23.
    let exponent = simd.wrapping_dyn_shr_u32s(bits, simd.splat_u32s(23));
    let exponent = simd.transmute_f32s_u32s(simd.or_u32s(exponent, simd.splat_u32s(0x4b00_0000)));
    let exponent = simd.sub_f32s(exponent, simd.splat_f32s(8_388_608.0 + 127.0));
    let mantissa = simd.and_u32s(bits, simd.splat_u32s(0x007f_ffff));
    let mantissa = simd.transmute_f32s_u32s(simd.add_u32s(mantissa, simd.splat_u32s(CUT)));
    let m = simd.sub_f32s(mantissa, simd.splat_f32s(1.0));
    simd.mul_add_e_f32s(horner(simd, m, &LOG2), m, exponent)
}

/// Within 2 ulp up to 127 (tested); of -126 and less, the least normal number.
#[inline(always)]
fn exp2<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    let x = simd.max_f32s(x, simd.splat_f32s(-126.0));
    let shifted = simd.add_f32s(x, simd.splat_f32s(ROUND));
    let r = simd.sub_f32s(x, simd.sub_f32s(shifted, simd.splat_f32s(ROUND)));
    // The last bits of `shifted` are the whole number, and move into the exponent.
    let whole = simd.wrapping_dyn_shl_u32s(simd.transmute_u32s_f32s(shifted), simd.splat_u32s(23));
    let power = simd.transmute_u32s_f32s(horner(simd, r, &EXP2));
    simd.transmute_f32s_u32s(simd.add_u32s(power, whole))
}

#[inline(always)]
fn horner<S: Simd, const N: usize>(simd: S, x: S::f32s, coefficients: &[f32; N]) -> S::f32s {
    let mut sum = simd.splat_f32s(coefficients[N - 1]);
    let mut i = N - 1;
    while i > 0 {
        i -= 1;
        sum = simd.mul_add_e_f32s(sum, x, simd.splat_f32s(coefficients[i]));
    }
    sum
}

#[cfg(test)]
mod tests {
    use embedtune_core::simd::with_simd;
    use pulp::WithSimd;

    use super::*;

    struct Each<'a> {
        values: &'a [f32],
        log: bool,
    }

    impl WithSimd for Each<'_> {
        type Output = Vec<f32>;

        fn with_simd<S: Simd>(self, simd: S) -> Vec<f32> {
            let mut out = vec![0.0f32; self.values.len()];
            for (to, &v) in out.iter_mut().zip(self.values) {
                let v = simd.splat_f32s(v);
                let mut lanes = [0.0f32; 64];
                let result = if self.log { log2(simd, v) } else { exp2(simd, v) };
                let (lanes_simd, _) = S::as_mut_simd_f32s(&mut lanes);
                lanes_simd[0] = result;
                *to = lanes[0];
            }
            out
        }
    }

    /// The largest error in ulp of the exact value, but at least of `least`.
    fn worst(values: &[f32], log: bool, exact: fn(f64) -> f64, least: f64) -> f64 {
        let got = with_simd(Each { values, log });
        let error = |(&x, &got): (&f32, &f32)| {
            let exact = exact(f64::from(x));
            let ulp = f64::from(f32::EPSILON) * exact.abs().max(least).log2().floor().exp2();
            (f64::from(got) - exact).abs() / ulp
        };
        values.iter().zip(&got).map(error).fold(0.0, |a, b| if b <= a { a } else { b })
    }

    #[test]
    fn logarithms_and_powers_are_within_two_ulp() {
        let normal: Vec<f32> =
            (f32::MIN_POSITIVE.to_bits()..0x7f80_0000).step_by(1499).map(f32::from_bits).collect();
        let error = worst(&normal, true, f64::log2, 1.0);
        assert!(error <= 2.0, "log2: {error}");
        // Near 1 the result is small and its ulp with it.
        let near: Vec<f32> = (0..200_000).map(|i| 0.95 + i as f32 * 5e-7).collect();
        let error = worst(&near, true, f64::log2, 1e-3);
        assert!(error <= 2.0, "log2 near 1: {error}");
        let exponents: Vec<f32> = (0..2_529_000).map(|i| -126.0 + i as f32 * 1e-4).collect();
        let error = worst(&exponents, false, f64::exp2, 0.0);
        assert!(error <= 2.0, "exp2: {error}");
        assert_eq!(with_simd(Each { values: &[1.0], log: true }), [0.0]);
        let ends = with_simd(Each { values: &[0.0, -1e30, f32::NEG_INFINITY, -126.0], log: false });
        assert_eq!(ends, [1.0, f32::MIN_POSITIVE, f32::MIN_POSITIVE, f32::MIN_POSITIVE]);
    }
}
