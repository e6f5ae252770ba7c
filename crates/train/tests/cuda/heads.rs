use embedtune_cuda_kernels::emulator::{fail_allocation, fail_launch};
use embedtune_losses::{
    CentreInit, Distance, Edge, Input, Margin, MarginGradient, MarginOptions, MarginSoftmax, Miner, Stats,
    TripletKind, TripletMargin,
};
use embedtune_train::head::{CudaHead, CudaOptimizer, Gpu, HostHead, LossHead, Update};
use embedtune_train::optim::{self, OptimizerKind, OptimizerOptions};
use embedtune_train::{Error, State};
use ndarray::{Array2, s};

const CLASSES: usize = 7;
const DIM: usize = 20;
const INIT: CentreInit = CentreInit::Normal { std: 0.5 };
const RATE: f64 = 0.05;

/// The same head twice.
struct Pair {
    host: HostHead,
    gpu: CudaHead,
}

fn margin(options: MarginOptions) -> MarginSoftmax {
    MarginSoftmax::new(CLASSES, DIM, MarginOptions { scale: 8.0, ..options }).unwrap()
}

fn host(loss: MarginSoftmax, kind: OptimizerKind, options: &OptimizerOptions) -> HostHead {
    let optimizer = optim::build(kind, options, RATE).unwrap();
    HostHead::new(Box::new(loss), Some(optimizer), INIT, 3).unwrap()
}

fn gpu(loss: MarginSoftmax, kind: OptimizerKind, options: &OptimizerOptions) -> CudaHead {
    let optimizer = CudaOptimizer::new(kind, options, RATE).unwrap();
    CudaHead::new(&Gpu::first().unwrap(), loss, Some(optimizer), INIT, 3).unwrap()
}

impl Pair {
    fn new(loss: MarginSoftmax, kind: OptimizerKind, options: &OptimizerOptions) -> Self {
        let pair = Self { host: host(loss.clone(), kind, options), gpu: gpu(loss, kind, options) };
        assert_eq!(pair.host.state().unwrap(), pair.gpu.state().unwrap(), "they start the same");
        pair
    }

    fn heads(&mut self) -> [&mut dyn LossHead; 2] {
        [&mut self.host, &mut self.gpu]
    }

    /// A step of both; their results must agree.
    fn step(&mut self, t: usize, update: Update) {
        let [host, gpu] = self.heads().map(|head| step(head, t, update));
        near("the loss", &[gpu.0.value as f32], &[host.0.value as f32], 1e-5);
        assert_eq!(
            (gpu.0.accuracy, gpu.0.active_fraction, gpu.0.zero_signal),
            (host.0.accuracy, host.0.active_fraction, host.0.zero_signal)
        );
        near("the embeddings' gradient", flat(&gpu.1), flat(&host.1), 2e-5);
    }

    fn agree(&self) {
        let [host, gpu] = [self.host.state().unwrap(), self.gpu.state().unwrap()];
        assert_eq!(host.counters, gpu.counters);
        assert_eq!(host.tensors.keys().collect::<Vec<_>>(), gpu.tensors.keys().collect::<Vec<_>>());
        for (name, tensor) in &host.tensors {
            assert_eq!(tensor.shape(), gpu.tensors[name].shape());
            near(name, gpu.tensors[name].as_slice().unwrap(), tensor.as_slice().unwrap(), 2e-5);
        }
    }
}

fn flat(matrix: &Array2<f32>) -> &[f32] {
    matrix.as_slice().unwrap()
}

#[track_caller]
fn near(what: &str, got: &[f32], expected: &[f32], tolerance: f32) {
    let size = expected.iter().fold(1e-6f32, |most, v| most.max(v.abs()));
    let off = got.iter().zip(expected).fold(0.0f32, |most, (a, b)| {
        let difference = (a - b).abs();
        if difference.is_nan() { f32::INFINITY } else { most.max(difference) }
    });
    assert!(got.len() == expected.len() && off <= tolerance * size, "{what}: off by {off} of {size}");
}

