//! The protocol of `benches/peers/README.md` and `.npy` files, for peers written in Rust.

use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

pub type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// The folder and `case.json` of a case.
pub struct Case {
    folder: PathBuf,
    fields: serde_json::Value,
}

impl Case {
    /// The case that the last argument names.
    pub fn from_arguments() -> Outcome<Self> {
        let folder = PathBuf::from(std::env::args_os().next_back().ok_or("usage: PEER FOLDER")?);
        let fields = serde_json::from_slice(&std::fs::read(folder.join("case.json"))?)?;
        Ok(Self { folder, fields })
    }

    pub fn size(&self, name: &str) -> Outcome<usize> {
        let size = self.fields[name].as_u64().ok_or_else(|| format!("case.json lacks {name}"))?;
        Ok(size as usize)
    }

    pub fn number(&self, name: &str) -> Outcome<f64> {
        Ok(self.fields[name].as_f64().ok_or_else(|| format!("case.json lacks {name}"))?)
    }

    /// The values of an `.npy` file (format 1.0, little-endian, row-major) by their bytes.
    fn load<const N: usize, T>(&self, name: &str, value: impl Fn([u8; N]) -> T) -> Outcome<Vec<T>> {
        let bytes = std::fs::read(self.folder.join(format!("{name}.npy")))?;
        let header = bytes.get(8..10).ok_or("a truncated .npy file")?;
        let start = 10 + usize::from(u16::from_le_bytes([header[0], header[1]]));
        let (values, _) = bytes.get(start..).ok_or("a truncated .npy file")?.as_chunks::<N>();
        Ok(values.iter().map(|&bytes| value(bytes)).collect())
    }

    pub fn floats(&self, name: &str) -> Outcome<Vec<f32>> {
        self.load(name, f32::from_le_bytes)
    }

    pub fn integers(&self, name: &str) -> Outcome<Vec<i64>> {
        self.load(name, i64::from_le_bytes)
    }

    pub fn bytes(&self, name: &str) -> Outcome<Vec<u8>> {
        self.load(name, |[byte]| byte)
    }

    /// Writes `[values]`, or a scalar, as `.npy`.
    fn write(&self, to: &Path, shape: &str, values: &[f64]) -> Outcome<()> {
        let mut header = format!("{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}");
        while (10 + header.len() + 1) % 64 != 0 {
            header.push(' ');
        }
        header.push('\n');
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend(u16::try_from(header.len())?.to_le_bytes());
        bytes.extend(header.as_bytes());
        values.iter().for_each(|value| bytes.extend(value.to_le_bytes()));
        Ok(std::fs::write(to, bytes)?)
    }

    /// Answers requests until there are no more; `run` returns the loss of each batch.
    pub fn serve(&self, peer: &str, mut run: impl FnMut() -> Outcome<Vec<f64>>) -> Outcome<()> {
        let mut out = std::io::stdout();
        writeln!(out, "{{\"resident_bytes\": {}}}", memory("VmRSS:"))?;
        let mut losses = Vec::new();
        for line in std::io::stdin().lock().lines() {
            match line?.trim() {
                "run" => {
                    let start = Instant::now();
                    losses = run()?;
                    writeln!(out, "{{\"seconds\": {}}}", start.elapsed().as_secs_f64())?;
                }
                "finish" => {
                    let peak = memory("VmHWM:");
                    let to = self.folder.join(peer);
                    std::fs::create_dir_all(&to)?;
                    self.write(&to.join("first.npy"), "()", losses.first_chunk::<1>().unwrap_or(&[f64::NAN]))?;
                    self.write(&to.join("losses.npy"), &format!("({},)", losses.len()), &losses)?;
                    writeln!(out, "{{\"peak_bytes\": {peak}}}")?;
                }
                other => return Err(format!("unknown request {other}").into()),
            }
            out.flush()?;
        }
        Ok(())
    }
}

/// Bytes of a line of `/proc/self/status`; 0 where there is none.
fn memory(key: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with(key)).unwrap_or_default();
    1024 * line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).unwrap_or(0u64)
}
