//! One step of each optimizer over a matrix, in the bytes that it reads and writes: the value, the gradient and the
//! state. `copy` reads and writes as many values of one array on the same threads.

use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use embedtune_core::{Grad, Value};
use embedtune_train::optim::{self, OptimizerKind, OptimizerOptions, Param};
use ndarray::ArrayD;
use rayon::prelude::*;

/// Values that one task copies: 64 KiB.
const BLOCK: usize = 16 * 1024;

fn optimizers(c: &mut Criterion) {
    let momentum = OptimizerOptions { momentum: Some(0.9), ..OptimizerOptions::default() };
    // Besides the value (read and written) and the gradient (read): the state, read and written.
    let cases = [
        ("sgd", OptimizerKind::Sgd, OptimizerOptions::default(), 3),
        ("sgd_momentum", OptimizerKind::Sgd, momentum, 5),
        ("rmsprop", OptimizerKind::RmsProp, OptimizerOptions::default(), 5),
        ("adam", OptimizerKind::Adam, OptimizerOptions::default(), 7),
        ("adamw", OptimizerKind::AdamW, OptimizerOptions::default(), 7),
    ];
    // The largest convolution of the encoder for images; the centres of 20,000 classes.
    for shape in [[128, 576], [20_000, 512]] {
        let values = shape[0] * shape[1];
        let mut group = c.benchmark_group("optimizer");
        group
            .sample_size(20)
            .warm_up_time(Duration::from_millis(500))
            .measurement_time(Duration::from_secs(2));
        let size = format!("{}x{}", shape[0], shape[1]);
        for (name, kind, options, traffic) in &cases {
            let mut optimizer = optim::build(*kind, options, 1e-3).expect("options in range");
            let mut value: Value = ArrayD::from_elem(shape.to_vec(), 0.5).into_shared();
            let mut grad = Some(Grad::Dense(ArrayD::from_elem(shape.to_vec(), 0.1)));
            group.throughput(Throughput::Bytes((4 * traffic * values) as u64));
            group.bench_function(BenchmarkId::new(*name, &size), |b| {
                b.iter(|| {
                    let mut params = [Param { name: "weight", value: &mut value, grad: grad.take() }];
                    optimizer.step(&mut params, None).expect("the shapes fit");
                    let [param] = params;
                    grad = param.grad;
                });
            });
        }
        let (from, mut to) = (vec![1.0f32; values], vec![0.0f32; values]);
        group.throughput(Throughput::Bytes(8 * values as u64));
        group.bench_function(BenchmarkId::new("copy", &size), |b| {
            b.iter(|| {
                let blocks = to.par_chunks_mut(BLOCK).zip(from.par_chunks(BLOCK));
                blocks.for_each(|(to, from)| to.copy_from_slice(from));
            });
        });
        group.finish();
    }
}

criterion_group!(benches, optimizers);
criterion_main!(benches);