/// Batches of several sizes, with rows near their class and rows that are not.
fn batch(t: usize) -> (Array2<f32>, Vec<u32>) {
    let rows = [24, 9, 31, 24][t % 4];
    let labels: Vec<u32> = (0..rows).map(|i| ((i * 3 + t) % CLASSES) as u32).collect();
    let x = Array2::from_shape_fn((rows, DIM), |(i, j)| {
        f32::from(u8::from(j % CLASSES == labels[i] as usize)) * (i % 3) as f32
            + ((t * 7919 + i * DIM + j) as f32 * 0.7).sin()
    });
    (x, labels)
}

fn step(head: &mut dyn LossHead, t: usize, update: Update) -> (Stats, Array2<f32>) {
    let (x, labels) = batch(t);
    // Where it goes has gaps between its rows, and something in it.
    let mut wide = Array2::from_elem((x.nrows(), 2 * DIM), f32::NAN);
    let to = wide.slice_mut(s![.., ..DIM]);
    let stats = head.step(Input::new(x.view(), &labels), Some(to), update).unwrap();
    (stats, wide.slice(s![.., ..DIM]).to_owned())
}

fn adam() -> OptimizerOptions {
    // Large enough that a gradient that is nearly 0 moves its centre little, whatever its last digit.
    OptimizerOptions { eps: Some(1e-3), ..OptimizerOptions::default() }
}

fn optimizers() -> Vec<(OptimizerKind, OptimizerOptions)> {
    use OptimizerKind::{Adam, AdamW, Sgd};
    let plain = OptimizerOptions::default;
    let momentum = OptimizerOptions { momentum: Some(0.9), dampening: Some(0.1), ..plain() };
    let nesterov =
        OptimizerOptions { momentum: Some(0.8), nesterov: Some(true), weight_decay: Some(0.01), ..plain() };
    vec![
        (Sgd, plain()),
        (Sgd, momentum),
        (Sgd, nesterov),
        (Adam, OptimizerOptions { weight_decay: Some(0.01), ..adam() }),
        (Adam, OptimizerOptions { amsgrad: Some(true), betas: Some((0.8, 0.9)), ..adam() }),
        (AdamW, adam()),
    ]
}

#[test]
#[ignore = "needs the emulated device or a GPU"]
fn every_optimizer_moves_the_centres_as_on_the_cpu() {
    for (kind, options) in optimizers() {
        let mut pair = Pair::new(margin(MarginOptions::arcface()), kind, &options);
        for t in 0..4 {
            pair.step(t, Update::Apply);
        }
        pair.agree();
        for head in pair.heads() {
            head.set_learning_rate(0.01).unwrap();
        }
        pair.step(4, Update::Apply);
        pair.agree();
        assert!(pair.gpu.set_learning_rate(-1.0).is_err());
        assert_eq!(pair.gpu.learning_rate(), Some(0.01));
    }
}

#[test]
#[ignore = "needs the emulated device or a GPU"]
fn every_margin_is_that_of_the_cpu() {
    let arc = |edge, gradient| {
        let angle = embedtune_losses::Angle::radians(1.2);
        MarginOptions { margin: Margin::Arc { angle, edge, gradient }, ..MarginOptions::arcface() }
    };
    for options in [
        MarginOptions::cosface(),
        MarginOptions::sphereface(),
        MarginOptions::sub_center_arcface(),
        arc(Edge::Continuous, MarginGradient::Exact),
        arc(Edge::None, MarginGradient::Exact),
        arc(Edge::Jump, MarginGradient::StraightThrough),
    ] {
        let mut pair = Pair::new(margin(options), OptimizerKind::Adam, &adam());
        for t in 0..3 {
            pair.step(t, Update::Apply);
        }
        pair.agree();
    }
}

