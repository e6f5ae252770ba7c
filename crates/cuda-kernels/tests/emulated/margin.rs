use embedtune_cuda_kernels::half::{bf16, f16};
use embedtune_cuda_kernels::margin::{
    Adam, Batch, Centres, Edge, Margin, MarginOptions, MarginSoftmax, MarginStats, Precision, Products, Sgd,
};
use embedtune_cuda_kernels::{Error, Storage, Write};

use crate::device::{
    Device, assert_near, error, events, launches, memory_peak, memory_used, under_all_schedules,
};
use crate::margin_reference::{Answer, Problem};
use crate::optimizer::{adam_reference, sgd_reference};
use crate::random::Random;

const ARC: Margin = Margin::Arc { radians: 0.5, edge: Edge::Jump, straight_through: false };
const COS: Margin = Margin::Cos { cosine: 0.35 };
const SPHERE: Margin = Margin::Sphere { multiplier: 4 };

/// A problem in f32, and its answer in f64.
struct Case {
    x: Vec<f32>,
    w: Vec<f32>,
    labels: Vec<u32>,
    weights: Vec<f32>,
    class_weights: Vec<f32>,
    upstream: f64,
    options: MarginOptions,
    sizes: [usize; 3],
}

impl Case {
    fn new(options: MarginOptions, n: usize, dim: usize, classes: usize) -> Self {
        let mut random = Random((n * dim + classes) as u64);
        let subs = options.sub_centers;
        let w = random.normals(classes * subs * dim);
        let labels = random.labels(n, classes);
        // Half the rows lie near their own centre, where the loss is nearly 0 and its gradient must stay exact.
        let x = (0..n)
            .flat_map(|i| {
                let own = &w[(labels[i] as usize * subs + i / 2 % subs) * dim..][..dim];
                let noise = if i % 2 == 0 { 3.0 } else { 0.3 };
                own.iter().map(|&w| w + noise * random.normal()).collect::<Vec<_>>()
            })
            .collect();
        let weights = (0..n).map(|_| random.uniform() as f32 + 0.5).collect();
        let class_weights = (0..classes).map(|_| random.uniform() as f32 + 0.5).collect();
        Self { x, w, labels, weights, class_weights, upstream: 2.0, options, sizes: [n, dim, classes] }
    }

    fn answer(&self) -> Answer {
        let wide = |values: &[f32]| values.iter().map(|&v| f64::from(v)).collect::<Vec<f64>>();
        let [n, dim, classes] = self.sizes;
        Problem {
            margin: self.options.margin,
            scale: self.options.scale,
            n,
            dim,
            classes,
            subs: self.options.sub_centers,
            x: wide(&self.x),
            w: wide(&self.w),
            labels: self.labels.clone(),
            weights: wide(&self.weights),
            class_weights: wide(&self.class_weights),
            upstream: self.upstream,
        }
        .solve()
    }

    fn loss(&self, device: &Device) -> MarginSoftmax {
        let [_, dim, classes] = self.sizes;
        MarginSoftmax::new(device.kernels.clone(), classes, dim, self.options).unwrap()
    }

    /// Losses, embeddings' gradient, centres' gradient.
    fn run<W: Storage>(&self, device: &Device, w: &[W], write: Write) -> (MarginStats, Vec<Vec<f32>>) {
        let [n, dim, classes] = self.sizes;
        let (x, w) = (device.upload(&self.x), device.upload(w));
        let (labels, weights) = (device.upload(&self.labels), device.upload(&self.weights));
        let class_weights = device.upload(&self.class_weights);
        let fill = |len: usize| match write {
            Write::Overwrite => device.poisoned(len),
            Write::Add => device.upload(&vec![1.0f32; len]),
            other => panic!("no case for {other:?}"),
        };
        let all = classes * self.options.sub_centers * dim;
        let (mut dx, mut dw, mut losses) = (fill(n * dim), fill(all), device.poisoned(n));
        let batch = Batch {
            embeddings: &x.as_view(),
            labels: &labels.as_view(),
            weights: Some(&weights.as_view()),
            class_weights: Some(&class_weights.as_view()),
            upstream: self.upstream,
        };
        let stats = self
            .loss(device)
            .forward_backward(
                &device.stream,
                batch,
                Centres::Gradient(&w.as_view(), &mut dw.as_view_mut(), write),
                Some((&mut dx.as_view_mut(), write)),
                Some(&mut losses.as_view_mut()),
            )
            .unwrap();
        (stats, vec![device.download(&losses), device.download(&dx), device.download(&dw)])
    }
}

