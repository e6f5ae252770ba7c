//! Triplet margin losses, value and gradient, beside the bare products that they need. Throughput is that of the
//! products' arithmetic in both, so the two rates compare.

use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use embedtune_benches::triplet_cases::{DIM, cases, roofline};
use embedtune_core::linalg::matmul;
use embedtune_losses::{
    CrossBatchMemory, GradsMut, Input, Loss, Miner, TripletKind, TripletMargin, Workspace, miner,
};
use ndarray::{Array2, s};

/// The largest batch takes seconds a run; `triplet_ratio` times it.
const MOST_ROWS: usize = 4096;

fn triplets(c: &mut Criterion) {
    for case in cases().into_iter().filter(|case| case.batch <= MOST_ROWS) {
        let (x, labels) = case.inputs();
        let loss = case.options.clone().build().expect("the options are valid");
        let mut work = Workspace::default();
        let mut gradient = Array2::zeros(x.dim());
        let (mut gram, mut product) = (Array2::zeros((case.batch, case.batch)), Array2::zeros(x.dim()));
        let mut group = c.benchmark_group(format!("triplet_{}", case.name));
        group
            .sample_size(10)
            .warm_up_time(Duration::from_millis(500))
            .measurement_time(Duration::from_secs(2));
        let operations = 2 * case.products() * case.batch * case.batch * DIM;
        group.throughput(Throughput::Elements(operations as u64));
        group.bench_function("loss_and_gradient", |b| {
            b.iter(|| {
                let grads = GradsMut { embeddings: Some(gradient.view_mut()), ..GradsMut::default() };
                loss.forward_backward(Input::new(x.view(), &labels), grads, &mut work).expect("valid input")
            });
        });
        group.bench_function("bare_products", |b| {
            b.iter(|| roofline(case.products(), x.view(), &mut gram, &mut product));
        });
        group.finish();
    }
}

/// A batch against a memory of past embeddings, and the products of those sizes.
fn memory(c: &mut Criterion) {
    const BATCH: usize = 256;
    let Some(case) = cases().into_iter().find(|case| case.batch == MOST_ROWS) else { return };
    let (x, labels) = case.inputs();
    let mut memory = CrossBatchMemory::new(MOST_ROWS, DIM).expect("a size that fits");
    memory.push(x.view(), &labels).expect("finite rows");
    let (batch, labels) = (x.slice(s![..BATCH, ..]), &labels[..BATCH]);
    memory.push(batch, labels).expect("finite rows");
    let loss = TripletMargin::builder().build().expect("the options are valid");
    let (mut work, mut gradient) = (Workspace::default(), Array2::zeros((BATCH, DIM)));
    let (mut scores, mut product) = (Array2::zeros((BATCH, MOST_ROWS)), Array2::zeros((BATCH, DIM)));
    let mut group =
        c.benchmark_group(format!("triplet_memory-b{BATCH}-m{MOST_ROWS}-k{}-d{DIM}", case.per_class));
    group.sample_size(20).throughput(Throughput::Elements((4 * BATCH * MOST_ROWS * DIM) as u64));
    group.bench_function("loss_and_gradient", |b| {
        b.iter(|| {
            let mut input = Input::new(batch, labels);
            input.reference = Some(memory.reference());
            let grads = GradsMut { embeddings: Some(gradient.view_mut()), ..GradsMut::default() };
            loss.forward_backward(input, grads, &mut work).expect("valid input")
        });
    });
    group.bench_function("bare_products", |b| {
        b.iter(|| {
            matmul(1.0, batch, x.t(), 0.0, scores.view_mut()).expect("the shapes fit");
            matmul(1.0, scores.view(), x.view(), 0.0, product.view_mut()).expect("the shapes fit");
        });
    });
    group.finish();
}

/// Explicit lists of triplets, for callers who want to see them.
fn mine(c: &mut Criterion) {
    let Some(case) = cases().into_iter().find(|case| case.batch == 1024) else { return };
    let (x, labels) = case.inputs();
    let (mut gram, mut product) = (Array2::zeros((case.batch, case.batch)), Array2::zeros(x.dim()));
    let mut group = c.benchmark_group(format!("mine_b{}-k{}-d{DIM}", case.batch, case.per_class));
    group.sample_size(10).throughput(Throughput::Elements((2 * case.batch * case.batch * DIM) as u64));
    let semihard = Miner::triplet_margin(TripletKind::Semihard);
    for (name, miner) in [("hardest", Miner::BatchHard), ("semihard", semihard)] {
        group.bench_function(name, |b| {
            b.iter(|| miner::mine(&miner, Input::new(x.view(), &labels)).expect("the list fits"));
        });
    }
    group.bench_function("bare_products", |b| b.iter(|| roofline(1, x.view(), &mut gram, &mut product)));
    group.finish();
}

criterion_group!(benches, triplets, memory, mine);
criterion_main!(benches);
