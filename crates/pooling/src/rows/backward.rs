//! GeM of rows, backward: the gradients of the values.

use embedtune_core::simd::prefetch;
use pulp::Simd;

use super::{CHUNK, Magnitudes, Maps, Pooled, Relative, narrow, raise, sum_here};
use crate::Sign;
use crate::math::power_all;
use crate::options::Gem;
use crate::vectors::{self, Clamped};

/// Gradients of the values of the rows that [`gem_rows`] pooled.
#[inline(always)]
pub(crate) fn gem_backward_rows<S: Simd>(
    simd: S,
    maps: Maps<'_>,
    pooled: &[Pooled],
    upstream: &[f32],
    dx: &mut [f32],
) {
    if maps.length == 0 {
        return;
    }
    if !maps.in_vectors() {
        gem_backward_rows_in_steps::<S>(maps, pooled, upstream, dx);
        return;
    }
    let mut later = maps.rows().skip(2);
    for (row, (x, dx)) in maps.rows().zip(dx.chunks_exact_mut(maps.length)).enumerate() {
        later.next().into_iter().for_each(prefetch);
        if let Some(clamped) = Clamped::new(maps.options.eps, pooled[row].top) {
            let factor = pooled[row].factor(upstream[row]);
            vectors::slopes(simd, x, clamped, maps.power(row) - 1.0, factor, dx);
        } else {
            gem_backward_rows_in_steps::<S>(maps.one(row), &pooled[row..=row], &upstream[row..=row], dx);
        }
    }
}

/// [`gem_backward_rows`] of rows of any kind.
#[inline(always)]
fn gem_backward_rows_in_steps<S: Simd>(maps: Maps<'_>, pooled: &[Pooled], upstream: &[f32], dx: &mut [f32]) {
    let Maps { length, options, p, .. } = maps;
    let rows = (CHUNK / length).max(1);
    let whole = maps.whole(1.0);
    let parts = maps.parts(rows).zip(pooled.chunks(rows).zip(upstream.chunks(rows)));
    for ((maps, (pooled, upstream)), dx) in parts.zip(dx.chunks_mut(rows * length)) {
        for ((x, dx), pooled) in maps.rows().zip(dx.chunks_exact_mut(length)).zip(pooled) {
            let magnitudes = Magnitudes { eps: options.eps, low: pooled.low, scale: pooled.scale };
            magnitudes.relative(x, options.sign, Relative::to(pooled.top), dx);
        }
        match (whole, p) {
            (Some(k), _) => raise(dx, k),
            (None, &[_]) => power_all::<S>(maps.power(0) - 1.0, dx),
            (None, _) => {
                let rows = dx.chunks_exact_mut(length).enumerate();
                rows.for_each(|(row, dx)| power_all::<S>(maps.power(row) - 1.0, dx));
            }
        }
        for (row, (x, dx)) in maps.rows().zip(dx.chunks_exact_mut(length)).enumerate() {
            slopes(x, maps.power(row), options, &pooled[row], upstream[row], dx);
        }
    }
}

/// From `u_i^(p - 1)` to `dx_i`, in place.
#[inline(always)]
fn slopes(x: &[f32], p: f32, options: &Gem, pooled: &Pooled, upstream: f32, dx: &mut [f32]) {
    let factor = pooled.factor(upstream);
    let eps = options.eps;
    // What is below eps has another share of the slope; of NaN, NaN.
    let below = match options.sign {
        Sign::Clamp => factor * 0.0,
        Sign::Shift => factor,
        Sign::Signed => factor / p,
    };
    let signed = options.sign == Sign::Signed;
    for (d, &v) in dx.iter_mut().zip(x) {
        let size = if signed { v.abs() } else { v };
        let slope = if size < eps { below } else { factor };
        *d = (slope * *d).clamp(-f32::MAX, f32::MAX);
    }
    match options.sign {
        Sign::Clamp => {}
        // The minimum is subtracted everywhere and added back: it gets what the others leave.
        Sign::Shift => {
            if let Some(d) = dx.get_mut(pooled.place) {
                *d = 0.0;
                let others = sum_here(dx);
                dx[pooled.place] = narrow(f64::from(upstream) - others);
            }
        }
        Sign::Signed => {
            if let Some(d) = dx.get_mut(pooled.place) {
                *d = narrow(f64::from(*d) + f64::from(pooled.extra) * f64::from(upstream));
            }
        }
    }
}

impl Pooled {
    /// What the powers are multiplied by, backward; within `f32`: infinity times a power that is 0 would be NaN.
    #[inline(always)]
    fn factor(&self, upstream: f32) -> f32 {
        (self.slope * upstream).clamp(-f32::MAX, f32::MAX)
    }
}
