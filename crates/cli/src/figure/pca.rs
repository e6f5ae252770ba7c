//! Principal components by orthogonal iteration.

/// Iterations; the figure needs directions, not digits.
const ITERATIONS: usize = 300;

/// The rows' coordinates along the two directions of largest variance. Signs are fixed (the component of largest
/// magnitude is positive), so that the picture does not flip between runs.
pub(super) fn project(rows: &[Vec<f64>]) -> Vec<[f64; 2]> {
    let (Some(first), count) = (rows.first(), rows.len()) else { return Vec::new() };
    let dim = first.len();
    let mut mean = vec![0.0; dim];
    for row in rows {
        mean.iter_mut().zip(row).for_each(|(m, v)| *m += v / count as f64);
    }
    let centred: Vec<Vec<f64>> =
        rows.iter().map(|row| row.iter().zip(&mean).map(|(v, m)| v - m).collect()).collect();

    // Start from fixed directions that are orthogonal to no plausible component.
    let mut basis: [Vec<f64>; 2] =
        [0, 1].map(|k| (0..dim).map(|j| ((j * (k + 2) + k) as f64 * 0.7 + 0.3).sin()).collect());
    for _ in 0..ITERATIONS {
        for k in 0..2 {
            let mut next = vec![0.0; dim];
            for row in &centred {
                let along = dot(row, &basis[k]);
                next.iter_mut().zip(row).for_each(|(n, v)| *n += along * v);
            }
            if k == 1 {
                let overlap = dot(&next, &basis[0]);
                next.iter_mut().zip(&basis[0]).for_each(|(n, b)| *n -= overlap * b);
            }
            let norm = dot(&next, &next).sqrt();
            if norm > 1e-300 {
                next.iter_mut().for_each(|v| *v /= norm);
                basis[k] = next;
            }
        }
    }
    for direction in &mut basis {
        let extreme = direction.iter().fold(0.0f64, |m, &v| if v.abs() > m.abs() { v } else { m });
        if extreme < 0.0 {
            direction.iter_mut().for_each(|v| *v = -*v);
        }
    }
    centred.iter().map(|row| [dot(row, &basis[0]), dot(row, &basis[1])]).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_plane_that_holds_the_variance() {
        // Points on an ellipse in the plane of axes 1 and 3 of a 4-dimensional space.
        let rows: Vec<Vec<f64>> = (0..40)
            .map(|i| {
                let angle = i as f64 * std::f64::consts::TAU / 40.0;
                vec![0.5, 3.0 * angle.cos(), -1.0, angle.sin()]
            })
            .collect();
        for (point, row) in project(&rows).iter().zip(&rows) {
            assert!((point[0].abs() - row[1].abs()).abs() < 1e-6, "{point:?} {row:?}");
            assert!((point[1].abs() - row[3].abs()).abs() < 1e-6, "{point:?} {row:?}");
        }
    }

    #[test]
    fn degenerate_input_gives_finite_points() {
        for rows in [vec![], vec![vec![1.0, 2.0]], vec![vec![0.0; 3]; 5], vec![vec![1.0]; 4]] {
            let points = project(&rows);
            assert_eq!(points.len(), rows.len());
            assert!(points.iter().flatten().all(|v| v.is_finite()));
        }
    }
}
