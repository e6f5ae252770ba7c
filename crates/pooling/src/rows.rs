//! One row of values to one value, and back: the arithmetic of every pooling in this crate.
//!
//! With magnitudes `c_i` and signs `q_i` that [`Sign`] makes of the values, `top = max c_i` and `u_i = c_i / top`,
//! GeM is `y = top f(S)`, `S = mean(q_i u_i^p)`, `f(S) = S^(1/p)` (Radenovic, Tolias and Chum 2019, equation 3,
//! divided by its largest term: every power lies in `[0, 1]`, so none overflows). Its gradients are
//! `dy/dx_i = f'(S) p u_i^(p-1) / n` and `dy/dp = top (f'(S) mean(q_i u_i^p ln u_i) + df/dp)`.

use embedtune_core::{simd, vecmath};

use crate::options::Gem;
use crate::{MIN_P, Sign};

/// Where the signed root becomes a straight line, as a share of the largest magnitude's power.
const STRAIGHT: f64 = 1e-3;
/// Values that are worked on together; sums are kept in this many lanes.
const LANES: usize = 16;
/// Values whose `f32` lane sums are added to the row's `f64` sum at once.
const PART: usize = 64 * LANES;
/// No place in the row.
const NOWHERE: usize = usize::MAX;

/// A pooled row and what its backward pass needs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pooled {
    /// The pooled value.
    pub value: f32,
    /// `d value / d p`; 0 where it was not asked for.
    pub d_p: f32,
    /// Largest `c_i`.
    top: f32,
    /// Smallest value, for [`Sign::Shift`].
    low: f32,
    /// `f'(S) p / n`.
    slope: f32,
    /// What the value at `place` receives beside its share of the powers.
    extra: f32,
    /// The maximum's place; the minimum's for [`Sign::Shift`]; the largest magnitude's for [`Sign::Signed`].
    place: usize,
}

impl Pooled {
    pub(crate) const EMPTY: Self =
        Self { value: 0.0, d_p: 0.0, top: 1.0, low: 0.0, slope: 0.0, extra: 0.0, place: NOWHERE };

    fn not_a_number() -> Self {
        Self { value: f32::NAN, d_p: f32::NAN, slope: f32::NAN, ..Self::EMPTY }
    }
}

/// Generalised mean of `x` with power `p` (raised to [`MIN_P`] if lower), with `d value / d p`.
///
/// An empty row gives 0. Finite values give finite results, whatever their range; a row with NaN or infinity gives
/// NaN in everything, never a number.
pub fn gem(x: &[f32], p: f32, options: &Gem) -> Pooled {
    simd::dispatch(
        #[inline(always)]
        || gem_here(x, p, options, true),
    )
}

/// Writes `upstream * d value / d x` to `dx`, of `x`'s length. `pooled` is what [`gem`] returned for the same `x`,
/// `p` and `options`. A gradient beyond `f32` becomes the largest finite value of its sign.
pub fn gem_backward(x: &[f32], p: f32, options: &Gem, pooled: &Pooled, upstream: f32, dx: &mut [f32]) {
    simd::dispatch(
        #[inline(always)]
        || gem_backward_here(x, p, options, pooled, upstream, dx),
    );
}

/// Arithmetic mean, summed in `f64`; 0 for an empty row.
pub fn average(x: &[f32]) -> f32 {
    simd::dispatch(
        #[inline(always)]
        || average_here(x),
    )
}

/// Position of the largest value, the first of equals; of the first NaN, if there is one; `None` in an empty row.
pub fn argmax(x: &[f32]) -> Option<usize> {
    simd::dispatch(
        #[inline(always)]
        || argmax_here(x),
    )
}

#[inline(always)]
fn sum_here(x: &[f32]) -> f64 {
    let mut sums = [0.0f64; LANES];
    let (full, tail) = x.as_chunks::<LANES>();
    for chunk in full {
        for (sum, &v) in sums.iter_mut().zip(chunk) {
            *sum += f64::from(v);
        }
    }
    for (sum, &v) in sums.iter_mut().zip(tail) {
        *sum += f64::from(v);
    }
    sums.iter().sum()
}

#[inline(always)]
pub(crate) fn average_here(x: &[f32]) -> f32 {
    (sum_here(x) / x.len().max(1) as f64) as f32
}

#[inline(always)]
pub(crate) fn argmax_here(x: &[f32]) -> Option<usize> {
    let (mut tops, mut odd) = ([f32::NEG_INFINITY; LANES], [false; LANES]);
    for chunk in x.chunks(LANES) {
        for ((top, odd), &v) in tops.iter_mut().zip(&mut odd).zip(chunk) {
            *top = if v > *top { v } else { *top };
            *odd |= v.is_nan();
        }
    }
    if odd.contains(&true) {
        return x.iter().position(|v| v.is_nan());
    }
    let top = tops.iter().fold(f32::NEG_INFINITY, |a, &b| if b > a { b } else { a });
    x.iter().position(|&v| v == top)
}

