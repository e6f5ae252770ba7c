//! `log2` and `exp2` of vectors.

use pulp::Simd;

#[cfg(target_arch = "x86_64")]
use super::wide;

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

/// Of normal numbers above 0 and at most 2^126, within 2 ulp (tested).
#[inline(always)]
pub(super) fn log2<S: Simd>(simd: S, u: S::f32s) -> S::f32s {
    #[cfg(target_arch = "x86_64")]
    if let Some((simd, u)) = wide::from(simd, u)
        && let Some(result) = wide::to::<S>(wide::log2(simd, u))
    {
        return result;
    }
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
pub(super) fn exp2<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    #[cfg(target_arch = "x86_64")]
    if let Some((simd, x)) = wide::from(simd, x)
        && let Some(result) = wide::to::<S>(wide::exp2(simd, x))
    {
        return result;
    }
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
        let normal: Vec<f32> = (f32::MIN_POSITIVE.to_bits()..=2f32.powi(126).to_bits())
            .step_by(1499)
            .map(f32::from_bits)
            .collect();
        let error = worst(&normal, true, f64::log2, 1.0);
        assert!(error <= 2.0, "log2: {error}");
        // Where the exponent goes up, and where a table's next entry begins.
        let cuts =
            (0..64).flat_map(|cut| (0x3f40_0000 + (cut << 18) - 64)..=(0x3f40_0000 + (cut << 18) + 64));
        let cuts: Vec<f32> = cuts.map(f32::from_bits).collect();
        let error = worst(&cuts, true, f64::log2, 1e-3);
        assert!(error <= 2.0, "log2 at the cuts: {error}");
        // Near 1 the result is small and its ulp with it.
        let near: Vec<f32> = (0..200_000).map(|i| 0.95 + i as f32 * 5e-7).collect();
        let error = worst(&near, true, f64::log2, 1e-3);
        assert!(error <= 2.0, "log2 near 1: {error}");
        let exponents: Vec<f32> = (0..2_529_000).map(|i| -126.0 + i as f32 * 1e-4).collect();
        let error = worst(&exponents, false, f64::exp2, 0.0);
        assert!(error <= 2.0, "exp2: {error}");
        assert_eq!(with_simd(Each { values: &[1.0], log: true }), [0.0]);
        let ends = with_simd(Each { values: &[0.0, -126.0, -1e30, f32::NEG_INFINITY], log: false });
        assert_eq!(ends, [1.0, f32::MIN_POSITIVE, f32::MIN_POSITIVE, f32::MIN_POSITIVE]);
    }
}