/// With tiles so small that several of each kind are needed.
fn options(margin: Margin, precision: Precision) -> MarginOptions {
    let scale = if matches!(margin, Margin::Sphere { .. }) { 1.0 } else { 16.0 };
    let (tile_bytes, products) = (100_000, products());
    MarginOptions { scale, precision, products, tile_bytes, ..MarginOptions::new(margin) }
}

/// Our own, unless the process says otherwise.
pub(crate) fn products() -> Products {
    match std::env::var("EMBEDTUNE_TEST_PRODUCTS").as_deref() {
        Ok("cublas") => Products::Cublas,
        _ => Products::Own,
    }
}

fn check(case: &Case, device: &Device, what: &str, tolerances: [f64; 3]) {
    let answer = case.answer();
    let results = under_all_schedules(what, || {
        let (stats, results) = case.run(device, &case.w, Write::Overwrite);
        let off = (stats.value - answer.value).abs() / answer.value.abs().max(1e-3);
        assert!(off <= tolerances[0], "{what}: value {} instead of {}", stats.value, answer.value);
        results
    });
    assert_near(&format!("{what}, losses"), &results[0], &answer.losses, tolerances[0]);
    assert_near(&format!("{what}, dx"), &results[1], &answer.dx, tolerances[1]);
    assert_near(&format!("{what}, dw"), &results[2], &answer.dw, tolerances[2]);
}

#[test]
#[ignore = "needs the emulated device or a GPU"]
fn every_margin_is_its_definition() {
    let device = Device::new();
    let others = [
        Margin::Arc { radians: 0.5, edge: Edge::Continuous, straight_through: false },
        Margin::Arc { radians: 2.5, edge: Edge::None, straight_through: false },
        Margin::Arc { radians: 2.5, edge: Edge::Jump, straight_through: true },
    ];
    for margin in [ARC, COS, SPHERE].into_iter().chain(others) {
        let case = Case::new(options(margin, Precision::F32), 20, 40, 150);
        check(&case, &device, &format!("{margin:?}"), [2e-6, 4e-6, 4e-6]);
    }
}

#[test]
#[ignore = "needs the emulated device or a GPU"]
fn sizes_that_fill_no_tile() {
    let device = Device::new();
    for [n, dim, classes] in
        [[1, 2, 2], [3, 33, 129], [130, 20, 300], [5, 140, 700], [2, 1030, 140], [1100, 4, 3]]
    {
        for precision in [Precision::F32, Precision::F16] {
            let case = Case::new(options(ARC, precision), n, dim, classes);
            let what = format!("{precision:?} [{n}, {dim}, {classes}]");
            // A logit of 16 carries 16 times the rounding of its cosine: 2^-24, or 2^-11, which few dimensions average.
            let tolerances = match precision {
                Precision::F32 => [4e-6, 1e-5, 1e-5],
                Precision::F16 => [3e-3, 1e-2, 1e-2],
                other => panic!("no tolerances for {other:?}"),
            };
            check(&case, &device, &what, tolerances);
        }
    }
}

