//! Where vectors lie: in memory as `f32` or `f16`, in a file, or wherever [`Rows`] is implemented for.

use half::f16;
use half::slice::HalfFloatSliceExt;
use ndarray::{Array2, ArrayView2};

use crate::{Error, Result};
use embedtune_core::linalg::squared_norm;

/// Vectors that are read in blocks: `[items, dim]`.
///
/// Searches and evaluations need no more of their inputs than this. They read blocks in ascending order, once for each
/// group of queries, and single rows out of order where a metric needs them; several threads read at the same time.
/// Implement it for storage of your own, for instance a memory-mapped file: whoever maps a file promises that nobody
/// truncates it meanwhile, which the compiler cannot check, so that promise stays with the code that can keep it. To
/// search a file that is larger than memory, [`NpyRows`](crate::NpyRows) needs no mapping.
pub trait Rows: Sync {
    /// Number of items and their dimension.
    fn shape(&self) -> (usize, usize);

    /// Copies the items from `first` on into `to`, row by row: `to.len() / dim` items.
    ///
    /// # Errors
    /// What reading can fail with; items beyond the last.
    fn read(&self, first: usize, to: &mut [f32]) -> Result<()>;
}

impl Rows for ArrayView2<'_, f32> {
    fn shape(&self) -> (usize, usize) {
        self.dim()
    }

    fn read(&self, first: usize, to: &mut [f32]) -> Result<()> {
        copy(*self, first, to, |row, to| {
            for (to, &value) in to.iter_mut().zip(row) {
                *to = value;
            }
        })
    }
}

impl Rows for ArrayView2<'_, f16> {
    fn shape(&self) -> (usize, usize) {
        self.dim()
    }

    fn read(&self, first: usize, to: &mut [f32]) -> Result<()> {
        copy(*self, first, to, |row, to| match row.as_slice() {
            Some(row) => row.convert_to_f32_slice(to),
            None => to.iter_mut().zip(row).for_each(|(to, value)| *to = value.to_f32()),
        })
    }
}

impl Rows for Array2<f32> {
    fn shape(&self) -> (usize, usize) {
        self.dim()
    }

    fn read(&self, first: usize, to: &mut [f32]) -> Result<()> {
        self.view().read(first, to)
    }
}

impl Rows for Array2<f16> {
    fn shape(&self) -> (usize, usize) {
        self.dim()
    }

    fn read(&self, first: usize, to: &mut [f32]) -> Result<()> {
        self.view().read(first, to)
    }
}

/// Row-major values in a plain slice, for callers without ndarray.
///
/// ```
/// use embedtune_retrieval::{Exclude, Metric, SliceRows, search};
///
/// let items = [1.0f32, 0.0, 0.0, 1.0, 0.9, 0.1];
/// let rows = SliceRows::new(&items, 2)?;
/// let nearest = search(&rows, &rows, 1, Metric::Cosine, Exclude::SameRow)?;
/// assert_eq!(nearest.row(0)[0].index, 2);
/// # Ok::<(), embedtune_retrieval::Error>(())
/// ```
#[derive(Debug, Clone, Copy)]
pub struct SliceRows<'a> {
    values: &'a [f32],
    dim: usize,
}

impl<'a> SliceRows<'a> {
    /// Rows of `dim` values, one after the other.
    ///
    /// # Errors
    /// [`Error::Shape`] for a `dim` of 0 or a length that is no multiple of it.
    pub fn new(values: &'a [f32], dim: usize) -> Result<Self> {
        if dim > 0 && values.len().is_multiple_of(dim) {
            return Ok(Self { values, dim });
        }
        let expected = format!("a whole number of rows of {dim} values, row-major, at least one value a row");
        Err(Error::Shape { what: "the slice", expected, got: vec![values.len()] })
    }
}

impl Rows for SliceRows<'_> {
    fn shape(&self) -> (usize, usize) {
        (self.values.len() / self.dim, self.dim)
    }

    fn read(&self, first: usize, to: &mut [f32]) -> Result<()> {
        check_range(self.shape(), first, to.len())?;
        let start = first * self.dim;
        if let Some(values) = self.values.get(start..start + to.len()) {
            to.copy_from_slice(values);
        }
        Ok(())
    }
}

fn copy<T>(
    rows: ArrayView2<'_, T>,
    first: usize,
    to: &mut [f32],
    convert: impl Fn(ndarray::ArrayView1<'_, T>, &mut [f32]),
) -> Result<()> {
    let dim = rows.ncols().max(1);
    let count = check_range(rows.dim(), first, to.len())?;
    for (row, to) in (first..first + count).zip(to.chunks_exact_mut(dim)) {
        convert(rows.row(row), to);
    }
    Ok(())
}

/// How many items a buffer of `len` values takes; an error where there are fewer from `first` on.
pub(crate) fn check_range((items, dim): (usize, usize), first: usize, len: usize) -> Result<usize> {
    let count = len / dim.max(1);
    if len.is_multiple_of(dim.max(1)) && first.checked_add(count).is_some_and(|end| end <= items) {
        return Ok(count);
    }
    Err(Error::Shape {
        what: "the buffer to read into",
        expected: format!(
            "a whole number of rows of {dim} values, at most {} of them",
            items.saturating_sub(first)
        ),
        got: vec![len],
    })
}

/// Rows of length 1; zero rows stay.
pub(crate) struct Units<'a>(pub(crate) &'a dyn Rows);

impl Rows for Units<'_> {
    fn shape(&self) -> (usize, usize) {
        self.0.shape()
    }

    fn read(&self, first: usize, to: &mut [f32]) -> Result<()> {
        self.0.read(first, to)?;
        for row in to.chunks_exact_mut(self.shape().1.max(1)) {
            let length = squared_norm(row).sqrt();
            if length > 0.0 {
                row.iter_mut().for_each(|value| *value = (f64::from(*value) / length) as f32);
            }
        }
        Ok(())
    }
}
