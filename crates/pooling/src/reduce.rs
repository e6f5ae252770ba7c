//! Reductions of a row in explicit vectors: loops that carry a value from step to step are those that the compiler
//! does not vectorise by itself.

use pulp::Simd;

/// Values whose `f32` lane sums are added to the row's `f64` sum at once.
const PART: usize = 1024;

/// What one pass over a row finds.
pub(crate) struct Extremes {
    pub(crate) low: f32,
    pub(crate) high: f32,
    pub(crate) finite: bool,
}

/// The extremes of a finite row; of another one only that it is not finite.
#[inline(always)]
pub(crate) fn extremes<S: Simd>(simd: S, x: &[f32]) -> Extremes {
    let (full, tail) = S::as_simd_f32s(x);
    let zero = simd.splat_f32s(0.0);
    let (mut lows, mut highs) = (simd.splat_f32s(f32::INFINITY), simd.splat_f32s(f32::NEG_INFINITY));
    // NaN and infinity times 0 are NaN, and stay so.
    let mut zeros = zero;
    for &v in full {
        lows = simd.min_f32s(lows, v);
        highs = simd.max_f32s(highs, v);
        zeros = simd.add_f32s(zeros, simd.mul_f32s(v, zero));
    }
    let mut low = simd.reduce_min_f32s(lows);
    let mut high = simd.reduce_max_f32s(highs);
    let mut zero = simd.reduce_sum_f32s(zeros);
    for &v in tail {
        low = if v < low { v } else { low };
        high = if v > high { v } else { high };
        zero += v * 0.0;
    }
    Extremes { low, high, finite: zero == 0.0 }
}

/// A row's sum: `f32` in lanes for a part of it, `f64` over the parts.
#[inline(always)]
pub(crate) fn sum<S: Simd>(simd: S, x: &[f32]) -> f64 {
    let mut total = 0.0;
    for part in x.chunks(PART) {
        let (full, tail) = S::as_simd_f32s(part);
        let (pairs, last) = full.as_chunks::<2>();
        let mut sums = [simd.splat_f32s(0.0); 2];
        for &[a, b] in pairs {
            sums = [simd.add_f32s(sums[0], a), simd.add_f32s(sums[1], b)];
        }
        for &a in last {
            sums[0] = simd.add_f32s(sums[0], a);
        }
        sums[1] = simd.add_f32s(sums[1], simd.partial_load_f32s(tail));
        total += f64::from(simd.reduce_sum_f32s(simd.add_f32s(sums[0], sums[1])));
    }
    total
}

/// [`sum`] of the products of two rows.
#[inline(always)]
pub(crate) fn dot<S: Simd>(simd: S, x: &[f32], y: &[f32]) -> f64 {
    let mut total = 0.0;
    for (x, y) in x.chunks(PART).zip(y.chunks(PART)) {
        let ((full, tail), (y_full, y_tail)) = (S::as_simd_f32s(x), S::as_simd_f32s(y));
        let mut sums = simd.mul_f32s(simd.partial_load_f32s(tail), simd.partial_load_f32s(y_tail));
        for (&a, &b) in full.iter().zip(y_full) {
            sums = simd.add_f32s(sums, simd.mul_f32s(a, b));
        }
        total += f64::from(simd.reduce_sum_f32s(sums));
    }
    total
}
