//! Principal components by randomised subspace iteration (Halko, Martinsson and Tropp, "Finding Structure with
//! Randomness", SIAM Review 53, 2011, algorithms 4.4 and 5.1), deterministic: the random directions come from a fixed
//! seed, and products are cut into blocks that do not depend on the number of threads.

use embedtune_core::linalg;
use ndarray::{Array2, ArrayView1, ArrayView2, ArrayViewMut2, Axis};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use crate::random::{generator, unit};
use crate::{Error, Result};

/// Directions beyond those asked for: they make the last ones accurate (section 4.2 of the paper).
const SPARE: usize = 10;
/// Passes over the rows. Each squares the ratio by which a stronger component outgrows a weaker one.
const PASSES: usize = 8;
/// Part of a row's length below which it is no more than the rounding of `f32`.
const ROUNDING: f64 = 1e-5;
/// Sweeps of the Jacobi method; it converges quadratically, so this many always suffice.
const SWEEPS: usize = 30;

/// The rows' coordinates along their `count` directions of largest variance, the largest first; fewer where the rows
/// have fewer columns or there are fewer rows. `centred` is `[rows, dim]` with columns of mean 0.
///
/// Signs are fixed (the element of a direction that is largest in magnitude is positive), so that a picture does not
/// flip between runs.
pub(super) fn coordinates(centred: ArrayView2<'_, f32>, count: usize) -> Result<Array2<f32>> {
    let (rows, dim) = centred.dim();
    let width = (count + SPARE).min(dim).min(rows);
    let count = count.min(width);
    if count == 0 {
        return Ok(Array2::zeros((rows, 0)));
    }
    let mut generator = generator(0, 0);
    // A direction is a row.
    let mut basis = Array2::from_shape_simple_fn((width, dim), || symmetric(&mut generator));
    orthonormalise(&mut basis);
    let mut along = Array2::zeros((rows, width));
    for _ in 0..PASSES {
        matmul(1.0, centred, basis.t(), 0.0, along.view_mut())?;
        // By columns, which are many: a block of them is a task.
        matmul(1.0, centred.t(), along.view(), 0.0, basis.view_mut().reversed_axes())?;
        orthonormalise(&mut basis);
    }
    matmul(1.0, centred, basis.t(), 0.0, along.view_mut())?;
    // Rayleigh-Ritz: the directions of largest variance within the subspace.
    let mut turn = leading(gram(along.view()), count);
    let mut directions = Array2::zeros((count, dim));
    matmul(1.0, turn.view(), basis.view(), 0.0, directions.view_mut())?;
    for (mut turn, direction) in turn.rows_mut().into_iter().zip(directions.rows()) {
        let extreme = direction.iter().fold(0.0f32, |most, &v| if v.abs() > most.abs() { v } else { most });
        if extreme < 0.0 {
            turn.mapv_inplace(|v| -v);
        }
    }
    let mut found = Array2::zeros((rows, count));
    matmul(1.0, along.view(), turn.t(), 0.0, found.view_mut())?;
    Ok(found)
}

fn matmul(
    alpha: f32,
    a: ArrayView2<'_, f32>,
    b: ArrayView2<'_, f32>,
    beta: f32,
    into: ArrayViewMut2<'_, f32>,
) -> Result<()> {
    let got = a.shape().to_vec();
    linalg::matmul(alpha, a, b, beta, into).map_err(|e| Error::Shape {
        what: "a projection's product",
        expected: e.to_string(),
        got,
    })
}

/// In [-1, 1).
fn symmetric(generator: &mut ChaCha8Rng) -> f32 {
    (2.0 * unit(generator) - 1.0) as f32
}

