//! Vectors and labels from `.npy` and `.npz` files.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use ndarray::Array2;
use zip::ZipArchive;

use super::npy::Npy;
use crate::{Error, Result};

/// Names of the vectors in a `.npz` file; `arr_0` is what `numpy.savez` calls its first unnamed array.
const VECTORS: [&str; 6] = ["vectors", "embeddings", "x", "X", "data", "arr_0"];
/// Names of the labels.
const LABELS: [&str; 5] = ["labels", "label", "y", "targets", "arr_1"];

/// Vectors `[n, dim]` from a `.npy` file of `float32` or `float64`.
///
/// # Errors
/// [`Error::Data`] for another type or shape; a value that is not finite, with its row and column.
pub fn read_vectors(path: &Path) -> Result<Array2<f32>> {
    npy(path)?.vectors().map_err(|detail| Error::data(path, detail))
}

/// Labels `[n]` from a `.npy` file of any whole-number type.
///
/// # Errors
/// [`Error::Data`] for another type or shape; a label out of range with its row.
pub fn read_labels(path: &Path) -> Result<Vec<u32>> {
    npy(path)?.labels().map_err(|detail| Error::data(path, detail))
}

/// Vectors and labels from one `.npz` file, compressed or not. The vectors' array is called `vectors`,
/// `embeddings`, `x`, `X`, `data` or `arr_0`, the labels' `labels`, `label`, `y`, `targets` or `arr_1`.
///
/// # Errors
/// As [`read_vectors`] and [`read_labels`], with the array's name; a missing array with the names that are there.
pub fn read_npz(path: &Path) -> Result<(Array2<f32>, Vec<u32>)> {
    let damaged = |e| Error::data(path, format!("not a complete .npz file ({e}); write it with numpy.savez"));
    let mut archive = ZipArchive::new(open(path)?).map_err(damaged)?;
    let names: Vec<String> =
        archive.file_names().filter_map(|name| name.strip_suffix(".npy")).map(str::to_owned).collect();
    let mut array = |what: &str, accepted: &[&'static str]| {
        let Some(name) = accepted.iter().find(|name| names.iter().any(|n| n == *name)) else {
            let detail = format!("no array of {what}: it holds {names:?}; name it one of {accepted:?}");
            return Err(Error::data(path, detail));
        };
        let member = archive.by_name(&format!("{name}.npy")).map_err(damaged)?;
        let array = Npy::read(member).map_err(|e| Error::data(path, format!("array {name}: {e}")))?;
        Ok((*name, array))
    };
    let (name, vectors) = array("vectors", &VECTORS)?;
    let vectors = vectors.vectors().map_err(|e| Error::data(path, format!("array {name}: {e}")))?;
    let (name, labels) = array("labels", &LABELS)?;
    let labels = labels.labels().map_err(|e| Error::data(path, format!("array {name}: {e}")))?;
    Ok((vectors, labels))
}

fn open(path: &Path) -> Result<BufReader<File>> {
    File::open(path).map(BufReader::new).map_err(Error::io(path, "opening"))
}

fn npy(path: &Path) -> Result<Npy> {
    Npy::read(open(path)?).map_err(|detail| Error::data(path, detail))
}
