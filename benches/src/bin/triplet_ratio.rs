//! Times the triplet losses and the bare matrix products that they need, alternately, and prints their ratio, by the
//! clock and by processor time (where the system tells it; the ratio that a busy machine disturbs least).
//!
//! `triplet_ratio [--rounds N] [--only TEXT] [--out DIR] [--json]`: `--only` picks cases by a part of their name;
//! `--out` writes each case's inputs, value and gradient as .npy for `benches/peers/triplets.py`; `--json` prints
//! one line a case and times no products.

use std::path::PathBuf;
use std::time::Instant;

use embedtune_benches::triplet_cases::{Case, cases, roofline};
use embedtune_losses::{GradsMut, Input, Loss, Workspace};
use ndarray::{Array1, Array2};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

fn main() -> Outcome<()> {
    let (mut rounds, mut only, mut out, mut json) = (5usize, String::new(), None::<PathBuf>, false);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or(format!("{argument} needs a value"));
        match argument.as_str() {
            "--rounds" => rounds = value()?.parse()?,
            "--only" => only = value()?,
            "--out" => out = Some(value()?.into()),
            "--json" => json = true,
            _ => return Err(format!("unknown option {argument}").into()),
        }
    }
    if !json {
        println!(
            "{:<24} {:>10} {:>12} {:>10} {:>7} {:>7}",
            "case", "median ms", "products ms", "min ms", "ratio", "cpu"
        );
    }
    for case in cases().into_iter().filter(|case| case.name.contains(&only)) {
        run(&case, rounds.max(1), out.as_deref(), json)?;
    }
    Ok(())
}

fn run(case: &Case, rounds: usize, out: Option<&std::path::Path>, json: bool) -> Outcome<()> {
    let (x, labels) = case.inputs();
    let loss = case.options.clone().build()?;
    let mut work = Workspace::default();
    let mut gradient = Array2::<f32>::zeros(x.dim());
    let mut ours = || -> Outcome<(Time, f64)> {
        let start = Time::now();
        let grads = GradsMut { embeddings: Some(gradient.view_mut()), ..GradsMut::default() };
        let stats = loss.forward_backward(Input::new(x.view(), &labels), grads, &mut work)?;
        Ok((start.elapsed(), stats.value))
    };
    let (_, value) = ours()?;
    let side = if json { 0 } else { case.batch };
    let (mut gram, mut product) = (Array2::zeros((side, side)), Array2::zeros((side, x.ncols())));
    let (mut times, mut bare) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        times.push(ours()?.0);
        if !json {
            let start = Time::now();
            roofline(case.products(), x.view(), &mut gram, &mut product);
            bare.push(start.elapsed());
        }
    }
    if let Some(folder) = out {
        std::fs::create_dir_all(folder)?;
        let path = |what: &str| folder.join(format!("{}-{what}.npy", case.name));
        ndarray_npy::write_npy(path("x"), &x)?;
        ndarray_npy::write_npy(path("labels"), &labels.iter().map(|&l| i64::from(l)).collect::<Array1<_>>())?;
        ndarray_npy::write_npy(path("gradient"), &gradient)?;
    }
    let wall = |times: &[Time]| median(times.iter().map(|time| time.wall));
    let (name, ms) = (&case.name, 1e3 * wall(&times));
    if json {
        println!("{{\"case\": \"{name}\", \"ms\": {ms}, \"value\": {value}}}");
        return Ok(());
    }
    let bare_ms = 1e3 * wall(&bare);
    let least = 1e3 * times.iter().fold(f64::INFINITY, |least, time| least.min(time.wall));
    let cpu = median(times.iter().map(|time| time.cpu)) / median(bare.iter().map(|time| time.cpu));
    println!("{name:<24} {ms:>10.2} {bare_ms:>12.2} {least:>10.2} {:>7.2} {cpu:>7.2}", ms / bare_ms);
    Ok(())
}

/// Seconds by the clock and of all threads' processor time.
struct Time {
    wall: f64,
    cpu: f64,
}

/// Since when, and the processor time until then.
struct Start(Instant, f64);

impl Time {
    fn now() -> Start {
        Start(Instant::now(), cpu_seconds())
    }
}

impl Start {
    fn elapsed(&self) -> Time {
        Time { wall: self.0.elapsed().as_secs_f64(), cpu: cpu_seconds() - self.1 }
    }
}

/// Processor time of this process's threads as Linux keeps it; NaN elsewhere.
fn cpu_seconds() -> f64 {
    let Ok(threads) = std::fs::read_dir("/proc/self/task") else { return f64::NAN };
    let nanoseconds = |entry: std::fs::DirEntry| {
        let text = std::fs::read_to_string(entry.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<f64>().ok()
    };
    1e-9 * threads.flatten().filter_map(nanoseconds).sum::<f64>()
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
