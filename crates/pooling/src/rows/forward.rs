//! GeM of rows: the values, and what the backward pass needs of them.

use embedtune_core::simd::prefetch;
use pulp::Simd;

use super::{CHUNK, Magnitudes, Maps, NOWHERE, Pooled, Relative, narrow, raise};
use crate::Sign;
use crate::math::{exp_all, ln_all, roots};
use crate::options::Gem;
use crate::reduce::{Extremes, Terms, extremes, sum, sums};
use crate::root::Root;
use crate::vectors::{self, Clamped};

/// Rows that go through each step of the vectors together: their values stay in the first-level cache.
const GROUP: usize = 8;

/// Buffers of one task.
#[derive(Default)]
pub(crate) struct Scratch {
    powers: Vec<f32>,
    logs: Vec<f32>,
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
}
