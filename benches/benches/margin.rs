//! Margin-softmax losses, forward and backward on all threads, with the bare products of each size beside them:
//! three where the logits are kept, four where they are recomputed. Elements are floating-point operations of those
//! products, so that `Gelem/s` reads as GFLOP/s for both.

use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use embedtune_core::linalg::matmul;
use embedtune_losses::{GradsMut, Input, Loss, MarginOptions, MarginSoftmax, Workspace};
use ndarray::Array2;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Batch, dim, classes, and whether the logits are kept.
const SIZES: [(usize, usize, usize, bool); 4] = [
    (128, 128, 10_000, true),
    (128, 128, 10_000, false),
    (256, 512, 20_000, true),
    (128, 256, 100_000, false),
];

fn noise(rows: usize, columns: usize, seed: u64) -> Array2<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    Array2::from_shape_fn((rows, columns), |_| rng.random_range(-1.0f32..1.0))
}

fn margin(c: &mut Criterion) {
    let mut group = c.benchmark_group("margin");
    group.sample_size(10).warm_up_time(Duration::from_secs(1));
    for (batch, dim, classes, keep) in SIZES {
        let (schedule, products) = if keep { ("keep", 3) } else { ("recompute", 4) };
        let size = format!("b{batch}-d{dim}-c{classes}-{schedule}");
        group.throughput(Throughput::Elements((2 * products * batch * dim * classes) as u64));
        let (x, mut dx) = (noise(batch, dim, 1), Array2::zeros((batch, dim)));
        let labels: Vec<u32> = (0..batch).map(|i| (i * 37 % classes) as u32).collect();
        let budget = if keep { usize::MAX } else { 0 };
        for (name, options) in [
            ("arcface", MarginOptions::arcface()),
            ("cosface", MarginOptions::cosface()),
            ("sphereface", MarginOptions::sphereface()),
            ("subcenter2", MarginOptions { sub_centers: 2, ..MarginOptions::arcface() }),
        ] {
            let options = MarginOptions { logits_budget_bytes: budget, ..options };
            // The same number of centres, and so the same products.
            let loss =
                MarginSoftmax::new(classes / options.sub_centers, dim, options).expect("options in range");
            let (w, mut dw) = (noise(classes, dim, 2), Array2::zeros((classes, dim)));
            let mut work = Workspace::default();
            group.bench_function(BenchmarkId::new(name, &size), |b| {
                b.iter(|| {
                    let grads = GradsMut {
                        embeddings: Some(dx.view_mut()),
                        weights: Some(dw.view_mut()),
                        ..GradsMut::default()
                    };
                    let input = Input::new(x.view(), &labels).with_weights(w.view());
                    loss.forward_backward(input, grads, &mut work)
                });
            });
        }
        let (w, mut dw) = (noise(classes, dim, 2), Array2::zeros((classes, dim)));
        let mut z = Array2::zeros((batch, classes));
        group.bench_function(BenchmarkId::new("products", &size), |b| {
            b.iter(|| {
                for _ in 2..products {
                    matmul(1.0, x.view(), w.t(), 0.0, z.view_mut()).expect("the shapes fit");
                }
                matmul(1.0, z.t(), x.view(), 0.0, dw.view_mut()).expect("the shapes fit");
                matmul(1.0, z.view(), w.view(), 0.0, dx.view_mut()).expect("the shapes fit");
            });
        });
    }
    group.finish();
}

criterion_group!(benches, margin);
criterion_main!(benches);
