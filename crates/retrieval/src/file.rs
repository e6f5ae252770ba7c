//! Vectors in a file, read where they are needed.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use crate::rows::{Rows, check_range};
use crate::{Error, Result};

/// Bytes that are read at a time: few enough to stay in the second-level cache until they are converted.
const CHUNK: usize = 256 << 10;

/// How a file writes a number. `F64` is rounded to `f32`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Number {
    /// IEEE 754 half precision, little-endian.
    F16,
    /// The upper half of an `f32`, little-endian.
    Bf16,
    /// Little-endian.
    F32,
    /// Little-endian.
    F64,
    /// Big-endian.
    F32Be,
    /// Big-endian.
    F64Be,
}

impl Number {
    /// Bytes of one.
    pub const fn width(self) -> usize {
        match self {
            Self::F16 | Self::Bf16 => 2,
            Self::F32 | Self::F32Be => 4,
            Self::F64 | Self::F64Be => 8,
        }
    }

    /// Converts as many numbers as `bytes` and `to` both have room for.
    pub fn convert(self, bytes: &[u8], to: &mut [f32]) {
        fn each<const N: usize>(bytes: &[u8], to: &mut [f32], number: impl Fn([u8; N]) -> f32) {
            to.iter_mut().zip(bytes.as_chunks().0).for_each(|(to, &bytes)| *to = number(bytes));
        }
        match self {
            Self::F16 => {
                let halves: Vec<f16> = bytes.as_chunks().0.iter().map(|&b| f16::from_le_bytes(b)).collect();
                let count = halves.len().min(to.len());
                halves[..count].convert_to_f32_slice(&mut to[..count]);
            }
            Self::Bf16 => each(bytes, to, |b| bf16::from_le_bytes(b).to_f32()),
            Self::F32 => each(bytes, to, f32::from_le_bytes),
            Self::F64 => each(bytes, to, |b| f64::from_le_bytes(b) as f32),
            Self::F32Be => each(bytes, to, f32::from_be_bytes),
            Self::F64Be => each(bytes, to, |b| f64::from_be_bytes(b) as f32),
        }
    }
}

/// Vectors `[items, dim]` that lie row by row in a file, from a byte on.
///
/// Nothing is held but where they are: rows are read when they are needed, so the file may be larger than memory. This
/// does what a memory map would, through the same page cache: what still is in memory is not read from the disk again.
/// Unlike a map it needs no promise that the file stays as it is: a file that is truncated or rewritten meanwhile is an
/// error here, and undefined behaviour or a signal there. Several threads read at the same time.
#[derive(Debug)]
pub struct FileRows {
    path: PathBuf,
    file: File,
    start: u64,
    items: usize,
    dim: usize,
    number: Number,
    opened: Stamp,
    /// Where there are no reads at a place, one thread reads at a time.
    #[cfg(not(unix))]
    turn: std::sync::Mutex<()>,
}

/// What tells that a file has been written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    length: u64,
    modified: Option<SystemTime>,
}