/// What one pass over a row finds.
struct Extremes {
    low: f32,
    high: f32,
    finite: bool,
}

#[inline(always)]
fn extremes(x: &[f32]) -> Extremes {
    let (mut lows, mut highs, mut zeros) =
        ([f32::INFINITY; LANES], [f32::NEG_INFINITY; LANES], [0.0f32; LANES]);
    let (full, tail) = x.as_chunks::<LANES>();
    let mut padded = [x.first().copied().unwrap_or_default(); LANES];
    padded[..tail.len()].copy_from_slice(tail);
    for chunk in full.iter().chain([&padded]) {
        for (lane, &v) in chunk.iter().enumerate() {
            lows[lane] = if v < lows[lane] { v } else { lows[lane] };
            highs[lane] = if v > highs[lane] { v } else { highs[lane] };
            // NaN and infinity times 0 are NaN, and stay so.
            zeros[lane] += v * 0.0;
        }
    }
    Extremes {
        low: lows.iter().fold(f32::INFINITY, |a, &b| if b < a { b } else { a }),
        high: highs.iter().fold(f32::NEG_INFINITY, |a, &b| if b > a { b } else { a }),
        finite: zeros.iter().all(|&z| z == 0.0),
    }
}

/// How values become magnitudes, see [`Sign`]. `scale` halves a shifted row whose spread is beyond `f32`.
#[derive(Clone, Copy)]
struct Magnitudes {
    eps: f32,
    low: f32,
    scale: f32,
}

impl Magnitudes {
    fn of(options: &Gem, low: f32, high: f32) -> Self {
        let wide = options.sign == Sign::Shift && !(high - low).is_finite();
        let scale = if wide { 0.5 } else { 1.0 };
        Self { eps: options.eps, low, scale }
    }

    #[inline(always)]
    fn clamped(self, v: f32) -> f32 {
        if v > self.eps { v } else { self.eps }
    }

    #[inline(always)]
    fn shifted(self, v: f32) -> f32 {
        (v * self.scale - self.low * self.scale) + self.eps * self.scale
    }
}

/// `c / top` without an intermediate that leaves the normal range.
#[derive(Clone, Copy)]
struct Relative {
    scale: f32,
    inverse: f32,
}

impl Relative {
    #[inline(always)]
    fn to(top: f32) -> Self {
        let scale = if top > 1e37 { 1.0 / 64.0 } else { 1.0 };
        Self { scale, inverse: 1.0 / (top * scale) }
    }

    #[inline(always)]
    fn of(self, c: f32) -> f32 {
        (c * self.scale) * self.inverse
    }
}

/// `u^k` for a whole `k` from 0 to 7. The bits of `k` do not change in a loop, so the choices leave it.
#[inline(always)]
fn whole_power(u: f32, k: u32) -> f32 {
    let square = u * u;
    let mut power = if k & 1 != 0 { u } else { 1.0 };
    power *= if k & 2 != 0 { square } else { 1.0 };
    power * if k & 4 != 0 { square * square } else { 1.0 }
}

/// `Some(k)` if `p` is a whole number that [`whole_power`] can take.
fn whole(p: f32) -> Option<u32> {
    (p.fract() == 0.0 && (0.0..=7.0).contains(&p)).then_some(p as u32)
}

