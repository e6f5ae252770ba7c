//! Pooling of one row as the definition says, in f64, and its gradients.

use embedtune_cuda_kernels::pooling::Sign;

/// Value, `d value / d p`, and `d value / d x_i`.
pub(crate) struct Pooled {
    pub(crate) value: f64,
    pub(crate) d_p: f64,
    pub(crate) dx: Vec<f64>,
}

const STRAIGHT: f64 = 1e-3;

/// GeM's value alone: what the gradients are checked against.
fn value(x: &[f64], p: f64, eps: f64, sign: Sign) -> f64 {
    let n = x.len() as f64;
    match sign {
        Sign::Clamp => (x.iter().map(|v| v.max(eps).powf(p)).sum::<f64>() / n).powf(1.0 / p),
        Sign::Shift => {
            let low = x.iter().copied().fold(f64::INFINITY, f64::min);
            let mean = x.iter().map(|v| (v - low + eps).powf(p)).sum::<f64>() / n;
            mean.powf(1.0 / p) + low - eps
        }
        Sign::Signed => {
            let top = x.iter().fold(eps, |top, v| top.max(v.abs()));
            let power = |v: f64| {
                let u = v.abs().max(eps) / top;
                u.powf(p) * if v.abs() < eps { v / eps } else { v.signum() }
            };
            let mean = x.iter().map(|&v| power(v)).sum::<f64>() / n;
            let root = match mean.abs() < STRAIGHT {
                true => mean * STRAIGHT.powf(1.0 / p - 1.0),
                false => mean.abs().powf(1.0 / p).copysign(mean),
            };
            top * root
        }
        other => panic!("no reference for {other:?}"),
    }
}

/// GeM with gradients by central differences: the definition is all that is trusted.
pub(crate) fn gem(x: &[f32], p: f32, eps: f32, sign: Sign) -> Pooled {
    let (p, eps) = (f64::from(p), f64::from(eps));
    let mut x: Vec<f64> = x.iter().map(|&v| f64::from(v)).collect();
    let of = |x: &[f64], p: f64| if x.is_empty() { 0.0 } else { value(x, p, eps, sign) };
    let h = 1e-5 * p;
    let d_p = (of(&x, p + h) - of(&x, p - h)) / (2.0 * h);
    let center = of(&x, p);
    let mut dx = Vec::new();
    for i in 0..x.len() {
        let v = x[i];
        let h = 1e-6 * v.abs().max(1e-3);
        x[i] = v + h;
        let above = of(&x, p);
        x[i] = v - h;
        let below = of(&x, p);
        x[i] = v;
        dx.push((above - below) / (2.0 * h));
    }
    Pooled { value: center, d_p, dx }
}

/// The same for [`Sign::Clamp`] with gradients by the formulas, for rows that are long, and powers that are large.
pub(crate) fn gem_clamped(x: &[f32], p: f32, eps: f32) -> Pooled {
    let (p, eps, n) = (f64::from(p), f64::from(eps), x.len() as f64);
    let magnitudes: Vec<f64> = x.iter().map(|&v| f64::from(v).max(eps)).collect();
    let top = magnitudes.iter().copied().fold(eps, f64::max);
    let powers: Vec<f64> = magnitudes.iter().map(|c| (c / top).powf(p)).collect();
    let mean = powers.iter().sum::<f64>() / n;
    let logs = magnitudes.iter().zip(&powers).map(|(c, power)| power * (c / top).ln()).sum::<f64>() / n;
    let root = mean.powf(1.0 / p);
    let d_p = top * root * (logs / (p * mean) - mean.ln() / (p * p));
    let slope = |(c, power): (&f64, &f64)| if *c <= eps { 0.0 } else { root / mean * power * top / c / n };
    Pooled { value: top * root, d_p, dx: magnitudes.iter().zip(&powers).map(slope).collect() }
}

pub(crate) fn average(x: &[f32]) -> Pooled {
    let n = x.len().max(1) as f64;
    Pooled { value: x.iter().map(|&v| f64::from(v)).sum::<f64>() / n, d_p: 0.0, dx: vec![1.0 / n; x.len()] }
}

pub(crate) fn maximum(x: &[f32]) -> Pooled {
    let place = (0..x.len()).reduce(|best, i| if x[i] > x[best] { i } else { best });
    let dx = (0..x.len()).map(|i| if Some(i) == place { 1.0 } else { 0.0 }).collect();
    Pooled { value: place.map_or(0.0, |i| f64::from(x[i])), d_p: 0.0, dx }
}
