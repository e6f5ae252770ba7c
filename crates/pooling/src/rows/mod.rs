//! One row of values to one value, and back: the arithmetic of every pooling in this crate.
//!
//! With magnitudes `c_i` and signs `q_i` that [`Sign`] makes of the values, `top = max c_i` and `u_i = c_i / top`,
//! GeM is `y = top f(S)`, `S = mean(q_i u_i^p)`, `f(S) = S^(1/p)` (Radenovic, Tolias and Chum 2019, equation 3,
//! divided by its largest term: every power lies in `[0, 1]`, so none overflows). Its gradients are
//! `dy/dx_i = f'(S) p u_i^(p-1) / n` and `dy/dp = top (f'(S) mean(q_i u_i^p ln u_i) + df/dp)`.

mod backward;
mod forward;

use pulp::Simd;

pub(crate) use backward::gem_backward_rows;
pub(crate) use forward::{Scratch, gem_rows};

use crate::options::Gem;
use crate::reduce::{Extremes, extremes};
use crate::{MIN_P, Pooling, Sign, vectors};

/// `f64` sums are kept in this many lanes.
const LANES: usize = 16;
/// Values that pass through all steps together: they stay in the first-level cache.
const CHUNK: usize = 2048;
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
    /// [`Magnitudes`]' scale.
    scale: f32,
    /// `f'(S) p / n`.
    slope: f32,
    /// What the value at `place` receives beside its share of the powers.
    extra: f32,
    /// The maximum's place; the minimum's for [`Sign::Shift`]; the largest magnitude's for [`Sign::Signed`].
    place: usize,
}

impl Pooled {
    pub(crate) const EMPTY: Self =
        Self { value: 0.0, d_p: 0.0, top: 1.0, low: 0.0, scale: 1.0, slope: 0.0, extra: 0.0, place: NOWHERE };

    #[inline]
    fn not_a_number() -> Self {
        Self { value: f32::NAN, d_p: f32::NAN, slope: f32::NAN, ..Self::EMPTY }
    }
}

/// Generalised mean of `x` with power `p` (raised to [`MIN_P`] if lower), with `d value / d p`.
///
/// An empty row gives 0. Finite values give finite results, whatever their range; a row or a power with NaN or
/// infinity gives NaN in everything, never a number.
pub fn gem(x: &[f32], p: f32, options: &Gem) -> Pooled {
    if !p.is_finite() && !x.is_empty() {
        return Pooled::not_a_number();
    }
    one(&Pooling::GeM { p: &[p], options, learnable: true }, x)
}

/// A single row.
fn one(pooling: &Pooling<'_>, x: &[f32]) -> Pooled {
    let mut pooled = [Pooled::EMPTY];
    pooling.rows(x, x.len(), 0, &mut Scratch::default(), &mut pooled);
    pooled[0]
}

/// Writes `upstream * d value / d x` to `dx`, of `x`'s length. `pooled` is what [`gem`] returned for the same `x`,
/// `p` and `options`. A gradient beyond `f32` becomes the largest finite value of its sign.
pub fn gem_backward(x: &[f32], p: f32, options: &Gem, pooled: &Pooled, upstream: f32, dx: &mut [f32]) {
    let pooling = Pooling::GeM { p: &[p], options, learnable: true };
    pooling.rows_backward(x, x.len(), 0, &[*pooled], &[upstream], dx);
}

/// Arithmetic mean, summed in `f64`; 0 for an empty row.
pub fn average(x: &[f32]) -> f32 {
    one(&Pooling::Avg, x).value
}