#[test]
#[ignore = "needs the emulated device or a GPU"]
fn weights_of_samples_and_classes_count() {
    let mut pair = Pair::new(margin(MarginOptions::arcface()), OptimizerKind::Adam, &adam());
    let (x, labels) = batch(0);
    let samples: Vec<f32> = (0..labels.len()).map(|i| 0.5 + (i % 4) as f32).collect();
    let classes: Vec<f32> = (0..CLASSES).map(|c| 2.0 - c as f32 / 4.0).collect();
    for (samples, classes) in
        [(Some(&samples), None), (None, Some(&classes)), (Some(&samples), Some(&classes))]
    {
        let [host, gpu] = pair.heads().map(|head| {
            let mut input = Input::new(x.view(), &labels);
            input.sample_weights = samples.map(Vec::as_slice);
            input.class_weights = classes.map(Vec::as_slice);
            let mut dx = Array2::zeros(x.dim());
            (head.step(input, Some(dx.view_mut()), Update::Apply).unwrap(), dx)
        });
        near("the loss", &[gpu.0.value as f32], &[host.0.value as f32], 1e-5);
        near("the embeddings' gradient", flat(&gpu.1), flat(&host.1), 2e-5);
    }
    pair.agree();
}

#[test]
#[ignore = "needs the emulated device or a GPU"]
fn accumulated_batches_move_the_centres_as_on_the_cpu() {
    for (kind, options) in optimizers() {
        let mut pair = Pair::new(margin(MarginOptions::cosface()), kind, &options);
        pair.step(0, Update::Accumulate);
        pair.step(1, Update::Accumulate);
        pair.agree();
        let [host, gpu] = pair.heads().map(|head| head.grad_norm().unwrap());
        assert!((host - gpu).abs() < 1e-5 * host && host > 0.0, "{host} {gpu}");
        for head in pair.heads() {
            head.apply(0.5).unwrap();
            assert_eq!(head.grad_norm().unwrap(), 0.0);
            head.apply(0.5).unwrap();
        }
        pair.agree();
        // What is pending and what a step adds are applied together; then the step inside the loss goes on from there.
        pair.step(2, Update::Accumulate);
        pair.step(3, Update::Apply);
        pair.step(4, Update::Apply);
        pair.step(5, Update::None);
        pair.agree();
    }
}

#[test]
#[ignore = "needs the emulated device or a GPU"]
fn either_head_continues_from_the_others_state() {
    for (kind, options) in optimizers() {
        // Three steps and an accumulated batch on one, the rest on the other.
        let fresh = || Pair::new(margin(MarginOptions::arcface()), kind, &options);
        let (mut first, mut other) = (fresh(), fresh());
        for t in 0..3 {
            first.step(t, Update::Apply);
        }
        first.step(3, Update::Accumulate);
        let [of_host, of_gpu] = [first.host.state().unwrap(), first.gpu.state().unwrap()];
        other.host.load_state(&of_gpu).unwrap();
        other.gpu.load_state(&of_host).unwrap();
        assert_eq!([other.host.state().unwrap(), other.gpu.state().unwrap()], [of_gpu, of_host]);
        for pair in [&mut first, &mut other] {
            pair.step(4, Update::Apply);
            pair.step(5, Update::Apply);
            pair.agree();
        }
        // On one device the same bits as without the break.
        let mut again = fresh();
        again.gpu.load_state(&other.gpu.state().unwrap()).unwrap();
        for head in [&mut again.gpu, &mut other.gpu] {
            step(head, 6, Update::Apply);
        }
        assert_eq!(again.gpu.state().unwrap(), other.gpu.state().unwrap());
        // And before any step.
        let (start, mut late) = (fresh(), fresh());
        late.step(0, Update::Apply);
        late.gpu.load_state(&start.host.state().unwrap()).unwrap();
        assert_eq!(late.gpu.state().unwrap(), start.gpu.state().unwrap());
    }
}

