//! Vectors that stay in their file until a batch needs them.

use std::path::Path;
use std::sync::Arc;

use embedtune_retrieval::{FileRows, Number, Rows};
use ndarray::{Array2, ArrayView2};
use rayon::prelude::*;

use super::vectors::check_finite_from;
use crate::{Error, Result};

/// Values of a block that one task looks at.
const BLOCK: usize = 1 << 16;

/// Vectors in a `.npy` or safetensors file, or some of them. Rows are read when they are needed
/// ([`FileRows`]: what a memory map would do, without the promise that nobody truncates the file), so that what is
/// trained on may be larger than memory. Evaluation items are read into memory to be measured.
#[derive(Debug, Clone)]
pub struct VectorFile {
    file: Arc<FileRows>,
    /// The rows of the file that these are; `None`: all.
    chosen: Option<Arc<[usize]>>,
}

impl PartialEq for VectorFile {
    /// Whether both are the same rows of the same file.
    fn eq(&self, other: &Self) -> bool {
        (self.file.path(), self.file.shape(), &self.chosen)
            == (other.file.path(), other.file.shape(), &other.chosen)
    }
}

impl VectorFile {
    /// The vectors `[items, dim]` that begin at byte `start`.
    ///
    /// # Errors
    /// [`Error::Data`] naming the file: it is too short, or holds a value that is not finite (with its row and column).
    pub(super) fn open(path: &Path, start: u64, shape: [usize; 2], number: Number) -> Result<Self> {
        let file = FileRows::open(path, start, shape, number).map_err(from_file)?;
        let vectors = Self { file: Arc::new(file), chosen: None };
        // In the order of the rows, so that the first wrong one is named.
        let wrong = vectors.map_blocks(check_finite_from)?;
        match wrong.into_iter().find_map(Result::err) {
            Some(detail) => Err(Error::data(path, detail)),
            None => Ok(vectors),
        }
    }

    /// Number of vectors.
    pub fn len(&self) -> usize {
        self.chosen.as_ref().map_or(self.file.shape().0, |chosen| chosen.len())
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Their length.
    pub fn dim(&self) -> usize {
        self.file.shape().1
    }

    /// The file.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// The row of the file that `row` is; `None` past the end.
    pub fn row_in_file(&self, row: usize) -> Option<usize> {
        match &self.chosen {
            Some(chosen) => chosen.get(row).copied(),
            None => Some(row).filter(|&row| row < self.len()),
        }
    }

    /// The vectors in `rows` that exist, in that order.
    #[must_use]
    pub fn select(&self, rows: &[usize]) -> Self {
        let chosen = rows.iter().filter_map(|&row| self.row_in_file(row)).collect();
        Self { file: Arc::clone(&self.file), chosen: Some(chosen) }
    }

    /// Reads the vectors in `rows`: `[rows, dim]`.
    ///
    /// # Errors
    /// [`Error::Data`] naming the file: it cannot be read, or has changed since it was opened; [`Error::Unsuitable`] for a
    /// row past the end.
    pub fn read(&self, rows: &[usize]) -> Result<Array2<f32>> {
        let mut vectors = Array2::zeros((rows.len(), self.dim()));
        let past =
            |row: usize| Error::Unsuitable(format!("item {row} was asked for; there are {}", self.len()));
        let rows: Vec<usize> =
            rows.iter().map(|&row| self.row_in_file(row).ok_or_else(|| past(row))).collect::<Result<_>>()?;
        let to = vectors.as_slice_mut().unwrap_or_default();
        self.file.read_rows(&rows, to).map_err(from_file)?;
        Ok(vectors)
    }

    /// Reads all of them: `[items, dim]`.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn read_all(&self) -> Result<Array2<f32>> {
        self.read(&(0..self.len()).collect::<Vec<_>>())
    }

    /// Looks at all vectors, block by block, in parallel: `work` gets a block and its first row. The results are in the order
    /// of the blocks.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub(crate) fn map_blocks<T: Send>(
        &self,
        work: impl Fn(usize, ArrayView2<'_, f32>) -> T + Sync,
    ) -> Result<Vec<T>> {
        let size = (BLOCK / self.dim().max(1)).max(1);
        (0..self.len().div_ceil(size))
            .into_par_iter()
            .map(|block| {
                let first = block * size;
                let rows: Vec<usize> = (first..self.len().min(first + size)).collect();
                Ok(work(first, self.read(&rows)?.view()))
            })
            .collect()
    }

