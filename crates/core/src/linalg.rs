//! Products and row operations. Row-major `f32`; the bits of a result do not depend on the number of threads.

use gemm_common::Parallelism;
use ndarray::{ArrayView2, ArrayViewMut2, Axis, Slice};
use rayon::prelude::*;

use crate::{Error, Result};

/// Rows of the output that one task computes in [`matmul`]. Fixed, so that the blocks do not depend on the
/// number of threads.
const ROW_BLOCK: usize = 128;
const COLUMN_BLOCK: usize = 1024;
/// Terms of a sum that one call of the kernel takes at most. It would cut longer sums by itself, at a depth that it derives
/// from the size and associativity of the first cache and that is never below this: bits would depend on the processor.
const DEPTH: usize = 512;
/// Below this many multiply-adds a product is not worth sending to another thread.
const SERIAL_BELOW: usize = 1 << 17;

/// `c = alpha * a b + beta * c` on all threads of the current rayon pool.
///
/// `a` is `[m, k]`, `b` is `[k, n]`, `c` is `[m, n]`; any strides, so pass `x.t()` for a transposed operand.
/// With `beta == 0` the old contents of `c` are ignored (they may be NaN).
///
/// # Errors
/// [`Error::Shape`] if the shapes do not fit.
pub fn matmul(
    alpha: f32,
    a: ArrayView2<'_, f32>,
    b: ArrayView2<'_, f32>,
    beta: f32,
    mut c: ArrayViewMut2<'_, f32>,
) -> Result<()> {
    check(&a, &b, &c)?;
    let (m, n) = c.dim();
    if m.saturating_mul(n).saturating_mul(a.ncols()) < SERIAL_BELOW {
        product(alpha, a, b, beta, c);
        return Ok(());
    }
    let (rows, columns) = (ROW_BLOCK.min(m), COLUMN_BLOCK.min(n));
    let blocks: Vec<_> = c
        .axis_chunks_iter_mut(Axis(0), rows)
        .zip(a.axis_chunks_iter(Axis(0), rows))
        .flat_map(|(c, a)| {
            let mut strips = Vec::new();
            let mut rest = c;
            for b in b.axis_chunks_iter(Axis(1), columns) {
                let (strip, tail) = rest.split_at(Axis(1), b.ncols());
                strips.push((a, b, strip));
                rest = tail;
            }
            strips
        })
        .collect();
    blocks.into_par_iter().for_each(|(a, b, c)| product(alpha, a, b, beta, c));
    Ok(())
}

/// [`matmul`] on the calling thread alone: for use inside a parallel region.
///
/// # Errors
/// [`Error::Shape`] if the shapes do not fit.
pub fn matmul_serial(
    alpha: f32,
    a: ArrayView2<'_, f32>,
    b: ArrayView2<'_, f32>,
    beta: f32,
    c: ArrayViewMut2<'_, f32>,
) -> Result<()> {
    check(&a, &b, &c)?;
    product(alpha, a, b, beta, c);
    Ok(())
}

fn check(a: &ArrayView2<'_, f32>, b: &ArrayView2<'_, f32>, c: &ArrayViewMut2<'_, f32>) -> Result<()> {
    if a.ncols() != b.nrows() || c.nrows() != a.nrows() || c.ncols() != b.ncols() {
        return Err(Error::Shape {
            op: "matmul",
            expected: format!("[m, k] x [k, n] -> [m, n]; a is {:?} and c is {:?}", a.shape(), c.shape()),
            got: b.shape().to_vec(),
        });
    }
    Ok(())
}

/// One serial product; the shapes have been checked.
fn product(
    alpha: f32,
    a: ArrayView2<'_, f32>,
    b: ArrayView2<'_, f32>,
    beta: f32,
    mut c: ArrayViewMut2<'_, f32>,
) {
    // The kernel writes whole vectors only down a column: c^T = b^T a^T is up to four times faster for a row-major c.
    let (a, b) = if c.strides()[1].abs() < c.strides()[0].abs() {
        c = c.reversed_axes();
        (b.reversed_axes(), a.reversed_axes())
    } else {
        (a, b)
    };
    if c.is_empty() {
        return;
    }
    let k = a.ncols();
    // A row or a column of dot products of contiguous vectors: the kernel takes each whole, whatever the caches.
    let dots = c.dim().0.min(c.dim().1) == 1 && a.strides()[1] == 1 && b.strides()[0] == 1;
    if k <= DEPTH || dots {
        multiply(alpha, a, b, beta, c);
        return;
    }
    let depth = k.div_ceil(k.div_ceil(DEPTH));
    for start in (0..k).step_by(depth) {
        let part = Slice::from(start..k.min(start + depth));
        let (a, b) = (a.slice_axis(Axis(1), part), b.slice_axis(Axis(0), part));
        multiply(alpha, a, b, if start == 0 { beta } else { 1.0 }, c.view_mut());
    }
}

