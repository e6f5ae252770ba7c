//! The idx format of MNIST and its kin, plain or gzipped (told apart by the first bytes, not by the name).

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use flate2::read::MultiGzDecoder;
use ndarray::Array4;

use super::exact;
use crate::{Error, Result};

/// Images have three, colours would be a fourth.
const MOST_AXES: u8 = 4;

struct Header {
    kind: u8,
    sizes: Vec<usize>,
}

impl Header {
    fn size(&self, axis: usize) -> usize {
        self.sizes.get(axis).copied().unwrap_or(0)
    }
}

/// Images `[n, 1, height, width]` from an idx file of bytes with three axes.
///
/// # Errors
/// [`Error::Data`] with what was expected for another format, a truncated or overlong file.
pub fn read_images(path: &Path) -> Result<Array4<u8>> {
    let (header, bytes) = read(path, |header| match (header.kind, header.sizes.as_slice()) {
        (0x08, [_, _, _]) => Ok(()),
        (kind, sizes) => Err(format!(
            "expected images (idx type 0x08, three axes); got type {kind:#04x} with sizes {sizes:?}; give the file of images"
        )),
    })?;
    let shape = (header.size(0), 1, header.size(1), header.size(2));
    Array4::from_shape_vec(shape, bytes).map_err(|e| Error::data(path, e.to_string()))
}

/// Labels from an idx file of bytes or big-endian 16-bit integers with one axis.
///
/// # Errors
/// As [`read_images`]; a negative label with its row.
pub fn read_labels(path: &Path) -> Result<Vec<u32>> {
    let (header, bytes) = read(path, |header| match (header.kind, header.sizes.as_slice()) {
        (0x08 | 0x0B, [_]) => Ok(()),
        (kind, sizes) => Err(format!(
            "expected labels (idx type 0x08 or 0x0b, one axis); got type {kind:#04x} with sizes {sizes:?}; give the file of \
             labels"
        )),
    })?;
    if header.kind == 0x08 {
        return Ok(bytes.into_iter().map(u32::from).collect());
    }
    let label = |(row, &pair): (usize, &[u8; 2])| {
        let label = i16::from_be_bytes(pair);
        u32::try_from(label).map_err(|_| {
            Error::data(path, format!("label {label} in row {row} is negative; labels are 0 and up"))
        })
    };
    bytes.as_chunks().0.iter().enumerate().map(label).collect()
}

/// The header, which `fits` looks at before anything behind it is read, and the data.
fn read(path: &Path, fits: impl Fn(&Header) -> Result<(), String>) -> Result<(Header, Vec<u8>)> {
    let mut file = BufReader::new(File::open(path).map_err(Error::io(path, "opening"))?);
    let mut start = Vec::new();
    file.by_ref().take(2).read_to_end(&mut start).map_err(Error::io(path, "reading"))?;
    let rest = std::io::Cursor::new(start.clone()).chain(file);
    if start == [0x1f, 0x8b] {
        content(path, MultiGzDecoder::new(rest), fits)
    } else {
        content(path, rest, fits)
    }
}

fn content(
    path: &Path,
    mut from: impl Read,
    fits: impl Fn(&Header) -> Result<(), String>,
) -> Result<(Header, Vec<u8>)> {
    let short = |e: std::io::Error| Error::data(path, exact::damaged(&e));
    let mut magic = [0u8; 4];
    from.read_exact(&mut magic).map_err(short)?;
    let width = match (magic[0], magic[1], magic[2]) {
        (0, 0, 0x08) => 1,
        (0, 0, 0x0B) => 2,
        _ => {
            return Err(Error::data(
                path,
                format!(
                    "not an idx file of bytes or 16-bit integers: it begins with {magic:02x?}, expected 00 00 08 or 00 00 0b; give the original file"
                ),
            ));
        }
    };
    if magic[3] > MOST_AXES {
        let detail =
            format!("its header promises {} axes, more than {MOST_AXES}; the file is damaged", magic[3]);
        return Err(Error::data(path, detail));
    }
    let mut sizes = Vec::new();
    for _ in 0..magic[3] {
        let mut size = [0u8; 4];
        from.read_exact(&mut size).map_err(short)?;
        sizes.push(u32::from_be_bytes(size) as usize);
    }
    let header = Header { kind: magic[2], sizes };
    let wrong = |detail: String| Error::data(path, detail);
    fits(&header).map_err(wrong)?;
    let expected = exact::size(&header.sizes, width).map_err(wrong)?;
    let bytes = exact::bytes(from, expected)
        .map_err(|e| wrong(format!("sizes {:?} of {width} byte(s) each: {e}", header.sizes)))?;
    Ok((header, bytes))
}
