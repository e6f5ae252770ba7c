//! Elementary functions that the compiler can vectorise. Call them inside [`crate::simd::dispatch`].

/// Adding and subtracting 1.5 * 2^23 rounds to the nearest whole number in any instruction set.
const ROUND: f32 = 12_582_912.0;

/// `exp(x)` by Cody-Waite reduction to `[-ln 2 / 2, ln 2 / 2]` and a polynomial of degree 7; at most 2 ulp from
/// the exact value on `[-87, 88]` (tested). Below -87.3 the result is 0 (denormals are flushed), above 88.7 it is
/// clamped near the largest float; NaN gives NaN or a finite value, so check inputs before.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    const LOG2_E: f32 = std::f32::consts::LOG2_E;
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let clamped = x.clamp(-87.336, 88.72);
    let n = (clamped * LOG2_E + ROUND) - ROUND;
    let r = (clamped - n * LN2_HIGH) - n * LN2_LOW;
    // Taylor coefficients: the next term is below 1e-8 on the reduced range.
    let p = 1.0 / 5040.0;
    let p = p * r + 1.0 / 720.0;
    let p = p * r + 1.0 / 120.0;
    let p = p * r + 1.0 / 24.0;
    let p = p * r + 1.0 / 6.0;
    let p = p * r + 0.5;
    let p = p * r * r + r + 1.0;
    // Two factors, so that 2^128 does not overflow before the product.
    let half = n * 0.5 + ROUND - ROUND;
    let value = p * power_of_two(half) * power_of_two(n - half);
    if x < -87.336 { 0.0 } else { value }
}

/// 2^e of a whole `e` from -126 to 127. The last bits of `e + ROUND` are the whole number: unlike a conversion, which
/// must check its range, that vectorises.
#[inline(always)]
fn power_of_two(e: f32) -> f32 {
    f32::from_bits((e + ROUND).to_bits().wrapping_sub(ROUND.to_bits() - 127) << 23)
}

/// Natural logarithm of a positive, finite `x` by reduction to `[sqrt(1/2), sqrt(2)]` and a series in
/// `(m - 1) / (m + 1)`; within 3 ulp, or 1e-7 absolutely near 1 (tested). Other input gives an unspecified finite
/// value or NaN.
#[inline(always)]
pub fn ln(x: f32) -> f32 {
    // Denormals are scaled up, so that their exponent field means what it says.
    let small = x < f32::MIN_POSITIVE;
    let x = if small { x * 8_388_608.0 } else { x };
    let bits = x.to_bits();
    // Centre the mantissa around 1 by moving the exponent's cut to sqrt(1/2).
    let shifted = bits.wrapping_sub(0x3f35_04f3);
    let exponent = (shifted as i32) >> 23;
    let m = f32::from_bits((shifted & 0x007f_ffff).wrapping_add(0x3f35_04f3));
    let e = exponent as f32 - if small { 23.0 } else { 0.0 };
    let t = (m - 1.0) / (m + 1.0);
    let t2 = t * t;
    let p = 1.0 / 9.0;
    let p = p * t2 + 1.0 / 7.0;
    let p = p * t2 + 0.2;
    let p = p * t2 + 1.0 / 3.0;
    let series = 2.0 * t + 2.0 * t * t2 * p;
    (e * -2.121_944_4e-4 + series) + e * 0.693_359_4
}

#[cfg(test)]
mod tests {
    #[test]
    fn ln_is_within_three_ulp() {
        let mut x = 1e-44f32;
        while x < 3e38 {
            let exact = f64::from(x).ln();
            let got = f64::from(super::ln(x));
            let ulp = f64::from(f32::from_bits((exact as f32).abs().to_bits() + 1)) - exact.abs();
            assert!((got - exact).abs() <= (3.0 * ulp.abs()).max(1e-7), "{x}: {got} {exact}");
            x *= 1.0007;
            if x < 1e-40 {
                x *= 1.5;
            }
        }
        assert_eq!(super::ln(1.0), 0.0);
    }

    #[test]
    fn exp_is_within_two_ulp() {
        let mut worst = 0.0f64;
        for i in 0..=1_750_000 {
            let x = -87.0 + i as f32 * 1e-4;
            let exact = f64::from(x).exp();
            let got = crate::simd::dispatch(|| super::exp(x));
            let ulp = f64::from(f32::from_bits((exact as f32).to_bits() + 1)) - f64::from(exact as f32);
            worst = worst.max((f64::from(got) - exact).abs() / ulp);
        }
        assert!(worst <= 2.0, "{worst} ulp");
        assert_eq!(super::exp(-1e30), 0.0);
        assert_eq!(super::exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(super::exp(0.0), 1.0);
    }
}