impl FileRows {
    /// The vectors that begin at byte `start` of the file at `path`.
    ///
    /// # Errors
    /// [`Error::File`] naming the file: it cannot be read, or ends before the last vector does.
    pub fn open(path: &Path, start: u64, [items, dim]: [usize; 2], number: Number) -> Result<Self> {
        let fail = |detail: String| Error::File { path: path.to_path_buf(), detail };
        let file = File::open(path).map_err(|e| fail(format!("cannot be read: {e}")))?;
        let opened = stamp(&file).map_err(|e| fail(format!("cannot be read: {e}")))?;
        let bytes = [items, dim].iter().try_fold(number.width() as u64, |all, &n| all.checked_mul(n as u64));
        if bytes.and_then(|bytes| bytes.checked_add(start)).is_none_or(|end| end > opened.length) {
            let detail = format!(
                "is {} bytes long, too short for {items} vectors of length {dim} from byte {start} on; copy or download \
                 it again",
                opened.length
            );
            return Err(fail(detail));
        }
        Ok(Self {
            path: path.to_path_buf(),
            file,
            start,
            items,
            dim,
            number,
            opened,
            #[cfg(not(unix))]
            turn: std::sync::Mutex::new(()),
        })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Copies `rows` into `to`, in that order, `rows.len() * dim` values. Rows that follow each other are one read.
    ///
    /// # Errors
    /// [`Error::Shape`] for a buffer of another length or a row past the end; [`Error::File`] for a file that cannot be
    /// read, or has changed since it was opened.
    pub fn read_rows(&self, rows: &[usize], to: &mut [f32]) -> Result<()> {
        if rows.len().checked_mul(self.dim) != Some(to.len()) {
            return Err(Error::Shape {
                what: "the buffer to read into",
                expected: format!("{} rows of {} values", rows.len(), self.dim),
                got: vec![to.len()],
            });
        }
        self.unchanged()?;
        let mut to = to;
        for run in rows.chunk_by(|a, b| a.checked_add(1) == Some(*b)) {
            let (part, rest) = to.split_at_mut(run.len() * self.dim);
            to = rest;
            if let Some(&first) = run.first() {
                check_range(self.shape(), first, part.len())?;
                self.fill(first, part)?;
            }
        }
        Ok(())
    }

    /// Refuses a file that has been written to since it was opened.
    fn unchanged(&self) -> Result<()> {
        match stamp(&self.file) {
            Ok(now) if now == self.opened => Ok(()),
            Ok(now) => Err(self.fail(format!(
                "has changed while it was in use ({} bytes when it was opened, {} now); start again with the file as it \
                 is now",
                self.opened.length, now.length
            ))),
            Err(e) => Err(self.fail(format!("cannot be read: {e}"))),
        }
    }

    fn fail(&self, detail: String) -> Error {
        Error::File { path: self.path.clone(), detail }
    }

    /// Reads `to.len()` values from row `first` on, which must be there.
    fn fill(&self, first: usize, to: &mut [f32]) -> Result<()> {
        let width = self.number.width();
        let mut at = self.start + (first * self.dim * width) as u64;
        let mut bytes = vec![0u8; CHUNK.min(to.len() * width)];
        for part in to.chunks_mut(CHUNK / width) {
            let bytes = &mut bytes[..part.len() * width];
            self.read_at(bytes, at).map_err(|e| {
                self.fail(format!(
                    "reading {} vectors from row {first} on: {e}",
                    part.len() / self.dim.max(1)
                ))
            })?;
            self.number.convert(bytes, part);
            at += bytes.len() as u64;
        }
        Ok(())
    }

    #[cfg(unix)]
    fn read_at(&self, bytes: &mut [u8], at: u64) -> std::io::Result<()> {
        std::os::unix::fs::FileExt::read_exact_at(&self.file, bytes, at)
    }

    #[cfg(not(unix))]
    fn read_at(&self, bytes: &mut [u8], at: u64) -> std::io::Result<()> {
        use std::io::{Read, Seek, SeekFrom};
        let _turn = self.turn.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut file = &self.file;
        file.seek(SeekFrom::Start(at))?;
        file.read_exact(bytes)
    }
}

fn stamp(file: &File) -> std::io::Result<Stamp> {
    let metadata = file.metadata()?;
    Ok(Stamp { length: metadata.len(), modified: metadata.modified().ok() })
}

impl Rows for FileRows {
    fn shape(&self) -> (usize, usize) {
        (self.items, self.dim)
    }

