//! t-SNE (van der Maaten and Hinton, "Visualizing Data using t-SNE", JMLR 9, 2008), deterministic: it starts from the
//! principal components instead of random points, every point's force is summed by one thread in the order of the
//! rows, and totals are taken in that order too. So the same rows give the same bits on any number of threads.
//!
//! Attraction is that of the nearest neighbours. Repulsion is that of all pairs, exactly: with wide instructions all
//! pairs of 10,000 points take about as long as the tree of Barnes-Hut t-SNE, which only approximates them. Of more
//! than [`LANDMARKS`] points that many, spread evenly over the rows, are embedded first; the others start between
//! their nearest landmarks, and then all are moved together (Kobak and Berens, "The art of using t-SNE for
//! single-cell transcriptomics", Nature Communications 10, 2019, on large data).

use embedtune_core::simd;
use ndarray::{ArrayView2, Axis};
use rayon::prelude::*;

use super::affinities::Affinities;
use crate::Result;
use crate::frame::Metric;
use crate::knn::{Exclude, Hit, knn};
use crate::progress::Progress;

const ITERATIONS: usize = 600;
/// Iterations with exaggerated attraction, which lets clusters form early (section 3.4 of the paper).
const EXAGGERATED: usize = 150;
const EXAGGERATION: f64 = 12.0;
/// Points that are embedded first.
const LANDMARKS: usize = 2000;
/// Iterations that then move all points together.
const TOGETHER: usize = 75;
/// Landmarks that a further point starts between.
const ANCHORS: usize = 5;
/// Sums that run side by side: wide enough for every instruction set, so that the bits do not depend on which it is.
const LANES: usize = 16;
/// Points whose forces one task sums.
const BLOCK: usize = 32;

/// Places for the rows; `start` holds their principal components.
///
/// # Errors
/// More rows than a search can take.
pub(super) fn project(
    rows: ArrayView2<'_, f32>,
    start: &[[f64; 2]],
    progress: &dyn Progress,
) -> Result<Vec<[f64; 2]>> {
    let n = rows.nrows();
    // A round's time is that of its pairs.
    let cost = |points: usize| (points as u64).saturating_mul(points as u64);
    let few = n.min(LANDMARKS);
    let together = if n > LANDMARKS { TOGETHER as u64 * cost(n) } else { 0 };
    progress.begin(ITERATIONS as u64 * cost(few) + together);
    // Without columns all rows are in one place.
    if n < 4 || rows.ncols() == 0 {
        return Ok(start.to_vec());
    }
    let chosen: Vec<usize> = (0..n.min(LANDMARKS)).map(|at| at * n / n.min(LANDMARKS)).collect();
    let landmarks = rows.select(Axis(0), &chosen);
    let start: Vec<[f64; 2]> = chosen.iter().map(|&row| start[row]).collect();
    let mut points = scaled(&start);
    Descent::new(landmarks.view())?
        .run(&mut points, EXAGGERATED, ITERATIONS, &|| progress.advance(cost(few)));
    if n > LANDMARKS {
        points = between(rows, landmarks.view(), &points)?;
        Descent::new(rows)?.run(&mut points, 0, TOGETHER, &|| progress.advance(cost(n)));
    }
    Ok(points)
}

/// Rounds for so many rows.
pub(super) fn rounds(rows: usize) -> usize {
    match rows {
        0..4 => 0,
        4..=LANDMARKS => ITERATIONS,
        _ => ITERATIONS + TOGETHER,
    }
}

/// Gradient descent with momentum and a gain for each coordinate (section 3.4 of the paper).
struct Descent {
    affinities: Affinities,
    velocity: Vec<[f64; 2]>,
    gains: Vec<[f64; 2]>,
    rate: f64,
}

impl Descent {
    fn new(rows: ArrayView2<'_, f32>) -> Result<Self> {
        let n = rows.nrows();
        Ok(Self {
            affinities: Affinities::new(rows)?,
            velocity: vec![[0.0; 2]; n],
            gains: vec![[1.0; 2]; n],
            // Belkina et al. 2019: a rate of n / exaggeration converges for any n; small sets need a floor.
            rate: (n as f64 / EXAGGERATION).max(20.0),
        })
    }

    fn run(&mut self, points: &mut [[f64; 2]], exaggerated: usize, iterations: usize, done: &dyn Fn()) {
        for iteration in 0..iterations {
            let (attraction, momentum) =
                if iteration < exaggerated { (EXAGGERATION, 0.5) } else { (1.0, 0.8) };
            let gradient = gradient(&self.affinities, points, attraction);
            for (i, gradient) in gradient.iter().enumerate() {
                for axis in 0..2 {
                    let (g, v) = (gradient[axis], &mut self.velocity[i][axis]);
                    let gain = &mut self.gains[i][axis];
                    *gain = if (g > 0.0) == (*v > 0.0) { (*gain * 0.8).max(0.01) } else { *gain + 0.2 };
                    *v = momentum * *v - self.rate * *gain * g;
                    points[i][axis] += *v;
                }
            }
            centre(points);
            done();
        }
    }
}