#[test]
#[ignore = "needs the emulated device or a GPU"]
fn rows_shorter_than_the_floor_are_linear() {
    let device = Device::new();
    let (n, dim, classes) = (6, 24, 140);
    for (margin, sub_centers) in [(ARC, 1), (COS, 1), (ARC, 3)] {
        let mut case =
            Case::new(MarginOptions { sub_centers, ..options(margin, Precision::F32) }, n, dim, classes);
        case.labels = vec![0, 1, 2, 3, 4, 5];
        // An embedding, the centres of another embedding's class, and those of a class without rows.
        let centres = |class: usize| class * sub_centers * dim..(class + 1) * sub_centers * dim;
        case.x[..dim].iter_mut().for_each(|v| *v *= 1e-14);
        for class in [1, 77] {
            case.w[centres(class)].iter_mut().for_each(|v| *v *= 1e-14);
        }
        let (answer, what) = (case.answer(), format!("{margin:?}, {sub_centers} centres a class"));
        let (_, results) = case.run(&device, &case.w, Write::Overwrite);
        assert_near(&format!("{what}, losses"), &results[0], &answer.losses, 4e-6);
        // Gradients of floored rows are 1e12 times the others': each part on its own scale.
        for (part, range) in [("short", 0..dim), ("others", dim..n * dim)] {
            assert_near(&format!("{what}, dx, {part}"), &results[1][range.clone()], &answer.dx[range], 1e-5);
        }
        for range in [centres(0), centres(1), centres(77), centres(2).start..centres(76).end] {
            let what = format!("{what}, dw {range:?}");
            assert_near(&what, &results[2][range.clone()], &answer.dw[range], 1e-5);
        }
    }
}

#[test]
#[ignore = "needs the emulated device or a GPU"]
fn of_several_centres_the_nearest_counts() {
    let device = Device::new();
    for (margin, precision, sub_centers, [n, dim, classes]) in [
        (ARC, Precision::F32, 3, [20, 40, 150]),
        (ARC, Precision::F16, 3, [20, 40, 150]),
        (COS, Precision::F32, 2, [130, 20, 300]),
        (SPHERE, Precision::F32, 16, [5, 33, 130]),
        (ARC, Precision::F32, 3, [3, 8, 1]),
    ] {
        let options = MarginOptions { sub_centers, tile_bytes: 200_000, ..options(margin, precision) };
        let case = Case::new(options, n, dim, classes);
        let tolerances = match precision {
            Precision::F32 => [4e-6, 1e-5, 1e-5],
            Precision::F16 => [3e-3, 1e-2, 1e-2],
            other => panic!("no tolerances for {other:?}"),
        };
        check(
            &case,
            &device,
            &format!("{margin:?} {precision:?}, {sub_centers} centres a class"),
            tolerances,
        );
    }
}

#[test]
#[ignore = "needs the emulated device or a GPU"]
fn a_centre_that_is_no_number_shows_among_others() {
    let device = Device::new();
    let options = MarginOptions { sub_centers: 3, ..options(ARC, Precision::F32) };
    // A centre of a class without rows, and one of a class that has some; the first and the last of their classes.
    for centre in [3 * 139, 3 * 139 + 2, 0, 2] {
        let mut case = Case::new(options, 6, 16, 140);
        case.labels = vec![0, 1, 2, 3, 4, 5];
        case.w[centre * 16 + 5] = f32::NAN;
        let (stats, _) = case.run(&device, &case.w, Write::Overwrite);
        assert!(stats.value.is_nan(), "centre {centre}: {stats:?}");
    }
}

#[test]
#[ignore = "needs the emulated device or a GPU"]
fn f16_is_coarser_than_f32() {
    // Otherwise the split product would test nothing.
    let device = Device::new();
    let errors = [Precision::F32, Precision::F16].map(|precision| {
        let case = Case::new(options(COS, precision), 24, 64, 200);
        error(&case.run(&device, &case.w, Write::Overwrite).1[1], &case.answer().dx, 1e-300)
    });
    assert!(errors[0] * 50.0 < errors[1] && errors[1] < 2e-3, "{errors:?}");
}

#[test]
#[ignore = "needs the emulated device or a GPU"]
fn one_class_has_no_loss() {
    let device = Device::new();
    let mut case = Case::new(options(COS, Precision::F32), 3, 8, 1);
    case.labels = vec![0; 3];
    let (stats, results) = case.run(&device, &case.w, Write::Overwrite);
    assert_eq!((stats.value, stats.active_fraction, stats.accuracy), (0.0, 0.0, 1.0));
    assert!(results.iter().flatten().all(|&v| v == 0.0), "{results:?}");
}

