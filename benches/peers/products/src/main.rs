//! `embedtune-peer-products {gemm|faer} FOLDER`: times the bare matrix products of a margin-softmax loss, one after
//! the other on all cores, by the protocol of `benches/peers/README.md`.
//!
//! `case.json` gives `batch`, `dim`, `classes`, `products` (3: logits and both gradients; 4: the logits twice) and
//! `product_blocks`: the classes are cut into so many equal blocks, which share one block's memory.

use std::io::{BufRead, Write};
use std::time::Instant;

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// `c = a b` with explicit strides (rows, columns) of row-major buffers.
struct Product {
    m: usize,
    n: usize,
    k: usize,
    a: (usize, usize),
    b: (usize, usize),
}

impl Product {
    fn by_gemm(&self, a: &[f32], b: &[f32], c: &mut [f32]) {
        let &Self { m, n, k, a: sa, b: sb } = self;
        assert!(a.len() >= m * k && b.len() >= k * n && c.len() >= m * n);
        // The kernel wants columns contiguous in its destination: c^T = b^T a^T.
        // SAFETY: the strides address m x k, k x n and m x n values, and the buffers hold at least those.
        unsafe {
            gemm::gemm(
                n,
                m,
                k,
                c.as_mut_ptr(),
                n as isize,
                1,
                false,
                b.as_ptr(),
                sb.0 as isize,
                sb.1 as isize,
                a.as_ptr(),
                sa.0 as isize,
                sa.1 as isize,
                0.0,
                1.0,
                false,
                false,
                false,
                gemm::Parallelism::Rayon(0),
            );
        }
    }

    fn by_faer(&self, a: &[f32], b: &[f32], c: &mut [f32]) {
        let &Self { m, n, k, a: sa, b: sb } = self;
        let view = |data, rows, columns, (row, column): (usize, usize)| {
            if column == 1 {
                MatRef::from_row_major_slice(data, rows, columns)
            } else {
                debug_assert_eq!(row, 1);
                MatRef::from_column_major_slice(data, rows, columns)
            }
        };
        let c = MatMut::from_row_major_slice_mut(&mut c[..m * n], m, n);
        matmul(c, Accum::Replace, view(a, m, k, sa), view(b, k, n, sb), 1.0, Par::rayon(0));
    }
}

fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, library, folder] = &arguments[..] else { return Err("usage: {gemm|faer} FOLDER".into()) };
    let run: fn(&Product, &[f32], &[f32], &mut [f32]) = match library.as_str() {
        "gemm" => Product::by_gemm,
        "faer" => Product::by_faer,
        other => return Err(format!("unknown library {other}").into()),
    };
    let case: serde_json::Value = serde_json::from_slice(&std::fs::read(format!("{folder}/case.json"))?)?;
    let size = |name: &str| -> Outcome<usize> {
        Ok(case[name].as_u64().ok_or_else(|| format!("case.json lacks {name}"))? as usize)
    };
    let (batch, dim, products, blocks) =
        (size("batch")?, size("dim")?, size("products")?, size("product_blocks")?);
    let classes = size("classes")? / blocks;
    let wave = |len: usize| -> Vec<f32> { (0..len).map(|i| (i as f32 * 0.37).sin()).collect() };
    let (x, w) = (wave(batch * dim), wave(classes * dim));
    let (mut z, mut dx, mut dw) = (wave(batch * classes), wave(batch * dim), wave(classes * dim));
    let logits = Product { m: batch, n: classes, k: dim, a: (dim, 1), b: (1, dim) };
    let to_x = Product { m: batch, n: dim, k: classes, a: (classes, 1), b: (dim, 1) };
    let to_w = Product { m: classes, n: dim, k: batch, a: (1, classes), b: (dim, 1) };

    let status =
        || -> Outcome<String> { Ok(std::fs::read_to_string("/proc/self/status").unwrap_or_default()) };
    let bytes = |key: &str| -> Outcome<u64> {
        let status = status()?;
        let line = status.lines().find(|line| line.starts_with(key)).unwrap_or("x 0");
        Ok(1024 * line.split_whitespace().nth(1).unwrap_or("0").parse::<u64>()?)
    };
    let mut out = std::io::stdout();
    writeln!(out, "{{\"resident_bytes\": {}}}", bytes("VmRSS:")?)?;
    for line in std::io::stdin().lock().lines() {
        match line?.trim() {
            "run" => {
                let start = Instant::now();
                for _ in 0..blocks {
                    for _ in 2..products {
                        run(&logits, &x, &w, &mut z);
                    }
                    run(&to_w, &z, &x, &mut dw);
                    run(&to_x, &z, &w, &mut dx);
                }
                writeln!(out, "{{\"seconds\": {}}}", start.elapsed().as_secs_f64())?;
            }
            "finish" => {
                std::hint::black_box((&dx, &dw));
                writeln!(out, "{{\"peak_bytes\": {}}}", bytes("VmHWM:")?)?;
            }
            other => return Err(format!("unknown request {other}").into()),
        }
        out.flush()?;
    }
    Ok(())
}