/// Equation 5 of the paper.
fn gradient(affinities: &Affinities, points: &[[f64; 2]], attraction: f64) -> Vec<[f64; 2]> {
    let width = points.len().next_multiple_of(LANES);
    // Padding stands so far away that its kernel's square is zero.
    let (mut x, mut y) = (vec![1e18f32; width], vec![1e18f32; width]);
    for (point, (x, y)) in points.iter().zip(x.iter_mut().zip(&mut y)) {
        (*x, *y) = (point[0] as f32, point[1] as f32);
    }
    let mut forces = vec![Forces::default(); points.len()];
    forces.par_chunks_mut(BLOCK).enumerate().for_each(|(block, forces)| {
        simd::dispatch(
            #[inline(always)]
            || {
                for (at, forces) in forces.iter_mut().enumerate() {
                    push(forces, &x, &y, block * BLOCK + at);
                }
            },
        );
        for (at, forces) in forces.iter_mut().enumerate() {
            pull(forces, affinities, &x, &y, block * BLOCK + at);
        }
    });
    let total = forces.iter().map(|f| f.kernel).sum::<f64>().max(1e-300);
    forces
        .iter()
        .map(|f| [0, 1].map(|axis| 4.0 * (attraction * f.pull[axis] - f.push[axis] / total)))
        .collect()
}

/// What the others do to one point: with the kernel `k = 1 / (1 + d^2)` and the difference `u`, the sums of `k`, of
/// `p k u` and of `k^2 u`.
#[derive(Debug, Clone, Default)]
struct Forces {
    kernel: f64,
    pull: [f64; 2],
    push: [f64; 2],
}

#[inline(always)]
fn push(forces: &mut Forces, x: &[f32], y: &[f32], i: usize) {
    let (own_x, own_y) = (x[i], y[i]);
    let mut sums = [[0.0f32; LANES]; 3];
    for (x, y) in x.chunks_exact(LANES).zip(y.chunks_exact(LANES)) {
        for lane in 0..LANES {
            let (dx, dy) = (own_x - x[lane], own_y - y[lane]);
            let k = reciprocal(1.0 + dx * dx + dy * dy);
            let push = k * k;
            sums[0][lane] += k;
            sums[1][lane] += push * dx;
            sums[2][lane] += push * dy;
        }
    }
    let total = |lanes: &[f32; LANES]| lanes.iter().map(|&v| f64::from(v)).sum::<f64>();
    // The point's kernel with itself is 1 and no part of the sum.
    forces.kernel = total(&sums[0]) - 1.0;
    forces.push = [total(&sums[1]), total(&sums[2])];
}

/// `1 / v` for `v` from 1 to 1e37, to a few units in the last place. The exponent's negative is a first guess that is at
/// most an eighth off, each of Newton's steps squares that; together they take half the time of a division, of which
/// there is one for each pair of points.
#[inline(always)]
fn reciprocal(v: f32) -> f32 {
    let mut guess = f32::from_bits(0x7ef3_11c7u32.wrapping_sub(v.to_bits()));
    for _ in 0..3 {
        guess *= 2.0 - v * guess;
    }
    guess
}

fn pull(forces: &mut Forces, affinities: &Affinities, x: &[f32], y: &[f32], i: usize) {
    let mut sums = [0.0f32; 2];
    for (other, p) in affinities.row(i) {
        let (dx, dy) = (x[i] - x[other as usize], y[i] - y[other as usize]);
        let pull = p / (1.0 + dx * dx + dy * dy);
        sums[0] += pull * dx;
        sums[1] += pull * dy;
    }
    forces.pull = sums.map(f64::from);
}

/// The mean of each row's nearest landmarks' places, the nearer the heavier. A landmark stays where it is.
fn between(
    rows: ArrayView2<'_, f32>,
    landmarks: ArrayView2<'_, f32>,
    points: &[[f64; 2]],
) -> Result<Vec<[f64; 2]>> {
    let near = knn(rows, landmarks, ANCHORS, Metric::L2, Exclude::None)?;
    let place = |hits: &[Hit]| {
        let (mut place, mut total) = ([0.0; 2], 0.0);
        for hit in hits {
            let weight = 1.0 / (f64::from(hit.score).powi(2) + 1e-9);
            total += weight;
            let anchor = points[hit.index as usize];
            place = [0, 1].map(|axis| place[axis] + weight * anchor[axis]);
        }
        place.map(|sum| sum / f64::max(total, 1e-300))
    };
    // A tiny fixed offset parts points that coincide, which no force could.
    Ok(near.rows().enumerate().map(|(row, hits)| offset(place(hits), row, 1e-4)).collect())
}

