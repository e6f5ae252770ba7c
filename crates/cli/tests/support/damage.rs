//! Random damage to files, and what a folder holds after it.

use std::path::{Path, PathBuf};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::files;

/// Cuts, flips bits, overwrites, inserts, removes and doubles stretches: one to three of these.
pub(crate) fn damage(bytes: &[u8], random: &mut ChaCha8Rng) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for _ in 0..random.random_range(1..=3) {
        let length = bytes.len();
        let at = random.random_range(0..length.max(1));
        // Headers are where parsers live.
        let at = if random.random_bool(0.5) { at % 64 } else { at }.min(length);
        let end = (at + random.random_range(1..=16)).min(length);
        match random.random_range(0..6) {
            0 => bytes.truncate(at),
            1 if at < length => bytes[at] ^= 1 << random.random_range(0..8),
            2 => bytes[at..end]
                .iter_mut()
                .for_each(|b| *b = *[0, 1, 0x7f, 0xff, b'9', b'"'].get(at % 6).unwrap_or(&0)),
            3 => drop(bytes.splice(at..at, std::iter::repeat_n(random.random::<u8>(), 5))),
            4 => drop(bytes.drain(at..end)),
            _ => {
                let again = bytes[at..end].to_vec();
                drop(bytes.splice(at..at, again));
            }
        }
    }
    bytes
}

/// What damages version `version` of a file.
pub(crate) fn random(case: &str, version: u64) -> ChaCha8Rng {
    let name = case.bytes().fold(7u64, |sum, b| sum.wrapping_mul(31).wrapping_add(b.into()));
    ChaCha8Rng::seed_from_u64(name ^ version)
}

/// Every file below a folder with its bytes.
pub(crate) fn contents(at: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut all = Vec::new();
    for name in files(at) {
        let path = at.join(name);
        if path.is_dir() {
            all.extend(contents(&path));
        } else {
            let bytes = std::fs::read(&path).unwrap();
            all.push((path, bytes));
        }
    }
    all
}