#[test]
#[ignore = "needs the emulated device or a GPU"]
fn states_that_do_not_fit_are_refused_and_change_nothing() {
    let mut head = gpu(margin(MarginOptions::arcface()), OptimizerKind::Adam, &adam());
    step(&mut head, 0, Update::Apply);
    let changed = |change: fn(&mut State)| {
        let mut state = head.state().unwrap();
        change(&mut state);
        state
    };
    let states = [
        (
            changed(|state| {
                state.tensors.insert("centres".to_owned(), Array2::zeros((9, DIM)).into_dyn());
            }),
            "shape [9, 20], but ArcFaceLoss has centres of shape [7, 20]",
        ),
        (changed(|state| drop(state.tensors.remove("centres"))), "lacks `centres`"),
        (changed(|state| drop(state.tensors.remove("optimizer.centres.exp_avg"))), "lacks `centres.exp_avg`"),
        (
            changed(|state| {
                for name in ["exp_avg", "exp_avg_sq"] {
                    let key = format!("optimizer.centres.{name}");
                    state.tensors.insert(key, Array2::zeros((9, DIM)).into_dyn());
                }
            }),
            "`centres.exp_avg` must have shape [7, 20]",
        ),
        (
            host(margin(MarginOptions::arcface()), OptimizerKind::Sgd, &OptimizerOptions::default())
                .state()
                .map(|mut state| {
                    state.counters.insert("optimizer.centres.step".to_owned(), 3);
                    let key = "optimizer.centres.momentum_buffer".to_owned();
                    state.tensors.insert(key, Array2::zeros((CLASSES, DIM)).into_dyn());
                    state
                })
                .unwrap(),
            "`centres.momentum_buffer`, which Adam with these options does not keep",
        ),
    ];
    let before = head.state().unwrap();
    for (state, part) in states {
        let error = head.load_state(&state).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
        assert_eq!(head.state().unwrap(), before);
    }
}

#[test]
#[ignore = "needs the emulated device or a GPU"]
fn triplets_are_those_of_the_cpu() {
    let all = TripletMargin::builder().margin(0.3);
    let mined = |kind| all.clone().miner(Miner::TripletMargin { margin: 0.2, kind });
    for options in [
        all.clone(),
        all.clone().distance(Distance::SquaredL2).normalize(false),
        all.clone().distance(Distance::Cosine),
        mined(TripletKind::All),
        mined(TripletKind::Semihard),
        mined(TripletKind::Hard).distance(Distance::SquaredL2),
        all.clone().miner(Miner::BatchHard),
        all.clone().swap(true),
        all.clone().smooth(true),
        mined(TripletKind::Semihard).swap(true).smooth(true),
    ] {
        let loss = options.build().unwrap();
        let mut host = HostHead::new(Box::new(loss.clone()), None, INIT, 3).unwrap();
        let mut gpu = CudaHead::new(&Gpu::first().unwrap(), loss, None, INIT, 3).unwrap();
        for t in 0..3 {
            let [a, b] = [&mut host as &mut dyn LossHead, &mut gpu].map(|head| step(head, t, Update::Apply));
            near("the loss", &[b.0.value as f32], &[a.0.value as f32], 1e-5);
            assert_eq!((b.0.triplets, b.0.active_triplets), (a.0.triplets, a.0.active_triplets));
            assert_eq!((b.0.active_fraction, b.0.accuracy), (a.0.active_fraction, a.0.accuracy));
            near("the embeddings' gradient", flat(&b.1), flat(&a.1), 2e-5);
        }
        gpu.apply(1.0).unwrap();
        assert_eq!(
            (gpu.weights().unwrap(), gpu.learning_rate(), gpu.grad_norm().unwrap()),
            (None, None, 0.0)
        );
        assert_eq!(gpu.state().unwrap(), State::default());
        gpu.load_state(&State::default()).unwrap();
    }
}

#[test]
#[ignore = "needs the emulated device or a GPU"]
fn what_the_kernels_lack_is_refused() {
    let device = Gpu::first().unwrap();
    let refused = |loss: embedtune_train::head::CudaLoss| {
        let error = CudaHead::new(&device, loss, None, INIT, 0).err().unwrap();
        assert!(matches!(error, Error::Unsupported(_)), "{error}");
        error.to_string()
    };
    let hard = TripletMargin::builder().miner(Miner::BatchHard);
    let swap = refused(hard.clone().swap(true).build().unwrap().into());
    assert!(swap.starts_with("device = cuda: TripletMarginLoss with swap = true: "), "{swap}");
    let smooth = refused(hard.smooth(true).build().unwrap().into());
    assert!(smooth.contains("smooth = true"), "{smooth}");
    let many = refused(margin(MarginOptions { sub_centers: 17, ..MarginOptions::arcface() }).into());
    assert!(many.contains("sub_centers = 17: a whole number from 1 to 16"), "{many}");
    let mined = TripletMargin::builder()
        .distance(Distance::SquaredL2)
        .miner(Miner::triplet_margin(TripletKind::Semihard));
    let mined = refused(mined.build().unwrap().into());
    assert!(mined.contains("distance = l2"), "{mined}");
    let error = CudaOptimizer::new(OptimizerKind::RmsProp, &OptimizerOptions::default(), RATE).err().unwrap();
    assert!(error.to_string().starts_with("device = cuda: loss_optimizer = RMSprop: "), "{error}");
    let nothing = CudaHead::new(&device, margin(MarginOptions::arcface()), None, INIT, 0).err().unwrap();
    assert!(nothing.to_string().contains("ArcFaceLoss has class centres"), "{nothing}");
}

