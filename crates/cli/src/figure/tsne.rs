//! Exact t-SNE (van der Maaten and Hinton, "Visualizing Data using t-SNE", JMLR 9, 2008), deterministic: it starts
//! from the principal components instead of random points, every point's force is summed by one thread in the order
//! of the rows, and totals are taken in that order too. So the same rows give the same bits on any number of threads.
//!
//! All pairs are visited: 1,000 points take about a second on two cores, 2,000 four times that. Of larger sets the
//! first [`LANDMARKS`] points are embedded so, and each other one is placed between the landmarks nearest to it.

use embedtune_train::core::simd;
use rayon::prelude::*;

const PERPLEXITY: f64 = 30.0;
const ITERATIONS: usize = 600;
/// Iterations with exaggerated attraction, which lets clusters form early (section 3.4 of the paper).
const EXAGGERATED: usize = 150;
const EXAGGERATION: f64 = 12.0;
/// Points that push and pull each other; the rest are placed between them.
const LANDMARKS: usize = 2000;
/// Landmarks that a further point is placed between.
const ANCHORS: usize = 5;
/// Sums that run side by side: wide enough for every instruction set, so that the bits do not depend on which it is.
const LANES: usize = 16;

pub(super) fn project(rows: &[Vec<f64>], start: &[[f64; 2]]) -> Vec<[f64; 2]> {
    let (landmarks, rest) = rows.split_at(rows.len().min(LANDMARKS));
    let mut points = embed(landmarks, &start[..landmarks.len()]);
    let placed: Vec<[f64; 2]> = rest.par_iter().map(|row| between(row, landmarks, &points)).collect();
    points.extend(placed);
    points
}

fn embed(rows: &[Vec<f64>], start: &[[f64; 2]]) -> Vec<[f64; 2]> {
    let n = rows.len();
    if n < 4 {
        return start.to_vec();
    }
    let affinities = Affinities::new(rows);
    let mut points = scaled(start);
    let mut velocity = vec![[0.0; 2]; n];
    let mut gains = vec![[1.0f64; 2]; n];
    // Belkina et al. 2019: a rate of n / exaggeration converges for any n; small sets need a floor.
    let rate = (n as f64 / EXAGGERATION).max(20.0);
    for iteration in 0..ITERATIONS {
        let (attraction, momentum) = if iteration < EXAGGERATED { (EXAGGERATION, 0.5) } else { (1.0, 0.8) };
        let gradient = affinities.gradient(&points, attraction);
        for i in 0..n {
            for axis in 0..2 {
                let (g, v) = (gradient[i][axis], &mut velocity[i][axis]);
                let gain = &mut gains[i][axis];
                *gain = if (g > 0.0) == (*v > 0.0) { (*gain * 0.8).max(0.01) } else { *gain + 0.2 };
                *v = momentum * *v - rate * *gain * g;
                points[i][axis] += *v;
            }
        }
        centre(&mut points);
    }
    points
}

/// Symmetric affinities `p_ij` with each row's bandwidth found by bisection so that its perplexity is
/// [`PERPLEXITY`] (less for small sets). They sum to 1.
struct Affinities {
    /// Row-major; rows padded with zeros to a multiple of [`LANES`].
    values: Vec<f32>,
    width: usize,
}

impl Affinities {
    fn new(rows: &[Vec<f64>]) -> Self {
        let n = rows.len();
        let width = n.next_multiple_of(LANES);
        let conditional: Vec<Vec<f64>> = (0..n).into_par_iter().map(|i| conditional(rows, i)).collect();
        let mut values = vec![0.0; n * width];
        values.par_chunks_mut(width).enumerate().for_each(|(i, row)| {
            for (j, value) in row[..n].iter_mut().enumerate() {
                *value = ((conditional[i][j] + conditional[j][i]) / (2.0 * n as f64)) as f32;
            }
        });
        Self { values, width }
    }

    /// Equation 5 of the paper.
    fn gradient(&self, points: &[[f64; 2]], attraction: f64) -> Vec<[f64; 2]> {
        // Padding stands so far away that its kernel's square is zero.
        let mut x = vec![1e18f32; self.width];
        let mut y = vec![1e18f32; self.width];
        for (point, (x, y)) in points.iter().zip(x.iter_mut().zip(&mut y)) {
            (*x, *y) = (point[0] as f32, point[1] as f32);
        }
        let forces: Vec<Forces> = self
            .values
            .par_chunks(self.width)
            .enumerate()
            .map(|(i, affinities)| {
                simd::dispatch(
                    #[inline(always)]
                    || forces(affinities, &x, &y, i),
                )
            })
            .collect();
        let total = forces.iter().map(|f| f.kernel).sum::<f64>().max(1e-300);
        forces
            .iter()
            .map(|f| [0, 1].map(|axis| 4.0 * (attraction * f.pull[axis] - f.push[axis] / total)))
            .collect()
    }
}

