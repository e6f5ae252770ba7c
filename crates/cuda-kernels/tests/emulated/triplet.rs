use embedtune_cuda_kernels::triplet::{
    Distance, Miner, Reduction, TripletMargin, TripletOptions, TripletStats,
};

use crate::device::{Device, assert_near, memory_peak, memory_used, under_all_schedules};
use crate::random::Random;

struct Case {
    x: Vec<f32>,
    labels: Vec<u32>,
    dim: usize,
    options: TripletOptions,
}

/// Value, triplets, active ones and gradient, from a list of all triplets, in f64.
fn reference(case: &Case) -> (f64, u64, u64, Vec<f64>) {
    let (n, dim, options) = (case.labels.len(), case.dim, case.options);
    let rows: Vec<(Vec<f64>, f64)> = (0..n)
        .map(|i| {
            let row: Vec<f64> = case.x[i * dim..(i + 1) * dim].iter().map(|&v| f64::from(v)).collect();
            let norm = row.iter().map(|v| v * v).sum::<f64>().sqrt();
            let divisor = if options.normalize { norm.max(1e-12) } else { 1.0 };
            (row.iter().map(|v| v / divisor).collect(), norm)
        })
        .collect();
    let square = |a: usize, b: usize| -> f64 {
        rows[a].0.iter().zip(&rows[b].0).map(|(x, y)| (x - y) * (x - y)).sum()
    };
    let d = |a: usize, b: usize| match options.distance {
        Distance::L2 => square(a, b).sqrt(),
        Distance::SquaredL2 => square(a, b),
        Distance::Cosine => 0.5 * square(a, b),
        other => panic!("no reference for {other:?}"),
    };
    let mut kept = Vec::new();
    for a in 0..n {
        let positives: Vec<usize> = (0..n).filter(|&p| p != a && case.labels[p] == case.labels[a]).collect();
        let negatives: Vec<usize> = (0..n).filter(|&i| case.labels[i] != case.labels[a]).collect();
        if options.miner == Miner::BatchHard {
            let far = positives.iter().copied().reduce(|best, p| if d(a, p) > d(a, best) { p } else { best });
            let near =
                negatives.iter().copied().reduce(|best, i| if d(a, i) < d(a, best) { i } else { best });
            kept.extend(far.zip(near).map(|(p, i)| (a, p, i)));
            continue;
        }
        for &p in &positives {
            for &i in &negatives {
                let (ap, an) = (d(a, p), d(a, i));
                let keeps = match options.miner {
                    Miner::None | Miner::BatchHard => true,
                    Miner::All(m) => an <= ap + m,
                    Miner::Hard => an <= ap,
                    Miner::Semihard(m) => an > ap && an <= ap + m,
                    Miner::Easy(m) => an > ap + m,
                    other => panic!("no reference for {other:?}"),
                };
                if keeps {
                    kept.push((a, p, i));
                }
            }
        }
    }
    let (mut sum, mut active) = (0.0, 0u64);
    let mut gradient = vec![0.0; n * dim];
    for &(a, p, i) in &kept {
        // Whom the negative is measured from.
        let from = if options.swap && d(p, i) < d(a, i) { p } else { a };
        let v = d(a, p) + options.margin - d(from, i);
        let (loss, slope) = match options.smooth {
            true => (v.max(0.0) + (-v.abs()).exp().ln_1p(), 1.0 / (1.0 + (-v).exp())),
            false => (v, 1.0),
        };
        if loss <= 0.0 {
            continue;
        }
        sum += loss;
        active += 1;
        for (a, other, sign) in [(a, p, slope), (from, i, -slope)] {
            let factor = match options.distance {
                Distance::L2 if d(a, other) > 0.0 => 1.0 / d(a, other),
                Distance::L2 => 0.0,
                Distance::SquaredL2 => 2.0,
                _ => 1.0,
            };
            for c in 0..dim {
                let pull = sign * factor * (rows[a].0[c] - rows[other].0[c]);
                gradient[a * dim + c] += pull;
                gradient[other * dim + c] -= pull;
            }
        }
    }
    let divisor = match options.reduction {
        Reduction::Mean => kept.len() as f64,
        Reduction::MeanNonZero => active as f64,
        Reduction::Sum => 1.0,
        other => panic!("no reference for {other:?}"),
    };
    let factor = if divisor > 0.0 { 1.0 / divisor } else { 0.0 };
    for (i, (row, norm)) in rows.iter().enumerate() {
        let own = &mut gradient[i * dim..(i + 1) * dim];
        if options.normalize {
            let dot: f64 = own.iter().zip(row).map(|(g, u)| g * u).sum();
            own.iter_mut().zip(row).for_each(|(g, u)| *g = (*g - dot * u) / norm.max(1e-12));
        }
        own.iter_mut().for_each(|g| *g *= factor);
    }
    (sum * factor, kept.len() as u64, active, gradient)
}

