//! The losses by their definition, in `f64`.

use embedtune_losses::{Edge, Margin, MarginOptions};
use ndarray::Array2;

/// Value by the definition, in `f64`.
pub(crate) fn naive(
    options: &MarginOptions,
    classes: usize,
    x: &Array2<f64>,
    w: &Array2<f64>,
    labels: &[u32],
) -> f64 {
    let k = options.sub_centers;
    let mut total = 0.0;
    for (i, x) in x.rows().into_iter().enumerate() {
        let norm = x.dot(&x).sqrt();
        // Shorter rows are divided by 1e-12, as PyTorch's `normalize` does.
        let unit = |row: usize| w.row(row).dot(&w.row(row)).sqrt().max(1e-12);
        let cosine = |row: usize| x.dot(&w.row(row)) / norm.max(1e-12) / unit(row);
        let logits: Vec<f64> = (0..classes)
            .map(|c| {
                let cosine = (c * k..(c + 1) * k).map(cosine).fold(f64::MIN, f64::max);
                let theta = cosine.clamp(-1.0, 1.0).acos();
                let own = c == labels[i] as usize;
                options.scale
                    * match options.margin {
                        Margin::Cos { cosine: m } => cosine - if own { m } else { 0.0 },
                        Margin::Sphere { multiplier } => {
                            let m = f64::from(multiplier);
                            let k = (m * theta / std::f64::consts::PI).floor();
                            norm * if own { (-1f64).powf(k) * (m * theta).cos() - 2.0 * k } else { cosine }
                        }
                        Margin::Arc { angle, edge, .. } if own => {
                            let m = angle.as_radians();
                            match edge {
                                Edge::Jump if theta > std::f64::consts::PI - m => cosine - m * m.sin(),
                                Edge::Continuous if theta > std::f64::consts::PI - m => {
                                    cosine - (1.0 - m.cos())
                                }
                                _ => (theta + m).cos(),
                            }
                        }
                        _ => cosine,
                    }
            })
            .collect();
        let top = logits.iter().fold(f64::MIN, |a, &b| a.max(b));
        total += top + logits.iter().map(|z| (z - top).exp()).sum::<f64>().ln() - logits[labels[i] as usize];
    }
    total / x.nrows() as f64
}