/// What all points do to one: with the kernel `k = 1 / (1 + d^2)` and the difference `u`, the sums of `k`, of
/// `p k u` and of `k^2 u`.
struct Forces {
    kernel: f64,
    pull: [f64; 2],
    push: [f64; 2],
}

#[inline(always)]
fn forces(affinities: &[f32], x: &[f32], y: &[f32], i: usize) -> Forces {
    let (own_x, own_y) = (x[i], y[i]);
    let mut sums = [[0.0f32; LANES]; 5];
    let chunks = affinities.chunks_exact(LANES).zip(x.chunks_exact(LANES).zip(y.chunks_exact(LANES)));
    for (p, (x, y)) in chunks {
        for lane in 0..LANES {
            let (dx, dy) = (own_x - x[lane], own_y - y[lane]);
            let k = 1.0 / (1.0 + dx * dx + dy * dy);
            let (pull, push) = (p[lane] * k, k * k);
            sums[0][lane] += k;
            sums[1][lane] += pull * dx;
            sums[2][lane] += pull * dy;
            sums[3][lane] += push * dx;
            sums[4][lane] += push * dy;
        }
    }
    let total = |lanes: &[f32; LANES]| lanes.iter().map(|&v| f64::from(v)).sum::<f64>();
    // The point's kernel with itself is 1 and no part of the sum.
    Forces {
        kernel: total(&sums[0]) - 1.0,
        pull: [total(&sums[1]), total(&sums[2])],
        push: [total(&sums[3]), total(&sums[4])],
    }
}

/// `p_j|i` for all `j`, equation 1 of the paper.
fn conditional(rows: &[Vec<f64>], i: usize) -> Vec<f64> {
    let n = rows.len();
    let target = PERPLEXITY.min((n - 1) as f64 / 3.0).max(1.5).ln();
    let squared: Vec<f64> = rows.iter().map(|other| distance(&rows[i], other)).collect();
    let nearest = (0..n).filter(|&j| j != i).map(|j| squared[j]).fold(f64::INFINITY, f64::min);
    let (mut precision, mut low, mut high) = (1.0, 0.0, f64::INFINITY);
    let mut row = vec![0.0; n];
    for _ in 0..64 {
        let mut sum = 0.0;
        let mut weighted = 0.0;
        for j in 0..n {
            // Relative to the nearest neighbour, so that the sum never underflows to zero.
            row[j] = if j == i { 0.0 } else { (-(squared[j] - nearest) * precision).exp() };
            sum += row[j];
            weighted += row[j] * (squared[j] - nearest);
        }
        row.iter_mut().for_each(|p| *p /= sum);
        let entropy = sum.ln() + precision * weighted / sum;
        if (entropy - target).abs() < 1e-5 {
            break;
        }
        if entropy > target {
            low = precision;
            precision = if high.is_finite() { (low + high) / 2.0 } else { precision * 2.0 };
        } else {
            high = precision;
            precision = (low + high) / 2.0;
        }
    }
    row
}

/// The mean of the nearest landmarks' places, the nearer the heavier.
fn between(row: &[f64], landmarks: &[Vec<f64>], points: &[[f64; 2]]) -> [f64; 2] {
    let mut near: Vec<(f64, usize)> =
        landmarks.iter().enumerate().map(|(i, landmark)| (distance(row, landmark), i)).collect();
    let order = |a: &(f64, usize), b: &(f64, usize)| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1));
    let count = ANCHORS.min(near.len());
    if count < near.len() {
        near.select_nth_unstable_by(count, order);
        near.truncate(count);
    }
    near.sort_unstable_by(order);
    let (mut place, mut total) = ([0.0; 2], 0.0);
    for (squared, i) in near {
        let weight = 1.0 / (squared + 1e-9);
        total += weight;
        place[0] += weight * points[i][0];
        place[1] += weight * points[i][1];
    }
    place.map(|sum| sum / total)
}

/// The squared Euclidean distance.
fn distance(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum()
}

