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

/// Images `[n, 1, height, width]` from an idx file of bytes with three axes.
///
/// # Errors
/// [`Error::Data`] with what was expected for another format, a truncated or overlong file.
pub fn read_images(path: &Path) -> Result<Array4<u8>> {
    let (header, bytes) = read(path)?;
    let (8, &[n, height, width]) = (header.kind, header.sizes.as_slice()) else {
        return Err(Error::data(
            path,
            format!(
                "expected images (idx type 0x08, three axes); got type {:#04x} with sizes {:?}",
                header.kind, header.sizes
            ),
        ));
    };
    Array4::from_shape_vec((n, 1, height, width), bytes).map_err(|e| Error::data(path, e.to_string()))
}

/// Labels from an idx file of bytes or big-endian 16-bit integers with one axis.
///
/// # Errors
/// As [`read_images`]; a negative label with its row.
pub fn read_labels(path: &Path) -> Result<Vec<u32>> {
    let (header, bytes) = read(path)?;
    match (header.kind, header.sizes.as_slice()) {
        (0x08, [_]) => Ok(bytes.into_iter().map(u32::from).collect()),
        (0x0B, [_]) => bytes
            .chunks_exact(2)
            .enumerate()
            .map(|(row, pair)| {
                let label = i16::from_be_bytes([pair[0], pair[1]]);
                u32::try_from(label).map_err(|_| {
                    Error::data(path, format!("label {label} in row {row} is negative; labels are 0 and up"))
                })
            })
            .collect(),
        (kind, sizes) => Err(Error::data(
            path,
            format!(
                "expected labels (idx type 0x08 or 0x0b, one axis); got type {kind:#04x} with sizes {sizes:?}"
            ),
        )),
    }
}

fn read(path: &Path) -> Result<(Header, Vec<u8>)> {
    let mut file = BufReader::new(File::open(path).map_err(Error::io(path, "opening"))?);
    let mut start = Vec::new();
    file.by_ref().take(2).read_to_end(&mut start).map_err(Error::io(path, "reading"))?;
    let rest = std::io::Cursor::new(start.clone()).chain(file);
    if start == [0x1f, 0x8b] { content(path, MultiGzDecoder::new(rest)) } else { content(path, rest) }
}

fn content(path: &Path, mut from: impl Read) -> Result<(Header, Vec<u8>)> {
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
    let detail = |detail| Error::data(path, detail);
    let bytes = exact::bytes(from, exact::size(&sizes, width).map_err(detail)?).map_err(detail)?;
    Ok((Header { kind: magic[2], sizes }, bytes))
}
