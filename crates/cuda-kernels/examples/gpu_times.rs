//! Times the kernels on a GPU, with the device's own clock: after a warm-up, medians of runs on inputs that take turns, so
//! many of them that none is still in the second-level cache. Prints a table beside the ceilings measured in the same run.
//!
//! `gpu_times [small] [FILE]`: `small` is for seeing that it runs where there is no time to lose; FILE gets the rows as
//! JSON, which `gpu_peers.py` sets beside other systems.

use std::fmt::Write as _;
use std::sync::Arc;

use embedtune_cuda_kernels::cudarc::driver::sys::CUevent_flags;
use embedtune_cuda_kernels::cudarc::driver::{CudaContext, CudaSlice, CudaStream};
use embedtune_cuda_kernels::half::bf16;
use embedtune_cuda_kernels::margin::{
    Batch, Centres, Edge, Margin, MarginOptions, MarginSoftmax, Precision, Products, Sgd,
};
use embedtune_cuda_kernels::pooling::{self, Layout, Pooling, Sign};
use embedtune_cuda_kernels::triplet::{TripletMargin, TripletOptions};
use embedtune_cuda_kernels::{Kernels, Storage, Write, devices, narrow};

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
    runs: usize,
}

impl Bench {
    /// Median milliseconds of a run; `run` gets the number of the run.
    fn median(&self, mut run: impl FnMut(usize) -> Result<()>) -> Result<f64> {
        let mut times = Vec::new();
        for i in 0..self.runs + 3 {
            let flags = Some(CUevent_flags::CU_EVENT_DEFAULT);
            let before = self.stream.record_event(flags)?;
            run(i)?;
            let after = self.stream.record_event(flags)?;
            self.stream.synchronize()?;
            if i >= 3 {
                times.push(f64::from(before.elapsed_ms(&after)?));
            }
        }
        times.sort_by(f64::total_cmp);
        Ok(times[times.len() / 2])
    }

