//! The layers of the convolutional encoder at a batch of 128 images of 28 by 28, and the tape's others, forward and forward
//! with backward, on all threads. Convolutions and the linear layer count the floating-point operations of their matrix
//! products (`Gelem/s` reads as GFLOP/s) and stand beside those products bare; the others count the bytes that no
//! implementation avoids and stand beside a copy of the same values.

use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use embedtune_benches::network::{self, Kind, Layer};
use embedtune_core::linalg::matmul;
use embedtune_core::{Pool, Tape};
use ndarray::Array2;
use rayon::prelude::*;

/// Values that one task copies: 64 KiB.
const BLOCK: usize = 16 * 1024;

/// How often the values of a layer's input are read or written: forward, and forward with backward.
fn passes(kind: Kind) -> [usize; 2] {
    match kind {
        // Two passes for the statistics, read and write; the same backward, from two inputs.
        Kind::BatchNorm => [4, 9],
        Kind::Relu | Kind::Gelu => [2, 5],
        Kind::Product => [3, 8],
        // The mask is written, and read backward.
        Kind::Dropout => [3, 6],
        Kind::LayerNorm | Kind::UnitRows => [2, 5],
        // The gradient passes as it is; its sum reads it.
        Kind::Bias => [2, 3],
        Kind::Embedding => [2, 4],
        // Values read, a quarter as many written with their places; the gradient written.
        Kind::MaxPool => [2, 4],
        _ => [1, 3],
    }
}

fn forward(layer: &Layer, pool: &Pool) {
    let tape = Tape::new(pool);
    let leaves = layer.leaves(&tape);
    layer.apply(&leaves).expect("the shapes fit");
}

fn forward_backward(layer: &Layer, pool: &Pool) {
    let tape = Tape::new(pool);
    let leaves = layer.leaves(&tape);
    let y = layer.apply(&leaves).expect("the shapes fit");
    let upstream = layer.upstream(y, pool).expect("the shapes fit");
    let mut grads = tape.backward_from(y, upstream).expect("the shapes fit");
    network::give_back(&mut grads, &leaves, pool);
}

fn layers(c: &mut Criterion) {
    let pool = Pool::new();
    for layer in network::layers().into_iter().chain(network::other_layers()) {
        let mut group = c.benchmark_group(&layer.name);
        group
            .sample_size(10)
            .warm_up_time(Duration::from_millis(500))
            .measurement_time(Duration::from_secs(2));
        let count = if layer.input_gradient { 3 } else { 2 };
        let values = layer.inputs[0].len();
        let work = |times: usize| match layer.product {
            Some([m, k, n]) => Throughput::Elements((2 * m * k * n * times) as u64),
            None => Throughput::Bytes((4 * values * passes(layer.kind)[usize::from(times > 1)]) as u64),
        };
        group.throughput(work(1));
        group.bench_function("forward", |b| b.iter(|| forward(&layer, &pool)));
        group.throughput(work(count));
        group.bench_function("forward_backward", |b| b.iter(|| forward_backward(&layer, &pool)));
        if let Some([m, k, n]) = layer.product {
            group.throughput(work(1));
            let (a, x, mut y) = (Array2::ones((m, k)), Array2::ones((k, n)), Array2::zeros((m, n)));
            group.bench_function("bare_product", |b| {
                b.iter(|| matmul(1.0, a.view(), x.view(), 0.0, y.view_mut()));
            });
        } else {
            group.throughput(Throughput::Bytes(8 * values as u64));
            let (from, mut to) = (vec![1.0f32; values], vec![0.0f32; values]);
            group.bench_function("copy", |b| {
                b.iter(|| {
                    let blocks = to.par_chunks_mut(BLOCK).zip(from.par_chunks(BLOCK));
                    blocks.for_each(|(to, from)| to.copy_from_slice(from));
                });
            });
        }
        group.finish();
    }
}

criterion_group!(benches, layers);
criterion_main!(benches);
