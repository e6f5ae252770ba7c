//! The fuzz targets' entry points, driven by random damage to valid files: a few thousand inputs in every test run, and for
//! minutes by hand:
//!
//! `EMBEDTUNE_FUZZ_SECONDS=300 cargo test --release -p embedtune-train --all-features --test mutations -- --ignored --nocapture`

#[path = "../fuzz/entries.rs"]
mod entries;

use std::panic::catch_unwind;
use std::path::Path;
use std::time::{Duration, Instant};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Inputs no longer than this; what grows beyond is cut.
const LONGEST: usize = 1 << 14;

/// What no input of that length should take, unless the machine is busy: a header that is believed.
const SLOW: Duration = Duration::from_secs(2);

fn corpus(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut paths: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.iter().map(|path| std::fs::read(path).unwrap()).collect()
}

/// One to eight changes: a bit, a byte, a number, an insertion, a repetition, a cut, a part of another input.
fn damage(seeds: &[Vec<u8>], keep: usize, random: &mut ChaCha8Rng) -> Vec<u8> {
    let mut bytes = seeds[random.random_range(0..seeds.len())].clone();
    for _ in 0..random.random_range(1..=8) {
        if bytes.len() <= keep {
            break;
        }
        let at = random.random_range(keep..bytes.len());
        match random.random_range(0..9) {
            0 => bytes[at] ^= 1 << random.random_range(0..8),
            1 => bytes[at] = random.random(),
            2 => {
                bytes[at] =
                    [0, 1, 0x7f, 0x80, 0xff, b'0', b'9', b'-', b'"', b'\n'][random.random_range(0..10)]
            }
            3 => {
                let number: u64 = match random.random_range(0..6) {
                    0 => 0,
                    1 => u64::MAX,
                    2 => 1 << random.random_range(0..64),
                    3 => (1u64 << random.random_range(0..64)).wrapping_sub(1),
                    4 => random.random_range(0..300),
                    _ => random.random(),
                };
                let width = [1, 2, 4, 8][random.random_range(0..4)];
                let number = if random.random() { number.to_le_bytes() } else { number.to_be_bytes() };
                for (to, byte) in bytes[at..].iter_mut().zip(&number[..width]) {
                    *to = *byte;
                }
            }
            4 => {
                let more: Vec<u8> = (0..random.random_range(1..9)).map(|_| random.random()).collect();
                bytes.splice(at..at, more);
            }
            5 => {
                let end = bytes.len().min(at + random.random_range(1..64));
                let part = bytes[at..end].to_vec();
                bytes.splice(at..at, part);
            }
            6 => drop(bytes.drain(at..(at + random.random_range(1..32)).min(bytes.len()))),
            7 => bytes.truncate(at),
            _ => {
                let other = &seeds[random.random_range(0..seeds.len())];
                let from = random.random_range(0..other.len().max(1)).min(other.len());
                let end = other.len().min(from + random.random_range(1..64));
                bytes.splice(at..at, other[from..end].to_vec());
            }
        }
    }
    bytes.truncate(LONGEST);
    bytes
}

/// How long each parser is tried.
#[derive(Clone, Copy)]
enum Effort {
    Inputs(u64),
    Time(Duration),
}

/// Tries `work` on damaged `seeds`, whose first `keep` bytes stay.
fn drive(name: &str, seeds: &[Vec<u8>], keep: usize, effort: Effort, work: fn(&[u8])) {
    let mut random = ChaCha8Rng::seed_from_u64(name.bytes().map(u64::from).sum());
    let started = Instant::now();
    let (mut inputs, mut slowest) = (0u64, Duration::ZERO);
    let on = |inputs: u64| match effort {
        Effort::Inputs(most) => inputs < most,
        Effort::Time(most) => started.elapsed() < most,
    };
    seeds.iter().for_each(|seed| work(seed));
    while on(inputs) {
        let input = damage(seeds, keep, &mut random);
        inputs += 1;
        let save = || {
            let path = std::env::temp_dir().join(format!("embedtune-{name}-{inputs}"));
            std::fs::write(&path, &input).unwrap();
            path.display().to_string()
        };
        let began = Instant::now();
        if catch_unwind(|| work(&input)).is_err() {
            panic!("{name}: input {inputs} panics; it is saved in {}", save());
        }
        let took = began.elapsed();
        slowest = slowest.max(took);
        if took > SLOW {
            println!("{name}: input {inputs} took {:.1} s; it is saved in {}", took.as_secs_f64(), save());
        }
    }
    let (seconds, slowest) = (started.elapsed().as_secs_f64(), slowest.as_secs_f64());
    println!("{name}: {inputs} inputs in {seconds:.1} s, the slowest in {slowest:.3} s");
}

fn all(data: Effort, run: Effort) {
    let seeds = corpus("data");
    for (kind, reader) in (0u8..).zip(&entries::DATA) {
        let own = seeds.iter().filter(|seed| seed.first() == Some(&reader.seeds));
        let own: Vec<Vec<u8>> = own.map(|seed| [&[kind], &seed[1..]].concat()).collect();
        assert!(!own.is_empty(), "no seed of {}", reader.name);
        drive(reader.name, &own, 1, data, entries::data);
    }
    let options = |bytes: &[u8]| entries::options(&String::from_utf8_lossy(bytes));
    drive("options", &corpus("options"), 0, data, options);
    for (kind, name) in (0u8..).zip(entries::FILES) {
        let mut seeds: Vec<Vec<u8>> =
            corpus("run").into_iter().filter(|seed| seed.first() == Some(&kind)).collect();
        seeds.push([vec![kind], entries::whole(name)].concat());
        drive(name, &seeds, 1, run, entries::run);
    }
}

#[test]
fn damaged_inputs_are_errors_and_never_panics() {
    all(Effort::Inputs(300), Effort::Inputs(25));
}

#[test]
#[ignore = "takes minutes; see the top of the file"]
fn for_minutes() {
    let seconds =
        std::env::var("EMBEDTUNE_FUZZ_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(20);
    let effort = Effort::Time(Duration::from_secs(seconds));
    all(effort, effort);
}
