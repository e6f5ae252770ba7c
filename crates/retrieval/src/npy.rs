//! Vectors in a NumPy file, read block by block.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::file::{FileRows, Number};
use crate::rows::Rows;
use crate::{Error, Result};

/// Vectors in a `.npy` file (format versions 1 to 3: numpy/lib/format.py) of `float32` or `float64` in either byte order, or
/// little-endian `float16`, `[items, dim]` in C order, which is what `numpy.save` writes. `float64` is rounded to `float32`.
///
/// Only the header is held; the rest is [`FileRows`]: blocks are read when they are needed, so the file may be larger than
/// memory.
#[derive(Debug)]
pub struct NpyRows(FileRows);

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
            "<f2" => Number::F16,
            "<f4" => Number::F32,
            "<f8" => Number::F64,
            ">f4" => Number::F32Be,
            ">f8" => Number::F64Be,
            _ => {
                return Err(fail(format!(
                    "holds {descr}; expected float32, float64 or little-endian float16: convert it with .astype"
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
        FileRows::open(path, start, [items, dim], kind).map(Self)
    }
}

impl Rows for NpyRows {
    fn shape(&self) -> (usize, usize) {
        self.0.shape()
    }

    fn read(&self, first: usize, to: &mut [f32]) -> Result<()> {
        self.0.read(first, to)
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