/// Gram-Schmidt, twice, as once loses digits where rows are nearly parallel. A row that the ones before it span
/// becomes zero: what is left of it is rounding, which may lie in their span as well.
fn orthonormalise(rows: &mut Array2<f32>) {
    for own in 0..rows.nrows() {
        let (before, mut rest) = rows.view_mut().split_at(Axis(0), own);
        let mut row = rest.row_mut(0);
        for _ in 0..2 {
            let whole = length(row.view());
            let overlaps: Vec<f32> = before
                .axis_iter(Axis(0))
                .into_par_iter()
                .map(|other| {
                    dot(other.as_slice().unwrap_or_default(), row.as_slice().unwrap_or_default()) as f32
                })
                .collect();
            for (other, overlap) in before.rows().into_iter().zip(overlaps) {
                row.scaled_add(-overlap, &other);
            }
            let left = length(row.view());
            let factor = if left > ROUNDING * whole { 1.0 / left } else { 0.0 };
            row.mapv_inplace(|v| (f64::from(v) * factor) as f32);
        }
    }
}

fn length(row: ArrayView1<'_, f32>) -> f64 {
    let row = row.as_slice().unwrap_or_default();
    dot(row, row).sqrt()
}

/// Sums side by side, so that the compiler can use wide instructions without changing the order of any sum.
fn dot(a: &[f32], b: &[f32]) -> f64 {
    const LANES: usize = 8;
    let mut sums = [0.0f64; LANES];
    let (a_rest, b_rest) = (a.chunks_exact(LANES).remainder(), b.chunks_exact(LANES).remainder());
    for (a, b) in a.chunks_exact(LANES).zip(b.chunks_exact(LANES)) {
        for lane in 0..LANES {
            sums[lane] += f64::from(a[lane]) * f64::from(b[lane]);
        }
    }
    let rest: f64 = a_rest.iter().zip(b_rest).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum();
    sums.iter().sum::<f64>() + rest
}

/// `along^T along`, in f64.
fn gram(along: ArrayView2<'_, f32>) -> Vec<Vec<f64>> {
    let columns = along.t().as_standard_layout().into_owned();
    let column = |at: usize| columns.row(at).to_slice().map_or(Vec::new(), <[f32]>::to_vec);
    let columns: Vec<Vec<f32>> = (0..columns.nrows()).map(column).collect();
    columns.par_iter().map(|a| columns.iter().map(|b| dot(a, b)).collect()).collect()
}

/// The eigenvectors of the `count` largest eigenvalues, as rows, by Jacobi rotations (Golub and Van Loan, "Matrix
/// Computations", section 8.5).
fn leading(mut matrix: Vec<Vec<f64>>, count: usize) -> Array2<f32> {
    let n = matrix.len();
    // Eigenvectors as rows.
    let mut vectors: Vec<Vec<f64>> =
        (0..n).map(|i| (0..n).map(|j| f64::from(u8::from(i == j))).collect()).collect();
    let scale: f64 = (0..n).map(|i| matrix[i][i].abs()).fold(0.0, f64::max);
    for _ in 0..SWEEPS {
        let off = (0..n)
            .flat_map(|i| (0..i).map(move |j| (i, j)))
            .map(|(i, j)| matrix[i][j].abs())
            .fold(0.0, f64::max);
        if off <= 1e-14 * scale {
            break;
        }
        for p in 0..n {
            for q in p + 1..n {
                let apart = matrix[p][q];
                if apart.abs() <= 1e-300 {
                    continue;
                }
                let theta = (matrix[q][q] - matrix[p][p]) / (2.0 * apart);
                let tangent = theta.signum() / (theta.abs() + (theta * theta + 1.0).sqrt());
                let cosine = 1.0 / (tangent * tangent + 1.0).sqrt();
                let sine = tangent * cosine;
                for row in &mut matrix {
                    (row[p], row[q]) = (cosine * row[p] - sine * row[q], sine * row[p] + cosine * row[q]);
                }
                rotate(&mut matrix, p, q, cosine, sine);
                rotate(&mut vectors, p, q, cosine, sine);
            }
        }
    }
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|&a, &b| matrix[b][b].total_cmp(&matrix[a][a]).then(a.cmp(&b)));
    Array2::from_shape_fn((count, n), |(i, j)| vectors[order[i]][j] as f32)
}