/// Position of the largest value, the first of equals; of the first NaN, if there is one; `None` in an empty row.
pub fn argmax(x: &[f32]) -> Option<usize> {
    let place = one(&Pooling::Max, x).place;
    (place != NOWHERE).then_some(place)
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

/// How values become magnitudes, see [`Sign`]. `scale` halves a shifted row whose spread is beyond `f32`.
#[derive(Clone, Copy)]
struct Magnitudes {
    eps: f32,
    low: f32,
    scale: f32,
}

impl Magnitudes {
    #[inline]
    fn of(options: &Gem, low: f32, high: f32) -> Self {
        let wide = options.sign == Sign::Shift && !(high - low).is_finite();
        let scale = if wide { 0.5 } else { 1.0 };
        Self { eps: options.eps, low, scale }
    }

    #[inline(always)]
    fn clamped(self, v: f32) -> f32 {
        if v > self.eps { v } else { self.eps }
    }

    /// Writes `c / top` of each value.
    #[inline(always)]
    fn relative(self, x: &[f32], sign: Sign, relative: Relative, u: &mut [f32]) {
        let pairs = u.iter_mut().zip(x);
        match sign {
            Sign::Clamp => {
                for (u, &v) in pairs {
                    *u = relative.of(self.clamped(v));
                }
            }
            Sign::Shift => {
                for (u, &v) in pairs {
                    *u = relative.of(self.shifted(v));
                }
            }
            Sign::Signed => {
                for (u, &v) in pairs {
                    *u = relative.of(self.clamped(v.abs()));
                }
            }
        }
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

/// `u^k` of each value.
#[inline(always)]
fn raise(values: &mut [f32], k: u32) {
    match k {
        0 => values.fill(1.0),
        1 => {}
        2 => {
            for u in values {
                *u *= *u;
            }
        }
        3 => {
            for u in values {
                *u = *u * *u * *u;
            }
        }
        _ => {
            for u in values {
                let square = *u * *u;
                *u = square * square;
            }
        }
    }
}

/// Rows of `length` values that lie one after another.
#[derive(Clone, Copy)]
pub(crate) struct Maps<'a> {
    pub(crate) x: &'a [f32],
    pub(crate) length: usize,
    /// The number of the first row, from which its channel follows.
    pub(crate) first: usize,
    /// One power, or one for each channel.
    pub(crate) p: &'a [f32],
    pub(crate) options: &'a Gem,
}

impl<'a> Maps<'a> {
    #[inline]
    fn rows(self) -> impl Iterator<Item = &'a [f32]> {
        self.x.chunks_exact(self.length)
    }

    #[inline(always)]
    fn power(&self, row: usize) -> f32 {
        self.p[(self.first + row) % self.p.len()].max(MIN_P)
    }

    /// The power (less `less`) of all rows, if they have one that products make.
    #[inline]
    fn whole(&self, less: f32) -> Option<u32> {
        if self.p.len() == 1 { vectors::whole(self.power(0) - less) } else { None }
    }

    /// These rows, `count` at a time.
    #[inline]
    fn parts(self, count: usize) -> impl Iterator<Item = Self> {
        let parts = self.x.chunks(count * self.length).enumerate();
        parts.map(move |(at, x)| Self { x, first: self.first + at * count, ..self })
    }

    /// One of them.
    #[inline]
    fn one(&self, row: usize) -> Self {
        Self { x: &self.x[row * self.length..(row + 1) * self.length], first: self.first + row, ..*self }
    }

    /// Whether they can be pooled in [`vectors`], but for those with extreme values.
    #[inline]
    fn in_vectors(&self) -> bool {
        self.options.sign == Sign::Clamp && self.p.iter().all(|&p| p >= 1.0)
    }
}

/// To `f32`, beyond its range to its end.
#[inline]
pub(crate) fn narrow(v: f64) -> f32 {
    v.clamp(f64::from(-f32::MAX), f64::from(f32::MAX)) as f32
}

impl Pooled {
    #[inline(always)]
    pub(crate) fn average(x: &[f32]) -> Self {
        Self { value: (sum_here(x) / x.len().max(1) as f64) as f32, ..Self::EMPTY }
    }

    #[inline(always)]
    pub(crate) fn maximum<S: Simd>(simd: S, x: &[f32]) -> Self {
        let Extremes { high, finite, .. } = extremes(simd, x);
        let odd = if finite { None } else { x.iter().position(|v| v.is_nan()) };
        match odd.or_else(|| x.iter().position(|&v| v == high)) {
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
