//! PNG and JPEG files as pixels of one size.

use std::fs::File;
use std::io::{BufRead, BufReader, Cursor, Read, Result as Done, Seek, SeekFrom};
use std::path::Path;

use zune_jpeg::JpegDecoder;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

use super::files::Seen;
use super::orientation::Orientation;
use super::resize::resize;
use crate::{Error, Result};

/// More than any photograph: a header that asks for more is damaged.
const MOST_SIDE: usize = 1 << 15;
/// Pixels that a byte of a JPEG file can stand for at most: 8 x 8 of a component take a bit or more, and a file whose components
/// are all subsampled has less than half of them.
const JPEG_PIXELS: u64 = 1024;
/// Bytes that a byte of a deflated stream can stand for at most (zlib's documentation: 1032 to 1).
const DEFLATED: u64 = 1032;
/// Bytes that a PNG's lines and chunks may take beside its pixels.
const PNG_BYTES: usize = 1 << 29;

/// Pixels, row by row, a pixel's channels together.
pub(super) struct Pixels {
    pub(super) width: usize,
    pub(super) height: usize,
    /// 1 (grey), 2 (grey, alpha), 3 or 4 (red, green, blue, alpha).
    pub(super) channels: usize,
    pub(super) bytes: Vec<u8>,
}

/// A file, or all of its bytes: one type, so that the decoders are compiled once.
enum Reader {
    File(BufReader<File>),
    Bytes(Cursor<Vec<u8>>),
}

impl Read for Reader {
    fn read(&mut self, to: &mut [u8]) -> Done<usize> {
        match self {
            Self::File(file) => file.read(to),
            Self::Bytes(bytes) => bytes.read(to),
        }
    }
}

impl BufRead for Reader {
    fn fill_buf(&mut self) -> Done<&[u8]> {
        match self {
            Self::File(file) => file.fill_buf(),
            Self::Bytes(bytes) => bytes.fill_buf(),
        }
    }

    fn consume(&mut self, count: usize) {
        match self {
            Self::File(file) => file.consume(count),
            Self::Bytes(bytes) => bytes.consume(count),
        }
    }
}

impl Seek for Reader {
    fn seek(&mut self, to: SeekFrom) -> Done<u64> {
        match self {
            Self::File(file) => file.seek(to),
            Self::Bytes(bytes) => bytes.seek(to),
        }
    }
}

fn file(path: &Path) -> Result<Reader> {
    Ok(Reader::File(BufReader::new(File::open(path).map_err(Error::io(path, "opening"))?)))
}

/// A file whose header has been read.
enum Open {
    Png(Box<png::Reader<Reader>>),
    Jpeg(Box<JpegDecoder<Reader>>),
}

fn open(path: &Path, mut from: Reader) -> Result<(Open, usize, usize)> {
    // The first bytes tell, not the name.
    let start = from.fill_buf().map_err(Error::io(path, "reading"))?;
    let is_png = start.starts_with(b"\x89PNG\r\n\x1a\n");
    let length = from.seek(SeekFrom::End(0)).map_err(Error::io(path, "reading"))?;
    from.rewind().map_err(Error::io(path, "reading"))?;
    let (open, width, height, most) = if is_png {
        let mut decoder = png::Decoder::new_with_limits(from, png::Limits { bytes: PNG_BYTES });
        // Palettes and fewer bits become bytes, 16 bits the upper 8.
        decoder.set_transformations(png::Transformations::normalize_to_color8());
        let reader = decoder.read_info().map_err(|e| broken(path, &e))?;
        let (width, height) = reader.info().size();
        let bits = reader.info().bits_per_pixel().max(1) as u64;
        let most = length.saturating_mul(DEFLATED).saturating_mul(8) / bits;
        (Open::Png(Box::new(reader)), width as usize, height as usize, most)
    } else {
        let options = DecoderOptions::new_safe()
            .set_max_width(MOST_SIDE)
            .set_max_height(MOST_SIDE)
            // A photograph that ends early has grey where the rest was: nothing to learn from.
            .set_strict_mode(true)
            .jpeg_set_out_colorspace(ColorSpace::RGB);
        let mut decoder = JpegDecoder::new_with_options(from, options);
        decoder.decode_headers().map_err(|e| broken(path, &e))?;
        let (width, height) = decoder.dimensions().unwrap_or((0, 0));
        (Open::Jpeg(Box::new(decoder)), width, height, length.saturating_mul(JPEG_PIXELS))
    };
    if width == 0 || height == 0 || width > MOST_SIDE || height > MOST_SIDE {
        let detail =
            format!("its header promises {width} x {height} pixels; 1 to {MOST_SIDE} a side are read");
        return Err(Error::data(path, detail));
    }
    // A damaged header would have gigabytes laid out and filled for what is not there.
    if (width * height) as u64 > most {
        let missing = format!("{length} bytes cannot hold the {width} x {height} pixels of its header");
        return Err(broken(path, &missing));
    }
    Ok((open, width, height))
}

