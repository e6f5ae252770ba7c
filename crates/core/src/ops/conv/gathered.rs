//! Products with an operand that is read where it lies: the matrix of an image's shifted copies, whose product with
//! the weights is a convolution, without that matrix being written down.
//!
//! `c[j, o] = sum_i x[outer[j] + inner[i]] * a[i, o]`. With pixels outside and kernel elements inside this is a
//! convolution, with kernel elements outside and pixels inside it is the gradient of its weights, and over the
//! gradient's image with turned weights it is the gradient of its input. The columns `o` fill the vectors, so that
//! images as small as 7 by 7 waste nothing.

use pulp::{Simd, WithSimd};

use crate::simd::pulp;

/// Columns come in multiples of this: one vector of the widest instruction set.
pub(super) const UNIT: usize = 16;
/// Columns of a panel: four of the widest vectors.
pub(super) const PANEL: usize = 4 * UNIT;

/// `columns` rounded up to whole units: the length of a row of `c`.
pub(super) fn padded(columns: usize) -> usize {
    columns.next_multiple_of(UNIT)
}

/// Lays `a` (given by its elements, `[depth, columns]`) out in panels, each `[depth, up to PANEL]`; `panels` holds
/// `depth * padded(columns)` values. Columns past the last are zero.
#[inline(always)]
pub(super) fn pack(depth: usize, columns: usize, panels: &mut [f32], a: impl Fn(usize, usize) -> f32) {
    let stride = padded(columns);
    for first in (0..stride).step_by(PANEL) {
        let width = PANEL.min(stride - first);
        let panel = &mut panels[first * depth..][..width * depth];
        for (i, row) in panel.chunks_exact_mut(width).enumerate() {
            for (o, to) in (first..).zip(row) {
                *to = if o < columns { a(i, o) } else { 0.0 };
            }
        }
    }
}

/// One product; run it by [`crate::simd::with_simd`].
pub(super) struct Gathered<'a> {
    /// What [`pack`] made.
    pub(super) panels: &'a [f32],
    /// `padded(columns)`.
    pub(super) stride: usize,
    /// What is read at `outer[j] + inner[i]`.
    pub(super) x: &'a [f32],
    pub(super) outer: &'a [usize],
    pub(super) inner: &'a [usize],
    /// The largest of `inner`.
    pub(super) reach: usize,
    /// `[outer.len(), stride]`.
    pub(super) c: &'a mut [f32],
    /// Whether the product is added to `c`.
    pub(super) add: bool,
}

impl WithSimd for Gathered<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let mut first = 0;
        while first < self.stride {
            let width = PANEL.min(self.stride - first);
            if S::F32_LANES == UNIT {
                match width / UNIT {
                    1 => self.panel::<S, 1, 12, 10, 8>(simd, first, width, 0),
                    2 => self.panel::<S, 2, 12, 10, 8>(simd, first, width, 0),
                    3 => self.panel::<S, 3, 8, 7, 6>(simd, first, width, 0),
                    _ => self.panel::<S, 4, 6, 5, 4>(simd, first, width, 0),
                }
            } else {
                // A unit at a time: two of AVX2's vectors or four of NEON's for each of six rows.
                for at in (0..width).step_by(UNIT) {
                    match S::F32_LANES {
                        8 => self.panel::<S, 2, 6, 5, 4>(simd, first, width, at),
                        4 => self.panel::<S, 4, 6, 5, 4>(simd, first, width, at),
                        2 => self.panel::<S, 8, 2, 2, 2>(simd, first, width, at),
                        _ => self.panel::<S, 16, 1, 1, 1>(simd, first, width, at),
                    }
                }
            }
            first += width;
        }
    }
}

impl Gathered<'_> {
    /// `V` vectors of columns from `first + at` on, all rows of `c` in tiles of `A` or fewer rows.
    #[inline(always)]
    fn panel<S: Simd, const V: usize, const A: usize, const B: usize, const C: usize>(
        &mut self,
        simd: S,
        first: usize,
        width: usize,
        at: usize,
    ) {
        let depth = self.inner.len();
        let (panel, _) = S::as_simd_f32s(&self.panels[first * depth..][..width * depth]);
        let place = Place { step: width / S::F32_LANES, at: at / S::F32_LANES, column: first + at };
        let rows = self.outer.len();
        let mut done = 0;
        // Tiles of nearly one size: six rows and then one would take the time of two full tiles.
        for left in (1..=rows.div_ceil(A)).rev() {
            let size = (rows - done).div_ceil(left);
            if size > B {
                self.tile::<S, V, A>(simd, panel, &place, done, size);
            } else if size > C {
                self.tile::<S, V, B>(simd, panel, &place, done, size);
            } else {
                self.tile::<S, V, C>(simd, panel, &place, done, size);
            }
            done += size;
        }
    }

    /// `size` rows from `start` on, at most `P`.
    #[inline(always)]
    fn tile<S: Simd, const V: usize, const P: usize>(
        &mut self,
        simd: S,
        panel: &[S::f32s],
        place: &Place,
        start: usize,
        size: usize,
    ) {
        let last = start + size - 1;
        // Of one length, so that one comparison guards all of a step's reads. Rows past the last repeat it.
        let x: [&[f32]; P] =
            std::array::from_fn(|p| &self.x[self.outer[(start + p).min(last)]..][..self.reach + 1]);
        let mut sums = [[simd.splat_f32s(0.0); V]; P];
        let row = |p: usize| (start + p) * self.stride + place.column;
        if self.add {
            for (p, sums) in sums.iter_mut().enumerate().take(size) {
                let from = S::as_simd_f32s(&self.c[row(p)..][..V * S::F32_LANES]).0;
                sums.iter_mut().zip(from).for_each(|(sum, &from)| *sum = from);
            }
        }
        for (&inner, a) in self.inner.iter().zip(panel.chunks_exact(place.step)) {
            let Some(a) = a.get(place.at..).and_then(|a| a.first_chunk::<V>()) else { continue };
            for (sums, x) in sums.iter_mut().zip(&x) {
                let x = simd.splat_f32s(x[inner]);
                for (sum, &a) in sums.iter_mut().zip(a) {
                    *sum = simd.mul_add_e_f32s(x, a, *sum);
                }
            }
        }
        for (p, sums) in sums.iter().enumerate().take(size) {
            let to = S::as_mut_simd_f32s(&mut self.c[row(p)..][..V * S::F32_LANES]).0;
            to.iter_mut().zip(sums).for_each(|(to, &sum)| *to = sum);
        }
    }
}