#[inline(always)]
pub(crate) fn gem_here(x: &[f32], p: f32, options: &Gem, want_d_p: bool) -> Pooled {
    if x.is_empty() {
        return Pooled::EMPTY;
    }
    let Extremes { low, high, finite } = extremes(x);
    if !finite || !p.is_finite() {
        return Pooled::not_a_number();
    }
    let p = p.max(MIN_P);
    let magnitudes = Magnitudes::of(options, low, high);
    let (top, sums) = match options.sign {
        Sign::Clamp => {
            let top = magnitudes.clamped(high);
            let relative = Relative::to(top);
            (
                top,
                sums(
                    x,
                    p,
                    want_d_p,
                    #[inline(always)]
                    move |v| (relative.of(magnitudes.clamped(v)), 1.0),
                ),
            )
        }
        Sign::Shift => {
            let top = magnitudes.shifted(high);
            let relative = Relative::to(top);
            (
                top,
                sums(
                    x,
                    p,
                    want_d_p,
                    #[inline(always)]
                    move |v| (relative.of(magnitudes.shifted(v)), 1.0),
                ),
            )
        }
        Sign::Signed => {
            let top = magnitudes.clamped(if high > -low { high } else { -low });
            let relative = Relative::to(top);
            let inverse_eps = 1.0 / options.eps;
            (
                top,
                sums(
                    x,
                    p,
                    want_d_p,
                    #[inline(always)]
                    move |v: f32| {
                        // Below eps the signed power is a straight line: its slope at 0 is infinite for p < 1.
                        let sign = if v.abs() < magnitudes.eps { v * inverse_eps } else { 1f32.copysign(v) };
                        (relative.of(magnitudes.clamped(v.abs())), sign)
                    },
                ),
            )
        }
    };
    let n = x.len() as f64;
    let (mean, mean_log, p) = (sums.0 / n, sums.1 / n, f64::from(p));
    let (root, d_root, root_d_p, extra) = root(mean, p, options.sign);
    let wide_top = f64::from(top) / f64::from(magnitudes.scale);
    let mut pooled = Pooled {
        value: narrow(wide_top * root),
        d_p: if want_d_p { narrow(wide_top * (d_root * mean_log + root_d_p)) } else { 0.0 },
        top,
        low,
        slope: narrow(d_root * p / n),
        extra: 0.0,
        place: NOWHERE,
    };
    if options.sign == Sign::Shift {
        pooled.value = narrow(wide_top * root + f64::from(low) - f64::from(options.eps));
        pooled.place = x.iter().position(|&v| v == low).unwrap_or(NOWHERE);
    } else if extra != 0.0
        && let Some(at) = x.iter().position(|v| v.abs() == top)
    {
        // The straight part moves with the largest magnitude (unless that is eps).
        pooled.place = at;
        pooled.extra = if x[at] < 0.0 { -narrow(extra) } else { narrow(extra) };
    }
    pooled
}

/// To `f32`, beyond its range to its end.
pub(crate) fn narrow(v: f64) -> f32 {
    v.clamp(f64::from(-f32::MAX), f64::from(f32::MAX)) as f32
}

/// `f(S)`, `f'(S)`, `df/dp`, and `f - p S f'`, which is what `y = top f(S)` owes to `top` itself.
fn root(mean: f64, p: f64, sign: Sign) -> (f64, f64, f64, f64) {
    let size = mean.abs();
    if sign == Sign::Signed && size < STRAIGHT {
        let slope = STRAIGHT.powf(1.0 / p - 1.0);
        let root = mean * slope;
        return (root, slope, -root * STRAIGHT.ln() / (p * p), root * (1.0 - p));
    }
    // A mean of powers of which the largest is 1 is at least 1 / n.
    let log = size.max(f64::MIN_POSITIVE).ln();
    let root = (log / p).exp().copysign(mean);
    (root, root / (p * mean), -root * log / (p * p), 0.0)
}

/// Sums of `q u^p` and `q u^p ln u` over a row (the second only where wanted).
#[inline(always)]
fn sums(x: &[f32], p: f32, want_log: bool, part: impl Fn(f32) -> (f32, f32) + Copy) -> (f64, f64) {
    match (whole(p), want_log) {
        (Some(k), false) => lanes(
            x,
            #[inline(always)]
            move |v| {
                let (u, q) = part(v);
                (whole_power(u, k) * q, 0.0)
            },
        ),
        (Some(k), true) => lanes(
            x,
            #[inline(always)]
            move |v| {
                let (u, q) = part(v);
                let power = whole_power(u, k) * q;
                (power, power * vecmath::ln(u))
            },
        ),
        (None, _) => lanes(
            x,
            #[inline(always)]
            move |v| {
                let (u, q) = part(v);
                let log = vecmath::ln(u);
                let power = vecmath::exp(p * log) * q;
                (power, power * log)
            },
        ),
    }
}

/// Sums two terms of each value: `f32` in lanes for a part of the row, `f64` over the parts.
#[inline(always)]
fn lanes(x: &[f32], terms: impl Fn(f32) -> (f32, f32)) -> (f64, f64) {
    let (mut total, mut total_log) = (0.0f64, 0.0f64);
    for part in x.chunks(PART) {
        let (mut sums, mut logs) = ([0.0f32; LANES], [0.0f32; LANES]);
        let (full, tail) = part.as_chunks::<LANES>();
        for chunk in full {
            for lane in 0..LANES {
                let (power, log) = terms(chunk[lane]);
                sums[lane] += power;
                logs[lane] += log;
            }
        }
        if let Some(&first) = tail.first() {
            // A whole chunk costs less than its values one by one; only the tail's own are added.
            let mut chunk = [first; LANES];
            chunk[..tail.len()].copy_from_slice(tail);
            let (mut powers, mut power_logs) = ([0.0f32; LANES], [0.0f32; LANES]);
            for lane in 0..LANES {
                (powers[lane], power_logs[lane]) = terms(chunk[lane]);
            }
            for lane in 0..tail.len() {
                sums[lane] += powers[lane];
                logs[lane] += power_logs[lane];
            }
        }
        total += sums.iter().map(|&v| f64::from(v)).sum::<f64>();
        total_log += logs.iter().map(|&v| f64::from(v)).sum::<f64>();
    }
    (total, total_log)
}