    /// As [`map_blocks`](Self::map_blocks), one after another and without results.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub(crate) fn each_block(&self, mut work: impl FnMut(ArrayView2<'_, f32>)) -> Result<()> {
        let size = (BLOCK / self.dim().max(1)).max(1);
        for first in (0..self.len()).step_by(size) {
            let rows: Vec<usize> = (first..self.len().min(first + size)).collect();
            work(self.read(&rows)?.view());
        }
        Ok(())
    }
}

/// Searched and measured without being read as a whole.
impl Rows for VectorFile {
    fn shape(&self) -> (usize, usize) {
        (self.len(), self.dim())
    }

    fn read(&self, first: usize, to: &mut [f32]) -> embedtune_retrieval::Result<()> {
        match &self.chosen {
            None => Rows::read(self.file.as_ref(), first, to),
            Some(chosen) => {
                let count = to.len() / self.dim().max(1);
                let rows = chosen.get(first..).and_then(|rest| rest.get(..count)).unwrap_or_default();
                self.file.read_rows(rows, to)
            }
        }
    }
}

/// A file's error under the same name.
fn from_file(error: embedtune_retrieval::Error) -> Error {
    match error {
        embedtune_retrieval::Error::File { path, detail } => Error::Data { path, detail },
        other => Error::Unsuitable(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::vectors::{open_vectors, read_vectors};
    use crate::data::{Items, tensors};
    use crate::export::{VectorFormat, VectorWriter};

    fn rows() -> Array2<f32> {
        // More than one block.
        Array2::from_shape_fn((3000, 40), |(i, j)| ((i * 7 + j * 3) % 101) as f32 / 50.0 - 1.0)
    }

    #[test]
    fn what_stays_in_the_file_is_what_would_be_in_memory() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.npy");
        crate::io::write_npy(&path, rows().view()).unwrap();
        let tensor = folder.path().join("x.safetensors");
        let mut writer = VectorWriter::new(&tensor, VectorFormat::Safetensors, 40).unwrap();
        writer.push(rows().view()).unwrap();
        writer.finish().unwrap();
        for items in [open_vectors(&path, false).unwrap(), tensors::read_items(&tensor).unwrap()] {
            let Items::VectorFile(file) = items else { panic!("in memory") };
            assert_eq!(file.read_all().unwrap(), read_vectors(&path).unwrap());
            let some = file.select(&[2999, 5, 6, 7, 9000]);
            assert_eq!((some.len(), some.row_in_file(0), some.row_in_file(4)), (4, Some(2999), None));
            assert_eq!(
                some.select(&[1, 0]).read(&[0, 1]).unwrap(),
                rows().select(ndarray::Axis(0), &[5, 2999])
            );
            assert!(some.read(&[4]).is_err());
            let mut to = vec![0.0; 80];
            Rows::read(&some, 1, &mut to).unwrap();
            assert_eq!(to[..40], rows().row(5).to_vec());
            assert!(Rows::read(&some, 3, &mut to).is_err());
            let sums = file.map_blocks(|_, block| block.nrows()).unwrap();
            assert!(sums.len() > 1 && sums.iter().sum::<usize>() == 3000, "{sums:?}");
        }
        assert_eq!(open_vectors(&path, true).unwrap(), Items::Vectors(rows()));
    }

    #[test]
    fn what_is_wrong_is_said_when_it_is_opened_and_when_it_changes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.npy");
        let mut wrong = rows();
        (wrong[[2000, 3]], wrong[[2500, 0]]) = (f32::NAN, f32::INFINITY);
        crate::io::write_npy(&path, wrong.view()).unwrap();
        let message = open_vectors(&path, false).unwrap_err().to_string();
        assert!(message.contains("x.npy: row 2000, column 3 is NaN"), "{message}");
        crate::io::write_npy(&path, rows().view()).unwrap();
        let Items::VectorFile(file) = open_vectors(&path, false).unwrap() else { panic!("in memory") };
        let length = std::fs::metadata(&path).unwrap().len();
        let open = || std::fs::File::options().write(true).open(&path).unwrap();
        open().set_len(length - 4).unwrap();
        let message = file.read(&[0]).unwrap_err().to_string();
        assert!(message.contains("x.npy: has changed while it was in use"), "{message}");
        let message = open_vectors(&path, false).unwrap_err().to_string();
        assert!(message.contains("promises 480000 bytes of data and 479996 are there"), "{message}");
        open().set_len(length + 1).unwrap();
        let message = open_vectors(&path, false).unwrap_err().to_string();
        assert!(message.contains("more than the 480000 bytes of data"), "{message}");
    }
}