#[test]
#[ignore = "needs the emulated device or a GPU"]
fn a_batch_that_does_not_fit_is_refused_and_moves_nothing() {
    let mut head = gpu(margin(MarginOptions::arcface()), OptimizerKind::Adam, &adam());
    step(&mut head, 0, Update::Accumulate);
    let before = head.state().unwrap();
    let (x, mut labels) = batch(0);
    labels[5] = 7;
    let mut nan = x.clone();
    nan[[2, 3]] = f32::NAN;
    let centres = Array2::zeros((CLASSES, DIM));
    let short = x.slice(s![.., ..3]);
    let good = batch(0).1;
    for (input, part) in [
        (Input::new(x.view(), &labels), "label 7 in row 5"),
        (Input::new(nan.view(), &good), "row 2, column 3"),
        (Input::new(short, &good), "embeddings has shape [24, 3]"),
        (Input::new(x.view(), &good[1..]), "embeddings has shape [24, 20]"),
        (Input::new(x.view(), &good).with_weights(centres.view()), "leave Input::weights empty"),
    ] {
        let error = head.step(input, None, Update::Apply).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
        assert_eq!(head.state().unwrap(), before);
    }
    let mut small = Array2::zeros((3, DIM));
    let error = head.step(Input::new(x.view(), &good), Some(small.view_mut()), Update::Apply).unwrap_err();
    assert!(error.to_string().contains("the embeddings' gradient has shape [3, 20]"), "{error}");
    assert_eq!(head.loss().name(), "ArcFaceLoss");
    assert!(!head.gpu().name().is_empty());
}

#[test]
#[ignore = "needs the emulated device"]
fn a_step_that_fails_leaves_the_head_to_be_used_again() {
    if !fail_allocation(None) || !fail_launch(None) {
        return; // A GPU, where nothing can be made to fail.
    }
    let (x, labels) = batch(0);
    for update in [Update::Apply, Update::Accumulate] {
        let fresh = || gpu(margin(MarginOptions::arcface()), OptimizerKind::Adam, &adam());
        let mut expected = fresh();
        let good = step(&mut expected, 0, update);
        let expected = expected.state().unwrap();
        for (what, fail) in
            [("allocation", fail_allocation as fn(Option<u32>) -> bool), ("launch", fail_launch)]
        {
            let mut failures = 0;
            for n in 0.. {
                let mut head = fresh();
                let before = head.state().unwrap();
                let mut dx = Array2::from_elem((x.nrows(), DIM), -7.0);
                fail(Some(n));
                let result = head.step(Input::new(x.view(), &labels), Some(dx.view_mut()), update);
                fail(None);
                let Err(error) = result else { break };
                let told = error.to_string();
                let named = match what {
                    "allocation" => told.contains(" bytes for ") || told.contains("copying a number"),
                    _ => told.contains("margin_") && told.contains("CUDA_ERROR_LAUNCH_FAILED"),
                };
                assert!(named, "{what} {n}: {told}");
                assert!(dx.iter().all(|&v| v == -7.0), "{what} {n}");
                // All classes are one tile, which moves in the last launch.
                assert_eq!(head.state().unwrap(), before, "{what} {n}: {told}");
                let again = step(&mut head, 0, update);
                assert_eq!((again.0.value, again.1), (good.0.value, good.1.clone()), "{what} {n}");
                assert_eq!(head.state().unwrap(), expected, "{what} {n}");
                failures += 1;
            }
            assert!(failures >= 5, "{failures} of {what}");
        }
    }
}