#[inline(always)]
pub(crate) fn gem_backward_here(
    x: &[f32],
    p: f32,
    options: &Gem,
    pooled: &Pooled,
    upstream: f32,
    dx: &mut [f32],
) {
    let p = p.max(MIN_P);
    let factor = pooled.slope * upstream;
    // `top` of a shifted row carries the row's scale; its extremes give the same scale again.
    let high = if options.sign == Sign::Shift { extremes(x).high } else { 0.0 };
    let magnitudes = Magnitudes::of(options, pooled.low, high);
    let relative = Relative::to(pooled.top);
    match options.sign {
        Sign::Clamp => slopes(
            x,
            p,
            factor,
            dx,
            #[inline(always)]
            move |v| (relative.of(magnitudes.clamped(v)), if v >= magnitudes.eps { 1.0 } else { 0.0 }),
        ),
        Sign::Shift => {
            slopes(
                x,
                p,
                factor,
                dx,
                #[inline(always)]
                move |v| (relative.of(magnitudes.shifted(v)), 1.0),
            );
            // The minimum is subtracted everywhere and added back: it gets what the others leave.
            let place = pooled.place;
            if let Some(d) = dx.get_mut(place) {
                *d = 0.0;
                let others = sum_here(dx);
                dx[place] = narrow(f64::from(upstream) - others);
            }
        }
        Sign::Signed => {
            let straight = 1.0 / p;
            slopes(
                x,
                p,
                factor,
                dx,
                #[inline(always)]
                move |v| {
                    let share = if v.abs() < magnitudes.eps { straight } else { 1.0 };
                    (relative.of(magnitudes.clamped(v.abs())), share)
                },
            );
            if let Some(d) = dx.get_mut(pooled.place) {
                *d = narrow(f64::from(*d) + f64::from(pooled.extra) * f64::from(upstream));
            }
        }
    }
}

/// `dx = factor * share * u^(p - 1)`.
#[inline(always)]
fn slopes(x: &[f32], p: f32, factor: f32, dx: &mut [f32], part: impl Fn(f32) -> (f32, f32) + Copy) {
    match whole(p - 1.0) {
        Some(k) => each(
            x,
            dx,
            #[inline(always)]
            move |v| {
                let (u, share) = part(v);
                factor * share * whole_power(u, k)
            },
        ),
        None => {
            let power = p - 1.0;
            each(
                x,
                dx,
                #[inline(always)]
                move |v| {
                    let (u, share) = part(v);
                    let d = factor * share * vecmath::exp(power * vecmath::ln(u));
                    d.clamp(-f32::MAX, f32::MAX)
                },
            );
        }
    }
}

#[inline(always)]
fn each(x: &[f32], dx: &mut [f32], f: impl Fn(f32) -> f32) {
    let ((full, tail), (d_full, d_tail)) = (x.as_chunks::<LANES>(), dx.as_chunks_mut::<LANES>());
    for (chunk, d) in full.iter().zip(d_full) {
        for lane in 0..LANES {
            d[lane] = f(chunk[lane]);
        }
    }
    if let Some(&first) = tail.first() {
        let mut chunk = [first; LANES];
        chunk[..tail.len()].copy_from_slice(tail);
        let mut d = [0.0; LANES];
        for lane in 0..LANES {
            d[lane] = f(chunk[lane]);
        }
        d_tail.iter_mut().zip(d).for_each(|(to, d)| *to = d);
    }
}

impl Pooled {
    #[inline(always)]
    pub(crate) fn average(x: &[f32]) -> Self {
        Self { value: average_here(x), ..Self::EMPTY }
    }

    #[inline(always)]
    pub(crate) fn maximum(x: &[f32]) -> Self {
        match argmax_here(x) {
            Some(place) => Self { value: x[place], place, ..Self::EMPTY },
            None => Self::EMPTY,
        }
    }

    /// Hands the maximum's gradient to its place.
    #[inline(always)]
    pub(crate) fn give(&self, upstream: f32, dx: &mut [f32]) {
        if let Some(d) = dx.get_mut(self.place) {
            *d = upstream;
        }
    }
}