    /// Values that look random, made in pieces: hosts need not hold them all.
    fn values(&self, len: usize, seed: u64) -> Result<CudaSlice<f32>> {
        let piece: Vec<f32> = (0..len.min(1 << 20) as u64)
            .map(|i| {
                let z = (i + seed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                let z = (z ^ (z >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                (z >> 40) as f32 / (1u64 << 23) as f32 - 1.0
            })
            .collect();
        let mut out = self.stream.alloc_zeros::<f32>(len)?;
        for start in (0..len).step_by(piece.len().max(1)) {
            let count = piece.len().min(len - start);
            self.stream.memcpy_htod(&piece[..count], &mut out.slice_mut(start..start + count))?;
        }
        Ok(out)
    }

    fn copy(&self, bytes: usize) -> Result<f64> {
        let from = [self.values(bytes / 4, 1)?, self.values(bytes / 4, 2)?];
        let mut to = self.stream.alloc_zeros::<f32>(bytes / 4)?;
        let ms = self.median(|i| Ok(self.stream.memcpy_dtod(&from[i % 2], &mut to)?))?;
        Ok(2.0 * bytes as f64 / ms / 1e6)
    }

    /// Milliseconds of the loss with both gradients, or with a step of SGD with momentum; and the workspace.
    fn margin(
        &self,
        [n, dim, classes]: [usize; 3],
        precision: Precision,
        products: Products,
        spent: Spent,
    ) -> Result<(f64, usize)> {
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
        let ms = self.median(|i| {
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
                    return Ok(loss
                        .forward_backward(&self.stream, batch, centres, gradient, None)
                        .map(drop)?);
                }
            };
            loss.forward_backward(&self.stream, batch, centres, gradient, None)?;
            Ok(())
        })?;
        Ok((ms, loss.workspace_bytes(n)))
    }

    /// How many inputs of so many bytes take turns.
    fn sets(&self, bytes: usize) -> usize {
        if self.runs == 1 { 2 } else { UNCACHED.div_ceil(bytes).clamp(1, 64) }
    }

    fn triplets(&self, n: usize, dim: usize, of_class: usize) -> Result<f64> {
        let loss = TripletMargin::new(self.kernels.clone(), TripletOptions::default())?;
        let x = [self.values(n * dim, 1)?, self.values(n * dim, 2)?];
        let labels: Vec<u32> = (0..n).map(|i| (i / of_class) as u32).collect();
        let labels = self.stream.clone_htod(&labels)?;
        let mut dx = self.stream.alloc_zeros::<f32>(n * dim)?;
        self.median(|i| {
            let (x, labels) = (x[i % 2].as_view(), labels.as_view());
            loss.forward_backward(&self.stream, &x, &labels, dim, 1.0, Some(&mut dx.as_view_mut()))?;
            Ok(())
        })
    }

    /// Milliseconds of GeM's forward and backward passes over bf16 maps.
    fn gem(&self, batch: usize, channels: usize, length: usize, p: f32) -> Result<[f64; 2]> {
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
        let pooling = Pooling::Gem { p: &p, eps: 1e-6, sign: Sign::Clamp, learnable: true };
        let layout = Layout::Maps { batch, channels, length };
        let (kernels, stream) = (&self.kernels, &self.stream);
        let mut saved = None;
        let forward = self.median(|i| {
            let (x, mut y) = (x[i % 2].as_view(), y.as_view_mut());
            saved = Some(pooling::forward(kernels, stream, &x, layout, pooling, &mut y)?);
            Ok(())
        })?;
        let saved = saved.ok_or("no run")?;
        let backward = self.median(|i| {
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
                Some(&mut d_p),
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
    let rows = run(small)?;
    if let Some(file) = arguments.next() {
        std::fs::write(file, json(&rows))?;
    }
    Ok(())
}

/// Measures, and prints the table.
pub(crate) fn run(small: bool) -> Result<Vec<Row>> {
    let device = &devices()?[0];
    let context = CudaContext::new(device.ordinal)?;
    let (major, minor) = context.compute_capability()?;
    println!("{}, compute capability {major}.{minor}\n", device.name);
    let runs = if small { 1 } else { 20 };
    let bench = Bench { kernels: Arc::new(Kernels::new(&context)?), stream: context.new_stream()?, runs };
    println!("| case | whose | ms | extra MiB | |\n|---|---|---|---|---|");
    let mut rows = Vec::new();
    let mut tell = |row: Row| {
        let ms = row.ms.map_or("-".to_owned(), |ms| format!("{ms:.3}"));
        let extra = row.extra.map_or(String::new(), |bytes| format!("{:.1}", bytes as f64 / 1048576.0));
        println!("| {} | {} | {ms} | {extra} | {} |", row.case, row.who, row.note);
        rows.push(row);
    };
    let plain = |case: String, who: &str, ms: f64, note: String| Row {
        case,
        who: who.to_owned(),
        ms: Some(ms),
        extra: None,
        note,
    };
    let bytes = if small { 1 << 20 } else { 1 << 30 };
    let copy = bench.copy(bytes)?;
    let ms = 2.0 * bytes as f64 / copy / 1e6;
    tell(plain(format!("copy of {} MiB", bytes >> 20), "ours", ms, format!("{copy:.0} GB/s")));

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
                    tell(margin_row(&bench, shape, precision, products, spent));
                }
            }
        }
    }
    let (n, dim) = if small { (64, 16) } else { (8192, 128) };
    let ms = bench.triplets(n, dim, 4)?;
    tell(plain(format!("all triplets ({n}, {dim}), 4 a class"), "ours", ms, String::new()));
    let (batch, channels, length) = if small { (2, 8, 49) } else { (1024, 2048, 196) };
    for p in [3.0, 2.5] {
        let [forward, backward] = bench.gem(batch, channels, length, p)?;
        let bytes = 2.0 * (batch * channels * length) as f64;
        let share = |bytes: f64, ms: f64| format!("{:.0}% of the copy", 100.0 * bytes / ms / 1e6 / copy);
        for (way, ms, moved) in [("forward", forward, bytes), ("backward", backward, 2.0 * bytes)] {
            let case = format!("GeM {way} ({batch}, {channels}, {length}) bf16, p = {p}");
            tell(plain(case, "ours", ms, share(moved, ms)));
        }
    }
    Ok(rows)
}

fn margin_row(
    bench: &Bench,
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
        Ok((ms, extra)) => {
            let rate = 8.0 * (n * dim) as f64 * classes as f64 / ms / 1e9;
            let note = format!("{rate:.1} TFLOP/s of 4 products");
            Row { case, who, ms: Some(ms), extra: Some(extra), note }
        }
        Err(error) => Row { case, who, ms: None, extra: None, note: error.to_string() },
    }
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
            "  {{\"case\": {}, \"who\": {}, \"ms\": {}, \"extra\": {}, \"note\": {}}}{}",
            quoted(&row.case),
            quoted(&row.who),
            number(row.ms.map(|ms| ms.to_string())),
            number(row.extra.map(|bytes| bytes.to_string())),
            quoted(&row.note),
            if at + 1 < rows.len() { "," } else { "" },
        );
    }
    out + "]\n"
}
