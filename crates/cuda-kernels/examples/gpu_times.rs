//! Times the kernels on a GPU, with the device's own clock: after a warm-up, medians of runs on inputs that take turns, so
//! many of them that none is still in the second-level cache. Prints a table beside the ceilings measured in the same run.
//!
//! `gpu_times [small] [FILE]`: `small` is for seeing that it runs where there is no time to lose; FILE gets the rows as
//! JSON, which `gpu_peers.py` sets beside other systems.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use embedtune_cuda_kernels::cudarc::driver::sys::CUevent_flags;
use embedtune_cuda_kernels::cudarc::driver::{CudaContext, CudaEvent, CudaSlice, CudaStream};
use embedtune_cuda_kernels::half::bf16;
use embedtune_cuda_kernels::margin::{
    Batch, Centres, Edge, Margin, MarginOptions, MarginSoftmax, Precision, Products, Sgd,
};
use embedtune_cuda_kernels::pooling::{self, Layout, Pooling, Sign};
use embedtune_cuda_kernels::triplet::{TripletMargin, TripletOptions};
use embedtune_cuda_kernels::{Kernels, Storage, Write, context, devices, narrow};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// More than twice the largest second-level cache.
const UNCACHED: usize = 128 << 20;

/// A line of the table.
pub(crate) struct Row {
    case: String,
    who: String,
    ms: Option<f64>,
    /// Device memory beside inputs and outputs, bytes.
    extra: Option<usize>,
    /// Classes of a tile, forward and backward.
    tile: Option<[usize; 2]>,
    note: String,
}

/// What becomes of the centres.
#[derive(Clone, Copy, PartialEq)]
enum Spent {
    Gradient,
    Sgd,
}

struct Bench {
    kernels: Arc<Kernels>,
    stream: Arc<CudaStream>,
    /// Samples of which the median is taken.
    runs: usize,
    /// What the device is kept busy with while the host queues what is timed.
    busy: [CudaSlice<f32>; 2],
    /// Milliseconds that one copy from one to the other takes.
    busy_ms: f64,
}

/// Runs before anything is timed: the driver compiles, memory pools grow.
const WARM_UP: usize = 3;
/// Milliseconds of device time that a sample has at least, in as many runs as that takes, up to `MOST_RUNS`; and what all
/// samples of a case have at most, beyond the first `LEAST_SAMPLES`.
const SAMPLE: f64 = 2.0;
const MOST_RUNS: f64 = 50.0;
const CASE: f64 = 1000.0;
const LEAST_SAMPLES: usize = 5;

impl Bench {
    fn new(context: &Arc<CudaContext>, small: bool) -> Result<Self> {
        let stream = context.new_stream()?;
        let len = if small { 1 << 10 } else { 64 << 20 };
        let busy = [stream.alloc_zeros(len)?, stream.alloc_zeros(len)?];
        let runs = if small { 1 } else { 20 };
        let mut bench = Self { kernels: Arc::new(Kernels::new(context)?), stream, runs, busy, busy_ms: 0.0 };
        for _ in 0..2 {
            let before = bench.event()?;
            bench.keep_busy(4)?;
            let after = bench.event()?;
            bench.stream.synchronize()?;
            bench.busy_ms = f64::from(before.elapsed_ms(&after)?) / 4.0;
        }
        Ok(bench)
    }

    fn event(&self) -> Result<CudaEvent> {
        Ok(self.stream.record_event(Some(CUevent_flags::CU_EVENT_DEFAULT))?)
    }

    fn keep_busy(&mut self, copies: usize) -> Result<()> {
        let [from, to] = &mut self.busy;
        for _ in 0..copies {
            self.stream.memcpy_dtod(&*from, to)?;
        }
        Ok(())
    }

    /// Median milliseconds that the device takes for a run. `run` gets the number of the run, and queues it without waiting:
    /// the device is given copies first, as many as it has to do until the host has queued all runs of a sample, so
    /// that it finds them one behind another and none of the host's time is between the two events.
    fn median(&mut self, mut run: impl FnMut(&Self, usize) -> Result<()>) -> Result<f64> {
        let mut next = 0;
        let mut runs = |bench: &Self, count: usize| -> Result<(CudaEvent, CudaEvent)> {
            let before = bench.event()?;
            for _ in 0..count {
                run(bench, next)?;
                next += 1;
            }
            Ok((before, bench.event()?))
        };
        runs(self, WARM_UP)?;
        self.stream.synchronize()?;
        let host = Instant::now();
        let (before, after) = runs(self, 1)?;
        let queueing = host.elapsed().as_secs_f64() * 1e3;
        self.stream.synchronize()?;
        let once = f64::from(before.elapsed_ms(&after)?).max(1e-4);
        let count = if self.runs == 1 { 1.0 } else { (SAMPLE / once).ceil().clamp(1.0, MOST_RUNS) };
        let samples = self.runs.min(((CASE / (once * count)) as usize).max(LEAST_SAMPLES));
        let copies = (2.0 * queueing * count / self.busy_ms.max(1e-3)).ceil().clamp(1.0, 1000.0) as usize;
        let mut times = Vec::new();
        for _ in 0..samples {
            self.keep_busy(copies)?;
            let (before, after) = runs(self, count as usize)?;
            self.stream.synchronize()?;
            times.push(f64::from(before.elapsed_ms(&after)?) / count);
        }
        times.sort_by(f64::total_cmp);
        Ok(times[times.len() / 2])
    }

