//! What is done to one tile of classes. A tile's logits are `[rows, batch]`, class by class: a sample's maximum and
//! sum are then kept in lanes, and every product reads its operands along contiguous rows.

use embedtune_core::linalg::{self, NORM_FLOOR as FLOOR};
use embedtune_core::{simd, vecmath};
use ndarray::{ArrayView1, ArrayView2, ArrayViewMut2};

use crate::{Result, Write};

/// Stands for "not there": far below any logit, and finite, so that 0 times it is 0.
pub(super) const ABSENT: f32 = -1e30;
/// Norms outside this range, all above [`FLOOR`], are divided out before a product instead of after it, so that nothing
/// overflows.
const PLAIN_NORMS: std::ops::RangeInclusive<f64> = 1e-11..=1e15;
/// Coefficients below this, where the batch's largest is 1, become 0: a product that meets denormals takes a hundred
/// times as long.
const LEAST: f32 = 1e-30;
/// Rows whose exponentials are summed in `f32` before they join the sum in `f64`.
const SUM_ROWS: usize = 32;

/// Sum of `a[j] * b[j]`: sixteen lanes of at most sixteen products each in `f32`, their sums in `f64`.
#[inline(always)]
fn dot(a: &[f32], b: &[f32]) -> f64 {
    const LANES: usize = 16;
    const BLOCK: usize = 16 * LANES;
    let mut total = 0.0;
    for (a, b) in a.chunks(BLOCK).zip(b.chunks(BLOCK)) {
        let mut sums = [0.0f32; LANES];
        let (a, b) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
        for (lane, (&a, &b)) in a.remainder().iter().zip(b.remainder()).enumerate() {
            sums[lane] = a * b;
        }
        for (a, b) in a.zip(b) {
            for lane in 0..LANES {
                sums[lane] += a[lane] * b[lane];
            }
        }
        let mut half = [0.0f64; LANES / 2];
        for lane in 0..LANES / 2 {
            half[lane] = f64::from(sums[lane]) + f64::from(sums[lane + LANES / 2]);
        }
        total += half.iter().sum::<f64>();
    }
    total
}

/// Length of a row. Where the squares leave the range in which `f32` keeps its digits they are taken in `f64`.
#[inline(always)]
fn norm(row: &[f32]) -> f64 {
    let squared = dot(row, row);
    if (1e-25..1e30).contains(&squared) { squared.sqrt() } else { exact_norm(row) }
}

#[cold]
fn exact_norm(row: &[f32]) -> f64 {
    linalg::norm(row)
}

/// The row, contiguous: itself, or copied to `buffer`.
fn contiguous<'a>(row: &'a ArrayView1<'_, f32>, buffer: &'a mut Vec<f32>) -> &'a [f32] {
    match row.as_slice() {
        Some(slice) => slice,
        None => {
            buffer.clear();
            buffer.extend(row);
            buffer
        }
    }
}

/// Writes `scale / |w|` for every row. Says whether all norms are finite, and whether all are plain; where they are
/// not, the rows must be replaced by [`unit_rows`] and the factors are `scale`.
pub(super) fn factors(w: ArrayView2<'_, f32>, scale: f64, factors: &mut [f32]) -> (bool, bool) {
    let (mut finite, mut plain) = (true, true);
    let mut buffer = Vec::new();
    simd::dispatch(
        #[inline(always)]
        || {
            for (row, factor) in w.rows().into_iter().zip(factors.iter_mut()) {
                let row = contiguous(&row, &mut buffer);
                let norm = norm(row);
                finite &= norm.is_finite();
                plain &= PLAIN_NORMS.contains(&norm);
                *factor = (scale / norm.max(FLOOR)) as f32;
            }
        },
    );
    if !plain {
        factors.fill(scale as f32);
    }
    (finite, plain)
}

