//! Losses on device slices beside the CPU's, on the kernels' stand-in driver; on a machine with a GPU, `cargo test -p
//! embedtune-losses --test cuda -- --ignored` runs the same on it.
#![cfg(unix)]

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use embedtune_losses::cuda::kernels::cudarc::driver::{CudaContext, CudaStream};
use embedtune_losses::cuda::kernels::margin::{Batch, Centres, Precision, Products};
use embedtune_losses::cuda::kernels::{Kernels, Write, emulator};
use embedtune_losses::{
    Angle, Distance, Edge, Error, Input, Loss, Margin, MarginGradient, MarginOptions, MarginSoftmax, Miner,
    Output, Reduction, Stats, TripletKind, TripletMargin,
};
use ndarray::Array2;

const ROWS: usize = 20;
const DIM: usize = 12;
const CLASSES: usize = 5;

#[test]
fn on_the_emulated_device() {
    let library = emulator::driver(Path::new(env!("CARGO_TARGET_TMPDIR"))).unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--ignored", "--test-threads=1"]).env("LD_LIBRARY_PATH", library.parent().unwrap());
    let output = command.output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && out.contains("3 passed"), "{out}\n{err}");
}

fn gpu() -> (Arc<Kernels>, Arc<CudaStream>) {
    let context = CudaContext::new(0).unwrap();
    (Arc::new(Kernels::new(&context).unwrap()), context.new_stream().unwrap())
}

fn matrix(rows: usize, seed: usize) -> Array2<f32> {
    Array2::from_shape_fn((rows, DIM), |(i, j)| ((seed * 977 + i * DIM + j) as f32 * 0.83).sin())
}

fn labels() -> Vec<u32> {
    (0..ROWS).map(|i| (i * 3 % CLASSES) as u32).collect()
}

fn near(what: &str, got: &[f32], expected: &[f32]) {
    let size = expected.iter().fold(1e-6f32, |most, v| most.max(v.abs()));
    assert_eq!(got.len(), expected.len());
    for (got, expected) in got.iter().zip(expected) {
        assert!((got - expected).abs() <= 2e-5 * size, "{what}: {got} instead of {expected}");
    }
}

fn same(what: &str, mut got: Stats, expected: Stats) {
    assert!((got.value - expected.value).abs() <= 1e-5 * expected.value, "{what}: {got:?} {expected:?}");
    got.value = expected.value;
    assert_eq!(got, expected, "{what}");
}

#[test]
fn a_factor_beyond_f32_is_refused_by_name() {
    let loss = MarginSoftmax::new(CLASSES, DIM, MarginOptions::arcface()).unwrap();
    let (x, labels) = (matrix(ROWS, 1), labels());
    let mut input = Input::new(x.view(), &labels);
    let (sample, mut class) = ([1e30f32; ROWS], [1.0f32; CLASSES]);
    class[3] = 1e30;
    (input.sample_weights, input.class_weights) = (Some(&sample[..]), Some(&class[..]));
    let message = loss.check_rows(&input).unwrap_err().to_string();
    assert!(message.contains("e60 with the class's weight in row 1"), "{message}");
    assert!(message.contains("divide the weights by the largest"), "{message}");
    input.class_weights = None;
    assert_eq!(loss.check_rows(&input).unwrap(), sample);
    // Too small for f32 as well: to nothing, and to a number with four digits of its own.
    for (of_sample, of_class) in [(1e-30f32, 1e-30f32), (1e-20, 3.3e-22)] {
        let (sample, mut class) = ([of_sample; ROWS], [1.0f32; CLASSES]);
        class[3] = of_class;
        let mut input = Input::new(x.view(), &labels);
        (input.sample_weights, input.class_weights) = (Some(&sample[..]), Some(&class[..]));
        let message = loss.check_rows(&input).unwrap_err().to_string();
        let factor = f64::from(of_sample) * f64::from(of_class);
        assert!(message.contains(&format!("{factor:e} with the class's weight in row 1")), "{message}");
        assert!(message.contains("use 0 to leave a row out"), "{message}");
    }
    // 0, and the smallest weights that f32 itself has, are what they are.
    let sample: [f32; ROWS] = std::array::from_fn(|row| if row == 1 { 0.0 } else { 1e-45 });
    let mut input = Input::new(x.view(), &labels);
    input.sample_weights = Some(&sample);
    assert_eq!(loss.check_rows(&input).unwrap(), sample);
}