fn broken(path: &Path, error: &dyn std::fmt::Display) -> Error {
    // Some decoders' words end with a line break.
    let reason = error.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
    let detail =
        format!("not a complete PNG or JPEG image ({reason}); repair it or take it out of the folder");
    Error::data(path, detail)
}

/// Looks at a file's header.
pub(super) fn check(path: &Path) -> Result<()> {
    open(path, file(path)?).map(drop)
}

fn decode(path: &Path, from: Reader) -> Result<Pixels> {
    let (open, width, height) = open(path, from)?;
    let mut orientation = Orientation::UPRIGHT;
    let (channels, bytes) = match open {
        Open::Png(mut reader) => {
            let size = reader.output_buffer_size().ok_or_else(|| broken(path, &"too many pixels"))?;
            let mut bytes = vec![0; size];
            let frame = reader.next_frame(&mut bytes).map_err(|e| broken(path, &e))?;
            bytes.truncate(frame.buffer_size());
            (frame.color_type.samples(), bytes)
        }
        Open::Jpeg(mut decoder) => {
            if let Some(exif) = decoder.exif() {
                orientation = Orientation::of_exif(exif);
            }
            (3, decoder.decode().map_err(|e| broken(path, &e))?)
        }
    };
    if bytes.len() != width * height * channels {
        return Err(broken(path, &format!("{} bytes for {width} x {height} pixels", bytes.len())));
    }
    Ok(orientation.upright(Pixels { width, height, channels, bytes }))
}

/// A file's pixels in this size: `channels` is 1 or 3; each channel's pixels together, row by row. A JPEG is turned as its
/// Exif data say. Transparency is left out, colours become grey by their luminance (ITU-R BT.709).
pub(super) fn read(path: &Path, shape: [usize; 3]) -> Result<Vec<u8>> {
    Ok(fitted(decode(path, file(path)?)?, shape))
}

/// As [`read`], with what the file held: its bytes are read once for both.
pub(super) fn read_whole(path: &Path, shape: [usize; 3]) -> Result<(Vec<u8>, Seen)> {
    // A film that is called an image must not come into memory to be told from one.
    check(path)?;
    let bytes = std::fs::read(path).map_err(Error::io(path, "reading"))?;
    let mut crc = flate2::Crc::new();
    crc.update(&bytes);
    let length = bytes.len() as u64;
    let pixels = decode(path, Reader::Bytes(Cursor::new(bytes)))?;
    let seen = Seen { bytes: length, crc32: crc.sum(), pixels: pixels.bytes.len() };
    Ok((fitted(pixels, shape), seen))
}

fn fitted(pixels: Pixels, [channels, height, width]: [usize; 3]) -> Vec<u8> {
    let pixels = resize(pixels, width, height);
    let (colours, bytes) = (pixels.channels, pixels.bytes);
    // Files hold a pixel's channels together; encoders want each channel's pixels together.
    let channel = |c: usize| bytes.iter().skip(c).step_by(colours).copied();
    match (colours, channels) {
        (1, 1) => bytes,
        (2, 1) => channel(0).collect(),
        (1 | 2, _) => channel(0).chain(channel(0)).chain(channel(0)).collect(),
        (_, 1) => bytes.chunks_exact(colours).map(luminance).collect(),
        _ => channel(0).chain(channel(1)).chain(channel(2)).collect(),
    }
}

fn luminance(pixel: &[u8]) -> u8 {
    let [red, green, blue] = [pixel[0], pixel[1], pixel[2]].map(u32::from);
    ((2126 * red + 7152 * green + 722 * blue + 5000) / 10_000) as u8
}