    fn read(&self, first: usize, to: &mut [f32]) -> Result<()> {
        check_range(self.shape(), first, to.len())?;
        self.unchanged()?;
        self.fill(first, to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_read_in_any_order_and_type() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        // Values that half precision holds.
        let values: Vec<f32> = (0..60).map(|i| i as f32 / 4.0 - 8.0).collect();
        let bytes = |each: &dyn Fn(f32) -> Vec<u8>| values.iter().flat_map(|&v| each(v)).collect::<Vec<u8>>();
        for (number, bytes) in [
            (Number::F16, bytes(&|v| f16::from_f32(v).to_le_bytes().to_vec())),
            (Number::Bf16, bytes(&|v| bf16::from_f32(v).to_le_bytes().to_vec())),
            (Number::F32, bytes(&|v| v.to_le_bytes().to_vec())),
            (Number::F64, bytes(&|v| f64::from(v).to_le_bytes().to_vec())),
            (Number::F32Be, bytes(&|v| v.to_be_bytes().to_vec())),
            (Number::F64Be, bytes(&|v| f64::from(v).to_be_bytes().to_vec())),
        ] {
            std::fs::write(&path, [b"head".to_vec(), bytes, b"tail".to_vec()].concat()).unwrap();
            let rows = FileRows::open(&path, 4, [20, 3], number).unwrap();
            let mut to = vec![0.0; 15];
            rows.read_rows(&[7, 8, 9, 2, 19], &mut to).unwrap();
            let expected: Vec<f32> =
                [7, 8, 9, 2, 19].iter().flat_map(|row| values[row * 3..][..3].to_vec()).collect();
            assert_eq!(to, expected, "{number:?}");
            rows.read(18, &mut to[..6]).unwrap();
            assert_eq!(to[..6], values[54..], "{number:?}");
            assert!(rows.read_rows(&[20], &mut to[..3]).is_err());
            assert!(rows.read_rows(&[usize::MAX], &mut to[..3]).is_err());
            assert!(rows.read_rows(&[1], &mut to[..4]).is_err());
        }
        let none = FileRows::open(&path, 0, [0, usize::MAX], Number::F32).unwrap();
        assert!(none.read_rows(&[0, 1], &mut []).is_err());
        assert_eq!(none.read_rows(&[], &mut []), Ok(()));
    }

    #[test]
    fn half_precision_is_read_exactly() {
        for (bits, value) in [
            (0x0000u16, 0.0f32),
            (0x3c00, 1.0),
            (0xc000, -2.0),
            (0x7bff, 65504.0),
            (0x0001, 5.960_464_5e-8),
            (0x0400, 6.103_515_6e-5),
            (0x3555, 0.333_251_95),
            (0x7c00, f32::INFINITY),
        ] {
            let mut to = [f32::NAN];
            Number::F16.convert(&bits.to_le_bytes(), &mut to);
            assert_eq!(to, [value], "{bits:#06x}");
        }
        let mut to = [0.0];
        Number::F16.convert(&0x7e00u16.to_le_bytes(), &mut to);
        assert!(to[0].is_nan());
    }

    #[test]
    fn more_than_one_chunk_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        let values: Vec<f32> = (0..300_000).map(|i| i as f32).collect();
        std::fs::write(&path, values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>()).unwrap();
        let rows = FileRows::open(&path, 0, [100_000, 3], Number::F32).unwrap();
        let mut to = vec![0.0; 300_000];
        rows.read(0, &mut to).unwrap();
        assert_eq!(to, values);
    }

    #[test]
    fn a_file_that_is_too_short_or_changes_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        std::fs::write(&path, [0u8; 24]).unwrap();
        let message = FileRows::open(&path, 4, [2, 3], Number::F32).unwrap_err().to_string();
        assert!(
            message.contains("24 bytes long, too short for 2 vectors of length 3 from byte 4"),
            "{message}"
        );
        assert!(FileRows::open(&path, u64::MAX, [2, 3], Number::F32).is_err());
        assert!(FileRows::open(&path, 0, [usize::MAX, 3], Number::F32).is_err());
        let rows = FileRows::open(&path, 0, [2, 3], Number::F32).unwrap();
        std::fs::File::options().write(true).open(&path).unwrap().set_len(12).unwrap();
        let mut to = [0.0; 3];
        let message = rows.read_rows(&[0], &mut to).unwrap_err().to_string();
        assert!(
            message.contains("has changed while it was in use (24 bytes when it was opened, 12 now)"),
            "{message}"
        );
    }
}