#[test]
#[ignore = "needs the emulated device or a GPU"]
fn gradients_are_added_where_asked() {
    let device = Device::new();
    let case = Case::new(options(ARC, Precision::F32), 9, 24, 140);
    let (_, fresh) = case.run(&device, &case.w, Write::Overwrite);
    let (_, added) = case.run(&device, &case.w, Write::Add);
    for (fresh, added) in fresh[1..].iter().zip(&added[1..]) {
        for (fresh, added) in fresh.iter().zip(added) {
            assert!((added - 1.0 - fresh).abs() < 3e-7, "{added} {fresh}");
        }
    }
}

#[test]
#[ignore = "needs the emulated device or a GPU"]
fn centres_in_sixteen_bits() {
    let device = Device::new();
    let mut case = Case::new(options(ARC, Precision::F32), 12, 40, 150);
    let halves: Vec<f16> = case.w.iter().map(|&v| f16::from_f32(v)).collect();
    case.w = halves.iter().map(|v| v.to_f32()).collect();
    let (of_f32, of_f16) =
        (case.run(&device, &case.w, Write::Overwrite), case.run(&device, &halves, Write::Overwrite));
    assert_eq!(of_f32, of_f16, "f16 centres are the same numbers");
    let brains: Vec<bf16> = case.w.iter().map(|&v| bf16::from_f32(v)).collect();
    case.w = brains.iter().map(|v| v.to_f32()).collect();
    let (of_f32, of_bf16) =
        (case.run(&device, &case.w, Write::Overwrite), case.run(&device, &brains, Write::Overwrite));
    assert_eq!(of_f32, of_bf16, "bf16 centres are the same numbers");
}

#[test]
#[ignore = "needs the emulated device or a GPU"]
fn near_the_centre_and_its_antipode_the_gradient_stays() {
    // Through acos(clamp(c)) in f32 the gradient would be lost here: theta = 1e-4.
    let device = Device::new();
    for side in [1.0f32, -1.0] {
        let dim = 16;
        let mut case = Case::new(options(ARC, Precision::F32), 1, dim, 3);
        case.weights = vec![1.0];
        case.labels = vec![1];
        // Almost along axis 0, and the others away from it, so that the loss has a gradient.
        case.w = vec![0.0; 3 * dim];
        case.w[dim] = 1.0;
        (case.w[0], case.w[1], case.w[2 * dim], case.w[2 * dim + 2]) = (0.9 * side, 0.3, 0.8 * side, -0.4);
        case.x = vec![0.0; dim];
        (case.x[0], case.x[3]) = (2.0 * side, 2e-4);
        let answer = case.answer();
        let (_, results) = case.run(&device, &case.w, Write::Overwrite);
        assert_near(&format!("dx at {side}"), &results[1], &answer.dx, 2e-4);
        assert_near(&format!("dw at {side}"), &results[2], &answer.dw, 2e-4);
    }
}

#[test]
#[ignore = "needs the emulated device or a GPU"]
fn a_label_that_is_no_class_is_named_and_moves_nothing() {
    let device = Device::new();
    let mut case = Case::new(options(ARC, Precision::F32), 6, 16, 140);
    case.labels[4] = 140;
    case.labels[5] = u32::MAX;
    let (x, labels) = (device.upload(&case.x), device.upload(&case.labels));
    let mut w = device.upload(&case.w);
    let batch = Batch {
        embeddings: &x.as_view(),
        labels: &labels.as_view(),
        weights: None,
        class_weights: None,
        upstream: 1.0,
    };
    let sgd = Sgd { weight_decay: 0.1, ..Sgd::new(0.1) };
    let centres: Centres<'_, '_, f32> = Centres::Sgd(&mut w.as_view_mut(), None, sgd);
    let refused = case.loss(&device).forward_backward(&device.stream, batch, centres, None, None);
    assert_eq!(refused, Err(Error::Label { row: 4, classes: 140 }));
    assert_eq!(device.download(&w), case.w);
}