impl Case {
    /// `classes` of about equal size; the rows of a class near each other.
    fn new(n: usize, dim: usize, classes: usize, spread: f32, options: TripletOptions) -> Self {
        let mut random = Random((n * dim + classes) as u64);
        let centres = random.normals(classes * dim);
        let labels: Vec<u32> = (0..n).map(|i| (i % classes) as u32).collect();
        let x = labels
            .iter()
            .flat_map(|&label| {
                let centre = &centres[label as usize * dim..][..dim];
                centre.iter().map(|&c| c + spread * random.normal()).collect::<Vec<_>>()
            })
            .collect();
        Self { x, labels, dim, options }
    }

    fn run(&self, device: &Device) -> (TripletStats, Vec<f32>) {
        let (x, labels) = (device.upload(&self.x), device.upload(&self.labels));
        let mut dx = device.poisoned(self.x.len());
        let loss = TripletMargin::new(device.kernels.clone(), self.options).unwrap();
        let stats = loss
            .forward_backward(
                &device.stream,
                &x.as_view(),
                &labels.as_view(),
                self.dim,
                1.0,
                Some(&mut dx.as_view_mut()),
            )
            .unwrap();
        (stats, device.download(&dx))
    }
}

fn check(case: &Case, device: &Device, what: &str) {
    let (value, triplets, active, gradient) = reference(case);
    let results = under_all_schedules(what, || {
        let (stats, dx) = case.run(device);
        assert_eq!((stats.triplets, stats.active), (triplets, active), "{what}");
        assert!((stats.value - value).abs() <= 1e-6 * value.max(1e-3), "{what}: {} not {value}", stats.value);
        vec![dx]
    });
    assert!(active > 0, "{what}: nothing is tested");
    assert_near(&format!("{what}, {active} of {triplets}"), &results[0], &gradient, 3e-6);
}

#[test]
#[ignore = "needs the emulated device or a GPU"]
fn every_miner_and_distance_is_its_definition() {
    let device = Device::new();
    let miners = [
        Miner::None,
        Miner::All(0.2),
        Miner::Hard,
        Miner::Semihard(0.2),
        Miner::Easy(0.01),
        Miner::BatchHard,
    ];
    for miner in miners {
        for distance in [Distance::L2, Distance::SquaredL2, Distance::Cosine] {
            let options = TripletOptions { margin: 0.3, distance, miner, ..TripletOptions::default() };
            let case = Case::new(33, 20, 5, 1.5, options);
            check(&case, &device, &format!("{miner:?}, {distance:?}"));
        }
    }
}

