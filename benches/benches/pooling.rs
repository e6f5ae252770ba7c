//! Pooling forward and backward, in bytes that no implementation avoids: the forward pass reads `x`, the backward
//! pass reads `x` and writes `dx`. `copy` reads and writes the same array on the same threads: how fast the memory is.

use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use embedtune_pooling::tokens::{self, Mask, Valid};
use embedtune_pooling::{GemOptions, Pooling, Saved, Sign, maps};
use ndarray::{Array2, Array3};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

/// Values that one task copies: 64 KiB.
const BLOCK: usize = 16 * 1024;

fn noise(shape: (usize, usize, usize), low: f32) -> Array3<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    Array3::from_shape_simple_fn(shape, || rng.random_range(-1.0f32..1.0).max(low))
}

/// The group of one shape, with the copy's rate.
fn group<'a>(c: &'a mut Criterion, name: &str, x: &Array3<f32>) -> BenchmarkGroup<'a, WallTime> {
    let mut group = c.benchmark_group(name);
    group.sample_size(20).warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(3));
    let (from, mut to) = (x.as_slice().expect("standard layout"), vec![0.0f32; x.len()]);
    group.throughput(Throughput::Bytes(8 * x.len() as u64));
    group.bench_function("copy", |b| {
        b.iter(|| {
            to.par_chunks_mut(BLOCK)
                .zip(from.par_chunks(BLOCK))
                .for_each(|(to, from)| to.copy_from_slice(from));
        });
    });
    group.throughput(Throughput::Bytes(12 * x.len() as u64));
    group
}

fn feature_maps(c: &mut Criterion) {
    let gem = GemOptions::default().build().expect("defaults");
    let shift = GemOptions { sign: Sign::Shift, ..GemOptions::default() }.build().expect("defaults");
    let learnt = |p| Pooling::GeM { p, options: &gem, learnable: true };
    let fixed = Pooling::GeM { p: &[3.0], options: &gem, learnable: false };
    for (batch, channels, length) in [(128, 512, 14 * 14), (128, 512, 7 * 7), (128, 64, 56 * 56)] {
        let x = noise((batch, channels, length), 0.0);
        let dy = Array2::from_elem((batch, channels), 1.0);
        let (mut y, mut dx, mut saved) = (dy.clone(), x.clone(), Saved::default());
        let mut d_p = [0.0];
        let mut group = group(c, &format!("maps_{batch}x{channels}x{length}"), &x);
        for (name, pooling) in [
            ("gem_p3", learnt(&[3.0])),
            ("gem_p2.9", learnt(&[2.9])),
            ("gem_p6.5", learnt(&[6.5])),
            ("gem_shift_p3", Pooling::GeM { p: &[3.0], options: &shift, learnable: true }),
            ("gem_p3_fixed", fixed),
            ("average", Pooling::Avg),
            ("maximum", Pooling::Max),
        ] {
            group.bench_function(name, |b| {
                b.iter(|| {
                    maps::forward(x.view(), pooling, y.view_mut(), &mut saved).expect("shapes fit");
                    let d_p = matches!(pooling, Pooling::GeM { learnable: true, .. }).then_some(&mut d_p[..]);
                    maps::backward(x.view(), pooling, &saved, dy.view(), Some(dx.view_mut()), d_p)
                        .expect("shapes fit");
                });
            });
        }
        group.finish();
    }
}

fn masked_tokens(c: &mut Criterion) {
    let gem = GemOptions { sign: Sign::Signed, ..GemOptions::default() }.build().expect("defaults");
    let (batch, length, dim) = (64, 64, 768);
    let x = noise((batch, length, dim), -1.0);
    let lengths: Vec<usize> = (0..batch).map(|item| 1 + item * 7 % length).collect();
    let valid = Valid::new(Mask::Lengths(&lengths), batch, length).expect("lengths fit");
    let dy = Array2::from_elem((batch, dim), 1.0);
    let (mut y, mut dx, mut saved) = (dy.clone(), x.clone(), Saved::default());
    let mut group = group(c, &format!("tokens_{batch}x{length}x{dim}"), &x);
    for (name, pooling) in [
        ("gem_signed_p2.9", Pooling::GeM { p: &[2.9], options: &gem, learnable: true }),
        ("average", Pooling::Avg),
        ("maximum", Pooling::Max),
    ] {
        group.bench_function(name, |b| {
            b.iter(|| {
                tokens::forward(x.view(), &valid, pooling, y.view_mut(), &mut saved).expect("shapes fit");
                tokens::backward(x.view(), &valid, pooling, &saved, dy.view(), Some(dx.view_mut()), None)
                    .expect("shapes fit");
            });
        });
    }
    group.finish();
}

criterion_group!(benches, feature_maps, masked_tokens);
criterion_main!(benches);
