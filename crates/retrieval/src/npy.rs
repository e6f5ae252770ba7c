//! Vectors in a NumPy file, read block by block.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use half::f16;
use half::slice::HalfFloatSliceExt;

use crate::rows::{Rows, check_range};
use crate::{Error, Result};

/// Vectors in a `.npy` file (format versions 1 to 3: numpy/lib/format.py) of little-endian `float32`, `float16` or
/// `float64`, `[items, dim]` in C order, which is what `numpy.save` writes. `float64` is rounded to `float32`.
///
/// Only the header is held: blocks are read when they are needed, so the file may be larger than memory. This does what
/// a memory map would, through the same page cache: blocks are read in order, one large read each, and what still is in
/// memory is not read from the disk again. Unlike a map it needs no promise that the file stays as it is: a file that
/// is truncated meanwhile is an error here, and undefined behaviour or a signal there.
#[derive(Debug)]
pub struct NpyRows {
    path: PathBuf,
    file: Mutex<File>,
    start: u64,
    items: usize,
    dim: usize,
    kind: Kind,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    F16,
    F32,
    F64,
}

impl Kind {
    fn width(self) -> usize {
        match self {
            Self::F16 => 2,
            Self::F32 => 4,
            Self::F64 => 8,
        }
    }
}

/// More than any array of plain numbers has for a header.
const MOST_HEADER: usize = 1 << 16;

impl NpyRows {
    /// Opens a file and reads its header.
    ///
    /// # Errors
    /// [`Error::File`] naming the file: it cannot be read, is no `.npy` array of vectors, or is longer or shorter than
    /// its header says.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let fail = |detail: String| Error::File { path: path.to_path_buf(), detail };
        let damaged = |e: std::io::Error| fail(format!("cannot be read: {e}"));
        let mut file = File::open(path).map_err(damaged)?;
        let mut begin = [0u8; 8];
        let begun = file.read_exact(&mut begin);
        if begun.is_err() || &begin[..6] != b"\x93NUMPY" {
            return Err(fail("is not a .npy array; write it with numpy.save".to_owned()));
        }
        let used = if begin[6] == 1 { 2 } else { 4 };
        let mut length = [0u8; 4];
        file.read_exact(&mut length[..used]).map_err(damaged)?;
        let length = u32::from_le_bytes(length) as usize;
        if length > MOST_HEADER {
            return Err(fail(format!("says that its header is {length} bytes long; the file is damaged")));
        }
        let mut header = vec![0u8; length];
        file.read_exact(&mut header).map_err(damaged)?;
        let header = String::from_utf8_lossy(&header);
        let (descr, fortran, shape) = parse(&header).ok_or_else(|| {
            fail(format!("has a header that describes no array of plain numbers: {:?}", header.trim()))
        })?;
        let kind = match descr {
            "<f2" => Kind::F16,
            "<f4" => Kind::F32,
            "<f8" => Kind::F64,
            _ => {
                return Err(fail(format!(
                    "holds {descr}; expected little-endian float32, float16 or float64: convert it with .astype"
                )));
            }
        };
        let &[items, dim] = shape.as_slice() else {
            return Err(fail(format!("has shape {shape:?}; expected [items, dim]")));
        };
        if fortran && items > 1 && dim > 1 {
            return Err(fail(
                "is in Fortran order, whose rows are not in one piece; save numpy.ascontiguousarray(x)"
                    .to_owned(),
            ));
        }
        let start = (8 + used + length) as u64;
        let bytes = [items, dim].iter().try_fold(kind.width() as u64, |all, &n| all.checked_mul(n as u64));
        let expected = bytes.and_then(|bytes| bytes.checked_add(start));
        let got = file.metadata().map_err(damaged)?.len();
        if expected != Some(got) {
            return Err(fail(format!(
                "is {got} bytes long, which shape [{items}, {dim}] of {descr} is not; the file is damaged"
            )));
        }
        Ok(Self { path: path.to_path_buf(), file: Mutex::new(file), start, items, dim, kind })
    }

    fn bytes(&self, first: usize, count: usize) -> Result<Vec<u8>> {
        let row = self.dim * self.kind.width();
        let mut bytes = vec![0u8; count * row];
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.seek(SeekFrom::Start(self.start + (first * row) as u64))
            .and_then(|_| file.read_exact(&mut bytes))
            .map_err(|e| Error::File {
                path: self.path.clone(),
                detail: format!("reading {count} rows from row {first} on: {e}"),
            })?;
        Ok(bytes)
    }
}

impl Rows for NpyRows {
    fn shape(&self) -> (usize, usize) {
        (self.items, self.dim)
    }

    fn read(&self, first: usize, to: &mut [f32]) -> Result<()> {
        let count = check_range(self.shape(), first, to.len())?;
        let bytes = self.bytes(first, count)?;
        match self.kind {
            Kind::F16 => {
                let halves: Vec<f16> = bytes.as_chunks().0.iter().map(|&b| f16::from_le_bytes(b)).collect();
                halves.convert_to_f32_slice(to);
            }
            Kind::F32 => {
                to.iter_mut().zip(bytes.as_chunks().0).for_each(|(to, &b)| *to = f32::from_le_bytes(b));
            }
            Kind::F64 => {
                to.iter_mut()
                    .zip(bytes.as_chunks().0)
                    .for_each(|(to, &b)| *to = f64::from_le_bytes(b) as f32);
            }
        }
        Ok(())
    }
}

/// Type, whether columns run together, shape.
fn parse(header: &str) -> Option<(&str, bool, Vec<usize>)> {
    let value = |key: &str| header.split_once(&format!("'{key}':")).map(|(_, rest)| rest.trim_start());
    let descr = value("descr")?.strip_prefix('\'')?.split_once('\'')?.0;
    let fortran = value("fortran_order")?.starts_with("True");
    let shape = value("shape")?.strip_prefix('(')?.split_once(')')?.0;
    let sizes = shape.split(',').map(str::trim).filter(|size| !size.is_empty());
    Some((descr, fortran, sizes.map(|size| size.parse().ok()).collect::<Option<_>>()?))
}
