//! Many small pictures as one.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use embedtune_train::ndarray::{Array4, ArrayView3, Axis};
use embedtune_train::{Error, Result};
use serde::Serialize;

/// The longest side of a thumbnail, in pixels; smaller pictures stay as they are.
const SIDE: usize = 48;

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

/// The sprite of image `row` of each array, in this order; `None` without images. One channel is grey, three or more
/// are red, green and blue.
///
/// # Errors
/// Pictures without pixels, or more than a PNG holds.
pub(super) fn of(images: &[(&Array4<u8>, usize)]) -> Result<Option<Sprite>> {
    let Some((first, _)) = images.first() else { return Ok(None) };
    let &[_, channels, height, width] = first.shape() else { return Ok(None) };
    let colours = if channels >= 3 { 3 } else { 1 };
    let shrink = (height.max(width) as f64 / SIDE as f64).max(1.0);
    let size = |side: usize| ((side as f64 / shrink).round() as usize).max(1);
    let tile = [size(width), size(height)];
    let columns = (images.len() as f64).sqrt().ceil() as usize;
    let rows = images.len().div_ceil(columns);
    let stride = columns * tile[0] * colours;
    let mut pixels = vec![0u8; stride * rows * tile[1]];
    for (index, &(images, row)) in images.iter().enumerate() {
        let corner = (index / columns) * tile[1] * stride + (index % columns) * tile[0] * colours;
        draw(images.index_axis(Axis(0), row), tile, colours, |x, y, colour, value| {
            if let Some(pixel) = pixels.get_mut(corner + y * stride + x * colours + colour) {
                *pixel = value;
            }
        });
    }
    let png = encode(&pixels, columns * tile[0], rows * tile[1], colours)
        .map_err(|e| Error::Unsuitable(format!("the report's pictures: {e}")))?;
    let url = format!("data:image/png;base64,{}", BASE64_STANDARD.encode(png));
    Ok(Some(Sprite { tile, columns, rows, url }))
}

/// Each pixel of the thumbnail is the mean of those that it covers.
fn draw(
    image: ArrayView3<'_, u8>,
    tile: [usize; 2],
    colours: usize,
    mut set: impl FnMut(usize, usize, usize, u8),
) {
    let (_, height, width) = image.dim();
    let covered = |at: usize, of: usize, from: usize| {
        let start = at * from / of;
        start..((at + 1) * from / of).max(start + 1).min(from)
    };
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
                set(x, y, colour, (sum / count.max(1)) as u8);
            }
        }
    }
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
        let order: Vec<_> = [4, 0, 2, 1, 3].map(|row| (&small, row)).to_vec();
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
        let sprite = of(&[(&large, 0)]).unwrap().unwrap();
        assert_eq!(sprite.tile, [48, 24]);
        assert!(of(&[]).unwrap().is_none());
    }
}
