//! Vectors, sequences and labels from `.npy` and `.npz` files.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use ndarray::{Array2, ArrayView2, Axis};
use zip::ZipArchive;

use super::npy::{Head, Npy};
use super::{Items, Sequences, VectorFile};
use crate::{Error, Result};

/// Names of the vectors in a `.npz` file; `arr_0` is what `numpy.savez` calls its first unnamed array.
pub(super) const VECTORS: [&str; 6] = ["vectors", "embeddings", "x", "X", "data", "arr_0"];
/// Names of the labels.
pub(super) const LABELS: [&str; 5] = ["labels", "label", "y", "targets", "arr_1"];
/// Names of sequences of token vectors, and of their masks.
pub(super) const TOKENS: [&str; 3] = ["tokens", "token_embeddings", "last_hidden_state"];
pub(super) const MASKS: [&str; 2] = ["mask", "attention_mask"];

/// Refuses the first value that is not finite.
pub(crate) fn check_finite(vectors: ArrayView2<'_, f32>) -> Result<(), String> {
    check_finite_from(0, vectors)
}

/// As [`check_finite`], of rows that are counted from `first` on.
pub(super) fn check_finite_from(first: usize, vectors: ArrayView2<'_, f32>) -> Result<(), String> {
    // Nearly always all are, which is quicker to see without counting.
    if vectors.as_slice_memory_order().is_some_and(|values| values.iter().all(|v| v.is_finite())) {
        return Ok(());
    }
    match vectors.indexed_iter().find(|(_, v)| !v.is_finite()) {
        None => Ok(()),
        Some(((row, column), value)) => Err(format!(
            "row {}, column {column} is {value} as float32; vectors must be finite: repair the row or leave it out",
            first + row
        )),
    }
}

/// Vectors `[n, dim]` from a `.npy` file of `float32`, `float64` or `float16`, all in memory.
///
/// # Errors
/// [`Error::Data`] for another type or shape; a value that is not finite, with its row and column.
pub fn read_vectors(path: &Path) -> Result<Array2<f32>> {
    npy(path)?.vectors().map_err(|detail| Error::data(path, detail))
}

/// Vectors `[n, dim]` of a `.npy` file as [`read_vectors`] takes, which stay in it until they are needed: unless they are
/// wanted `in_memory`, their columns run together (Fortran order), or it is no plain file.
///
/// # Errors
/// As [`read_vectors`].
pub fn open_vectors(path: &Path, in_memory: bool) -> Result<Items> {
    let mut file = open(path)?;
    let wrong = |detail| Error::data(path, detail);
    let metadata = file.get_ref().metadata().map_err(Error::io(path, "reading"))?;
    if in_memory || !metadata.is_file() {
        return read_vectors(path).map(Items::Vectors);
    }
    let head = Head::read(&mut file).map_err(wrong)?;
    if !head.in_row_order() {
        return read_vectors(path).map(Items::Vectors);
    }
    let shape = head.matrix().map_err(wrong)?;
    let (start, number) = head.place(metadata.len()).map_err(wrong)?;
    VectorFile::open(path, start, shape, number).map(Items::VectorFile)
}

/// Labels `[n]` from a `.npy` file of any whole-number type.
///
/// # Errors
/// [`Error::Data`] for another type or shape; a label out of range with its row.
pub fn read_labels(path: &Path) -> Result<Vec<u32>> {
    npy(path)?.labels().map_err(|detail| Error::data(path, detail))
}

/// Items and labels from one `.npz` file, compressed or not. The vectors' array is called `vectors`,
/// `embeddings`, `x`, `X`, `data` or `arr_0`, the labels' `labels`, `label`, `y`, `targets` or `arr_1`. An array
/// `tokens` (or `token_embeddings`, `last_hidden_state`), `[items, tokens, dim]`, makes the items sequences; its
/// optional mask is `mask` or `attention_mask`, `[items, tokens]`.
///
/// # Errors
/// As [`read_vectors`] and [`read_labels`], with the array's name; a missing array with the names that are there.
pub fn read_npz(path: &Path) -> Result<(Items, Vec<u32>)> {
    let mut file = Npz::open(path)?;
    let items = file.items()?;
    let (name, labels) = file.array("labels", &LABELS)?;
    Ok((items, labels.labels().map_err(|e| file.wrong(name, e))?))
}

/// As [`read_npz`], without labels.
///
/// # Errors
/// As there.
pub fn read_npz_items(path: &Path) -> Result<Items> {
    Npz::open(path)?.items()
}

struct Npz<'a> {
    path: &'a Path,
    archive: ZipArchive<BufReader<File>>,
    names: Vec<String>,
}

impl<'a> Npz<'a> {
    fn open(path: &'a Path) -> Result<Self> {
        let archive = ZipArchive::new(open(path)?).map_err(|e| damaged(path, &e))?;
        let names =
            archive.file_names().filter_map(|name| name.strip_suffix(".npy")).map(str::to_owned).collect();
        Ok(Self { path, archive, names })
    }

    fn wrong(&self, name: &str, e: String) -> Error {
        Error::data(self.path, format!("array {name}: {e}"))
    }

    fn has(&self, accepted: &[&str]) -> bool {
        accepted.iter().any(|name| self.names.iter().any(|n| n == name))
    }

    fn array(&mut self, what: &str, accepted: &[&'static str]) -> Result<(&'static str, Npy)> {
        let Some(name) = accepted.iter().find(|name| self.names.iter().any(|n| n == *name)) else {
            let detail =
                format!("no array of {what}: it holds {:?}; name it one of {accepted:?}", self.names);
            return Err(Error::data(self.path, detail));
        };
        let member = self.archive.by_name(&format!("{name}.npy")).map_err(|e| damaged(self.path, &e))?;
        let array = Npy::read(member).map_err(|e| Error::data(self.path, format!("array {name}: {e}")))?;
        Ok((*name, array))
    }

    fn items(&mut self) -> Result<Items> {
        if !self.has(&TOKENS) {
            let (name, vectors) = self.array("vectors", &VECTORS)?;
            return vectors.vectors().map(Items::Vectors).map_err(|e| self.wrong(name, e));
        }
        let (name, tokens) = self.array("tokens", &TOKENS)?;
        let tokens = tokens.tokens().map_err(|e| self.wrong(name, e))?;
        let mask = if self.has(&MASKS) {
            let (name, mask) = self.array("mask", &MASKS)?;
            mask.mask().map_err(|e| self.wrong(name, e))?
        } else {
            vec![true; tokens.len_of(Axis(0)) * tokens.len_of(Axis(1))]
        };
        Sequences::new(tokens, &mask).map(Items::Sequences).map_err(|e| self.wrong(name, e))
    }
}

fn damaged(path: &Path, e: &zip::result::ZipError) -> Error {
    Error::data(path, format!("not a complete .npz file ({e}); write it with numpy.savez"))
}

fn open(path: &Path) -> Result<BufReader<File>> {
    File::open(path).map(BufReader::new).map_err(Error::io(path, "opening"))
}

fn npy(path: &Path) -> Result<Npy> {
    Npy::read(open(path)?).map_err(|detail| Error::data(path, detail))
}
