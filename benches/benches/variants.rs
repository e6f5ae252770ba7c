//! A kernel of one's own beside ours and beside the roofline: the file to copy (`benches/README.md` says how).
//!
//! The kernel here is GeM at the fixed power 3 over feature maps, forward. Ours works for any power, sign and range;
//! `cubes` is what one would write for this power alone. It is right for values whose cubes `f32` can hold.

use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use embedtune_benches::variant::{Variant, agree};
use embedtune_pooling::{GemOptions, Pooling, Saved, maps};
use ndarray::{Array3, ArrayViewMut2};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

/// Batch, channels, places of a map.
const SIZES: [(usize, usize, usize); 2] = [(128, 512, 7 * 7), (128, 512, 14 * 14)];
/// Largest difference from ours, relative to our largest value.
const TOLERANCE: f32 = 1e-5;

/// Mean of cubes, summed in eight lanes so that the compiler can use wide instructions; then the cube root.
fn cubes(map: &[f32]) -> f32 {
    let (blocks, rest) = map.as_chunks::<8>();
    let mut lanes = [0.0f32; 8];
    for block in blocks {
        for (lane, &value) in lanes.iter_mut().zip(block) {
            let value = value.max(1e-6);
            *lane += value * value * value;
        }
    }
    let rest: f32 = rest.iter().map(|value| value.max(1e-6).powi(3)).sum();
    ((lanes.iter().sum::<f32>() + rest) / map.len() as f32).cbrt()
}

fn gem3(c: &mut Criterion) {
    let mut group = c.benchmark_group("gem3_forward");
    group.sample_size(20).warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(3));
    let gem = GemOptions::default().build().expect("defaults");
    for (batch, channels, length) in SIZES {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let x = Array3::from_shape_simple_fn((batch, channels, length), || {
            rng.random_range(-1.0f32..1.0).max(0.0)
        });
        let values = x.as_slice().expect("standard layout");
        let mut saved = Saved::default();
        let mut variants = [
            Variant::new("ours", |y| {
                let pooling = Pooling::GeM { p: &[3.0], options: &gem, learnable: false };
                let y = ArrayViewMut2::from_shape((batch, channels), y).expect("shapes fit");
                maps::forward(x.view(), pooling, y, &mut saved).expect("shapes fit");
            }),
            Variant::new("cubes", |y| {
                y.par_chunks_mut(256).zip(values.par_chunks(256 * length)).for_each(|(y, maps)| {
                    for (y, map) in y.iter_mut().zip(maps.chunks_exact(length)) {
                        *y = cubes(map);
                    }
                });
            }),
        ];
        // A variant that computes something else is no variant.
        agree(&mut variants, batch * channels, TOLERANCE).unwrap_or_else(|problem| panic!("{problem}"));
        let size = format!("{batch}x{channels}x{length}");
        // What no implementation avoids: every value is read once.
        group.throughput(Throughput::Bytes(4 * values.len() as u64));
        let mut y = vec![0.0f32; batch * channels];
        for variant in &mut variants {
            group.bench_function(BenchmarkId::new(variant.name, &size), |b| b.iter(|| (variant.run)(&mut y)));
        }
        group.bench_function(BenchmarkId::new("read", &size), |b| {
            b.iter(|| values.par_chunks(16 * 1024).map(read).sum::<f32>());
        });
    }
    group.finish();
}

/// A sum in sixteen lanes: as little work on each value as proves that it was read.
fn read(values: &[f32]) -> f32 {
    let mut lanes = [0.0f32; 16];
    for block in values.as_chunks::<16>().0 {
        lanes.iter_mut().zip(block).for_each(|(lane, value)| *lane += value);
    }
    lanes.iter().sum()
}

criterion_group!(benches, gem3);
criterion_main!(benches);
