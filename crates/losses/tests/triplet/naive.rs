//! The definition, triplet by triplet, in `f64`.

use ndarray::{Array2, ArrayView1};

use embedtune_losses::{Distance, Input, Miner, Reduction, TripletKind, TripletMarginOptions};

/// A few `f32` roundings of distances of order 1.
const TIE: f64 = 5e-7;

/// What the definition gives.
pub(crate) struct Naive {
    pub(crate) value: f64,
    pub(crate) triplets: u64,
    pub(crate) active: u64,
    pub(crate) per_sample: Vec<f64>,
    pub(crate) d_embeddings: Array2<f64>,
    /// Triplets whose mining difference or argument lies within `TIE` of a boundary: `f32` distances may put
    /// them on its other side.
    pub(crate) ties: u64,
}

pub(crate) fn naive(o: &TripletMarginOptions, input: Input<'_>) -> Naive {
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
        _ => -a.dot(&b),
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
                    _ => unreachable!("a kind that this reference does not know"),
                }
            }
            _ => true,
        }
    };
    let at_boundary = |a: usize, p: usize, n: usize| {
        let d = |j: usize| (&u.row(a) - &ru.row(j)).mapv(|v| v * v).sum().sqrt();
        match o.miner {
            Miner::TripletMargin { margin, .. } => {
                let tm = d(n) - d(p);
                tm.abs() < TIE || (tm - margin).abs() < TIE
            }
            _ => false,
        }
    };
    let (batch, reference) = (x.nrows(), r.nrows());
    let (mut triplets, mut active, mut value, mut ties) = (0u64, 0u64, 0.0, 0u64);
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
            for &n in &negatives {
                let (ap, an) = (t(y.row(a), z.row(p)), t(y.row(a), z.row(n)));
                ties += u64::from((ap + o.margin - an).abs() < TIE || at_boundary(a, p, n));
            }
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
                per_sample[a] += loss;
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
        _ => 1,
    }
    .max(1) as f64;
    for (i, mut g) in d_y.rows_mut().into_iter().enumerate() {
        g /= divisor;
        if o.normalize {
            let along = if norms[i] > 1e-12 { u.row(i).dot(&g) } else { 0.0 };
            g.scaled_add(-along, &u.row(i));
            g /= norms[i].max(1e-12);
        }
    }
    Naive { value: value / divisor, triplets, active, per_sample, d_embeddings: d_y, ties }
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
        _ => (yb.mapv(|v| -v), ya.mapv(|v| -v)),
    };
    d.row_mut(a).scaled_add(slope, &da);
    if let Some(b) = b {
        d.row_mut(b).scaled_add(slope, &db);
    }
}
