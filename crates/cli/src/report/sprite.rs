//! Many small pictures as one.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use embedtune_train::data::{ImageFiles, Items};
use embedtune_train::ndarray::{Array4, ArrayView3, Axis};
use embedtune_train::{Error, Result};
use rayon::prelude::*;
use serde::Serialize;

/// The longest side of a thumbnail, in pixels; smaller pictures stay as they are.
const SIDE: usize = 48;
/// Bytes of all thumbnails of a page before they are compressed: where there are many they become smaller. A page with
/// pictures that cannot be compressed at all grows by a third more than this, and by less with any others.
const BYTES: usize = 12 << 20;

/// A grid of thumbnails of one size, row by row.
#[derive(Serialize)]
pub(super) struct Sprite {
    /// Width and height of a thumbnail.
    tile: [usize; 2],
    columns: usize,
    rows: usize,
    /// Kept out of the page's JSON: it is a style rule.
    #[serde(skip)]
    pub(super) url: String,
}

/// One picture.
#[derive(Clone, Copy)]
pub(super) enum Picture<'a> {
    Held(&'a Array4<u8>, usize),
    File(&'a ImageFiles, usize),
}

impl<'a> Picture<'a> {
    /// Item `row`; `None` if the items are no pictures.
    pub(super) fn of(items: &'a Items, row: usize) -> Option<Self> {
        match items {
            Items::Images(images) => Some(Self::Held(images, row)),
            Items::Files(files) => Some(Self::File(files, row)),
            _ => None,
        }
    }

    /// Channels, height, width.
    fn shape(self) -> [usize; 3] {
        match self {
            Self::Held(images, _) => {
                let (_, channels, height, width) = images.dim();
                [channels, height, width]
            }
            Self::File(files, _) => files.shape(),
        }
    }

    fn tile(self, size: [usize; 2], colours: usize) -> Result<Vec<u8>> {
        match self {
            Self::Held(images, row) if row < images.len_of(Axis(0)) => {
                Ok(shrunk(images.index_axis(Axis(0), row), size, colours))
            }
            Self::Held(..) => Ok(vec![0; size[0] * size[1] * colours]),
            // Decoded as for the encoder: the thumbnail is what the model sees.
            Self::File(files, row) => Ok(shrunk(files.read(&[row])?.index_axis(Axis(0), 0), size, colours)),
        }
    }
}

/// The sprite of the pictures, in this order; `None` without any. One channel is grey, three or more are red, green
/// and blue.
///
/// # Errors
/// A file that cannot be read; pictures without pixels, or more than a PNG holds.
pub(super) fn of(pictures: &[Picture<'_>]) -> Result<Option<Sprite>> {
    let Some(first) = pictures.first() else { return Ok(None) };
    let [channels, height, width] = first.shape();
    let colours = if channels >= 3 { 3 } else { 1 };
    let tile = tile_size(height, width, colours, pictures.len());
    let columns = (pictures.len() as f64).sqrt().ceil() as usize;
    let rows = pictures.len().div_ceil(columns);
    let stride = columns * tile[0] * colours;
    let tiles: Vec<Result<Vec<u8>>> =
        pictures.par_iter().map(|picture| picture.tile(tile, colours)).collect();
    let mut pixels = vec![0u8; stride * rows * tile[1]];
    for (index, of) in tiles.into_iter().enumerate() {
        let corner = (index / columns) * tile[1] * stride + (index % columns) * tile[0] * colours;
        for (y, line) in of?.chunks_exact(tile[0] * colours).enumerate() {
            let start = corner + y * stride;
            if let Some(to) = pixels.get_mut(start..start + line.len()) {
                to.copy_from_slice(line);
            }
        }
    }
    let png = encode(&pixels, columns * tile[0], rows * tile[1], colours)
        .map_err(|e| Error::Unsuitable(format!("the report's pictures: {e}")))?;
    let url = format!("data:image/png;base64,{}", BASE64_STANDARD.encode(png));
    Ok(Some(Sprite { tile, columns, rows, url }))
}

/// Width and height of the thumbnails of `count` pictures.
fn tile_size(height: usize, width: usize, colours: usize, count: usize) -> [usize; 2] {
    let within = (BYTES as f64 / (count * colours) as f64 / (height * width).max(1) as f64).sqrt();
    let scale = within.min(SIDE as f64 / height.max(width).max(1) as f64);
    // Rounded down beyond the whole picture, so that all of them stay within the bytes.
    let size = |side: usize| if scale >= 1.0 { side } else { (side as f64 * scale) as usize };
    [size(width).max(1), size(height).max(1)]
}

/// Each pixel of the thumbnail, row by row, is the mean of those that it covers.
fn shrunk(image: ArrayView3<'_, u8>, tile: [usize; 2], colours: usize) -> Vec<u8> {
    let (_, height, width) = image.dim();
    let covered = |at: usize, of: usize, from: usize| {
        let start = at * from / of;
        start..((at + 1) * from / of).max(start + 1).min(from)
    };
    let mut pixels = Vec::with_capacity(tile[0] * tile[1] * colours);
    for y in 0..tile[1] {
        for x in 0..tile[0] {
            for colour in 0..colours {
                let (mut sum, mut count) = (0u64, 0u64);
                for row in covered(y, tile[1], height) {
                    for column in covered(x, tile[0], width) {
                        sum += u64::from(image.get((colour, row, column)).copied().unwrap_or(0));
                        count += 1;
                    }
                }
                pixels.push((sum / count.max(1)) as u8);
            }
        }
    }
    pixels
}

fn encode(
    pixels: &[u8],
    width: usize,
    height: usize,
    colours: usize,
) -> std::result::Result<Vec<u8>, png::EncodingError> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, width as u32, height as u32);
    encoder.set_color(if colours == 3 { png::ColorType::Rgb } else { png::ColorType::Grayscale });
    encoder.set_depth(png::BitDepth::Eight);
    encoder.set_compression(png::Compression::Balanced);
    let mut writer = encoder.write_header()?;
    writer.write_image_data(pixels)?;
    writer.finish()?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_stand_in_rows_and_large_ones_shrink() {
        let small = Array4::from_shape_fn((5, 1, 2, 3), |(i, _, y, x)| (i * 40 + y * 10 + x) as u8);
        let order: Vec<_> = [4, 0, 2, 1, 3].map(|row| Picture::Held(&small, row)).to_vec();
        let sprite = of(&order).unwrap().unwrap();
        assert_eq!((sprite.tile, sprite.columns, sprite.rows), ([3, 2], 3, 2));
        let png = BASE64_STANDARD.decode(sprite.url.strip_prefix("data:image/png;base64,").unwrap()).unwrap();
        let mut reader = png::Decoder::new(std::io::Cursor::new(png)).read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        reader.next_frame(&mut pixels).unwrap();
        // The last row of the second picture in the first row of pictures is item 0's.
        assert_eq!(pixels[9 + 3..9 + 6], [10, 11, 12]);
        assert_eq!(pixels[2 * 9..2 * 9 + 3], [40, 41, 42]);

        let large = Array4::from_shape_fn((1, 3, 96, 192), |(_, colour, _, _)| 50 * colour as u8);
        let sprite = of(&[Picture::Held(&large, 0)]).unwrap().unwrap();
        assert_eq!(sprite.tile, [48, 24]);
        assert!(of(&[]).unwrap().is_none());
    }

    #[test]
    fn many_pictures_are_smaller() {
        // MNIST's stay as they are, even ten thousand of them.
        assert_eq!(tile_size(28, 28, 1, 10_000), [28, 28]);
        assert_eq!(tile_size(64, 64, 3, 1500), [48, 48]);
        for (height, width, colours, count) in
            [(64, 64, 3, 2500), (64, 64, 3, 10_000), (100, 300, 3, 20_000), (1, 4000, 1, 9)]
        {
            let [x, y] = tile_size(height, width, colours, count);
            assert!(x * y * colours * count <= BYTES && x.max(y) <= SIDE, "{x} x {y}");
        }
        assert_eq!(tile_size(64, 64, 3, 10_000), [20, 20]);
        assert_eq!(tile_size(0, 0, 1, 3), [1, 1]);
    }
}
