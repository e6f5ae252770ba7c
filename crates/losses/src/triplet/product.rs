//! The three products of a strip: distances, each anchor's sums, and each row's sums over the anchors.
//!
//! A general matrix product copies both operands into the order its registers want, on every call: at these shapes a
//! quarter of its time. Here the embeddings are laid out once, the strip is read as it lies, and distances are
//! finished while they are in the first cache.

use embedtune_core::simd::pulp::{Simd, WithSimd};
use embedtune_core::simd::{dispatch, with_simd};

/// Rows of the left operand that share a register tile: 6 rows of 4 vectors leave 8 of 32 registers for operands.
const ROWS: usize = 6;
/// Columns of a panel of the transposed embeddings.
pub(crate) const PANEL: usize = 64;
/// Columns come in multiples of this: one vector of the widest instruction set.
pub(crate) const UNIT: usize = 16;
/// Depth of one pass over the sums: what a tile reads of the embeddings stays in the first cache.
const DEPTH: usize = 128;
/// Rows of one task of [`sums_over_anchors`].
pub(crate) const SUMMED: usize = 8 * ROWS;

/// Row-major values; `stride` floats a row.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a> {
    pub(crate) values: &'a [f32],
    pub(crate) stride: usize,
}

impl<'a> Matrix<'a> {
    /// Up to [`ROWS`] rows from `first` on, the first `depth` values of each; the last one again where there are fewer.
    #[inline(always)]
    fn rows(self, first: usize, count: usize, depth: usize) -> [&'a [f32]; ROWS] {
        // Not `from_fn`, which is not always inlined: the slices' lengths must be plain to the tile's loop.
        let mut rows: [&[f32]; ROWS] = [&[]; ROWS];
        for (r, row) in rows.iter_mut().enumerate() {
            *row = &self.values[(first + r.min(count - 1)) * self.stride..][..depth];
        }
        rows
    }
}

/// Products of `count` rows of `left` (`depth` values each) with the columns of `panels`, `[panels][depth][PANEL]`, into
/// rows of `width` floats; calls `finish` with a panel's number after its columns of all rows are written.
pub(crate) fn products<F: FnMut(usize, &mut [f32])>(
    left: Matrix<'_>,
    count: usize,
    depth: usize,
    panels: &[f32],
    out: &mut [f32],
    width: usize,
    finish: F,
) {
    with_simd(Products { left, count, depth, panels, out, width, finish });
}

struct Products<'a, F> {
    left: Matrix<'a>,
    count: usize,
    depth: usize,
    panels: &'a [f32],
    out: &'a mut [f32],
    width: usize,
    finish: F,
}

impl<F: FnMut(usize, &mut [f32])> WithSimd for Products<'_, F> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { left, count, depth, panels, out, width, mut finish } = self;
        for panel in 0..width / PANEL {
            let right = &panels[panel * depth * PANEL..][..depth * PANEL];
            for first in (0..count).step_by(ROWS) {
                let rows = left.rows(first, count - first, depth);
                let right = Right { values: right, stride: PANEL, column: 0, units: PANEL / UNIT };
                let out = Out {
                    values: &mut out[first * width..],
                    stride: width,
                    column: panel * PANEL,
                    rows: (count - first).min(ROWS),
                };
                multiply::<S, false>(simd, |k, r| rows[r][k], depth, right, out);
            }
            finish(panel, out);
        }
    }
}

/// Adds, to each of `count` rows of `sums`, its row of `strip` (coefficients) times the rows of `right`.
pub(crate) fn sums_of_anchors(
    strip: Matrix<'_>,
    count: usize,
    right: Matrix<'_>,
    reference: usize,
    sums: &mut [f32],
) {
    with_simd(OfAnchors { strip, count, right, reference, sums });
}

struct OfAnchors<'a> {
    strip: Matrix<'a>,
    count: usize,
    right: Matrix<'a>,
    reference: usize,
    sums: &'a mut [f32],
}

impl WithSimd for OfAnchors<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { strip, count, right, reference, sums } = self;
        let stride = right.stride;
        for start in (0..reference).step_by(DEPTH) {
            let depth = DEPTH.min(reference - start);
            let values = &right.values[start * stride..][..depth * stride];
            let strip = Matrix { values: &strip.values[start..], ..strip };
            for column in (0..stride).step_by(PANEL) {
                let units = (stride - column).min(PANEL) / UNIT;
                for first in (0..count).step_by(ROWS) {
                    let rows = strip.rows(first, count - first, depth);
                    let out = Out {
                        values: &mut sums[first * stride..],
                        stride,
                        column,
                        rows: (count - first).min(ROWS),
                    };
                    let right = Right { values, stride, column, units };
                    multiply::<S, true>(simd, |k, r| rows[r][k], depth, right, out);
                }
            }
        }
    }
}

/// Adds, to each row `first..` of `sums` (at most [`SUMMED`] rows, `[rows, stride]`), its column of `strip` times the
/// anchors' rows, and to `totals` its column alone.
pub(crate) fn sums_over_anchors(
    strip: Matrix<'_>,
    first: usize,
    anchors: Matrix<'_>,
    sums: &mut [f32],
    totals: &mut [f64],
) {
    with_simd(OverAnchors { strip, first, anchors, sums, totals });
}

