//! Random numbers that no dependency's update changes: ChaCha8's words and what is made of them here.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

/// The generator of one task of several that share a seed.
pub(crate) fn generator(seed: u64, task: u64) -> ChaCha8Rng {
    let mut generator = ChaCha8Rng::seed_from_u64(seed);
    generator.set_stream(task);
    generator
}

/// Below `end`, which is at least 1. No number is likelier than another by more than `end / 2^64`.
pub(crate) fn below(generator: &mut ChaCha8Rng, end: usize) -> usize {
    ((u128::from(generator.next_u64()) * end as u128) >> 64) as usize
}

/// In [0, 1).
pub(crate) fn unit(generator: &mut ChaCha8Rng) -> f64 {
    (generator.next_u64() >> 11) as f64 / (1u64 << 53) as f64
}