/// The start, small enough that the early iterations see a smooth landscape.
fn scaled(start: &[[f64; 2]]) -> Vec<[f64; 2]> {
    let spread = (start.iter().map(|p| p[0] * p[0]).sum::<f64>() / start.len() as f64).sqrt();
    let factor = 1e-2 / spread.max(1e-12);
    // A tiny fixed offset parts points that coincide, which no force could.
    start
        .iter()
        .enumerate()
        .map(|(i, p)| [0, 1].map(|axis| p[axis] * factor + 1e-6 * ((2 * i + axis) as f64 * 12.9898).sin()))
        .collect()
}

fn centre(points: &mut [[f64; 2]]) {
    for axis in 0..2 {
        let mean = points.iter().map(|p| p[axis]).sum::<f64>() / points.len() as f64;
        points.iter_mut().for_each(|p| p[axis] -= mean);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three tight clusters around orthogonal directions.
    fn clusters(n: usize) -> Vec<Vec<f64>> {
        (0..n)
            .map(|i| (0..3).map(|j| f64::from(i % 3 == j) + 0.01 * ((i * 7 + j * 3) as f64).sin()).collect())
            .collect()
    }

    fn check_neighbours(points: &[[f64; 2]]) {
        for (i, p) in points.iter().enumerate() {
            let nearest = (0..points.len())
                .filter(|&j| j != i)
                .min_by(|&a, &b| distance(p, &points[a]).total_cmp(&distance(p, &points[b])))
                .unwrap();
            assert_eq!(nearest % 3, i % 3, "point {i}");
        }
    }

    #[test]
    fn separate_clusters_stay_separate_and_bits_do_not_depend_on_threads() {
        let rows = clusters(75);
        let start = super::super::pca::project(&rows);
        let on = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| project(&rows, &start))
        };
        let points = on(1);
        assert_eq!(points, on(3));
        check_neighbours(&points);
    }

    #[test]
    fn points_beyond_the_landmarks_join_their_clusters() {
        let rows = clusters(60);
        let points = project(&rows[..45], &super::super::pca::project(&rows[..45]));
        let all: Vec<[f64; 2]> = rows[..45]
            .iter()
            .enumerate()
            .map(|(i, _)| points[i])
            .chain(rows[45..].iter().map(|row| between(row, &rows[..45], &points)))
            .collect();
        check_neighbours(&all);
        // A landmark itself is placed where it is.
        let own = between(&rows[7], &rows[..45], &points);
        assert!(
            distance(&own, &points[7]) < 1e-3 * distance(&points[7], &points[8]),
            "{own:?} {:?}",
            points[7]
        );
    }

    /// The gradient against the derivative of the objective, KL(P, Q) of equation 2, by central differences.
    #[test]
    fn the_gradient_is_that_of_the_divergence() {
        let rows = clusters(21);
        let affinities = Affinities::new(&rows);
        let points: Vec<[f64; 2]> =
            (0..21).map(|i| [(i as f64 * 1.7).sin() * 2.0, (i as f64 * 0.9).cos() * 2.0]).collect();
        let divergence = |points: &[[f64; 2]]| {
            let kernel = |i: usize, j: usize| 1.0 / (1.0 + distance(&points[i], &points[j]));
            let pairs = || (0..21).flat_map(|i| (0..21).filter(move |&j| j != i).map(move |j| (i, j)));
            let total: f64 = pairs().map(|(i, j)| kernel(i, j)).sum();
            let p = |i: usize, j: usize| f64::from(affinities.values[i * affinities.width + j]);
            pairs()
                .filter(|&(i, j)| p(i, j) > 0.0)
                .map(|(i, j)| p(i, j) * (p(i, j) * total / kernel(i, j)).ln())
                .sum::<f64>()
        };
        let gradient = affinities.gradient(&points, 1.0);
        for i in 0..21 {
            for axis in 0..2 {
                let moved = |step: f64| {
                    let mut points = points.clone();
                    points[i][axis] += step;
                    divergence(&points)
                };
                let numeric = (moved(1e-5) - moved(-1e-5)) / 2e-5;
                assert!((numeric - gradient[i][axis]).abs() < 1e-5, "{numeric} {}", gradient[i][axis]);
            }
        }
    }

    #[test]
    fn identical_points_stay_finite() {
        let rows = vec![vec![1.0, 0.0]; 12];
        let points = project(&rows, &[[0.0; 2]; 12]);
        assert!(points.iter().flatten().all(|v| v.is_finite()));
    }
}