    /// Values that look random: a piece from the host, repeated on the device.
    fn values(&self, len: usize, seed: u64) -> Result<CudaSlice<f32>> {
        let piece: Vec<f32> = (0..len.min(1 << 20) as u64)
            .map(|i| {
                let z = (i + seed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                let z = (z ^ (z >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                (z >> 40) as f32 / (1u64 << 23) as f32 - 1.0
            })
            .collect();
        let mut out = self.stream.alloc_zeros::<f32>(len)?;
        let piece = self.stream.clone_htod(&piece)?;
        for start in (0..len).step_by(piece.len().max(1)) {
            let count = piece.len().min(len - start);
            self.stream.memcpy_dtod(&piece.slice(..count), &mut out.slice_mut(start..start + count))?;
        }
        Ok(out)
    }

    fn copy(&mut self, bytes: usize) -> Result<f64> {
        let from = [self.values(bytes / 4, 1)?, self.values(bytes / 4, 2)?];
        let mut to = self.stream.alloc_zeros::<f32>(bytes / 4)?;
        let ms = self.median(|bench, i| Ok(bench.stream.memcpy_dtod(&from[i % 2], &mut to)?))?;
        Ok(2.0 * bytes as f64 / ms / 1e6)
    }

    /// Milliseconds of the loss with both gradients, or with a step of SGD with momentum; and the workspace.
    fn margin(
        &mut self,
        [n, dim, classes]: [usize; 3],
        precision: Precision,
        products: Products,
        spent: Spent,
    ) -> Result<(f64, usize, [usize; 2])> {
        let arc = Margin::Arc { radians: 0.5, edge: Edge::Jump, straight_through: false };
        let options = MarginOptions { precision, products, ..MarginOptions::new(arc) };
        let loss = MarginSoftmax::new(self.kernels.clone(), classes, dim, options)?;
        let sets = self.sets(4 * (n * dim + 2 * classes * dim));
        let x = (0..sets).map(|i| self.values(n * dim, i as u64)).collect::<Result<Vec<_>>>()?;
        // The centres, and their momentum or gradient.
        let other = |i| -> Result<_> {
            Ok([self.values(classes * dim, 100 + i as u64)?, self.values(classes * dim, 200 + i as u64)?])
        };
        let mut centres = (0..sets).map(other).collect::<Result<Vec<_>>>()?;
        let labels: Vec<u32> = (0..n).map(|i| ((i * 7919) % classes) as u32).collect();
        let labels = self.stream.clone_htod(&labels)?;
        let mut dx = self.stream.alloc_zeros::<f32>(n * dim)?;
        // Kept until all are queued, and looked at then: a run that went wrong is no time.
        let mut last = None;
        let ms = self.median(|bench, i| {
            let sgd = Sgd {
                rate: 1e-4,
                weight_decay: 0.0,
                momentum: 0.9,
                dampening: 0.0,
                nesterov: false,
                first_step: false,
            };
            let batch = Batch {
                embeddings: &x[i % sets].as_view(),
                labels: &labels.as_view(),
                weights: None,
                class_weights: None,
                upstream: 1.0,
            };
            let [w, second] = &mut centres[i % sets];
            let (mut w, mut second) = (w.as_view_mut(), second.as_view_mut());
            let gradient = Some((&mut dx.as_view_mut(), Write::Overwrite));
            let centres: Centres<'_, '_, f32> = match spent {
                Spent::Sgd => Centres::Sgd(&mut w, Some(&mut second), sgd),
                Spent::Gradient => {
                    let w = w.as_view();
                    let centres = Centres::Gradient(&w, &mut second, Write::Overwrite);
                    last = Some(loss.enqueue(&bench.stream, batch, centres, gradient, None)?);
                    return Ok(());
                }
            };
            last = Some(loss.enqueue(&bench.stream, batch, centres, gradient, None)?);
            Ok(())
        })?;
        last.ok_or("no run")?.wait()?;
        Ok((ms, loss.workspace_bytes(n), loss.tile_classes(n, products)))
    }

    /// How many inputs of so many bytes take turns.
    fn sets(&self, bytes: usize) -> usize {
        if self.runs == 1 { 2 } else { UNCACHED.div_ceil(bytes).clamp(1, 64) }
    }

    fn triplets(&mut self, n: usize, dim: usize, of_class: usize) -> Result<f64> {
        let loss = TripletMargin::new(self.kernels.clone(), TripletOptions::default())?;
        let x = [self.values(n * dim, 1)?, self.values(n * dim, 2)?];
        let labels: Vec<u32> = (0..n).map(|i| (i / of_class) as u32).collect();
        let labels = self.stream.clone_htod(&labels)?;
        let mut dx = self.stream.alloc_zeros::<f32>(n * dim)?;
        let mut last = None;
        let ms = self.median(|bench, i| {
            let (x, labels) = (x[i % 2].as_view(), labels.as_view());
            last = Some(loss.enqueue(&bench.stream, &x, &labels, dim, 1.0, Some(&mut dx.as_view_mut()))?);
            Ok(())
        })?;
        last.ok_or("no run")?.wait()?;
        Ok(ms)
    }

    /// Milliseconds of GeM's forward and backward passes over bf16 maps.
    fn gem(&mut self, [batch, channels, length]: [usize; 3], p: f32, learnable: bool) -> Result<[f64; 2]> {
        let len = batch * channels * length;
        let wide = self.values(len, 1)?;
        let mut x = [self.sixteen(len)?, self.sixteen(len)?];
        for x in &mut x {
            narrow(&self.kernels, &self.stream, &wide.as_view(), &mut x.as_view_mut())?;
        }
        drop(wide);
        let (mut y, mut dx) = (self.sixteen(batch * channels)?, self.sixteen(len)?);
        let p = self.stream.clone_htod(&[p])?;
        let p = p.as_view();
        let mut d_p = self.stream.alloc_zeros::<f32>(1)?;
        let pooling = Pooling::Gem { p: &p, eps: 1e-6, sign: Sign::Clamp, learnable };
        let layout = Layout::Maps { batch, channels, length };
        let mut saved = None;
        let forward = self.median(|bench, i| {
            let (kernels, stream) = (&bench.kernels, &bench.stream);
            let (x, mut y) = (x[i % 2].as_view(), y.as_view_mut());
            saved = Some(pooling::forward(kernels, stream, &x, layout, pooling, &mut y)?);
            Ok(())
        })?;
        let saved = saved.ok_or("no run")?;
        let backward = self.median(|bench, i| {
            let (kernels, stream) = (&bench.kernels, &bench.stream);
            let (x, dy, mut dx, mut d_p) =
                (x[i % 2].as_view(), y.as_view(), dx.as_view_mut(), d_p.as_view_mut());
            pooling::backward(
                kernels,
                stream,
                &x,
                layout,
                pooling,
                &saved,
                &dy,
                Some(&mut dx),
                learnable.then_some(&mut d_p),
            )?;
            Ok(())
        })?;
        Ok([forward, backward])
    }

    fn sixteen(&self, len: usize) -> Result<CudaSlice<bf16>> {
        fn zeros<T: Storage>(stream: &Arc<CudaStream>, len: usize) -> Result<CudaSlice<T>> {
            Ok(stream.alloc_zeros(len)?)
        }
        zeros(&self.stream, len)
    }
}

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1).peekable();
    let small = arguments.next_if(|argument| argument == "small").is_some();
    let file = arguments.next().map(PathBuf::from);
    run(small, file.as_deref()).map(drop)
}

/// Measures, prints the table, and writes the rows so far to `file` after each case: whoever ends it early has them.
pub(crate) fn run(small: bool, file: Option<&Path>) -> Result<Vec<Row>> {
    let device = &devices()?[0];
    let context = context(device.ordinal)?;
    let (major, minor) = context.compute_capability()?;
    println!("{}, compute capability {major}.{minor}\n", device.name);
    let mut bench = Bench::new(&context, small)?;
    println!("| case | whose | ms | extra MiB | |\n|---|---|---|---|---|");
    let mut rows = Vec::new();
    let mut tell = |row: Row| {
        let ms = row.ms.map_or("-".to_owned(), |ms| format!("{ms:.3}"));
        let extra = row.extra.map_or(String::new(), |bytes| format!("{:.1}", bytes as f64 / 1048576.0));
        println!("| {} | {} | {ms} | {extra} | {} |", row.case, row.who, row.note);
        rows.push(row);
        file.map_or(Ok(()), |file| write_whole(file, &json(&rows)))
    };
    let plain = |case: String, who: &str, ms: f64, note: String| Row {
        case,
        who: who.to_owned(),
        ms: Some(ms),
        extra: None,
        tile: None,
        note,
    };
    let bytes = if small { 1 << 20 } else { 1 << 30 };
    let copy = bench.copy(bytes)?;
    let ms = 2.0 * bytes as f64 / copy / 1e6;
    tell(plain(format!("copy of {} MiB", bytes >> 20), "ours", ms, format!("{copy:.0} GB/s")))?;

    let shapes: &[[usize; 3]] = if small {
        &[[33, 20, 200]]
    } else {
        &[[256, 128, 10_000], [1024, 512, 100_000], [4096, 512, 1_000_000], [1024, 512, 10_000_000]]
    };
    let cublas = bench.kernels.cublas();
    if let Err(error) = &cublas {
        println!("| | cuBLAS | - | | {error} |");
    }
    for &shape in shapes {
        for precision in [Precision::F16, Precision::F32] {
            for products in [Products::Own, Products::Cublas] {
                if products == Products::Cublas && cublas.is_err() {
                    continue;
                }
                for spent in [Spent::Gradient, Spent::Sgd] {
                    tell(margin_row(&mut bench, shape, precision, products, spent))?;
                }
            }
        }
    }
    let (n, dim) = if small { (64, 16) } else { (8192, 128) };
    let ms = bench.triplets(n, dim, 4)?;
    tell(plain(format!("all triplets ({n}, {dim}), 4 a class"), "ours", ms, String::new()))?;
    // Maps of 14 x 14 and of 7 x 7, as networks end with.
    let maps: &[[usize; 3]] = if small { &[[2, 8, 49]] } else { &[[1024, 2048, 196], [4096, 2048, 49]] };
    for &shape @ [batch, channels, length] in maps {
        for (p, learnable) in [(3.0, false), (3.0, true), (2.5, false), (2.5, true)] {
            let [forward, backward] = bench.gem(shape, p, learnable)?;
            let bytes = 2.0 * (batch * channels * length) as f64;
            let share = |bytes: f64, ms: f64| format!("{:.0}% of the copy", 100.0 * bytes / ms / 1e6 / copy);
            for (way, ms, moved) in [("forward", forward, bytes), ("backward", backward, 2.0 * bytes)] {
                let case = format!("GeM {way} ({batch}, {channels}, {length}) bf16, p = {p}");
                let who = if learnable { "ours, with the gradient of p" } else { "ours" };
                tell(plain(case, who, ms, share(moved, ms)))?;
            }
        }
    }
    Ok(rows)
}

fn margin_row(
    bench: &mut Bench,
    shape @ [n, dim, classes]: [usize; 3],
    precision: Precision,
    products: Products,
    spent: Spent,
) -> Row {
    let mut who = format!("ours, {precision:?}").to_lowercase();
    who += if products == Products::Cublas { ", cuBLAS" } else { "" };
    who += if spent == Spent::Sgd { ", with SGD" } else { "" };
    let case = format!("ArcFace ({n}, {dim}, {classes})");
    match bench.margin(shape, precision, products, spent) {
        Ok((ms, extra, tile)) => {
            let rate = 8.0 * (n * dim) as f64 * classes as f64 / ms / 1e9;
            let note = format!("{rate:.1} TFLOP/s of 4 products");
            Row { case, who, ms: Some(ms), extra: Some(extra), tile: Some(tile), note }
        }
        Err(error) => Row { case, who, ms: None, extra: None, tile: None, note: error.to_string() },
    }
}

/// The file has its old content or the new one, never a part.
fn write_whole(file: &Path, text: &str) -> Result<()> {
    let part = file.with_extension("part");
    std::fs::write(&part, text)?;
    Ok(std::fs::rename(part, file)?)
}

fn json(rows: &[Row]) -> String {
    let quoted = |text: &str| {
        let mut out = String::from("\"");
        for c in text.chars() {
            match c {
                '"' | '\\' => out.extend(['\\', c]),
                c if c.is_control() => out.push(' '),
                c => out.push(c),
            }
        }
        out.push('"');
        out
    };
    let mut out = String::from("[\n");
    for (at, row) in rows.iter().enumerate() {
        let number = |value: Option<String>| value.unwrap_or_else(|| "null".to_owned());
        let _ = writeln!(
            out,
            "  {{\"case\": {}, \"who\": {}, \"ms\": {}, \"extra\": {}, \"tile\": {}, \"note\": {}}}{}",
            quoted(&row.case),
            quoted(&row.who),
            number(row.ms.map(|ms| ms.to_string())),
            number(row.extra.map(|bytes| bytes.to_string())),
            number(row.tile.map(|tile| format!("{tile:?}"))),
            quoted(&row.note),
            if at + 1 < rows.len() { "," } else { "" },
        );
    }
    out + "]\n"
}
