//! Scores of queries with panels of gallery rows, most of which are looked at once, in registers.
//!
//! A score is a product, or minus a squared distance, measured from differences: distances from products would lose the
//! digits of near neighbours wherever items spread further than these are apart. It is one chain of fused multiply-adds
//! over the coordinates, in their order, whatever stands beside it: its bits depend on the two vectors alone, not on where they stand, on how many others there are, on the number of
//! threads or on the width of the machine's vectors. Equal vectors tie exactly.

use embedtune_core::simd::pulp::{Simd, WithSimd};
use embedtune_core::simd::with_simd;

use crate::frame::{Frame, Metric};

/// Gallery rows of a panel, `[depth][PANEL]`: four of the widest vectors.
pub(crate) const PANEL: usize = 64;
/// Queries that share a register tile: 6 rows of 4 vectors leave 8 of 32 registers for operands.
const ROWS: usize = 6;
/// One vector of the widest instruction set.
const UNIT: usize = 16;

/// The scores of one query with one panel.
pub(crate) type Scores = [f32; PANEL];

/// Scores queries, `[count][dim]`, with `panels`, `[panels][dim][PANEL]`, as the frame's metric wants it, and calls
/// `visit(query, panel, scores, bound)` for each query and panel of which a score is above the query's bound; `visit`
/// may raise the bound. Panels come in ascending order.
pub(crate) fn scan<F: FnMut(usize, usize, &Scores, &mut f32)>(
    frame: &Frame,
    queries: &[f32],
    panels: &[f32],
    bounds: &mut [f32],
    visit: F,
) {
    let depth = frame.dim;
    if bounds.is_empty() || depth == 0 {
        return;
    }
    match frame.metric {
        Metric::L2 => with_simd(Scan::<_, true> { queries, depth, panels, bounds, visit }),
        Metric::Cosine | Metric::Dot => with_simd(Scan::<_, false> { queries, depth, panels, bounds, visit }),
    }
}

/// `APART`: by differences.
struct Scan<'a, F, const APART: bool> {
    queries: &'a [f32],
    depth: usize,
    panels: &'a [f32],
    bounds: &'a mut [f32],
    visit: F,
}

impl<F: FnMut(usize, usize, &Scores, &mut f32), const APART: bool> WithSimd for Scan<'_, F, APART> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { queries, depth, panels, bounds, mut visit } = self;
        let mut scores = [[0.0f32; PANEL]; ROWS];
        for (panel, right) in panels.chunks_exact(depth * PANEL).enumerate() {
            for first in (0..bounds.len()).step_by(ROWS) {
                let count = (bounds.len() - first).min(ROWS);
                // Not `from_fn`, which is not always inlined: the slices' lengths must be plain to the tile's loop.
                let mut rows: [&[f32]; ROWS] = [&[]; ROWS];
                let mut limits = [f32::INFINITY; ROWS];
                for (r, row) in rows.iter_mut().enumerate() {
                    // Where queries are fewer the last one stands in, above whose limit nothing is.
                    *row = &queries[(first + r.min(count - 1)) * depth..][..depth];
                    if r < count {
                        limits[r] = bounds[first + r];
                    }
                }
                let above = multiply::<S, APART>(simd, rows, right, limits, &mut scores);
                if above == 0 {
                    continue;
                }
                for (r, scores) in scores.iter().enumerate() {
                    if above >> r & 1 == 1 {
                        visit(first + r, panel, scores, &mut bounds[first + r]);
                    }
                }
            }
        }
    }
}

/// One tile, cut into pieces that fit the registers. Bit `r` of the result: a score of row `r` is above its limit.
#[inline(always)]
fn multiply<S: Simd, const APART: bool>(
    simd: S,
    rows: [&[f32]; ROWS],
    panel: &[f32],
    limits: [f32; ROWS],
    scores: &mut [Scores; ROWS],
) -> u32 {
    if S::F32_LANES == UNIT {
        return tile::<S, 4, APART>(simd, rows, panel, 0, limits, scores);
    }
    let mut above = 0;
    for at in (0..PANEL).step_by(UNIT) {
        above |= match S::F32_LANES {
            8 => tile::<S, 2, APART>(simd, rows, panel, at, limits, scores),
            4 => tile::<S, 4, APART>(simd, rows, panel, at, limits, scores),
            2 => tile::<S, 8, APART>(simd, rows, panel, at, limits, scores),
            _ => tile::<S, 16, APART>(simd, rows, panel, at, limits, scores),
        };
    }
    above
}

#[inline(always)]
fn tile<S: Simd, const V: usize, const APART: bool>(
    simd: S,
    rows: [&[f32]; ROWS],
    panel: &[f32],
    at: usize,
    limits: [f32; ROWS],
    scores: &mut [Scores; ROWS],
) -> u32 {
    let mut sums = [[simd.splat_f32s(0.0); V]; ROWS];
    let (values, _) = S::as_simd_f32s(panel);
    let (stride, column) = (PANEL / S::F32_LANES, at / S::F32_LANES);
    let depth = rows[0].len();
    for (k, values) in (0..depth).zip(values.chunks_exact(stride)) {
        let Some(values) = values.get(column..).and_then(|values| values.first_chunk::<V>()) else {
            continue;
        };
        for (r, sums) in sums.iter_mut().enumerate() {
            let left = simd.splat_f32s(rows[r][k]);
            for (sum, &value) in sums.iter_mut().zip(values) {
                *sum = if APART {
                    let apart = simd.sub_f32s(left, value);
                    simd.mul_add_f32s(apart, apart, *sum)
                } else {
                    simd.mul_add_f32s(left, value, *sum)
                };
            }
        }
    }
    if APART {
        for sum in sums.iter_mut().flatten() {
            // Larger is nearer. From zero, so that a copy's is 0 and not -0.
            *sum = simd.sub_f32s(simd.splat_f32s(0.0), *sum);
        }
    }
    let mut above = 0;
    for (r, sums) in sums.iter().enumerate() {
        let limit = simd.splat_f32s(limits[r]);
        let mut any = simd.greater_than_f32s(sums[0], limit);
        for &sum in &sums[1..] {
            any = simd.or_m32s(any, simd.greater_than_f32s(sum, limit));
        }
        above |= u32::from(simd.first_true_m32s(any) < S::F32_LANES) << r;
        let row = &mut scores[r][at..at + V * S::F32_LANES];
        for (out, &sum) in S::as_mut_simd_f32s(row).0.iter_mut().zip(sums) {
            *out = sum;
        }
    }
    above
}

/// Bit `i`: score `i` is above the bound.
#[inline(always)]
pub(crate) fn above(scores: &Scores, bound: f32) -> u64 {
    let mut mask = 0;
    for (i, &score) in scores.iter().enumerate() {
        mask |= u64::from(score > bound) << i;
    }
    mask
}
