//! Vectors, sequences and labels from `.npy` and `.npz` files.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use ndarray::{Array2, ArrayView2, Axis};
use zip::ZipArchive;
use zip::read::ZipFile;

use super::ahead::{self, Ahead, Give, at_once};
use super::npy::{Head, Npy};
use super::{Items, Sequences, VectorFile, exact};
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

/// As [`read_npz_items`], block by block; `None` for an array whose columns run together (Fortran order), which must be read as
/// a whole.
///
/// # Errors
/// As there, for what the arrays' headers tell; the rest with the block.
pub(super) fn npz_blocks(path: &Path) -> Result<Option<Ahead>> {
    let mut file = Npz::open(path)?;
    let named = |path: &Path, name: &str, e: String| Error::data(path, format!("array {name}: {e}"));
    let owned = path.to_path_buf();
    if !file.has(&TOKENS) {
        let (name, head) = file.head("vectors", &VECTORS)?;
        if !head.in_row_order() {
            return Ok(None);
        }
        let [items, dim] = head.matrix().map_err(|e| named(path, name, e))?;
        let read = move |give: &mut Give<'_>| {
            let mut file = Npz::open(&owned)?;
            let mut member = file.member(name)?;
            let wrong = |e: String| named(&owned, name, e);
            let head = Head::read(&mut member).map_err(wrong)?;
            let most = at_once(dim.saturating_mul(size_of::<f32>()));
            for first in (0..items).step_by(most) {
                let rows = head.rows(&mut member, most.min(items - first), dim).map_err(wrong)?;
                check_finite_from(first, rows.view()).map_err(wrong)?;
                if !give(Items::Vectors(rows)) {
                    return Ok(());
                }
            }
            exact::ended(&mut member).map_err(wrong)
        };
        return Ahead::new(path, Some(items), read).map(Some);
    }
    let (name, head) = file.head("tokens", &TOKENS)?;
    if !head.in_row_order() {
        return Ok(None);
    }
    let shape = head.cube().map_err(|e| named(path, name, e))?;
    let mask = if file.has(&MASKS) { Some(file.head("mask", &MASKS)?) } else { None };
    if let Some((name, head)) = &mask {
        head.is_mask([shape[0], shape[1]]).map_err(|e| named(path, name, e))?;
    }
    let mask = mask.map(|(name, _)| name);
    let read = move |give: &mut Give<'_>| {
        let wrong = |e: String| named(&owned, name, e);
        let mut file = Npz::open(&owned)?;
        let mut member = file.member(name)?;
        let head = Head::read(&mut member).map_err(wrong)?;
        let mut of_mask = Npz::open(&owned)?;
        let mut flags = mask.map(|name| of_mask.member(name)).transpose()?;
        let head_of_mask = match &mut flags {
            Some(member) => Some(Head::read(member).map_err(wrong)?),
            None => None,
        };
        let kept = |count: usize| match (&mut flags, &head_of_mask) {
            (Some(from), Some(head)) => head.flags(from, count),
            _ => Ok(vec![true; count]),
        };
        ahead::sequences(shape, |count| head.values(&mut member, count), kept, give).map_err(wrong)
    };
    Ahead::new(path, Some(shape[0]), read).map(Some)
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

    /// The name of the array of `what`.
    fn find(&self, what: &str, accepted: &[&'static str]) -> Result<&'static str> {
        accepted.iter().copied().find(|name| self.names.iter().any(|n| n == name)).ok_or_else(|| {
            let detail =
                format!("no array of {what}: it holds {:?}; name it one of {accepted:?}", self.names);
            Error::data(self.path, detail)
        })
    }

    /// An array's bytes, from the first on.
    fn member(&mut self, name: &str) -> Result<ZipFile<'_, BufReader<File>>> {
        self.archive.by_name(&format!("{name}.npy")).map_err(|e| damaged(self.path, &e))
    }

    fn head(&mut self, what: &str, accepted: &[&'static str]) -> Result<(&'static str, Head)> {
        let name = self.find(what, accepted)?;
        let path = self.path;
        let head = Head::read(&mut self.member(name)?);
        Ok((name, head.map_err(|e| Error::data(path, format!("array {name}: {e}")))?))
    }

    fn array(&mut self, what: &str, accepted: &[&'static str]) -> Result<(&'static str, Npy)> {
        let name = self.find(what, accepted)?;
        let path = self.path;
        let array = Npy::read(self.member(name)?);
        Ok((name, array.map_err(|e| Error::data(path, format!("array {name}: {e}")))?))
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
