//! Elementary functions that the compiler can vectorise. Call them inside [`crate::simd::dispatch`].

/// `exp(x)` by Cody-Waite reduction to `[-ln 2 / 2, ln 2 / 2]` and a polynomial of degree 6; at most 2 ulp from
/// the exact value on `[-87, 88]` (tested). Below -87.3 the result is 0 (denormals are flushed), above 88.7 it is
/// clamped near the largest float; NaN gives NaN or a finite value, so check inputs before.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    const LOG2_E: f32 = std::f32::consts::LOG2_E;
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    // Adding and subtracting 1.5 * 2^23 rounds to the nearest whole number in any instruction set.
    const ROUND: f32 = 12_582_912.0;
    let clamped = x.clamp(-87.336, 88.72);
    let n = (clamped * LOG2_E + ROUND) - ROUND;
    let r = (clamped - n * LN2_HIGH) - n * LN2_LOW;
    // Taylor coefficients: the seventh term is below 1e-8 relative on the reduced range.
    let p = 1.0 / 720.0;
    let p = p * r + 1.0 / 120.0;
    let p = p * r + 1.0 / 24.0;
    let p = p * r + 1.0 / 6.0;
    let p = p * r + 0.5;
    let p = p * r * r + r + 1.0;
    // Two factors, so that 2^128 does not overflow before the product.
    let half = n * 0.5 + ROUND - ROUND;
    let power = |e: f32| f32::from_bits((((e as i32) + 127) << 23) as u32);
    let value = p * power(half) * power(n - half);
    if x < -87.336 { 0.0 } else { value }
}

#[cfg(test)]
mod tests {
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
