//! Exact t-SNE (van der Maaten and Hinton, "Visualizing Data using t-SNE", JMLR 9, 2008), deterministic: it starts
//! from the principal components instead of random points and sums in a fixed order.
//!
//! All pairs are visited, which is quick for the few hundred points of a figure and needs no approximation.

const PERPLEXITY: f64 = 30.0;
const ITERATIONS: usize = 600;
/// Iterations with exaggerated attraction, which lets clusters form early (section 3.4 of the paper).
const EXAGGERATED: usize = 150;
const EXAGGERATION: f64 = 12.0;

pub(super) fn project(rows: &[Vec<f64>], start: &[[f64; 2]]) -> Vec<[f64; 2]> {
    let n = rows.len();
    if n < 4 {
        return start.to_vec();
    }
    let affinities = joint_affinities(rows);
    let mut points = scaled(start);
    let mut velocity = vec![[0.0; 2]; n];
    let mut gains = vec![[1.0f64; 2]; n];
    // Belkina et al. 2019: a rate of n / exaggeration converges for any n; small sets need a floor.
    let rate = (n as f64 / EXAGGERATION).max(20.0);
    let mut kernel = vec![0.0; n * n];
    for iteration in 0..ITERATIONS {
        let (attraction, momentum) = if iteration < EXAGGERATED { (EXAGGERATION, 0.5) } else { (1.0, 0.8) };
        let gradient = gradient(&points, &affinities, attraction, &mut kernel);
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
/// [`PERPLEXITY`] (less for small sets). Row-major `[n, n]`, sums to 1.
fn joint_affinities(rows: &[Vec<f64>]) -> Vec<f64> {
    let n = rows.len();
    let target = PERPLEXITY.min((n - 1) as f64 / 3.0).max(1.5).ln();
    let mut conditional = vec![0.0; n * n];
    for i in 0..n {
        let squared: Vec<f64> = rows
            .iter()
            .map(|other| rows[i].iter().zip(other).map(|(a, b)| (a - b) * (a - b)).sum())
            .collect();
        let nearest = (0..n).filter(|&j| j != i).map(|j| squared[j]).fold(f64::INFINITY, f64::min);
        let (mut precision, mut low, mut high) = (1.0, 0.0, f64::INFINITY);
        let row = &mut conditional[i * n..(i + 1) * n];
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
    }
    let mut joint = vec![0.0; n * n];
    for i in 0..n {
        for j in 0..n {
            joint[i * n + j] = (conditional[i * n + j] + conditional[j * n + i]) / (2.0 * n as f64);
        }
    }
    joint
}

/// Equation 5 of the paper.
fn gradient(points: &[[f64; 2]], affinities: &[f64], attraction: f64, kernel: &mut [f64]) -> Vec<[f64; 2]> {
    let n = points.len();
    let mut total = 0.0;
    for i in 0..n {
        for j in 0..n {
            let (dx, dy) = (points[i][0] - points[j][0], points[i][1] - points[j][1]);
            let value = if i == j { 0.0 } else { 1.0 / (1.0 + dx * dx + dy * dy) };
            kernel[i * n + j] = value;
            total += value;
        }
    }
    let scale = 1.0 / total.max(1e-300);
    (0..n)
        .map(|i| {
            let mut sum = [0.0; 2];
            for j in 0..n {
                let k = kernel[i * n + j];
                let force = (attraction * affinities[i * n + j] - k * scale) * k;
                sum[0] += force * (points[i][0] - points[j][0]);
                sum[1] += force * (points[i][1] - points[j][1]);
            }
            [4.0 * sum[0], 4.0 * sum[1]]
        })
        .collect()
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

    #[test]
    fn separate_clusters_stay_separate_and_bits_repeat() {
        // Three tight clusters around orthogonal directions.
        let rows: Vec<Vec<f64>> = (0..60)
            .map(|i| (0..3).map(|j| f64::from(i % 3 == j) + 0.01 * ((i * 7 + j * 3) as f64).sin()).collect())
            .collect();
        let start = super::super::pca::project(&rows);
        let points = project(&rows, &start);
        let again = project(&rows, &start);
        assert_eq!(points, again);
        for (i, p) in points.iter().enumerate() {
            let nearest = (0..points.len())
                .filter(|&j| j != i)
                .min_by(|&a, &b| distance(p, &points[a]).total_cmp(&distance(p, &points[b])))
                .unwrap();
            assert_eq!(nearest % 3, i % 3, "point {i}");
        }
    }

    #[test]
    fn identical_points_stay_finite() {
        let rows = vec![vec![1.0, 0.0]; 12];
        let points = project(&rows, &[[0.0; 2]; 12]);
        assert!(points.iter().flatten().all(|v| v.is_finite()));
    }

    fn distance(a: &[f64; 2], b: &[f64; 2]) -> f64 {
        (a[0] - b[0]).hypot(a[1] - b[1])
    }
}