/// Unit rows, as [`factors`] asks for them.
pub(super) fn unit_rows(w: ArrayView2<'_, f32>, mut unit: ArrayViewMut2<'_, f32>) {
    for (w, mut unit) in w.rows().into_iter().zip(unit.rows_mut()) {
        let norm = linalg::norm(w).max(FLOOR);
        unit.zip_mut_with(&w, |u, &v| *u = (f64::from(v) / norm) as f32);
    }
}

/// The samples of a batch in the order of their classes.
pub(super) struct Owners(Vec<(u32, u32)>);

impl Owners {
    pub(super) fn new(labels: &[u32]) -> Self {
        let mut order: Vec<(u32, u32)> = labels.iter().copied().zip(0..).collect();
        order.sort_unstable();
        Self(order)
    }

    /// Those of one class and above.
    fn from(&self, class: usize) -> &[(u32, u32)] {
        let start = self.0.partition_point(|&(label, _)| (label as usize) < class);
        self.0.get(start..).unwrap_or_default()
    }
}

/// Logits of a tile whose first class is `class`, and `tops` raised to each sample's largest. A sample's own class, and
/// of every other class all `k` sub-centres but the nearest, become [`ABSENT`].
pub(super) fn logits(
    left: ArrayView2<'_, f32>,
    centres: ArrayView2<'_, f32>,
    factors: &[f32],
    (class, k): (usize, usize),
    owners: &Owners,
    tops: &mut [f32],
    z: &mut [f32],
) -> Result<()> {
    let batch = tops.len();
    let shaped = ArrayViewMut2::from_shape((centres.nrows(), batch), &mut *z).map_err(super::state::shape)?;
    linalg::matmul_serial(1.0, centres, left, 0.0, shaped)?;
    let mut own = owners.from(class);
    let mut best = vec![0.0f32; if k > 1 { batch } else { 0 }];
    simd::dispatch(
        #[inline(always)]
        || {
            let classes = z.chunks_mut(batch * k).zip(factors.chunks(k));
            for (class, (rows, factors)) in (class..).zip(classes) {
                let owned = own.first().is_some_and(|&(label, _)| label as usize == class);
                if k == 1 && !owned {
                    // Nothing is absent: one pass.
                    for (top, z) in tops.iter_mut().zip(&mut *rows) {
                        *z *= factors[0];
                        *top = if *z > *top { *z } else { *top };
                    }
                    continue;
                }
                for (row, &factor) in rows.chunks_exact_mut(batch).zip(factors) {
                    row.iter_mut().for_each(|z| *z *= factor);
                }
                if k > 1 {
                    keep_nearest(rows, &mut best);
                }
                while let Some(&(label, sample)) = own.first().filter(|(label, _)| *label as usize == class) {
                    debug_assert_eq!(label as usize, class);
                    for row in rows.chunks_exact_mut(batch) {
                        row[sample as usize] = ABSENT;
                    }
                    own = &own[1..];
                }
                for row in rows.chunks_exact(batch) {
                    tops.iter_mut().zip(row).for_each(|(top, &z)| *top = if z > *top { z } else { *top });
                }
            }
        },
    );
    Ok(())
}

/// Of each sample's logits with the rows of one class only the largest stays, the first where several are.
#[inline(always)]
fn keep_nearest(rows: &mut [f32], best: &mut [f32]) {
    best.fill(ABSENT);
    for row in rows.chunks_exact(best.len()) {
        best.iter_mut().zip(row).for_each(|(best, &z)| *best = if z > *best { z } else { *best });
    }
    for row in rows.chunks_exact_mut(best.len()) {
        for (z, best) in row.iter_mut().zip(&mut *best) {
            let nearest = *z == *best;
            *z = if nearest { *z } else { ABSENT };
            // Taken: no later row equals it.
            *best = if nearest { f32::INFINITY } else { *best };
        }
    }
}

