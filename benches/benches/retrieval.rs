//! Nearest neighbours and evaluation on all threads, beside the products that make all scores (in blocks of rows, as
//! far as the caches go).
//!
//! `60000x64_k100` among themselves is the size at which faiss's
//! `IndexFlatIP` is compared.

use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use embedtune_core::linalg::matmul;
use embedtune_retrieval::{EvaluateOptions, Exclude, Index, Metric, evaluate};
use ndarray::{Array2, Axis};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Rows around one centre a class, as a trained encoder leaves them.
fn clustered(rows: usize, dim: usize, classes: usize) -> (Array2<f32>, Vec<u32>) {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let mut noise = |rows| Array2::from_shape_fn((rows, dim), |_| rng.random_range(-1.0f32..1.0));
    let (centres, mut x) = (noise(classes), noise(rows));
    let labels: Vec<u32> = (0..rows).map(|row| (row % classes) as u32).collect();
    for (mut row, &label) in x.rows_mut().into_iter().zip(&labels) {
        row.scaled_add(0.7, &centres.row(label as usize));
    }
    (x, labels)
}

/// Every score of every pair of rows, a block of rows at a time; each block's overwrite the last.
fn products(x: &Array2<f32>) {
    const BLOCK: usize = 256;
    let mut scores = Array2::zeros((BLOCK.min(x.nrows()), x.nrows()));
    for block in x.axis_chunks_iter(Axis(0), BLOCK) {
        let rows = block.nrows();
        matmul(1.0, block, x.t(), 0.0, scores.slice_mut(ndarray::s![..rows, ..])).expect("the shapes fit");
    }
}

fn knn(c: &mut Criterion) {
    let mut group = c.benchmark_group("knn");
    group.sample_size(10).warm_up_time(Duration::from_secs(1));
    for (rows, dim) in [(10_000, 64), (10_000, 512), (60_000, 64)] {
        let (x, _) = clustered(rows, dim, 10);
        group.throughput(Throughput::Elements((rows * rows) as u64));
        group.bench_function(BenchmarkId::new("bare_products", format!("{rows}x{dim}")), |b| {
            b.iter(|| products(&x));
        });
    }
    for (rows, dim, k) in [(10_000, 64, 1), (10_000, 64, 100), (10_000, 512, 10), (60_000, 64, 100)] {
        let (x, _) = clustered(rows, dim, 10);
        let index = Index::new(x.view(), Metric::Cosine).expect("finite rows");
        group.throughput(Throughput::Elements((rows * rows) as u64));
        group.bench_function(BenchmarkId::new("search", format!("{rows}x{dim}_k{k}")), |b| {
            b.iter(|| index.search(x.view(), k, Exclude::SameRow));
        });
    }
    group.finish();
}

fn metrics(c: &mut Criterion) {
    let mut group = c.benchmark_group("evaluate");
    group.sample_size(10).warm_up_time(Duration::from_secs(1));
    for (rows, dim, classes) in [(10_000, 64, 10), (13_180, 64, 659)] {
        let (x, labels) = clustered(rows, dim, classes);
        group.throughput(Throughput::Elements((rows * rows) as u64));
        group.bench_function(
            BenchmarkId::new("bare_products", format!("{rows}x{dim}_{classes}classes")),
            |b| {
                b.iter(|| products(&x));
            },
        );
        group.bench_function(BenchmarkId::new("evaluate", format!("{rows}x{dim}_{classes}classes")), |b| {
            b.iter(|| evaluate(x.view(), &labels, None, &EvaluateOptions::default()));
        });
    }
    group.finish();
}

criterion_group!(benches, knn, metrics);
criterion_main!(benches);
