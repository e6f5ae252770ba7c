//! Triplet margin losses, value and gradient, beside the bare products that they need. Throughput is that of the
//! products' arithmetic in both, so the two rates compare.

use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use embedtune_benches::triplet_cases::{DIM, cases, roofline};
use embedtune_losses::{GradsMut, Input, Loss, Workspace};
use ndarray::Array2;

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

criterion_group!(benches, triplets);
criterion_main!(benches);