/// One call of the kernel, for a `c` of at least one element.
fn multiply(
    alpha: f32,
    a: ArrayView2<'_, f32>,
    b: ArrayView2<'_, f32>,
    beta: f32,
    mut c: ArrayViewMut2<'_, f32>,
) {
    let ((m, n), k) = (c.dim(), a.ncols());
    let (cs, a_s, bs) = ([c.strides()[0], c.strides()[1]], a.strides(), b.strides());
    let kernel = gemm_f32::gemm::f32::get_gemm_fn();
    // SAFETY: pointers and strides come from live views of the checked shapes [m, k], [k, n] and [m, n], so every
    // element that the kernel touches lies inside them; `c` is borrowed mutably and so overlaps neither operand.
    // `read_dst` is false where beta is 0. In the kernel's convention dst = alpha * dst + beta * lhs * rhs.
    unsafe {
        kernel(
            m,
            n,
            k,
            c.as_mut_ptr(),
            cs[1],
            cs[0],
            beta != 0.0,
            a.as_ptr(),
            a_s[1],
            a_s[0],
            b.as_ptr(),
            bs[1],
            bs[0],
            beta,
            alpha,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}

/// A row shorter than this has no direction: it is divided by this instead of its length, as
/// `torch.nn.functional.normalize` does.
pub const NORM_FLOOR: f64 = 1e-12;

/// Length of a row of any strides. Squares in `f64`, added one after the other: no finite row overflows or vanishes.
pub fn norm<'a>(row: impl IntoIterator<Item = &'a f32>) -> f64 {
    row.into_iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>().sqrt()
}

/// Sum of a row's squares in `f64`, in eight lanes that become vector instructions: faster than the square of [`norm`], and
/// equal to it but for rounding.
#[inline(always)]
pub fn squared_norm(row: &[f32]) -> f64 {
    let mut sums = [0.0f64; 8];
    let (chunks, rest) = row.as_chunks::<8>();
    for chunk in chunks {
        for (sum, &v) in sums.iter_mut().zip(chunk) {
            *sum += f64::from(v) * f64::from(v);
        }
    }
    sums.iter().sum::<f64>() + rest.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>()
}

/// Unit rows and the original norms: `unit[i] = x[i] / max(|x[i]|, eps)`. Norms are accumulated in `f64`.
///
/// A zero row stays zero. Returns the norms (not clamped). `unit` may have any strides.
///
/// # Errors
/// [`Error::Shape`] if `unit` and `x` differ in shape, [`Error::Parameter`] for an `eps` that is not above 0.
pub fn normalize_rows(
    x: ArrayView2<'_, f32>,
    eps: f32,
    mut unit: ArrayViewMut2<'_, f32>,
) -> Result<Vec<f32>> {
    if x.dim() != unit.dim() {
        return Err(Error::Shape {
            op: "normalize_rows",
            expected: format!("{:?}, the input's shape", x.shape()),
            got: unit.shape().to_vec(),
        });
    }
    if !(eps > 0.0 && eps.is_finite()) {
        return Err(Error::Parameter {
            op: "normalize_rows",
            name: "eps",
            value: eps.to_string(),
            expected: "a number above 0, or a zero row would be NaN; 1e-12 is usual".to_owned(),
        });
    }
    const BLOCK: usize = 64;
    let mut norms = vec![0.0f32; x.nrows()];
    let tasks: Vec<_> = x
        .axis_chunks_iter(Axis(0), BLOCK)
        .zip(unit.axis_chunks_iter_mut(Axis(0), BLOCK))
        .zip(norms.chunks_mut(BLOCK))
        .collect();
    tasks.into_par_iter().for_each(|((x, mut unit), norms)| {
        for ((x, mut unit), to) in x.rows().into_iter().zip(unit.rows_mut()).zip(norms) {
            let length = norm(x);
            let scale = 1.0 / length.max(f64::from(eps));
            unit.zip_mut_with(&x, |u, &v| *u = (f64::from(v) * scale) as f32);
            *to = length as f32;
        }
    });
    Ok(norms)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::Array2;

    fn wave(rows: usize, columns: usize, phase: f32) -> Array2<f32> {
        Array2::from_shape_fn((rows, columns), |(i, j)| ((i * 7 + j * 3) as f32 * 0.37 + phase).sin())
    }

    #[test]
    fn matches_the_naive_product_for_all_strides() {
        for &(m, n, k) in &[(1, 1, 1), (3, 5, 7), (130, 70, 33), (300, 1100, 65), (5, 4, 0), (70, 66, 1500)] {
            let (a, b) = (wave(m, k, 0.1), wave(k, n, 0.7));
            let (at, bt) = (a.t().as_standard_layout().to_owned(), b.t().as_standard_layout().to_owned());
            let start = wave(m, n, 1.3);
            let expected = a.mapv(f64::from).dot(&b.mapv(f64::from)) * 0.5 + start.mapv(f64::from) * 2.0;
            for (a, b) in [(a.view(), b.view()), (at.t(), bt.t())] {
                let mut c = start.clone();
                matmul(0.5, a, b, 2.0, c.view_mut()).unwrap();
                let error = (&c.mapv(f64::from) - &expected).iter().fold(0.0f64, |m, v| m.max(v.abs()));
                assert!(error < 1e-4, "{m} {n} {k}: {error}");
            }
        }
    }

    /// The kernel alone would sum more terms at a time where the first cache is larger than 32 KiB.
    #[test]
    fn sums_are_cut_where_every_processor_cuts_them() {
        for (m, n, k) in [(1, 90, 700), (3, 5, 1300), (70, 40, 513), (200, 130, 1024), (66, 66, 2000)] {
            let (a, b) = (wave(m, k, 0.1), wave(k, n, 0.7));
            let mut expected = wave(m, n, 1.3);
            let mut got = expected.clone();
            let depth = k.div_ceil(k.div_ceil(512));
            for start in (0..k).step_by(depth) {
                let part = Slice::from(start..k.min(start + depth));
                let (a, b) = (a.slice_axis(Axis(1), part), b.slice_axis(Axis(0), part));
                multiply(0.5, a, b, if start == 0 { 2.0 } else { 1.0 }, expected.view_mut());
            }
            matmul_serial(0.5, a.view(), b.view(), 2.0, got.view_mut()).unwrap();
            assert_eq!(got, expected, "{m} x {k} x {n}");
        }
    }

    #[test]
    fn lengths_of_any_magnitude_are_right_to_the_last_digits() {
        for row in
            [vec![3e38f32; 19], vec![1e-45; 19], vec![3.0, -4.0], vec![], (1..40).map(|i| i as f32).collect()]
        {
            let most = row.iter().fold(0.0f64, |most, &v| most.max(f64::from(v).abs())).max(1e-300);
            let exact = row.iter().map(|&v| (f64::from(v) / most).powi(2)).sum::<f64>().sqrt() * most;
            for length in [norm(&row), squared_norm(&row).sqrt()] {
                assert!((length - exact).abs() <= 1e-14 * exact, "{row:?}: {length}, not {exact}");
            }
        }
    }

    #[test]
    fn beta_zero_ignores_nan() {
        let mut c = Array2::from_elem((3, 3), f32::NAN);
        matmul(1.0, wave(3, 2, 0.0).view(), wave(2, 3, 0.0).view(), 0.0, c.view_mut()).unwrap();
        assert!(c.iter().all(|v| v.is_finite()));
    }

    #[test]
    fn wrong_shapes_are_an_error() {
        let mut c = Array2::zeros((3, 3));
        let error = matmul(1.0, wave(3, 2, 0.0).view(), wave(3, 3, 0.0).view(), 0.0, c.view_mut());
        assert!(matches!(error, Err(Error::Shape { op: "matmul", .. })));
    }

    #[test]
    fn rows_of_any_magnitude_become_units() {
        let x = ndarray::array![[3e38f32, 3e38], [1e-40, 0.0], [0.0, 0.0]];
        let mut unit = Array2::zeros((3, 2));
        let norms = normalize_rows(x.view(), 0.0f32.max(1e-45), unit.view_mut()).unwrap();
        assert!((unit[[0, 0]] - 0.5f32.sqrt()).abs() < 1e-6);
        assert!((unit[[1, 0]] - 1.0).abs() < 1e-6);
        assert_eq!(unit.row(2).to_vec(), vec![0.0, 0.0]);
        assert_eq!(norms[2], 0.0);
    }
}