/// Rows `p < q` turned into each other.
fn rotate(rows: &mut [Vec<f64>], p: usize, q: usize, cosine: f64, sine: f64) {
    let (before, rest) = rows.split_at_mut(q);
    for (a, b) in before[p].iter_mut().zip(&mut rest[0]) {
        (*a, *b) = (cosine * *a - sine * *b, sine * *a + cosine * *b);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn centred(mut rows: Array2<f32>) -> Array2<f32> {
        if let Some(mean) = rows.mean_axis(Axis(0)) {
            rows -= &mean;
        }
        rows
    }

    #[test]
    fn finds_the_plane_that_holds_the_variance() {
        // Points on an ellipse in the plane of axes 1 and 3 of a 4-dimensional space.
        let rows = Array2::from_shape_fn((40, 4), |(i, j)| {
            let angle = i as f32 * std::f32::consts::TAU / 40.0;
            [0.5, 3.0 * angle.cos(), -1.0, angle.sin()][j]
        });
        let found = coordinates(centred(rows.clone()).view(), 2).unwrap();
        for (point, row) in found.rows().into_iter().zip(rows.rows()) {
            assert!((point[0] - row[1]).abs() < 1e-5, "{point:?} {row:?}");
            assert!((point[1] - row[3]).abs() < 1e-5, "{point:?} {row:?}");
        }
    }

    /// Variances known beforehand: 90 uncorrelated columns of falling weight, turned into other axes.
    #[test]
    fn fifty_directions_hold_the_variance_that_they_should() {
        let mut generator = generator(1, 0);
        let weight = |j: usize| 0.93f32.powi(j as i32);
        let columns = Array2::from_shape_fn((4000, 90), |(_, j)| symmetric(&mut generator) * weight(j));
        let mut turn = Array2::from_shape_simple_fn((90, 90), || symmetric(&mut generator));
        orthonormalise(&mut turn);
        let rows = centred(columns.dot(&turn));
        let found = coordinates(rows.view(), 50).unwrap();
        let variance = |j: usize| found.column(j).iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>();
        let total: f64 = rows.iter().map(|&v| f64::from(v) * f64::from(v)).sum();
        let expected: f64 = (0..50).map(|j| f64::from(weight(j)).powi(2)).sum::<f64>()
            / (0..90).map(|j| f64::from(weight(j)).powi(2)).sum::<f64>();
        let held = (0..50).map(variance).sum::<f64>() / total;
        assert!((held - expected).abs() < 2e-3, "{held} {expected}");
        assert!((1..50).all(|j| variance(j) <= variance(j - 1) * 1.000_001), "not in order");
        // Uncorrelated, as principal components are.
        for (a, b) in [(0, 1), (3, 20), (10, 49)] {
            let both = found.column(a).dot(&found.column(b));
            assert!(f64::from(both).abs() < 1e-3 * (variance(a) * variance(b)).sqrt(), "{a} {b} {both}");
        }
    }

    #[test]
    fn all_directions_keep_every_distance() {
        let rows = centred(Array2::from_shape_fn((30, 7), |(i, j)| ((i * 5 + j * j) as f32).sin()));
        let found = coordinates(rows.view(), 50).unwrap();
        assert_eq!(found.dim(), (30, 7));
        let apart = |of: &Array2<f32>, a: usize, b: usize| {
            of.row(a).iter().zip(of.row(b)).map(|(a, b)| (a - b).powi(2)).sum::<f32>().sqrt()
        };
        for (a, b) in [(0, 1), (4, 29), (17, 18)] {
            assert!((apart(&rows, a, b) - apart(&found, a, b)).abs() < 1e-5);
        }
    }

    #[test]
    fn degenerate_input_gives_finite_points() {
        for shape in [(0, 3), (1, 2), (5, 3), (4, 1), (3, 0)] {
            let found = coordinates(Array2::zeros(shape).view(), 2).unwrap();
            assert_eq!(found.nrows(), shape.0);
            assert!(found.iter().all(|v| v.is_finite()));
        }
    }
}