/// Turns logits into `exp(z - top)` and adds them to the sums, which were relative to `before`.
pub(super) fn absorb(z: &mut [f32], before: &[f32], tops: &[f32], sums: &mut [f64]) {
    for ((sum, &before), &top) in sums.iter_mut().zip(before).zip(tops) {
        if before != top {
            *sum *= f64::from(before - top).exp();
        }
    }
    let batch = tops.len();
    let mut partial = vec![0.0f32; batch];
    simd::dispatch(
        #[inline(always)]
        || {
            for block in z.chunks_mut(SUM_ROWS * batch) {
                partial.fill(0.0);
                for row in block.chunks_exact_mut(batch) {
                    for ((z, &top), sum) in row.iter_mut().zip(tops).zip(&mut partial) {
                        *z = vecmath::exp(*z - top);
                        *sum += *z;
                    }
                }
                sums.iter_mut().zip(&partial).for_each(|(sum, &part)| *sum += f64::from(part));
            }
        },
    );
}

#[inline(always)]
fn coefficient(g: f32, factor: f32) -> f32 {
    if g.abs() < LEAST { 0.0 } else { g * factor }
}

/// Turns `exp(z - top)` into coefficients: times the sample's and the row's factor.
pub(super) fn weigh(e: &mut [f32], samples: &[f32], factors: &[f32]) {
    simd::dispatch(
        #[inline(always)]
        || {
            for (row, &factor) in e.chunks_exact_mut(samples.len()).zip(factors) {
                row.iter_mut().zip(samples).for_each(|(e, &sample)| *e = coefficient(*e * sample, factor));
            }
        },
    );
}

/// [`weigh`] of logits: `exp(z - top)` first.
pub(super) fn weigh_logits(z: &mut [f32], tops: &[f32], samples: &[f32], factors: &[f32]) {
    simd::dispatch(
        #[inline(always)]
        || {
            for (row, &factor) in z.chunks_exact_mut(samples.len()).zip(factors) {
                for ((z, &top), &sample) in row.iter_mut().zip(tops).zip(samples) {
                    *z = coefficient(vecmath::exp(*z - top) * sample, factor);
                }
            }
        },
    );
}

/// The centres' gradient of a tile from `raw = coefficients^T x^`: without its part along the centre, times `gain`.
///
/// Where the rows' norms are plain the coefficients already hold the factor `scale / |w|`; otherwise only `scale`.
pub(super) fn centre_gradients(
    raw: &[f32],
    w: ArrayView2<'_, f32>,
    (factors, scale): (&[f32], f64),
    plain: bool,
    (gain, write): (f64, Write),
    mut to: ArrayViewMut2<'_, f32>,
) {
    // In two factors, so that neither leaves the range of f32 before their product does.
    let root = gain.sqrt().min(f64::from(f32::MAX)) as f32;
    let mut buffer = Vec::new();
    let rows = raw.chunks_exact(w.ncols()).zip(w.rows()).zip(to.rows_mut()).zip(factors);
    simd::dispatch(
        #[inline(always)]
        || {
            for (((raw, w), mut to), &factor) in rows {
                let row = contiguous(&w, &mut buffer);
                if plain {
                    let inverse = f64::from(factor) / scale;
                    let along = (dot(raw, row) * inverse * inverse) as f32;
                    let values = raw.iter().zip(row).map(|(&r, &w)| (r - w * along) * root * root);
                    write.put(&mut to, values);
                } else {
                    let norm = exact_norm(row);
                    let dot: f64 = raw.iter().zip(row).map(|(&r, &w)| f64::from(r) * f64::from(w)).sum();
                    let along = if norm > FLOOR { dot / (norm * norm) } else { 0.0 };
                    let factor = gain / norm.max(FLOOR);
                    let value = |r: f32, w: f32| (f64::from(r) - f64::from(w) * along) * factor;
                    write.put(&mut to, raw.iter().zip(row).map(|(&r, &w)| value(r, w) as f32));
                }
            }
        },
    );
}
