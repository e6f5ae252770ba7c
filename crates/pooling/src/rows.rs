//! One row of values to one value, and back: the arithmetic of every pooling in this crate.
//!
//! With magnitudes `c_i` and signs `q_i` that [`Sign`] makes of the values, `top = max c_i` and `u_i = c_i / top`,
//! GeM is `y = top f(S)`, `S = mean(q_i u_i^p)`, `f(S) = S^(1/p)` (Radenovic, Tolias and Chum 2019, equation 3,
//! divided by its largest term: every power lies in `[0, 1]`, so none overflows). Its gradients are
//! `dy/dx_i = f'(S) p u_i^(p-1) / n` and `dy/dp = top (f'(S) mean(q_i u_i^p ln u_i) + df/dp)`.

use embedtune_core::simd::prefetch;
use pulp::Simd;

use crate::math::{exp_all, ln_all, power_all, roots};
use crate::options::Gem;
use crate::reduce::{Extremes, Terms, extremes, sum, sums};
use crate::root::Root;
use crate::vectors::{self, Clamped};
use crate::{MIN_P, Pooling, Sign};

/// `f64` sums are kept in this many lanes.
const LANES: usize = 16;
/// Values that pass through all steps together: they stay in the first-level cache.
const CHUNK: usize = 2048;
/// Rows that go through each step of the vectors together: their values stay in the first-level cache.
const GROUP: usize = 8;
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

    fn not_a_number() -> Self {
        Self { value: f32::NAN, d_p: f32::NAN, slope: f32::NAN, ..Self::EMPTY }
    }

    /// What the powers are multiplied by, backward; within `f32`: infinity times a power that is 0 would be NaN.
    #[inline(always)]
    fn factor(&self, upstream: f32) -> f32 {
        (self.slope * upstream).clamp(-f32::MAX, f32::MAX)
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

/// Buffers of one task.
#[derive(Default)]
pub(crate) struct Scratch {
    powers: Vec<f32>,
    logs: Vec<f32>,
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
    fn rows(self) -> impl Iterator<Item = &'a [f32]> {
        self.x.chunks_exact(self.length)
    }

    #[inline(always)]
    fn power(&self, row: usize) -> f32 {
        self.p[(self.first + row) % self.p.len()].max(MIN_P)
    }

    /// The power (less `less`) of all rows, if they have one that products make.
    fn whole(&self, less: f32) -> Option<u32> {
        if self.p.len() == 1 { vectors::whole(self.power(0) - less) } else { None }
    }

    /// These rows, `count` at a time.
    fn parts(self, count: usize) -> impl Iterator<Item = Self> {
        let parts = self.x.chunks(count * self.length).enumerate();
        parts.map(move |(at, x)| Self { x, first: self.first + at * count, ..self })
    }

    /// One of them.
    fn one(&self, row: usize) -> Self {
        Self { x: &self.x[row * self.length..(row + 1) * self.length], first: self.first + row, ..*self }
    }

    /// Whether they can be pooled in [`vectors`], but for those with extreme values.
    fn in_vectors(&self) -> bool {
        self.options.sign == Sign::Clamp && self.p.iter().all(|&p| p >= 1.0)
    }
}

/// Pools the rows.
#[inline(always)]
pub(crate) fn gem_rows<S: Simd>(
    simd: S,
    maps: Maps<'_>,
    want_d_p: bool,
    scratch: &mut Scratch,
    pooled: &mut [Pooled],
) {
    if maps.length == 0 {
        pooled.fill(Pooled::EMPTY);
    } else if maps.in_vectors() {
        gem_rows_in_vectors(simd, maps, want_d_p, scratch, pooled);
    } else {
        gem_rows_in_steps(simd, maps, want_d_p, scratch, pooled);
    }
}

/// Each step for a few rows before the next step: what a row waits for (a reduction, a quotient, a root) passes while
/// other rows are at it.
#[inline(always)]
fn gem_rows_in_vectors<S: Simd>(
    simd: S,
    maps: Maps<'_>,
    want_d_p: bool,
    scratch: &mut Scratch,
    pooled: &mut [Pooled],
) {
    let options = maps.options;
    let mut later = maps.rows().skip(GROUP);
    for (maps, pooled) in maps.parts(GROUP).zip(pooled.chunks_mut(GROUP)) {
        for (x, to) in maps.rows().zip(&mut *pooled) {
            *to = begin(simd, x, options);
        }
        let mut found = [None; GROUP];
        for (row, ((x, to), found)) in maps.rows().zip(&*pooled).zip(&mut found).enumerate() {
            // The powers take so long that reading ahead would stop meanwhile.
            later.next().into_iter().for_each(prefetch);
            if !to.slope.is_nan()
                && let Some(clamped) = Clamped::new(options.eps, to.top)
            {
                *found = Some(vectors::sums(simd, x, clamped, maps.power(row), want_d_p));
            }
        }
        let (n, mut p, mut means) = (maps.length as f64, [1.0; GROUP], [1.0; GROUP]);
        for (row, found) in found.iter().enumerate() {
            if let Some((sum, _)) = found {
                (p[row], means[row]) = (f64::from(maps.power(row)), sum / n);
            }
        }
        let (logs, roots) = roots::<S, GROUP>(&means, &p);
        for (row, (to, found)) in pooled.iter_mut().zip(found).enumerate() {
            if let Some((_, sum_logs)) = found {
                let root = Root::curved(means[row], p[row], logs[row], roots[row]);
                to.fill(&root, p[row], n, sum_logs / n, want_d_p);
            } else {
                gem_rows_in_steps(simd, maps.one(row), want_d_p, scratch, std::slice::from_mut(to));
            }
        }
    }
}

