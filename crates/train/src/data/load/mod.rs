//! A folder of data, recognised by its files' names.

mod idx;
mod listing;
mod names;
mod one;
mod parts;
mod tables;
mod texts;

use std::path::Path;

use listing::{Folder, IDX, file_name};
use names::Names;
use parts::labelled;

pub(super) use listing::QUERIES;

use super::{DataOptions, Split, folders, tensors, vectors};
use crate::{Error, Result};

impl Split {
    /// Loads a folder with the default [`DataOptions`].
    ///
    /// # Errors
    /// As [`load_with`](Self::load_with).
    pub fn load(folder: &Path) -> Result<Self> {
        Self::load_with(folder, &DataOptions::default())
    }

    /// Loads a folder:
    ///
    /// - `train-images-idx3-ubyte` and its companions (MNIST's layout, `.gz` or not): the test images query each other;
    /// - `*images-idx3*`, `*labels-idx1*` and `*classes*.tsv`: background classes train, the items of the evaluation
    ///   classes query each other;
    /// - `train.csv` and `test.csv` with a text and a label column: test items query the training items; with pairs of
    ///   texts ([`text::read_table`](crate::data::text::read_table)), what pairs join is a class, and the test texts query
    ///   each other;
    /// - `train.npy`, `train_labels.npy`, `test.npy`, `test_labels.npy`: the test vectors query each other;
    /// - `train.npz`, `test.npz` ([`vectors::read_npz`]), or `train.safetensors`, `test.safetensors`
    ///   ([`tensors::read_safetensors`]): likewise, vectors or sequences of token vectors;
    /// - `train.parquet`, `test.parquet` ([`parquet::read`](crate::data::parquet::read)), likewise, or texts with labels as
    ///   in CSV files;
    /// - `train/CLASS/*.png` (or `.jpg`, `.jpeg`) and `test/CLASS/*.png`: the test images query each other;
    /// - `CLASS/*.png`: likewise, with a share of each class held back to be measured on;
    /// - `data.csv` with labels, `data.parquet`, `data.npz`, `data.safetensors`, or `data.npy` and `data_labels.npy`: all items
    ///   in one file, with a share of each class held back.
    ///
    /// Of several files that may be meant the one of exactly this name is; a name may also stand in a longer one, from the
    /// beginning of a word (`x_train.csv`), where only one does.
    ///
    /// Instead of `test`, files of these kinds but idx may be called `queries` (or `query`) and `gallery`: the queries then
    /// search the gallery (`queries.npy`, `queries_labels.npy`, `gallery.npy`, `gallery_labels.npy`; `query/CLASS/*.png`).
    ///
    /// Beside idx, NumPy and safetensors files a `classes.txt` may hold the classes' names: line `i` (from 0) names label `i`.
    /// Fashion-MNIST's are known.
    ///
    /// # Errors
    /// [`Error::Data`] naming the file; for a folder of none of these kinds, what was looked for; [`Error::Option`] for
    /// an option out of range.
    pub fn load_with(folder: &Path, options: &DataOptions) -> Result<Self> {
        options.check()?;
        if folder.is_file() {
            return Err(Error::data(folder, "is a file; give the folder that holds the data's files"));
        }
        let folder = Folder::list(folder)?;
        if let Some(images) = folder.find("train-images-idx3", IDX)? {
            return idx::mnist(&folder, &images);
        }
        if let Some(table) = folder.find("classes", &[".tsv"])? {
            return idx::by_table(&folder, &table);
        }
        if let Some(train) = folder.find("train", &[".csv"])? {
            let measured = folder.measured(".csv", &train)?;
            return texts::from_csv(&train, &measured, options);
        }
        if let Some(train) = folder.find("train", &[".parquet"])? {
            return tables::from_parquet(&folder, &train, options);
        }
        if let Some(train) = folder.find("train", &[".npz"])? {
            let names = Names::read(&folder)?;
            let read = |path: &Path| {
                let (rows, labels) = vectors::read_npz(path)?;
                labelled(path, rows, path, labels, &names)
            };
            return folder.measured(".npz", &train)?.split(&train, read, &names);
        }
        if let Some(train) = folder.find("train", &[".safetensors"])? {
            let names = Names::read(&folder)?;
            let read = |path: &Path| {
                let (rows, labels) = tensors::open_safetensors(path, options.in_memory)?;
                labelled(path, rows, path, labels, &names)
            };
            return folder.measured(".safetensors", &train)?.split(&train, read, &names);
        }
        if let Some(train) = folder.find("train", &["train.npy"])? {
            let names = Names::read(&folder)?;
            let read = |path: &Path| {
                let name = file_name(path);
                let parts = ["train", "test", "gallery"].into_iter().chain(QUERIES);
                let part =
                    parts.into_iter().find(|part| name.ends_with(&format!("{part}.npy"))).unwrap_or_default();
                let labels = folder.need(part, &["labels.npy"], path)?;
                let items = vectors::open_vectors(path, options.in_memory)?;
                labelled(path, items, &labels, vectors::read_labels(&labels)?, &names)
            };
            return folder.measured(".npy", &train)?.split(&train, read, &names);
        }
        if let Some(split) = folders::load(folder.path, options)? {
            return Ok(split);
        }
        if let Some(split) = one::load(&folder, options)? {
            return Ok(split);
        }
        if folders::holds_images(folder.path)? {
            let detail = "holds images, but their classes are not known: move them into folders, one for each class, whose \
                          names are the classes";
            return Err(Error::data(folder.path, detail));
        }
        Err(Error::data(
            folder.path,
            "no data found: expected train-images-idx3-ubyte[.gz] and its companions; images-idx3 + labels-idx1 + \
             classes.tsv; train.csv + test.csv; train.npy + train_labels.npy + test.npy + test_labels.npy; \
             train.npz + test.npz; train.safetensors + test.safetensors; train.parquet + test.parquet; folders of .png or .jpg images, one for \
             each class; or one file data.csv, .parquet, .npz, .safetensors or .npy (and data_labels.npy), of which a share \
             of each class is measured on",
        ))
    }
}
