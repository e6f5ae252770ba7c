//! Vectors from `.npy` files.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use ndarray::{Array1, Array2};
use ndarray_npy::ReadNpyExt;

use crate::{Error, Result};

/// `[n, dim]` of `f32` or `f64`.
///
/// # Errors
/// [`Error::Data`] for another type or shape; a value that is not finite, with its row and column.
pub fn read_vectors(path: &Path) -> Result<Array2<f32>> {
    let open = || File::open(path).map(BufReader::new).map_err(Error::io(path, "opening"));
    let vectors = match Array2::<f32>::read_npy(open()?) {
        Ok(vectors) => vectors,
        Err(first) => match Array2::<f64>::read_npy(open()?) {
            Ok(vectors) => vectors.mapv(|v| v as f32),
            Err(_) => {
                return Err(Error::data(
                    path,
                    format!("expected a .npy array [items, dim] of f32 or f64: {first}"),
                ));
            }
        },
    };
    if let Some(((row, column), value)) = vectors.indexed_iter().find(|(_, v)| !v.is_finite()) {
        return Err(Error::data(
            path,
            format!("row {row}, column {column} is {value}; vectors must be finite"),
        ));
    }
    Ok(vectors.as_standard_layout().into_owned())
}

/// `[n]` of whole numbers of any common width.
///
/// # Errors
/// [`Error::Data`] for another type or shape; a negative label with its row.
pub fn read_labels(path: &Path) -> Result<Vec<u32>> {
    let open = || File::open(path).map(BufReader::new).map_err(Error::io(path, "opening"));
    let wide: Vec<i64> = if let Ok(labels) = Array1::<i64>::read_npy(open()?) {
        labels.to_vec()
    } else if let Ok(labels) = Array1::<i32>::read_npy(open()?) {
        labels.iter().map(|&v| v.into()).collect()
    } else if let Ok(labels) = Array1::<u32>::read_npy(open()?) {
        labels.iter().map(|&v| v.into()).collect()
    } else if let Ok(labels) = Array1::<u8>::read_npy(open()?) {
        labels.iter().map(|&v| v.into()).collect()
    } else {
        return Err(Error::data(path, "expected a .npy array [items] of i64, i32, u32 or u8 labels"));
    };
    wide.iter()
        .enumerate()
        .map(|(row, &label)| {
            u32::try_from(label)
                .map_err(|_| Error::data(path, format!("label {label} in row {row} is out of range")))
        })
        .collect()
}