/// A clamped row's largest value, or NaN in everything.
#[inline(always)]
fn begin<S: Simd>(simd: S, x: &[f32], options: &Gem) -> Pooled {
    let high = vectors::largest(simd, x);
    if high.is_nan() {
        return Pooled::not_a_number();
    }
    Pooled { top: high.max(options.eps), ..Pooled::EMPTY }
}

/// [`gem_rows`] of rows of any kind.
///
/// Each step (magnitudes, logarithms, powers, sums) runs over a chunk of rows: loops without a reduction over many
/// short rows are those that the compiler vectorises without a remainder for each row.
#[inline(always)]
fn gem_rows_in_steps<S: Simd>(
    simd: S,
    maps: Maps<'_>,
    want_d_p: bool,
    scratch: &mut Scratch,
    pooled: &mut [Pooled],
) {
    let Maps { length, options, p, .. } = maps;
    let rows = (CHUNK / length).max(1);
    let whole = maps.whole(0.0);
    for (maps, pooled) in maps.parts(rows).zip(pooled.chunks_mut(rows)) {
        let x = maps.x;
        let Scratch { powers, logs } = scratch;
        powers.resize(x.len(), 0.0);
        for ((x, u), pooled) in x.chunks_exact(length).zip(powers.chunks_exact_mut(length)).zip(&mut *pooled)
        {
            *pooled = relate(simd, x, options, u);
        }
        if want_d_p || whole.is_none() {
            logs.resize(x.len(), 0.0);
            ln_all::<S>(powers, logs);
        }
        let signed = options.sign == Sign::Signed;
        let terms = match whole {
            // Powers that are summed need not be written.
            Some(2) if !signed => Terms::Square,
            Some(3) if !signed => Terms::Cube,
            Some(4) if !signed => Terms::Fourth,
            Some(k) => {
                raise(powers, k);
                Terms::Powers
            }
            None => {
                match p {
                    &[_] => exp_all::<S>(maps.power(0), logs, powers),
                    _ => {
                        let rows = powers.chunks_exact_mut(length).zip(logs.chunks_exact(length));
                        rows.enumerate()
                            .for_each(|(row, (to, logs))| exp_all::<S>(maps.power(row), logs, to));
                    }
                }
                Terms::Powers
            }
        };
        for (row, (x, pooled)) in x.chunks_exact(length).zip(pooled).enumerate() {
            let of_row = row * length..(row + 1) * length;
            let powers = &mut powers[of_row.clone()];
            if signed {
                let (eps, inverse) = (options.eps, 1.0 / options.eps);
                // Below eps the signed power is a straight line: its slope at 0 is infinite for p < 1.
                for (power, &v) in powers.iter_mut().zip(x) {
                    let line = v * inverse;
                    *power *= if v.abs() < eps { line } else { 1f32.copysign(v) };
                }
            }
            let (sum, sum_logs) = match want_d_p {
                true => sums(simd, powers, &logs[of_row], terms),
                false => (sum(simd, powers, terms), 0.0),
            };
            finish(x, maps.power(row), options, sum, sum_logs, want_d_p, pooled);
        }
    }
}

/// Writes `u_i` to `u`; `top` and `low`, or NaN in everything for a row that is not finite.
#[inline(always)]
fn relate<S: Simd>(simd: S, x: &[f32], options: &Gem, u: &mut [f32]) -> Pooled {
    let Extremes { low, high, finite } = extremes(simd, x);
    if !finite {
        u.fill(1.0);
        return Pooled::not_a_number();
    }
    let magnitudes = Magnitudes::of(options, low, high);
    let top = match options.sign {
        Sign::Clamp => magnitudes.clamped(high),
        Sign::Shift => magnitudes.shifted(high),
        Sign::Signed => magnitudes.clamped(if high > -low { high } else { -low }),
    };
    magnitudes.relative(x, options.sign, Relative::to(top), u);
    Pooled { top, low, scale: magnitudes.scale, ..Pooled::EMPTY }
}

/// The value of a row and its backward pass's numbers, from the sums of its powers.
fn finish(x: &[f32], p: f32, options: &Gem, sum: f64, sum_logs: f64, want_d_p: bool, pooled: &mut Pooled) {
    if pooled.slope.is_nan() {
        return;
    }
    let (n, p) = (x.len() as f64, f64::from(p));
    let root = Root::of(sum / n, p, options.sign);
    let wide_top = pooled.fill(&root, p, n, sum_logs / n, want_d_p);
    let (top, low) = (pooled.top, pooled.low);
    if options.sign == Sign::Shift {
        pooled.value = narrow(wide_top * root.value + f64::from(low) - f64::from(options.eps));
        pooled.place = x.iter().position(|&v| v == low).unwrap_or(NOWHERE);
    } else if root.extra != 0.0
        && let Some(at) = x.iter().position(|v| v.abs() == top)
    {
        // The straight part moves with the largest magnitude (unless that is eps).
        pooled.place = at;
        pooled.extra = if x[at] < 0.0 { -narrow(root.extra) } else { narrow(root.extra) };
    }
}

/// To `f32`, beyond its range to its end.
pub(crate) fn narrow(v: f64) -> f32 {
    v.clamp(f64::from(-f32::MAX), f64::from(f32::MAX)) as f32
}

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
    /// What the root of the mean of `n` powers gives; returns `top` of the values as they came.
    #[inline(always)]
    fn fill(&mut self, root: &Root, p: f64, n: f64, mean_log: f64, want_d_p: bool) -> f64 {
        let wide_top = f64::from(self.top) / f64::from(self.scale);
        self.value = narrow(wide_top * root.value);
        self.d_p = if want_d_p { narrow(wide_top * (root.slope * mean_log + root.by_p)) } else { 0.0 };
        self.slope = narrow(root.slope * p / n);
        wide_top
    }

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