#[test]
#[ignore = "needs the emulated device or a GPU"]
fn swapped_and_softened_triplets_are_their_definition() {
    let device = Device::new();
    for (swap, smooth) in [(true, false), (false, true), (true, true)] {
        for miner in [Miner::None, Miner::All(0.2), Miner::Hard, Miner::Semihard(0.2), Miner::Easy(0.01)] {
            for distance in [Distance::L2, Distance::SquaredL2, Distance::Cosine] {
                let options = TripletOptions {
                    margin: 0.3,
                    distance,
                    miner,
                    swap,
                    smooth,
                    ..TripletOptions::default()
                };
                let case = Case::new(33, 20, 5, 1.5, options);
                check(&case, &device, &format!("swap {swap}, smooth {smooth}, {miner:?}, {distance:?}"));
            }
        }
    }
    // Anchors in blocks, where that can be; and rows as they are.
    let smooth = TripletOptions { smooth: true, normalize: false, ..TripletOptions::default() };
    let blocks = TripletOptions { block_bytes: 2 * 4 * 150 * 64, ..smooth };
    check(&Case::new(150, 17, 30, 1.0, blocks), &device, "smooth, blocks");
    let case = Case::new(150, 17, 30, 1.0, TripletOptions { swap: true, ..blocks });
    let (x, labels) = (device.upload(&case.x), device.upload(&case.labels));
    let loss = TripletMargin::new(device.kernels.clone(), case.options).unwrap();
    let refused = loss.forward_backward(&device.stream, &x.as_view(), &labels.as_view(), 17, 1.0, None);
    assert!(refused.unwrap_err().to_string().starts_with("block_bytes = 76800: with swap"));
    let hardest = TripletOptions { miner: Miner::BatchHard, ..smooth };
    let refused = TripletMargin::new(device.kernels.clone(), hardest).err().unwrap().to_string();
    assert!(refused.starts_with("smooth = true: not with the hardest"), "{refused}");
}

#[test]
#[ignore = "needs the emulated device or a GPU"]
fn swap_and_smooth_of_special_batches() {
    let device = Device::new();
    for (swap, smooth) in [(true, false), (true, true)] {
        let options = TripletOptions { margin: 0.25, swap, smooth, ..TripletOptions::default() };
        // No triplets; and no direction.
        let mut none = Case::new(6, 8, 2, 1.0, options);
        none.labels = vec![3; 6];
        let (stats, dx) = none.run(&device);
        assert_eq!((stats.value, stats.triplets, stats.active), (0.0, 0, 0));
        assert!(dx.iter().all(|&v| v == 0.0));
        let mut collapsed = Case::new(12, 8, 3, 0.0, options);
        collapsed.x = vec![0.5; 12 * 8];
        let (stats, dx) = collapsed.run(&device);
        let margin = if smooth { 0.25f64.exp().ln_1p() } else { 0.25 };
        assert!((stats.value - margin).abs() < 1e-7 && stats.active == stats.triplets);
        assert!(dx.iter().all(|&v| v == 0.0));
    }
    // A class larger than one round.
    let options = TripletOptions { swap: true, smooth: true, ..TripletOptions::default() };
    let n = 1100;
    let mut large = Case::new(n, 4, 2, 1.0, options);
    large.labels = (0..n).map(|i| u32::from(i >= 1060)).collect();
    let (value, triplets, active, gradient) = reference(&large);
    let (stats, dx) = large.run(&device);
    assert_eq!(stats.triplets, triplets);
    assert!(stats.active.abs_diff(active) <= active / 100_000, "{} {active}", stats.active);
    assert!((stats.value - value).abs() <= 1e-5 * value, "{} {value}", stats.value);
    assert_near("a large class", &dx, &gradient, 2e-5);
}

#[test]
#[ignore = "needs the emulated device or a GPU"]
fn reductions_and_rows_as_they_are() {
    let device = Device::new();
    for reduction in [Reduction::Mean, Reduction::MeanNonZero, Reduction::Sum] {
        let options =
            TripletOptions { margin: 8.0, reduction, normalize: false, ..TripletOptions::default() };
        check(&Case::new(21, 70, 4, 1.0, options), &device, &format!("{reduction:?}"));
    }
}

#[test]
#[ignore = "needs the emulated device or a GPU"]
fn blocks_of_anchors_give_the_whole() {
    let device = Device::new();
    // 64 anchors of 150 at a time.
    let options = TripletOptions { margin: 0.2, block_bytes: 2 * 4 * 150 * 64, ..TripletOptions::default() };
    check(&Case::new(150, 17, 30, 1.0, options), &device, "blocks");
    let options = TripletOptions { miner: Miner::BatchHard, block_bytes: 4 * 150 * 64, ..options };
    check(&Case::new(150, 17, 30, 1.0, options), &device, "blocks, hardest");
}

#[test]
#[ignore = "needs the emulated device or a GPU"]
fn several_tiles_of_rows_and_of_dimensions() {
    let device = Device::new();
    for miner in [Miner::None, Miner::BatchHard] {
        let options = TripletOptions { margin: 1.0, miner, ..TripletOptions::default() };
        check(&Case::new(300, 140, 60, 1.0, options), &device, &format!("{miner:?} of 300 rows"));
    }
}