#[test]
#[ignore = "needs the emulated device or a GPU"]
fn a_loss_that_is_no_number_moves_nothing() {
    let device = Device::new();
    let mut case = Case::new(options(COS, Precision::F32), 6, 16, 140);
    case.x[20] = f32::NAN;
    let (x, labels) = (device.upload(&case.x), device.upload(&case.labels));
    let zeros = vec![0.0f32; case.w.len()];
    let (mut w, mut m, mut v) = (device.upload(&case.w), device.upload(&zeros), device.upload(&zeros));
    let batch = Batch {
        embeddings: &x.as_view(),
        labels: &labels.as_view(),
        weights: None,
        class_weights: None,
        upstream: 1.0,
    };
    let adam =
        Adam { rate: 0.1, betas: (0.9, 0.999), eps: 1e-8, weight_decay: 0.1, decoupled: true, step: 1 };
    let moments = [&mut m.as_view_mut(), &mut v.as_view_mut()];
    let centres: Centres<'_, '_, f32> = Centres::Adam(&mut w.as_view_mut(), moments, None, adam);
    let stats = case.loss(&device).forward_backward(&device.stream, batch, centres, None, None).unwrap();
    assert!(stats.value.is_nan());
    assert_eq!(device.download(&w), case.w);
    assert_eq!(device.download(&m), zeros);
}

#[test]
#[ignore = "needs the emulated device or a GPU"]
fn fused_sgd_is_the_gradient_then_sgd() {
    let device = Device::new();
    for (momentum, dampening, nesterov, sub_centers) in
        [(0.0, 0.0, false, 1), (0.9, 0.1, false, 3), (0.9, 0.0, true, 1)]
    {
        let margin = MarginOptions { sub_centers, ..options(ARC, Precision::F32) };
        // Rows of 25 cannot be read four values at a time.
        let mut case = Case::new(margin, 9, if nesterov { 25 } else { 24 }, 300);
        let mut exact: Vec<f64> = case.w.iter().map(|&v| f64::from(v)).collect();
        let mut exact_buffer = vec![0.0; case.w.len()];
        let mut w = device.upload(&case.w);
        let mut buffer = device.poisoned(case.w.len());
        let (x, labels, weights) =
            (device.upload(&case.x), device.upload(&case.labels), device.upload(&case.weights));
        let class_weights = device.upload(&case.class_weights);
        for step in 0..3 {
            let options =
                Sgd { rate: 0.3, weight_decay: 1e-2, momentum, dampening, nesterov, first_step: step == 0 };
            case.w = device.download(&w);
            let (_, fresh) = case.run(&device, &case.w, Write::Overwrite);
            let gradient = fresh[2].iter().map(|&g| f64::from(g));
            sgd_reference(options, &mut exact, &mut exact_buffer, gradient);
            let batch = Batch {
                embeddings: &x.as_view(),
                labels: &labels.as_view(),
                weights: Some(&weights.as_view()),
                class_weights: Some(&class_weights.as_view()),
                upstream: case.upstream,
            };
            let mut dx = device.poisoned(case.x.len());
            let mut buffer_view = buffer.as_view_mut();
            let buffer = (momentum > 0.0).then_some(&mut buffer_view);
            let centres: Centres<'_, '_, f32> = Centres::Sgd(&mut w.as_view_mut(), buffer, options);
            let gradient = Some((&mut dx.as_view_mut(), Write::Overwrite));
            case.loss(&device).forward_backward(&device.stream, batch, centres, gradient, None).unwrap();
            // The centres that move do not change the embeddings' gradient.
            assert_eq!(device.download(&dx), fresh[1]);
        }
        assert_near(&format!("SGD {momentum} {nesterov}"), &device.download(&w), &exact, 1e-6);
    }
}

