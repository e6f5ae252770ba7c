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

/// What is summed over a row: its values to a power, and those times their logarithms.
#[derive(Clone, Copy)]
pub(crate) enum Terms {
    /// The values are the powers.
    Powers,
    /// The values' squares, cubes and fourth powers.
    Square,
    Cube,
    Fourth,
}

impl Terms {
    #[inline(always)]
    fn of<S: Simd>(self, simd: S, v: S::f32s) -> S::f32s {
        match self {
            Self::Powers => v,
            Self::Square => simd.mul_f32s(v, v),
            Self::Cube => simd.mul_f32s(simd.mul_f32s(v, v), v),
            Self::Fourth => {
                let square = simd.mul_f32s(v, v);
                simd.mul_f32s(square, square)
            }
        }
    }
}

/// The sum of a row's terms: `f32` in lanes for a part of it, `f64` over the parts.
#[inline(always)]
pub(crate) fn sum<S: Simd>(simd: S, x: &[f32], terms: Terms) -> f64 {
    let mut total = 0.0;
    for part in x.chunks(PART) {
        let (full, tail) = S::as_simd_f32s(part);
        let (pairs, last) = full.as_chunks::<2>();
        let mut sums = [simd.splat_f32s(0.0); 2];
        for &[a, b] in pairs {
            sums = [simd.add_f32s(sums[0], terms.of(simd, a)), simd.add_f32s(sums[1], terms.of(simd, b))];
        }
        for &a in last {
            sums[0] = simd.add_f32s(sums[0], terms.of(simd, a));
        }
        sums[1] = simd.add_f32s(sums[1], terms.of(simd, simd.partial_load_f32s(tail)));
        total += f64::from(simd.reduce_sum_f32s(simd.add_f32s(sums[0], sums[1])));
    }
    total
}

/// [`sum`], in the same order, and that of the terms times `logs`.
#[inline(always)]
pub(crate) fn sums<S: Simd>(simd: S, x: &[f32], logs: &[f32], terms: Terms) -> (f64, f64) {
    let (mut total, mut total_logs) = (0.0, 0.0);
    for (x, logs) in x.chunks(PART).zip(logs.chunks(PART)) {
        let ((full, tail), (log_full, log_tail)) = (S::as_simd_f32s(x), S::as_simd_f32s(logs));
        let ((pairs, last), (log_pairs, log_last)) = (full.as_chunks::<2>(), log_full.as_chunks::<2>());
        let mut sums = [simd.splat_f32s(0.0); 4];
        for (&[a, b], &[log_a, log_b]) in pairs.iter().zip(log_pairs) {
            let (a, b) = (terms.of(simd, a), terms.of(simd, b));
            sums = [
                simd.add_f32s(sums[0], a),
                simd.add_f32s(sums[1], b),
                simd.add_f32s(sums[2], simd.mul_f32s(a, log_a)),
                simd.add_f32s(sums[3], simd.mul_f32s(b, log_b)),
            ];
        }
        for (&a, &log) in last.iter().zip(log_last) {
            let a = terms.of(simd, a);
            sums[0] = simd.add_f32s(sums[0], a);
            sums[2] = simd.add_f32s(sums[2], simd.mul_f32s(a, log));
        }
        let (rest, log) = (terms.of(simd, simd.partial_load_f32s(tail)), simd.partial_load_f32s(log_tail));
        sums[1] = simd.add_f32s(sums[1], rest);
        sums[3] = simd.add_f32s(sums[3], simd.mul_f32s(rest, log));
        total += f64::from(simd.reduce_sum_f32s(simd.add_f32s(sums[0], sums[1])));
        total_logs += f64::from(simd.reduce_sum_f32s(simd.add_f32s(sums[2], sums[3])));
    }
    (total, total_logs)
}
