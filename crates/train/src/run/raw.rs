//! The vectors that a tuned encoder has to beat: the data as they are.

use embedtune_core::linalg::normalize_rows;
use ndarray::{Array2, Axis, Slice};
use rayon::prelude::*;

use crate::data::{ImageFiles, Items};
use crate::{Error, Result};

/// Sides of the grid that pixels of image files are averaged over: whole images would fill the memory that reading them
/// one by one saves.
const GRID: usize = 16;
/// Columns of a raw text vector.
const TEXT_DIM: usize = 1024;

/// Columns of [`raw_vectors`].
pub(super) fn raw_dim(items: &Items) -> usize {
    match items {
        Items::Images(images) => images.shape().iter().skip(1).product(),
        Items::Files(files) => {
            let [channels, height, width] = files.shape();
            channels * height.min(GRID) * width.min(GRID)
        }
        Items::Sequences(sequences) => sequences.values().shape().last().copied().unwrap_or(0),
        Items::Vectors(vectors) => vectors.ncols(),
        Items::VectorFile(file) => file.dim(),
        Items::Text(_) => TEXT_DIM,
    }
}

/// The items as vectors, without any training.
///
/// Images: their pixels, 0 to 1 (of image files averages over a grid of 16 x 16). Sequences: the mean of their tokens.
/// Vectors: themselves. Text: counts of lower-cased words, hashed into 1,024 columns.
///
/// # Errors
/// [`Error::Unsuitable`] for images whose pixels cannot be laid out as rows (more of them than memory addresses);
/// [`Error::Data`] naming an image file or a file of vectors that cannot be read.
pub fn raw_vectors(items: &Items) -> Result<Array2<f32>> {
    match items {
        Items::Images(images) => {
            let count = images.shape().first().copied().unwrap_or(0);
            let pixels = images.len().checked_div(count).unwrap_or(0);
            let values = images.iter().map(|&v| f32::from(v) / 255.0).collect();
            Array2::from_shape_vec((count, pixels), values).map_err(|e| Error::Unsuitable(e.to_string()))
        }
        Items::Files(files) => grids(files),
        Items::Sequences(sequences) => Ok(sequences.averages()),
        Items::Vectors(vectors) => Ok(vectors.clone()),
        Items::VectorFile(file) => file.read_all(),
        Items::Text(texts) => {
            let mut counts = Array2::zeros((texts.len(), TEXT_DIM));
            for (text, mut row) in texts.iter().zip(counts.rows_mut()) {
                for word in
                    text.to_lowercase().split(|c: char| !c.is_alphanumeric()).filter(|w| !w.is_empty())
                {
                    row[column(word)] += 1.0;
                }
            }
            let mut unit = Array2::zeros(counts.dim());
            normalize_rows(counts.view(), 1e-12, unit.view_mut())?;
            Ok(unit)
        }
    }
}

fn grids(files: &ImageFiles) -> Result<Array2<f32>> {
    const BLOCK: usize = 64;
    let [channels, height, width] = files.shape();
    let (down, across) = (height.min(GRID), width.min(GRID));
    let mut grids = Array2::zeros((files.len(), channels * down * across));
    let results: Vec<Result<()>> = grids
        .axis_chunks_iter_mut(Axis(0), BLOCK)
        .into_par_iter()
        .enumerate()
        .map(|(block, mut to)| {
            let rows: Vec<usize> = (0..to.nrows()).map(|row| block * BLOCK + row).collect();
            let images = files.read(&rows)?;
            for (image, mut row) in images.outer_iter().zip(to.rows_mut()) {
                for (at, cell) in row.iter_mut().enumerate() {
                    let (c, y, x) = (at / (down * across), at / across % down, at % across);
                    let rows = y * height / down..(y + 1) * height / down;
                    let columns = x * width / across..(x + 1) * width / across;
                    let channel = image.index_axis(Axis(0), c);
                    let band = channel.slice_axis(Axis(0), Slice::from(rows));
                    let pixels = band.slice_axis(Axis(1), Slice::from(columns));
                    let sum: u64 = pixels.iter().map(|&v| u64::from(v)).sum();
                    *cell = sum as f32 / (255 * pixels.len().max(1)) as f32;
                }
            }
            Ok(())
        })
        .collect();
    results.into_iter().collect::<Result<()>>()?;
    Ok(grids)
}

/// FNV-1a, the same on every platform and in every version.
fn column(word: &str) -> usize {
    let hash = word
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    (hash % TEXT_DIM as u64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::{Array4, arr2};

    #[test]
    fn each_kind_becomes_rows() {
        let images = Array4::from_shape_fn((2, 1, 1, 2), |(i, _, _, x)| if i == x { 255 } else { 0 });
        assert_eq!(raw_vectors(&Items::Images(images)).unwrap(), arr2(&[[1.0, 0.0], [0.0, 1.0]]));
        assert_eq!(raw_vectors(&Items::Images(Array4::zeros((0, 1, 2, 2)))).unwrap().dim(), (0, 0));
        let vectors = arr2(&[[1.0, -2.0]]);
        assert_eq!(raw_vectors(&Items::Vectors(vectors.clone())).unwrap(), vectors);
        let texts = ["My card, my CARD!", "card my", "", "other words"].map(str::to_owned).to_vec();
        let rows = raw_vectors(&Items::Text(texts)).unwrap();
        let cosine = |i: usize, j: usize| rows.row(i).dot(&rows.row(j));
        approx::assert_abs_diff_eq!(cosine(0, 1), 1.0, epsilon = 1e-6);
        assert_eq!((cosine(0, 2), cosine(0, 3)), (0.0, 0.0));
    }
}