#[test]
#[ignore = "needs the emulated device or a GPU"]
fn fused_adam_is_the_gradient_then_adam() {
    let device = Device::new();
    for (decoupled, amsgrad, sub_centers) in
        [(false, false, 1), (true, false, 3), (false, true, 1), (true, true, 2)]
    {
        let margin = MarginOptions { sub_centers, ..options(SPHERE, Precision::F32) };
        let mut case = Case::new(margin, 9, if amsgrad { 25 } else { 24 }, 300);
        let mut exact: Vec<f64> = case.w.iter().map(|&v| f64::from(v)).collect();
        let [mut m, mut v, mut top] = [0; 3].map(|_| vec![0.0; case.w.len()]);
        let mut w = device.upload(&case.w);
        let [mut first, mut second, mut largest] = [0; 3].map(|_| device.zeros::<f32>(case.w.len()));
        let (x, labels, weights) =
            (device.upload(&case.x), device.upload(&case.labels), device.upload(&case.weights));
        let class_weights = device.upload(&case.class_weights);
        for step in 1..=3 {
            let options =
                Adam { rate: 0.02, betas: (0.9, 0.99), eps: 1e-3, weight_decay: 0.05, decoupled, step };
            case.w = device.download(&w);
            // The last gradients are the smallest, so that the largest second moment is an earlier one.
            case.upstream = 2.0 / step as f64;
            let (_, fresh) = case.run(&device, &case.w, Write::Overwrite);
            let gradient = fresh[2].iter().map(|&g| f64::from(g));
            adam_reference(options, amsgrad, &mut exact, [&mut m, &mut v, &mut top], gradient);
            let batch = Batch {
                embeddings: &x.as_view(),
                labels: &labels.as_view(),
                weights: Some(&weights.as_view()),
                class_weights: Some(&class_weights.as_view()),
                upstream: case.upstream,
            };
            let moments = [&mut first.as_view_mut(), &mut second.as_view_mut()];
            let mut largest_view = largest.as_view_mut();
            let largest = amsgrad.then_some(&mut largest_view);
            let centres: Centres<'_, '_, f32> =
                Centres::Adam(&mut w.as_view_mut(), moments, largest, options);
            case.loss(&device).forward_backward(&device.stream, batch, centres, None, None).unwrap();
        }
        let what = format!("Adam, decoupled {decoupled}, AMSGrad {amsgrad}");
        assert_near(&what, &device.download(&w), &exact, 1e-6);
        assert!(!amsgrad || top.iter().zip(&v).any(|(top, v)| top > v), "{what}: no second moment ever fell");
    }
}

#[test]
#[ignore = "needs the emulated device or a GPU"]
fn frozen_centres_give_the_same_loss_and_gradient() {
    let device = Device::new();
    let case = Case::new(options(COS, Precision::F16), 9, 24, 300);
    let (stats, fresh) = case.run(&device, &case.w, Write::Overwrite);
    let (x, w) = (device.upload(&case.x), device.upload(&case.w));
    let (labels, weights) = (device.upload(&case.labels), device.upload(&case.weights));
    let class_weights = device.upload(&case.class_weights);
    let mut dx = device.poisoned(case.x.len());
    let batch = Batch {
        embeddings: &x.as_view(),
        labels: &labels.as_view(),
        weights: Some(&weights.as_view()),
        class_weights: Some(&class_weights.as_view()),
        upstream: case.upstream,
    };
    let gradient = Some((&mut dx.as_view_mut(), Write::Overwrite));
    let frozen = Centres::Frozen(&w.as_view());
    let again = case.loss(&device).forward_backward(&device.stream, batch, frozen, gradient, None).unwrap();
    assert_eq!((again, device.download(&dx)), (stats, fresh[1].clone()));
}

#[test]
#[ignore = "needs the emulated device or a GPU"]
fn the_workspace_is_what_is_stated() {
    let device = Device::new();
    let Some(before) = memory_used() else { return };
    for (precision, margin, sub_centers) in
        [(Precision::F32, ARC, 1), (Precision::F16, SPHERE, 1), (Precision::F32, ARC, 3)]
    {
        let case = Case::new(MarginOptions { sub_centers, ..options(margin, precision) }, 40, 24, 700);
        let arguments =
            4 * (2 * case.x.len() + 2 * case.w.len() + 3 * case.labels.len() + case.class_weights.len());
        memory_peak();
        case.run(&device, &case.w, Write::Overwrite);
        let (held, stated) =
            (memory_peak().unwrap() - before - arguments, case.loss(&device).workspace_bytes(40));
        assert!(
            held <= stated && stated <= held + held / 4,
            "{precision:?}: {held} bytes held, {stated} stated"
        );
    }
    let loss = |precision| {
        let options = MarginOptions { precision, products: products(), ..MarginOptions::new(ARC) };
        MarginSoftmax::new(device.kernels.clone(), 10_000_000, 512, options).unwrap()
    };
    for precision in [Precision::F32, Precision::F16] {
        assert!(loss(precision).workspace_bytes(1024) <= 64 << 20);
    }
}

