//! Evaluates a gallery that lies in a file, block by block, and says how much memory that took.
//!
//! ```sh
//! cargo run --release -p embedtune-retrieval --example million -- [ITEMS] [DIM] [QUERIES] [FILE]
//! ```
//!
//! The defaults are 1,000,000 items of dimension 128 and 10,000 queries. The gallery, clustered noise in `float16`, is
//! written to FILE (a temporary one by default) a block at a time, so that at no time it is in memory as a whole.

use std::error::Error;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use embedtune_retrieval::half::f16;
use embedtune_retrieval::ndarray::Array2;
use embedtune_retrieval::{EvaluateOptions, Evaluation, Measure, NpyRows};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

/// Items of each class.
const CLASS: usize = 100;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize, default: usize| arguments.get(at).map_or(Ok(default), |text| text.parse());
    let (items, dim, queries) = (number(0, 1_000_000)?, number(1, 128)?, number(2, 10_000)?);
    let temporary = std::env::temp_dir().join(format!("embedtune-million-{}.npy", std::process::id()));
    let path = arguments.get(3).map_or(temporary.clone(), PathBuf::from);
    let classes = items.div_ceil(CLASS);
    let of_class = |row: usize| (row % classes) as u32;

    let start = Instant::now();
    write(&path, items, dim, of_class)?;
    let asked: Vec<u32> = (0..queries).map(of_class).collect();
    let mut vectors = Array2::<f32>::zeros((queries, dim));
    // Other noise than that of the items.
    let mut random = ChaCha8Rng::seed_from_u64(u64::MAX);
    for (mut row, &class) in vectors.rows_mut().into_iter().zip(&asked) {
        let values = item(class, dim, &mut random);
        row.iter_mut().zip(values).for_each(|(to, value)| *to = value);
    }
    let bytes = std::fs::metadata(&path)?.len();
    println!(
        "{items} items of dimension {dim} in {} MiB, {:.1} s",
        bytes >> 20,
        start.elapsed().as_secs_f64()
    );

    let labels: Vec<u32> = (0..items).map(of_class).collect();
    let gallery = NpyRows::open(&path)?;
    let before = memory("VmRSS:");
    let start = Instant::now();
    let found = Evaluation::new(&vectors, &asked, Some((&gallery, &labels)), &EvaluateOptions::default());
    let seconds = start.elapsed().as_secs_f64();
    if path == temporary {
        std::fs::remove_file(&path)?;
    }
    let found = found?;
    let mean =
        |measure| found.values(measure).map_or(f64::NAN, |values| values.sum::<f64>() / queries as f64);
    for measure in found.measures() {
        println!("{:<14} {:.4}", measure.to_string(), mean(measure));
    }
    println!(
        "{queries} queries in {seconds:.1} s; at most {} MiB, {} of them before the evaluation",
        memory("VmHWM:") >> 10,
        before >> 10
    );
    assert!(mean(Measure::Hit(10)) >= mean(Measure::Hit(1)));
    Ok(())
}

/// A class's centre and noise.
fn item(class: u32, dim: usize, noise: &mut ChaCha8Rng) -> impl Iterator<Item = f32> {
    let mut centre = ChaCha8Rng::seed_from_u64(class.into());
    (0..dim).map(move |_| unit(&mut centre) + 2.0 * unit(noise))
}

/// In [-1, 1).
fn unit(random: &mut ChaCha8Rng) -> f32 {
    (random.next_u32() >> 8) as f32 / (1 << 23) as f32 - 1.0
}

fn write(
    path: &Path,
    items: usize,
    dim: usize,
    of_class: impl Fn(usize) -> u32,
) -> Result<(), Box<dyn Error>> {
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
    let mut header = format!("{{'descr': '<f2', 'fortran_order': False, 'shape': ({items}, {dim}), }}");
    // The data begin at a multiple of 64 bytes.
    while (10 + header.len() + 1) % 64 != 0 {
        header.push(' ');
    }
    header.push('\n');
    file.write_all(b"\x93NUMPY\x01\x00")?;
    file.write_all(&u16::try_from(header.len())?.to_le_bytes())?;
    file.write_all(header.as_bytes())?;
    let mut random = ChaCha8Rng::seed_from_u64(1 << 40);
    for row in 0..items {
        for value in item(of_class(row), dim, &mut random) {
            file.write_all(&f16::from_f32(value).to_le_bytes())?;
        }
    }
    Ok(file.into_inner()?.sync_all()?)
}

/// KiB of a line of `/proc/self/status`; 0 where there is none.
fn memory(key: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with(key)).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).unwrap_or(0)
}
