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
        let NpyHeader { descr, fortran, shape, start } = NpyHeader::read(&mut file).map_err(fail)?;
        let Some(kind) = Number::of_npy(&descr) else {
            return Err(fail(format!(
                "holds {descr}; expected float32, float64 or little-endian float16: convert it with .astype"
            )));
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

/// What stands before the data of a `.npy` file (format versions 1 to 3: numpy/lib/format.py).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NpyHeader {
    /// NumPy's name of the type: byte order, kind, width; e.g. `<f4`.
    pub descr: String,
    /// Whether columns lie one after another, instead of rows.
    pub fortran: bool,
    /// Elements along each axis. Whether the file holds as many has not been looked at.
    pub shape: Vec<usize>,
    /// Bytes before the data.
    pub start: u64,
}

/// More than any array of plain numbers has for a header.
const MOST_HEADER: u32 = 1 << 16;

impl NpyHeader {
    /// Reads a header and nothing behind it.
    ///
    /// # Errors
    /// In words, without the file's name: no `.npy` array, one that ends in its header, a header that describes no array of
    /// plain numbers.
    pub fn read(mut from: impl Read) -> Result<Self, String> {
        let mut begin = [0u8; 8];
        from.read_exact(&mut begin).map_err(damaged)?;
        if &begin[..6] != b"\x93NUMPY" {
            return Err(format!(
                "not a .npy array: it begins with {:02x?}, expected 93 4e 55 4d 50 59; write it with numpy.save",
                &begin[..6]
            ));
        }
        let used = match begin[6] {
            1 => 2,
            2 | 3 => 4,
            other => {
                return Err(format!(
                    "version {other} of the .npy format; 1 to 3 are read: write it again with numpy.save"
                ));
            }
        };
        let mut length = [0u8; 4];
        from.read_exact(&mut length[..used]).map_err(damaged)?;
        let length = u32::from_le_bytes(length);
        if length > MOST_HEADER {
            return Err(format!("its header is said to be {length} bytes long; the file is damaged"));
        }
        let mut header = Vec::new();
        from.take(length.into()).read_to_end(&mut header).map_err(damaged)?;
        if header.len() < length as usize {
            return Err(format!(
                "it promises {length} bytes of header and {} are there; copy or download it again",
                header.len()
            ));
        }
        let header = String::from_utf8_lossy(&header);
        let (descr, fortran, shape) = parse(&header).ok_or_else(|| {
            format!("its header {:?} does not describe an array of plain numbers", header.trim())
        })?;
        Ok(Self { descr, fortran, shape, start: (begin.len() + used) as u64 + u64::from(length) })
    }
}

impl Number {
    /// How a `.npy` array of the type `descr` writes its numbers, if vectors may be made of them: `float32` or `float64` in
    /// either byte order, or little-endian `float16`.
    pub fn of_npy(descr: &str) -> Option<Self> {
        match descr {
            "<f2" => Some(Self::F16),
            "<f4" => Some(Self::F32),
            "<f8" => Some(Self::F64),
            ">f4" => Some(Self::F32Be),
            ">f8" => Some(Self::F64Be),
            _ => None,
        }
    }
}

fn damaged(error: std::io::Error) -> String {
    let reason = match error.kind() {
        std::io::ErrorKind::UnexpectedEof => "it ends too early".to_owned(),
        _ => error.to_string(),
    };
    format!("damaged or truncated ({reason}); copy or download it again")
}

/// Type, whether columns run together, shape.
fn parse(header: &str) -> Option<(String, bool, Vec<usize>)> {
    let value = |key: &str| header.split_once(&format!("'{key}':")).map(|(_, rest)| rest.trim_start());
    let descr = value("descr")?.strip_prefix('\'')?.split_once('\'')?.0;
    let fortran = value("fortran_order")?.starts_with("True");
    let shape = value("shape")?.strip_prefix('(')?.split_once(')')?.0;
    let sizes = shape.split(',').map(str::trim).filter(|size| !size.is_empty());
    Some((descr.to_owned(), fortran, sizes.map(|size| size.parse().ok()).collect::<Option<_>>()?))
}
