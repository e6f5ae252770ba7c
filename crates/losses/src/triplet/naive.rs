//! The definition, triplet by triplet, in `f64`.

use ndarray::{Array2, ArrayView1};

use super::{Distance, Reduction, TripletMarginOptions};
use crate::{GradsMut, Input, Miner, Result, Stats, TripletKind, Write};

pub(crate) fn forward_backward(
    o: &TripletMarginOptions,
    input: Input<'_>,
    grads: GradsMut<'_>,
) -> Result<Stats> {
    let x = input.embeddings.mapv(f64::from);
    let (u, norms) = unit(&x);
    let own = input.reference.is_none();
    let r = input.reference.map_or_else(|| x.clone(), |r| r.embeddings.mapv(f64::from));
    let (ru, _) = unit(&r);
    let ref_labels = input.reference.map_or(input.labels, |r| r.labels);
    let same = |a: usize| match input.reference {
        None => Some(a),
        Some(r) => r.same_item.and_then(|s| s.get(a)).filter(|&&i| i != u32::MAX).map(|&i| i as usize),
    };
    let (y, z) = if o.normalize { (&u, &ru) } else { (&x, &r) };
    let t = |a: ArrayView1<'_, f64>, b: ArrayView1<'_, f64>| match o.distance {
        Distance::L2 => (&a - &b).mapv(|v| v * v).sum().sqrt(),
        Distance::SquaredL2 => (&a - &b).mapv(|v| v * v).sum(),
        Distance::Cosine => -a.dot(&b),
    };
    let mined = |a: usize, p: usize, n: usize| {
        let d = |j: usize| (&u.row(a) - &ru.row(j)).mapv(|v| v * v).sum().sqrt();
        match o.miner {
            Miner::TripletMargin { margin, kind } => {
                let tm = d(n) - d(p);
                match kind {
                    TripletKind::All => tm <= margin,
                    TripletKind::Hard => tm <= 0.0,
                    TripletKind::Semihard => tm > 0.0 && tm <= margin,
                    TripletKind::Easy => tm > margin,
                }
            }
            _ => true,
        }
    };
    let (batch, reference) = (x.nrows(), r.nrows());
    let (mut triplets, mut active, mut value) = (0u64, 0u64, 0.0);
    let mut per_sample = vec![0.0; batch];
    let mut d_y = Array2::<f64>::zeros(x.dim());
    for a in 0..batch {
        let class = |c: bool| {
            (0..reference)
                .filter(move |&j| Some(j) != same(a) && (ref_labels[j] == input.labels[a]) == c)
                .collect::<Vec<_>>()
        };
        let (mut positives, mut negatives) = (class(true), class(false));
        if o.miner == Miner::BatchHard {
            let d = |j: usize| (&u.row(a) - &ru.row(j)).mapv(|v| v * v).sum().sqrt();
            let best = |list: &[usize], sign: f64| {
                list.iter().copied().reduce(|b, j| if sign * d(j) > sign * d(b) { j } else { b })
            };
            positives = best(&positives, 1.0).into_iter().collect();
            negatives = best(&negatives, -1.0).into_iter().collect();
        }
        let weight = input.sample_weights.map_or(1.0, |w| f64::from(w[a]))
            * input.class_weights.map_or(1.0, |w| f64::from(w[input.labels[a] as usize]));
        for &p in &positives {
            for n in negatives.iter().copied().filter(|&n| mined(a, p, n)) {
                let (ap, an, pn) = (t(y.row(a), z.row(p)), t(y.row(a), z.row(n)), t(z.row(p), z.row(n)));
                let swapped = o.swap && pn < an;
                let v = ap + o.margin - if swapped { pn } else { an };
                let (loss, slope) = if o.smooth {
                    (v.max(0.0) + (-v.abs()).exp().ln_1p(), 1.0 / (1.0 + (-v).exp()))
                } else {
                    (v.max(0.0), f64::from(u8::from(v > 0.0)))
                };
                triplets += 1;
                active += u64::from(loss > 0.0);
                value += weight * loss;
                per_sample[a] += weight * loss;
                let slope = weight * slope;
                pull(o.distance, &mut d_y, (a, y.row(a)), (own.then_some(p), z.row(p)), slope);
                if !swapped {
                    pull(o.distance, &mut d_y, (a, y.row(a)), (own.then_some(n), z.row(n)), -slope);
                } else if own {
                    pull(o.distance, &mut d_y, (p, z.row(p)), (Some(n), z.row(n)), -slope);
                }
            }
        }
    }
    let divisor = match o.reduction {
        Reduction::Mean => triplets,
        Reduction::MeanNonZero => active,
        Reduction::Sum => 1,
    }
    .max(1) as f64;
    if let Some(out) = grads.per_sample {
        out.iter_mut().zip(&per_sample).for_each(|(o, &v)| *o = v as f32);
    }
    if let Some(mut out) = grads.embeddings {
        for i in 0..batch {
            let g = &d_y.row(i) * (f64::from(grads.upstream) / divisor);
            let g = if !o.normalize {
                g
            } else if norms[i] > 1e-12 {
                (&g - &(&u.row(i) * u.row(i).dot(&g))) / norms[i]
            } else {
                g / 1e-12
            };
            out.row_mut(i).zip_mut_with(&g, |o, &g| {
                *o = if grads.write == Write::Add { *o + g as f32 } else { g as f32 };
            });
        }
    }
    Ok(Stats {
        value: value / divisor,
        active_fraction: active as f64 / triplets.max(1) as f64,
        triplets,
        active_triplets: active,
        zero_signal: active == 0,
        accuracy: None,
    })
}

fn unit(x: &Array2<f64>) -> (Array2<f64>, Vec<f64>) {
    let norms: Vec<f64> = x.rows().into_iter().map(|r| r.dot(&r).sqrt()).collect();
    let mut u = x.clone();
    u.rows_mut().into_iter().zip(&norms).for_each(|(mut r, n)| r /= n.max(1e-12));
    (u, norms)
}

/// Adds `slope` times the gradient of the dissimilarity of `a` and `b` to both rows.
fn pull(
    distance: Distance,
    d: &mut Array2<f64>,
    (a, ya): (usize, ArrayView1<'_, f64>),
    (b, yb): (Option<usize>, ArrayView1<'_, f64>),
    slope: f64,
) {
    let difference = &ya - &yb;
    let length = difference.dot(&difference).sqrt();
    let (da, db) = match distance {
        Distance::L2 if length == 0.0 => return,
        Distance::L2 => (&difference / length, &difference / -length),
        Distance::SquaredL2 => (&difference * 2.0, &difference * -2.0),
        Distance::Cosine => (yb.mapv(|v| -v), ya.mapv(|v| -v)),
    };
    d.row_mut(a).scaled_add(slope, &da);
    if let Some(b) = b {
        d.row_mut(b).scaled_add(slope, &db);
    }
}