/// Where a panel's vectors lie: vectors a row, the first of them, and the column of `c`.
struct Place {
    step: usize,
    at: usize,
    column: usize,
}

/// `to[column, row] = from[row, column]` for rows `from_stride` and `to_stride` apart, in squares that fit registers.
#[inline(always)]
pub(super) fn transpose(
    from: &[f32],
    from_stride: usize,
    [rows, columns]: [usize; 2],
    to: &mut [f32],
    to_stride: usize,
) {
    const SIDE: usize = 4;
    let whole = rows - rows % SIDE;
    for row in (0..whole).step_by(SIDE) {
        let lines: [&[f32]; SIDE] = std::array::from_fn(|i| &from[(row + i) * from_stride..][..columns]);
        let squares = lines.map(|line| line.as_chunks::<SIDE>().0);
        for k in 0..columns / SIDE {
            let square = squares.map(|line| line[k]);
            for i in 0..SIDE {
                let at = (k * SIDE + i) * to_stride + row;
                to[at..][..SIDE].copy_from_slice(&square.map(|line| line[i]));
            }
        }
        for column in columns - columns % SIDE..columns {
            to[column * to_stride + row..][..SIDE].copy_from_slice(&lines.map(|line| line[column]));
        }
    }
    for row in whole..rows {
        for (column, &v) in from[row * from_stride..][..columns].iter().enumerate() {
            to[column * to_stride + row] = v;
        }
    }
}

/// [`pack`] of `a` given transposed, `[columns, depth]`, into panels that hold zeros past the last column.
#[inline(always)]
pub(super) fn pack_transposed(depth: usize, columns: usize, panels: &mut [f32], a: &[f32]) {
    let stride = padded(columns);
    for first in (0..stride).step_by(PANEL) {
        let width = PANEL.min(stride - first);
        let panel = &mut panels[first * depth..][..width * depth];
        let filled = width.min(columns - first);
        transpose(&a[first * depth..], depth, [filled, depth], panel, width);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd;

    /// Every path against the sum as written, for sizes around the tiles' and the panels'.
    #[test]
    fn equals_the_sum_as_written() {
        for (rows, depth, columns) in
            [(1, 1, 1), (5, 3, 16), (49, 20, 40), (13, 9, 70), (23, 7, 130), (3, 0, 5)]
        {
            let x: Vec<f32> = (0..rows * 2 + depth * 3).map(|i| (i as f32 * 0.7).sin()).collect();
            let outer: Vec<usize> = (0..rows).map(|j| j * 2 % (rows + 1)).collect();
            let inner: Vec<usize> = (0..depth).map(|i| i * 3).collect();
            let a = |i: usize, o: usize| ((i * 31 + o * 7) as f32 * 0.3).cos();
            let stride = padded(columns);
            let mut panels = vec![f32::NAN; depth * stride];
            pack(depth, columns, &mut panels, a);
            let transposed: Vec<f32> =
                (0..columns * depth).map(|i| a(i % depth.max(1), i / depth.max(1))).collect();
            let mut again = vec![0.0; panels.len()];
            pack_transposed(depth, columns, &mut again, &transposed);
            assert_eq!(panels, again);
            let run = |portable: bool, add: bool| {
                let mut c = vec![if add { 0.5 } else { f32::NAN }; rows * stride];
                let product = Gathered {
                    panels: &panels,
                    stride,
                    x: &x,
                    outer: &outer,
                    inner: &inner,
                    reach: inner.last().copied().unwrap_or(0),
                    c: &mut c,
                    add,
                };
                if portable {
                    product.with_simd(pulp::Scalar)
                } else {
                    simd::with_simd(product)
                }
                let mut turned = vec![0.0; columns * rows];
                transpose(&c, stride, [rows, columns], &mut turned, rows);
                turned
            };
            for (portable, add) in [(false, false), (false, true), (true, false), (true, true)] {
                let got = run(portable, add);
                for o in 0..columns {
                    for j in 0..rows {
                        let sum: f64 =
                            (0..depth).map(|i| f64::from(x[outer[j] + inner[i]]) * f64::from(a(i, o))).sum();
                        let expected = sum + if add { 0.5 } else { 0.0 };
                        let error = (f64::from(got[o * rows + j]) - expected).abs();
                        assert!(error < 1e-5, "{rows} {depth} {columns}, {portable} {add}: {error}");
                    }
                }
            }
        }
    }
}