#[test]
#[ignore = "needs the emulated device or a GPU"]
fn views_that_start_between_vectors_give_the_same_bits() {
    let device = Device::new();
    let case = Case::new(options(ARC, Precision::F32), 9, 24, 300);
    let (stats, expected) = case.run(&device, &case.w, Write::Overwrite);
    // One value before each: rows of 24 would otherwise be read four values at a time.
    let late = |values: &[f32]| {
        let all: Vec<f32> = std::iter::once(f32::NAN).chain(values.iter().copied()).collect();
        device.upload(&all)
    };
    let (x, w) = (late(&case.x), late(&case.w));
    let (labels, weights) = (device.upload(&case.labels), device.upload(&case.weights));
    let class_weights = device.upload(&case.class_weights);
    for late_output in [0, 1] {
        let (mut dx, mut dw) = (device.poisoned(1 + case.x.len()), device.poisoned(1 + case.w.len()));
        let batch = Batch {
            embeddings: &x.slice(1..),
            labels: &labels.as_view(),
            weights: Some(&weights.as_view()),
            class_weights: Some(&class_weights.as_view()),
            upstream: case.upstream,
        };
        let (from, to) = (late_output, late_output + case.w.len());
        let centres = Centres::Gradient(&w.slice(1..), &mut dw.slice_mut(from..to), Write::Overwrite);
        let gradient = Some((&mut dx.slice_mut(1..), Write::Overwrite));
        let again =
            case.loss(&device).forward_backward(&device.stream, batch, centres, gradient, None).unwrap();
        assert_eq!(again, stats);
        assert_eq!(device.download(&dx)[1..], expected[1]);
        assert_eq!(device.download(&dw)[from..to], expected[2]);
    }
}

#[test]
#[ignore = "needs the emulated device or a GPU"]
fn a_step_takes_three_launches_a_tile_and_three_more() {
    let device = Device::new();
    if products() != Products::Own || launches().is_none() {
        return;
    }
    for (classes, tiles, tile_bytes) in [(300, 1, 64 << 20), (128, 1, 200_000), (300, 3, 100_000)] {
        let options = MarginOptions { tile_bytes, ..options(ARC, Precision::F32) };
        let case = Case::new(options, 9, 24, classes);
        launches();
        case.run(&device, &case.w, Write::Overwrite);
        assert_eq!(launches(), Some(3 + 3 * tiles), "{classes} classes");
    }
}

/// Of what a call holds itself no event is recorded: it is used in order, on one stream.
#[test]
#[ignore = "needs the emulated device or a GPU"]
fn a_tile_records_events_of_its_callers_buffers_alone() {
    let device = Device::new();
    if products() != Products::Own || events().is_none() {
        return;
    }
    let of_tiles = |tile_bytes| {
        let options = MarginOptions { tile_bytes, ..options(ARC, Precision::F32) };
        let case = Case::new(options, 9, 24, 300);
        events();
        case.run(&device, &case.w, Write::Overwrite);
        events().unwrap()
    };
    // One tile, and three. The labels forward and backward, the centres as unit rows forward and backward; the step's
    // embeddings, centres and their gradient; and half of what the allocation of the second tile's rows records.
    let of_tile = (of_tiles(100_000) - of_tiles(64 << 20)) / 2;
    assert!(of_tile <= 9, "{of_tile}");
}

#[test]
#[ignore = "needs the emulated device or a GPU"]
fn more_blocks_than_a_gpu_has_multiprocessors() {
    // The blocks behind the first 132 do their small tasks after the products: 3 x 64 of them forward. One schedule suffices:
    // blocks share nothing.
    let device = Device::new();
    let mut case = Case::new(options(ARC, Precision::F16), 300, 20, 64 * 128);
    case.options.tile_bytes = 64 << 20;
    let answer = case.answer();
    let (stats, results) = case.run(&device, &case.w, Write::Overwrite);
    assert!((stats.value / answer.value - 1.0).abs() < 2e-3, "{} instead of {}", stats.value, answer.value);
    assert_near("losses", &results[0], &answer.losses, 2e-3);
    assert_near("dx", &results[1], &answer.dx, 2e-3);
    assert_near("dw", &results[2], &answer.dw, 2e-3);
}