struct OverAnchors<'a> {
    strip: Matrix<'a>,
    first: usize,
    anchors: Matrix<'a>,
    sums: &'a mut [f32],
    totals: &'a mut [f64],
}

impl WithSimd for OverAnchors<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { strip, first, anchors, sums, totals } = self;
        let (stride, count) = (anchors.stride, totals.len());
        let blocks = strip.values.chunks(DEPTH * strip.stride);
        for (strip_rows, values) in blocks.zip(anchors.values.chunks(DEPTH * stride)) {
            let depth = values.len() / stride;
            for row in strip_rows.chunks_exact(strip.stride) {
                let row = &row[first..first + count];
                totals.iter_mut().zip(row).for_each(|(total, &value)| *total += f64::from(value));
            }
            for column in (0..stride).step_by(PANEL) {
                let units = (stride - column).min(PANEL) / UNIT;
                for group in (0..count).step_by(ROWS) {
                    let out = Out {
                        values: &mut sums[group * stride..],
                        stride,
                        column,
                        rows: (count - group).min(ROWS),
                    };
                    let right = Right { values, stride, column, units };
                    let (at, step) = (first + group, strip.stride);
                    // Beyond the last row a line goes on far enough.
                    multiply::<S, true>(simd, |k, r| strip_rows[k * step + at + r], depth, right, out);
                }
            }
        }
    }
}

/// The sum of a row, in `f64`.
pub(crate) fn total(row: &[f32]) -> f64 {
    dispatch(
        #[inline(always)]
        || {
            let mut sums = [0.0f64; UNIT];
            let (chunks, rest) = row.as_chunks::<UNIT>();
            for chunk in chunks {
                sums.iter_mut().zip(chunk).for_each(|(sum, &value)| *sum += f64::from(value));
            }
            sums.iter().sum::<f64>() + rest.iter().map(|&value| f64::from(value)).sum::<f64>()
        },
    )
}

/// The right operand of a tile: `units` times [`UNIT`] columns from `column` on.
#[derive(Clone, Copy)]
struct Right<'a> {
    values: &'a [f32],
    stride: usize,
    column: usize,
    units: usize,
}

/// Where a tile goes.
struct Out<'a> {
    values: &'a mut [f32],
    stride: usize,
    column: usize,
    rows: usize,
}

/// One tile, cut into pieces that fit the registers.
#[inline(always)]
fn multiply<S: Simd, const ADD: bool>(
    simd: S,
    left: impl Fn(usize, usize) -> f32 + Copy,
    depth: usize,
    right: Right<'_>,
    mut out: Out<'_>,
) {
    if S::F32_LANES == UNIT {
        match right.units {
            1 => tile::<S, 1, ADD>(simd, left, depth, right, 0, &mut out),
            2 => tile::<S, 2, ADD>(simd, left, depth, right, 0, &mut out),
            3 => tile::<S, 3, ADD>(simd, left, depth, right, 0, &mut out),
            _ => tile::<S, 4, ADD>(simd, left, depth, right, 0, &mut out),
        }
        return;
    }
    for unit in 0..right.units {
        let at = unit * UNIT;
        match S::F32_LANES {
            8 => tile::<S, 2, ADD>(simd, left, depth, right, at, &mut out),
            4 => tile::<S, 4, ADD>(simd, left, depth, right, at, &mut out),
            2 => tile::<S, 8, ADD>(simd, left, depth, right, at, &mut out),
            _ => tile::<S, 16, ADD>(simd, left, depth, right, at, &mut out),
        }
    }
}

#[inline(always)]
fn tile<S: Simd, const V: usize, const ADD: bool>(
    simd: S,
    left: impl Fn(usize, usize) -> f32,
    depth: usize,
    right: Right<'_>,
    at: usize,
    out: &mut Out<'_>,
) {
    let mut sums = [[simd.splat_f32s(0.0); V]; ROWS];
    let (values, _) = S::as_simd_f32s(right.values);
    let (stride, column) = (right.stride / S::F32_LANES, (right.column + at) / S::F32_LANES);
    for (k, values) in (0..depth).zip(values.chunks_exact(stride)) {
        let Some(values) = values.get(column..).and_then(|values| values.first_chunk::<V>()) else {
            continue;
        };
        for (r, sums) in sums.iter_mut().enumerate() {
            let left = simd.splat_f32s(left(k, r));
            for (sum, &value) in sums.iter_mut().zip(values) {
                *sum = simd.mul_add_e_f32s(left, value, *sum);
            }
        }
    }
    for (r, sums) in sums.iter().enumerate().take(out.rows) {
        let row = &mut out.values[r * out.stride + out.column + at..][..V * S::F32_LANES];
        for (out, &sum) in S::as_mut_simd_f32s(row).0.iter_mut().zip(sums) {
            *out = if ADD { simd.add_f32s(*out, sum) } else { sum };
        }
    }
}