/// The start, small enough that the early iterations see a smooth landscape.
fn scaled(start: &[[f64; 2]]) -> Vec<[f64; 2]> {
    let spread = (start.iter().map(|p| p[0] * p[0]).sum::<f64>() / start.len() as f64).sqrt();
    let factor = 1e-2 / spread.max(1e-12);
    start.iter().enumerate().map(|(row, p)| offset(p.map(|v| v * factor), row, 1e-6)).collect()
}

fn offset(place: [f64; 2], row: usize, by: f64) -> [f64; 2] {
    [0, 1].map(|axis| place[axis] + by * ((2 * row + axis) as f64 * 12.9898).sin())
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
    use ndarray::Array2;

    /// Three tight clusters around orthogonal directions.
    fn clusters(n: usize) -> Array2<f32> {
        Array2::from_shape_fn((n, 3), |(i, j)| {
            f32::from(u8::from(i % 3 == j)) + 0.01 * ((i * 7 + j * 3) as f32).sin()
        })
    }

    fn start(rows: &Array2<f32>) -> Vec<[f64; 2]> {
        rows.rows().into_iter().map(|row| [f64::from(row[0]), f64::from(row[1])]).collect()
    }

    fn squared(a: &[f64; 2], b: &[f64; 2]) -> f64 {
        (a[0] - b[0]).powi(2) + (a[1] - b[1]).powi(2)
    }

    fn check_neighbours(points: &[[f64; 2]]) {
        for (i, p) in points.iter().enumerate() {
            let nearest = (0..points.len())
                .filter(|&j| j != i)
                .min_by(|&a, &b| squared(p, &points[a]).total_cmp(&squared(p, &points[b])))
                .unwrap();
            assert_eq!(nearest % 3, i % 3, "point {i}");
        }
    }

    /// Below and beyond the number of landmarks.
    #[test]
    fn separate_clusters_stay_separate_and_bits_do_not_depend_on_threads() {
        for n in [75, LANDMARKS + 100] {
            let rows = clusters(n);
            let start = start(&rows);
            let on = |threads: usize| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                pool.install(|| project(rows.view(), &start, &()).unwrap())
            };
            let points = on(1);
            let others: &[usize] = if n > LANDMARKS { &[3] } else { &[2, 3, 5] };
            for &threads in others {
                assert!(points == on(threads), "{n} rows on {threads} threads");
            }
            check_neighbours(&points);
        }
    }

    #[test]
    fn points_start_between_their_landmarks() {
        let rows = clusters(60);
        let landmarks = rows.select(Axis(0), &(0..45).collect::<Vec<_>>());
        let points = project(landmarks.view(), &start(&landmarks), &()).unwrap();
        let all = between(rows.view(), landmarks.view(), &points).unwrap();
        check_neighbours(&all);
        assert!(squared(&all[7], &points[7]).sqrt() < 1e-2, "{:?} {:?}", all[7], points[7]);
    }

    /// The gradient against the derivative of the objective, KL(P, Q) of equation 2, by central differences.
    #[test]
    fn the_gradient_is_that_of_the_divergence() {
        let rows = clusters(21);
        let affinities = Affinities::new(rows.view()).unwrap();
        let points: Vec<[f64; 2]> =
            (0..21).map(|i| [(i as f64 * 1.7).sin() * 2.0, (i as f64 * 0.9).cos() * 2.0]).collect();
        let divergence = |points: &[[f64; 2]]| {
            let kernel = |i: usize, j: usize| 1.0 / (1.0 + squared(&points[i], &points[j]));
            let pairs = (0..21).flat_map(|i| (0..21).filter(move |&j| j != i).map(move |j| (i, j)));
            let total: f64 = pairs.map(|(i, j)| kernel(i, j)).sum();
            (0..21)
                .flat_map(|i| affinities.row(i).map(move |(j, p)| (i, j as usize, f64::from(p))))
                .filter(|&(_, _, p)| p > 0.0)
                .map(|(i, j, p)| p * (p * total / kernel(i, j)).ln())
                .sum::<f64>()
        };
        let gradient = gradient(&affinities, &points, 1.0);
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
    fn reciprocals_are_accurate() {
        let mut v = 1.0f32;
        while v < 1e37 {
            assert!((f64::from(reciprocal(v)) * f64::from(v) - 1.0).abs() < 3e-7, "{v}");
            v *= 1.000_37;
        }
    }

    #[test]
    fn identical_points_stay_finite() {
        for n in [3, 4, 12] {
            let points = project(Array2::ones((n, 2)).view(), &vec![[0.0; 2]; n], &()).unwrap();
            assert!(points.len() == n && points.iter().flatten().all(|v| v.is_finite()));
        }
    }
}