#[test]
#[ignore = "needs the emulated device or a GPU"]
fn margins_are_those_of_the_cpu() {
    let (kernels, stream) = gpu();
    let (x, labels) = (matrix(ROWS, 1), labels());
    let arc = |edge, gradient| {
        let margin = Margin::Arc { angle: Angle::radians(1.5), edge, gradient };
        MarginOptions { margin, ..MarginOptions::arcface() }
    };
    for options in [
        MarginOptions::cosface(),
        MarginOptions::sphereface(),
        arc(Edge::Jump, MarginGradient::Exact),
        arc(Edge::Continuous, MarginGradient::Exact),
        arc(Edge::None, MarginGradient::StraightThrough),
        MarginOptions::sub_center_arcface(),
        MarginOptions { sub_centers: 16, ..MarginOptions::sphereface() },
    ] {
        let w = matrix(CLASSES * options.sub_centers, 2);
        let what = format!("{:?}", options.margin);
        let loss = MarginSoftmax::new(CLASSES, DIM, MarginOptions { scale: 9.0, ..options }).unwrap();
        let Output { stats, d_embeddings, d_weights, .. } =
            loss.evaluate(Input::new(x.view(), &labels).with_weights(w.view())).unwrap();
        let on_gpu = loss.on_gpu(kernels.clone(), Precision::F32, Products::Own).unwrap();
        let (of_x, of_w) = (
            stream.clone_htod(x.as_slice().unwrap()).unwrap(),
            stream.clone_htod(w.as_slice().unwrap()).unwrap(),
        );
        let of_labels = stream.clone_htod(&labels).unwrap();
        let (mut dx, mut dw) =
            (stream.alloc_zeros::<f32>(x.len()).unwrap(), stream.alloc_zeros::<f32>(w.len()).unwrap());
        let batch = Batch {
            embeddings: &of_x.as_view(),
            labels: &of_labels.as_view(),
            weights: None,
            class_weights: None,
            upstream: 1.0,
        };
        let (of_w, mut dw_view) = (of_w.as_view(), dw.as_view_mut());
        let centres = Centres::Gradient(&of_w, &mut dw_view, Write::Overwrite);
        let gradient = Some((&mut dx.as_view_mut(), Write::Overwrite));
        let found = on_gpu.forward_backward(&stream, batch, centres, gradient, None).unwrap();
        same(&what, found.into(), stats);
        near(&what, &stream.clone_dtoh(&dx).unwrap(), d_embeddings.as_slice().unwrap());
        near(&what, &stream.clone_dtoh(&dw).unwrap(), d_weights.unwrap().as_slice().unwrap());
    }
}

#[test]
#[ignore = "needs the emulated device or a GPU"]
fn triplets_are_those_of_the_cpu() {
    let (kernels, stream) = gpu();
    let (x, labels) = (matrix(ROWS, 3), labels());
    let all = TripletMargin::builder().margin(0.2);
    let mined = |kind| all.clone().miner(Miner::TripletMargin { margin: 0.1, kind });
    for options in [
        all.clone().reduction(Reduction::Sum),
        all.clone().reduction(Reduction::Mean).distance(Distance::SquaredL2),
        all.clone().distance(Distance::Cosine),
        all.clone().normalize(false),
        all.clone().swap(true),
        all.clone().smooth(true).reduction(Reduction::Mean),
        mined(TripletKind::All).swap(true).smooth(true),
        all.clone().swap(true).distance(Distance::SquaredL2).normalize(false),
        mined(TripletKind::All),
        mined(TripletKind::Hard).distance(Distance::Cosine),
        mined(TripletKind::Semihard),
        mined(TripletKind::Easy).reduction(Reduction::Mean),
        all.clone().miner(Miner::BatchHard).distance(Distance::SquaredL2),
    ] {
        let what = format!("{options:?}");
        let loss = options.build().unwrap();
        let Output { stats, d_embeddings, .. } = loss.evaluate(Input::new(x.view(), &labels)).unwrap();
        let on_gpu = loss.on_gpu(kernels.clone()).unwrap();
        let (of_x, of_labels) =
            (stream.clone_htod(x.as_slice().unwrap()).unwrap(), stream.clone_htod(&labels).unwrap());
        let mut dx = stream.alloc_zeros::<f32>(x.len()).unwrap();
        let (of_x, of_labels, mut out) = (of_x.as_view(), of_labels.as_view(), dx.as_view_mut());
        let found = on_gpu.forward_backward(&stream, &of_x, &of_labels, DIM, 1.0, Some(&mut out)).unwrap();
        same(&what, found.into(), stats);
        near(&what, &stream.clone_dtoh(&dx).unwrap(), d_embeddings.as_slice().unwrap());
    }
}

#[test]
#[ignore = "needs the emulated device or a GPU"]
fn what_the_kernels_lack_is_refused_by_name() {
    let (kernels, _) = gpu();
    let named = |result: Result<(), Error>, option: &str| match result {
        Err(Error::Option { option: found, .. }) => assert_eq!(found, option),
        other => panic!("{other:?}"),
    };
    let triplet = |options: embedtune_losses::TripletMarginOptions| {
        options.build().unwrap().on_gpu(kernels.clone()).map(drop)
    };
    let hard = TripletMargin::builder().miner(Miner::BatchHard);
    named(triplet(hard.clone().swap(true)), "swap");
    named(triplet(hard.smooth(true)), "smooth");
    let many = MarginOptions { sub_centers: 17, ..MarginOptions::arcface() };
    let many = MarginSoftmax::new(CLASSES, DIM, many).unwrap();
    named(many.on_gpu(kernels.clone(), Precision::F32, Products::Own).map(drop), "sub_centers");
    let semihard = Miner::triplet_margin(TripletKind::Semihard);
    named(triplet(TripletMargin::builder().miner(semihard).distance(Distance::Cosine)), "miner");
    named(triplet(TripletMargin::builder().miner(semihard).normalize(false)), "miner");
}