#[test]
#[ignore = "needs the emulated device or a GPU"]
fn a_class_larger_than_one_sort() {
    let device = Device::new();
    let n = 1200;
    let mut case = Case::new(n, 4, 2, 1.0, TripletOptions::default());
    // 1,150 of one class: 1,149 positives, sorted in two rounds.
    case.labels = (0..n).map(|i| u32::from(i >= 1150)).collect();
    let (value, triplets, active, gradient) = reference(&case);
    let (stats, dx) = case.run(&device);
    assert_eq!(stats.triplets, triplets);
    // f32 and f64 may disagree on triplets at the edge.
    assert!(stats.active.abs_diff(active) <= active / 100_000, "{} {active}", stats.active);
    assert!((stats.value - value).abs() <= 1e-5 * value, "{} {value}", stats.value);
    assert_near("a large class", &dx, &gradient, 2e-5);
}

#[test]
#[ignore = "needs the emulated device or a GPU"]
fn near_duplicates_keep_their_digits() {
    let device = Device::new();
    let options = TripletOptions { margin: 0.5, ..TripletOptions::default() };
    let mut case = Case::new(16, 128, 4, 0.0, options);
    let mut random = Random(9);
    for v in &mut case.x {
        *v += 1e-4 * random.normal();
    }
    let (value, _, active, gradient) = reference(&case);
    let (stats, dx) = case.run(&device);
    assert_eq!(stats.active, active);
    assert!((stats.value - value).abs() <= 1e-5 * value.max(1e-3), "{} {value}", stats.value);
    // Rows are rounded to 6e-8, a difference of 1e-4 to 6e-4 of itself.
    assert_near("near-duplicates", &dx, &gradient, 2e-3);
}

#[test]
#[ignore = "needs the emulated device or a GPU"]
fn collapse_has_the_margin_as_its_loss_and_no_direction() {
    let device = Device::new();
    for miner in [Miner::None, Miner::BatchHard] {
        let options = TripletOptions { margin: 0.25, miner, ..TripletOptions::default() };
        let mut case = Case::new(12, 8, 3, 0.0, options);
        case.x = vec![0.5; 12 * 8];
        let (stats, dx) = case.run(&device);
        assert_eq!((stats.value, stats.active), (0.25, stats.triplets));
        assert!(dx.iter().all(|&v| v == 0.0));
    }
}

#[test]
#[ignore = "needs the emulated device or a GPU"]
fn without_triplets_there_is_no_loss() {
    let device = Device::new();
    for miner in [Miner::None, Miner::BatchHard] {
        for labels in [vec![0; 6], (0..6).collect()] {
            let mut case = Case::new(6, 8, 2, 1.0, TripletOptions { miner, ..TripletOptions::default() });
            case.labels = labels;
            let (stats, dx) = case.run(&device);
            assert_eq!((stats.value, stats.triplets, stats.active), (0.0, 0, 0));
            assert!(dx.iter().all(|&v| v == 0.0));
        }
    }
}

#[test]
#[ignore = "needs the emulated device or a GPU"]
fn the_workspace_is_what_is_stated() {
    let device = Device::new();
    let Some(before) = memory_used() else { return };
    for (miner, block_bytes) in [(Miner::None, 1 << 30), (Miner::None, 1), (Miner::BatchHard, 1 << 30)] {
        let options = TripletOptions { miner, block_bytes, ..TripletOptions::default() };
        let case = Case::new(150, 17, 30, 1.0, options);
        let arguments = 4 * (2 * case.x.len() + case.labels.len());
        memory_peak();
        case.run(&device);
        let loss = TripletMargin::new(device.kernels.clone(), options).unwrap();
        let (held, stated) = (memory_peak().unwrap() - before - arguments, loss.workspace_bytes(150, 17));
        assert!(held <= stated && stated <= held + held / 8, "{miner:?}: {held} bytes held, {stated} stated");
    }
    // What the README says of 8,192 embeddings.
    let loss = TripletMargin::new(device.kernels.clone(), TripletOptions::default()).unwrap();
    assert!(loss.workspace_bytes(8192, 128) < 600_000_000);
}
