//! Pooling on the GPU beside the CPU's, on the kernels' stand-in driver; on a machine with a GPU, `cargo test -p
//! embedtune-pooling --test cuda -- --ignored` runs the same on it.
#![cfg(unix)]

use std::path::Path;
use std::process::Command;

use embedtune_pooling::cuda::kernels::cudarc::driver::CudaContext;
use embedtune_pooling::cuda::kernels::pooling::{Layout, backward, forward};
use embedtune_pooling::cuda::kernels::{Kernels, devices, emulator};
use embedtune_pooling::ndarray::{Array2, Array3};
use embedtune_pooling::tokens::{self, Mask, Valid};
use embedtune_pooling::{Gem, GemOptions, PoolerKind, Pooling, Saved, Sign, maps};

const SIZES: (usize, usize, usize) = (3, 8, 12);

#[test]
fn on_the_emulated_device() {
    let library = emulator::driver(Path::new(env!("CARGO_TARGET_TMPDIR"))).unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--ignored", "--test-threads=1"]).env("LD_LIBRARY_PATH", library.parent().unwrap());
    let output = command.output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && out.contains("2 passed"), "{out}\n{err}");
}

fn near(what: &str, got: &[f32], expected: &[f32]) {
    let size = expected.iter().fold(1e-3f32, |most, v| most.max(v.abs()));
    assert_eq!(got.len(), expected.len());
    for (got, expected) in got.iter().zip(expected) {
        assert!((got - expected).abs() <= 1e-5 * size, "{what}: {got} instead of {expected}");
    }
}

fn values() -> Array3<f32> {
    Array3::from_shape_fn(SIZES, |(a, b, c)| ((a * 97 + b * 13 + c) as f32 * 0.7).sin() + 0.2)
}

fn of(kind: PoolerKind, options: &Gem) -> Pooling<'_> {
    match kind {
        PoolerKind::GeM => Pooling::GeM { p: &[2.5], options, learnable: true },
        PoolerKind::Avg => Pooling::Avg,
        _ => Pooling::Max,
    }
}

/// Pooled values, their gradient for `dy`, and that of GeM's power.
fn on_gpu(
    kind: PoolerKind,
    gem: &Gem,
    x: &Array3<f32>,
    layout: Layout<'_>,
    dy: &Array2<f32>,
) -> (Vec<f32>, Vec<f32>, f32) {
    let context = CudaContext::new(0).unwrap();
    let (stream, kernels) = (context.new_stream().unwrap(), Kernels::new(&context).unwrap());
    let (x, p) = (stream.clone_htod(x.as_slice().unwrap()).unwrap(), stream.clone_htod(&[2.5f32]).unwrap());
    let (x, p, dy) = (x.as_view(), p.as_view(), stream.clone_htod(dy.as_slice().unwrap()).unwrap());
    let pooling = kind.on_gpu(gem, &p, true);
    let mut y = stream.alloc_zeros::<f32>(dy.len()).unwrap();
    let (mut dx, mut d_p) =
        (stream.alloc_zeros::<f32>(x.len()).unwrap(), stream.alloc_zeros::<f32>(1).unwrap());
    let saved = forward(&kernels, &stream, &x, layout, pooling, &mut y.as_view_mut()).unwrap();
    let mut power = d_p.as_view_mut();
    let power = (kind == PoolerKind::GeM).then_some(&mut power);
    backward(
        &kernels,
        &stream,
        &x,
        layout,
        pooling,
        &saved,
        &dy.as_view(),
        Some(&mut dx.as_view_mut()),
        power,
    )
    .unwrap();
    let back = |slice| stream.clone_dtoh(slice).unwrap();
    (back(&y), back(&dx), back(&d_p)[0])
}

fn every_pooling() -> Vec<(PoolerKind, Gem)> {
    let gem = |sign| GemOptions { eps: 1e-3, sign }.build().unwrap();
    let plain = gem(Sign::Clamp);
    let mut all: Vec<_> = [Sign::Clamp, Sign::Shift, Sign::Signed]
        .into_iter()
        .map(|sign| (PoolerKind::GeM, gem(sign)))
        .collect();
    all.extend([(PoolerKind::Avg, plain), (PoolerKind::Max, plain)]);
    all
}

#[test]
#[ignore = "needs the emulated device or a GPU"]
fn maps_are_pooled_as_on_the_cpu() {
    assert!(devices().is_ok());
    let (x, dy) = (values(), Array2::from_shape_fn((SIZES.0, SIZES.1), |(a, b)| (a + 2 * b) as f32 - 4.0));
    for (kind, gem) in every_pooling() {
        let (mut y, mut saved) = (Array2::zeros(dy.dim()), Saved::default());
        maps::forward(x.view(), of(kind, &gem), y.view_mut(), &mut saved).unwrap();
        let (mut dx, mut d_p) = (Array3::zeros(x.dim()), [0.0f32]);
        let power = (kind == PoolerKind::GeM).then_some(&mut d_p[..]);
        maps::backward(x.view(), of(kind, &gem), &saved, dy.view(), Some(dx.view_mut()), power).unwrap();
        let layout = Layout::Maps { batch: SIZES.0, channels: SIZES.1, length: SIZES.2 };
        let found = on_gpu(kind, &gem, &x, layout, &dy);
        near(&format!("{kind:?} {gem:?}, values"), &found.0, y.as_slice().unwrap());
        near(&format!("{kind:?} {gem:?}, gradient"), &found.1, dx.as_slice().unwrap());
        near(&format!("{kind:?} {gem:?}, power"), &[found.2], &d_p);
    }
}

#[test]
#[ignore = "needs the emulated device or a GPU"]
fn tokens_are_pooled_as_on_the_cpu() {
    let (x, dy) = (values(), Array2::from_shape_fn((SIZES.0, SIZES.2), |(a, b)| (a + 2 * b) as f32 - 4.0));
    let lengths = [8usize, 1, 5];
    let valid = Valid::new(Mask::Lengths(&lengths), SIZES.0, SIZES.1).unwrap();
    let flags: Vec<u8> =
        lengths.iter().flat_map(|&length| (0..SIZES.1).map(move |token| u8::from(token < length))).collect();
    let stream = CudaContext::new(0).unwrap().new_stream().unwrap();
    let flags = stream.clone_htod(&flags).unwrap();
    let flags = flags.as_view();
    for (kind, gem) in every_pooling() {
        let (mut y, mut saved) = (Array2::zeros(dy.dim()), Saved::default());
        tokens::forward(x.view(), &valid, of(kind, &gem), y.view_mut(), &mut saved).unwrap();
        let mut dx = Array3::zeros(x.dim());
        tokens::backward(x.view(), &valid, of(kind, &gem), &saved, dy.view(), Some(dx.view_mut()), None)
            .unwrap();
        let layout = Layout::Tokens { batch: SIZES.0, tokens: SIZES.1, dim: SIZES.2, mask: Some(&flags) };
        let found = on_gpu(kind, &gem, &x, layout, &dy);
        near(&format!("{kind:?} {gem:?}, values"), &found.0, y.as_slice().unwrap());
        near(&format!("{kind:?} {gem:?}, gradient"), &found.1, dx.as_slice().unwrap());
    }
}
