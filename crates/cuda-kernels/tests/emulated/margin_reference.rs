//! Margin softmax as the definition says, in f64: dense logits, a softmax over them, and the chain rule through angles.

use embedtune_cuda_kernels::margin::{Edge, Margin};

pub(crate) struct Problem {
    pub(crate) margin: Margin,
    pub(crate) scale: f64,
    pub(crate) n: usize,
    pub(crate) dim: usize,
    pub(crate) classes: usize,
    pub(crate) subs: usize,
    pub(crate) x: Vec<f64>,
    pub(crate) w: Vec<f64>,
    pub(crate) labels: Vec<u32>,
    pub(crate) weights: Vec<f64>,
    pub(crate) class_weights: Vec<f64>,
    pub(crate) upstream: f64,
}

pub(crate) struct Answer {
    pub(crate) value: f64,
    pub(crate) losses: Vec<f64>,
    pub(crate) dx: Vec<f64>,
    pub(crate) dw: Vec<f64>,
}

fn unit(row: &[f64]) -> (Vec<f64>, f64) {
    let norm = row.iter().map(|v| v * v).sum::<f64>().sqrt();
    (row.iter().map(|v| v / norm.max(1e-12)).collect(), norm)
}

/// What of a row's own direction its gradient leaves out: nothing where the row is divided by the floor.
fn projected(norm: f64, cosine: f64) -> f64 {
    if norm > 1e-12 { cosine } else { 0.0 }
}

/// The target's logit before the scale (and the norm), and its derivative in the cosine.
fn target(margin: Margin, cosine: f64) -> (f64, f64) {
    let theta = cosine.clamp(-1.0, 1.0).acos();
    match margin {
        Margin::Cos { cosine: m } => (cosine - m, 1.0),
        Margin::Arc { radians: m, edge, straight_through } => {
            let beyond = theta > std::f64::consts::PI - m;
            let value = match edge {
                Edge::Jump if beyond => cosine - m * m.sin(),
                Edge::Continuous if beyond => cosine - (1.0 - m.cos()),
                _ => (theta + m).cos(),
            };
            let plain = straight_through || (beyond && edge != Edge::None);
            (value, if plain { 1.0 } else { (theta + m).sin() / theta.sin() })
        }
        Margin::Sphere { multiplier } => {
            let m = f64::from(multiplier);
            let k = (m * theta / std::f64::consts::PI).floor().min(m - 1.0);
            let sign = if (k as u32).is_multiple_of(2) { 1.0 } else { -1.0 };
            (sign * (m * theta).cos() - 2.0 * k, sign * m * (m * theta).sin() / theta.sin())
        }
        other => panic!("no reference for {other:?}"),
    }
}

impl Problem {
    pub(crate) fn solve(&self) -> Answer {
        let (n, dim, classes, subs) = (self.n, self.dim, self.classes, self.subs);
        let sphere = matches!(self.margin, Margin::Sphere { .. });
        let rows = |values: &[f64], count: usize| -> Vec<(Vec<f64>, f64)> {
            (0..count).map(|i| unit(&values[i * dim..(i + 1) * dim])).collect()
        };
        let (x, w) = (rows(&self.x, n), rows(&self.w, classes * subs));
        let mut answer = Answer {
            value: 0.0,
            losses: vec![],
            dx: vec![0.0; n * dim],
            dw: vec![0.0; classes * subs * dim],
        };
        for i in 0..n {
            let label = self.labels[i] as usize;
            let norm = if sphere { x[i].1 } else { 1.0 };
            let all: Vec<f64> =
                w.iter().map(|(w, _)| w.iter().zip(&x[i].0).map(|(a, b)| a * b).sum()).collect();
            // Of a class's centres the nearest, the first of equals.
            let nearest: Vec<usize> = (0..classes)
                .map(|j| {
                    (j * subs..(j + 1) * subs)
                        .fold(j * subs, |best, r| if all[r] > all[best] { r } else { best })
                })
                .collect();
            let cosines: Vec<f64> = nearest.iter().map(|&row| all[row]).collect();
            let with_margin: Vec<(f64, f64)> = cosines
                .iter()
                .enumerate()
                .map(|(j, &c)| if j == label { target(self.margin, c) } else { (c, 1.0) })
                .collect();
            let logits: Vec<f64> = with_margin.iter().map(|(f, _)| self.scale * norm * f).collect();
            let top = logits.iter().fold(f64::NEG_INFINITY, |a, &b| a.max(b));
            let sum: f64 = logits.iter().map(|z| (z - top).exp()).sum();
            let loss = top + sum.ln() - logits[label];
            let weight = self.weights[i] * self.class_weights[label] / n as f64;
            answer.losses.push(loss);
            answer.value += loss * weight;
            for j in 0..classes {
                let probability = (logits[j] - top).exp() / sum - if j == label { 1.0 } else { 0.0 };
                let along_logit = probability * weight * self.upstream * self.scale;
                // d logit / scale = norm f'(c) dc + f(c) d norm.
                let along_cosine = along_logit * norm * with_margin[j].1;
                for d in 0..dim {
                    let (xu, wu) = (x[i].0[d], w[nearest[j]].0[d]);
                    let (x_norm, w_norm) = (x[i].1, w[nearest[j]].1);
                    answer.dx[i * dim + d] +=
                        along_cosine * (wu - projected(x_norm, cosines[j]) * xu) / x_norm.max(1e-12);
                    if sphere {
                        answer.dx[i * dim + d] += along_logit * with_margin[j].0 * xu;
                    }
                    answer.dw[nearest[j] * dim + d] +=
                        along_cosine * (xu - projected(w_norm, cosines[j]) * wu) / w_norm.max(1e-12);
                }
            }
        }
        answer
    }
}

#[test]
fn the_reference_is_the_gradient_of_its_value() {
    let mut random = crate::random::Random(3);
    for (margin, subs) in [
        Margin::Arc { radians: 0.5, edge: Edge::Jump, straight_through: false },
        Margin::Cos { cosine: 0.35 },
        Margin::Sphere { multiplier: 4 },
    ]
    .into_iter()
    .flat_map(|margin| [(margin, 1), (margin, 3)])
    {
        let (n, dim, classes) = (3, 5, 4);
        let mut wide = |len| random.normals(len).into_iter().map(f64::from).collect::<Vec<f64>>();
        let mut problem = Problem {
            margin,
            scale: 4.0,
            n,
            dim,
            classes,
            subs,
            x: wide(n * dim),
            w: wide(classes * subs * dim),
            labels: vec![0, 3, 3],
            weights: vec![1.0, 0.5, 2.0],
            class_weights: vec![2.0, 1.0, 1.0, 0.5],
            upstream: 1.0,
        };
        let answer = problem.solve();
        let h = 1e-6;
        for at in 0..n * dim {
            let before = problem.x[at];
            problem.x[at] = before + h;
            let above = problem.solve().value;
            problem.x[at] = before - h;
            let slope = (above - problem.solve().value) / (2.0 * h);
            problem.x[at] = before;
            assert!((slope - answer.dx[at]).abs() < 1e-7, "{margin:?} x[{at}]: {slope} {}", answer.dx[at]);
        }
        for at in 0..classes * subs * dim {
            let before = problem.w[at];
            problem.w[at] = before + h;
            let above = problem.solve().value;
            problem.w[at] = before - h;
            let slope = (above - problem.solve().value) / (2.0 * h);
            problem.w[at] = before;
            assert!((slope - answer.dw[at]).abs() < 1e-7, "{margin:?} w[{at}]: {slope} {}", answer.dw[at]);
        }
    }
}
