//! Powers of clamped rows in explicit vectors: a value goes from the input to its power, or to its gradient, without
//! leaving the registers. Only where nothing can leave the normal range; `rows` does everything else.

mod math;
#[cfg(target_arch = "x86_64")]
mod wide;

use pulp::Simd;

use math::{exp2, log2};

/// Values of a lane that are summed in `f32`; the sums of all lanes are added to the row's `f64` sums at once.
const PART: usize = 64;

/// A power that products make.
pub(crate) fn whole(power: f32) -> Option<u32> {
    (power.fract() == 0.0 && (0.0..=4.0).contains(&power)).then_some(power as u32)
}

/// How the values of a row become numbers in `(0, 1]`: raised to `eps`, divided by the largest (or `eps`).
#[derive(Clone, Copy)]
pub(crate) struct Clamped {
    eps: f32,
    inverse: f32,
    top: f32,
}

impl Clamped {
    /// `None` where a quotient could leave the normal range.
    #[inline(always)]
    pub(crate) fn new(eps: f32, top: f32) -> Option<Self> {
        let inverse = 1.0 / top;
        (inverse.is_normal() && eps * inverse >= f32::MIN_POSITIVE).then_some(Self { eps, inverse, top })
    }

    /// These for the `K`-th power by products. One below the normal numbers takes a hundred times as long and adds nothing
    /// that counts.
    #[inline(always)]
    fn for_products<const K: u32>(self) -> Self {
        let least = match K {
            0 | 1 | REAL => return self,
            2 => 2f32.powi(-62),
            3 => 2f32.powi(-41),
            _ => 2f32.powi(-31),
        };
        Self { eps: self.eps.max(self.top * least), ..self }
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
    let clamped = clamped.for_products::<K>();
    let (p, zero) = (simd.splat_f32s(p), simd.splat_f32s(0.0));
    let (mut total, mut total_logs) = (0.0, 0.0);
    for part in x.chunks(PART * S::F32_LANES) {
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
    let (p, eps) = (simd.splat_f32s(p), simd.splat_f32s(clamped.eps));
    let clamped = clamped.for_products::<K>();
    // NaN stays NaN.
    let factors = (simd.splat_f32s(factor), simd.splat_f32s(factor * 0.0));
    let ((full, tail), (to, to_tail)) = (S::as_simd_f32s(x), S::as_mut_simd_f32s(dx));
    for (to, &v) in to.iter_mut().zip(full) {
        *to = slope::<S, K>(simd, v, (clamped, eps), p, factors);
    }
    if !tail.is_empty() {
        let v = simd.partial_load_f32s(tail);
        simd.partial_store_f32s(to_tail, slope::<S, K>(simd, v, (clamped, eps), p, factors));
    }
}

#[inline(always)]
fn slope<S: Simd, const K: u32>(
    simd: S,
    v: S::f32s,
    (clamped, eps): (Clamped, S::f32s),
    p: S::f32s,
    (factor, below): (S::f32s, S::f32s),
) -> S::f32s {
    let (power, _) = term::<S, K, false>(simd, v, clamped, p);
    let at_least = simd.less_than_or_equal_f32s(eps, v);
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
