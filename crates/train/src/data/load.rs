//! A folder of data, recognised by its files' names.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::pairs::Joined;
use super::text::Table;
use super::{DataOptions, Dataset, Items, Split, folders, idx, tensors, text, vectors};
use crate::{Error, Result};

/// Names of Fashion-MNIST's classes (its repository's README), whose files hold numbers alone.
const FASHION: [&str; 10] = [
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
];

/// CRC-32 of Fashion-MNIST's label bytes: those of its test and of its training items.
const FASHION_LABELS: [u32; 2] = [0x242b_c73f, 0x2ed6_e46a];

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
    ///   texts ([`text::read_table`]), what pairs join is a class, and the test texts query each other;
    /// - `train.npy`, `train_labels.npy`, `test.npy`, `test_labels.npy`: the test vectors query each other;
    /// - `train.npz`, `test.npz` ([`vectors::read_npz`]), or `train.safetensors`, `test.safetensors`
    ///   ([`tensors::read_safetensors`]): likewise, vectors or sequences of token vectors;
    /// - `train/CLASS/*.png` (or `.jpg`, `.jpeg`) and `test/CLASS/*.png`: the test images query each other;
    /// - `CLASS/*.png`: likewise, with a share of each class held back to be measured on.
    ///
    /// Beside idx and NumPy files a `classes.txt` may hold the classes' names: line `i` (from 0) names label `i`.
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
        if let Some(images) = folder.find("train-images-idx3", IDX) {
            return mnist(&folder, &images);
        }
        if let Some(table) = folder.find("classes", &[".tsv"]) {
            let images = folder.need("images-idx3", IDX, &table)?;
            let all = labelled_images(&images, &folder.need("labels-idx1", IDX, &table)?)?;
            return by_class(&table, all, &text::read_class_split(&table)?);
        }
        if let Some(train) = folder.find("train", &[".csv"]) {
            return from_csv(&train, &folder.need("test", &[".csv"], &train)?, options);
        }
        if let Some(train) = folder.find("train", &[".npz"]) {
            let test = folder.need("test", &[".npz"], &train)?;
            let read = |path: &Path| {
                let (rows, labels) = vectors::read_npz(path)?;
                labelled(path, rows, path, labels)
            };
            return Ok(shared(read(&train)?, read(&test)?, |label| label.to_string()));
        }
        if let Some(train) = folder.find("train", &[".safetensors"]) {
            let test = folder.need("test", &[".safetensors"], &train)?;
            let read = |path: &Path| {
                let (rows, labels) = tensors::open_safetensors(path, options.in_memory)?;
                labelled(path, rows, path, labels)
            };
            let names = names(&folder)?;
            return Ok(shared(read(&train)?, read(&test)?, |label| name(&names, label)));
        }
        if let Some(train) = folder.find("train", &["train.npy"]) {
            let test = folder.need("test", &["test.npy"], &train)?;
            let read = |path: &Path, part: &str| {
                let labels = folder.need(part, &["labels.npy"], path)?;
                labelled(
                    path,
                    vectors::open_vectors(path, options.in_memory)?,
                    &labels,
                    vectors::read_labels(&labels)?,
                )
            };
            let names = names(&folder)?;
            return Ok(shared(read(&train, "train")?, read(&test, "test")?, |label| name(&names, label)));
        }
        if let Some(split) = folders::load(folder.path, options)? {
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
             train.npz + test.npz; train.safetensors + test.safetensors; or folders of .png or .jpg images, one for \
             each class",
        ))
    }
}

/// How the names of idx files end: they have no extension of their own.
const IDX: &[&str] = &["-ubyte", "-short", "-idx1", "-idx3", ".idx", ".gz"];

/// A folder's files, hidden ones left out, in the order of their names.
struct Folder<'a> {
    path: &'a Path,
    files: Vec<PathBuf>,
}

impl<'a> Folder<'a> {
    fn list(path: &'a Path) -> Result<Self> {
        let mut files = Vec::new();
        for entry in std::fs::read_dir(path).map_err(Error::io(path, "reading the folder"))? {
            let entry = entry.map_err(Error::io(path, "reading the folder"))?;
            if !entry.file_name().to_string_lossy().starts_with('.') {
                files.push(entry.path());
            }
        }
        files.sort();
        Ok(Self { path, files })
    }

    /// The first file with `part` in its name and one of `ends` at its end.
    fn find(&self, part: &str, ends: &[&str]) -> Option<PathBuf> {
        let fits = |path: &&PathBuf| {
            path.file_name()
                .and_then(|name| name.to_str())
                .is_some_and(|name| name.contains(part) && ends.iter().any(|end| name.ends_with(end)))
        };
        self.files.iter().find(fits).cloned()
    }

    /// As [`find`](Self::find), for what must be there because `beside` is.
    fn need(&self, part: &str, ends: &[&str], beside: &Path) -> Result<PathBuf> {
        self.find(part, ends).ok_or_else(|| {
            let what = if ends == IDX { "idx" } else { ends.first().unwrap_or(&"") };
            let name = beside.file_name().unwrap_or_default().display();
            let detail =
                format!("has {name}, but no {what} file with `{part}` in its name to go with it; add it");
            Error::data(self.path, detail)
        })
    }
}

fn mnist(folder: &Folder<'_>, images: &Path) -> Result<Split> {
    let need = |part: &str| folder.need(part, IDX, images);
    let train = labelled_images(images, &need("train-labels-idx1")?)?;
    let test = labelled_images(&need("t10k-images-idx3")?, &need("t10k-labels-idx1")?)?;
    let mut names = names(folder)?;
    let named = folder.path.file_name().and_then(|n| n.to_str()).is_some_and(|n| n.contains("fashion"));
    let known = |labels: &[u32]| FASHION_LABELS.contains(&label_checksum(labels));
    if names.is_empty() && (named || known(&test.1) || known(&train.1)) {
        names = FASHION.map(str::to_owned).to_vec();
    }
    Ok(shared(train, test, |label| name(&names, label)))
}

/// The names in `classes.txt`, none without that file.
fn names(folder: &Folder<'_>) -> Result<Vec<String>> {
    let Some(path) = folder.find("classes.txt", &[".txt"]) else { return Ok(Vec::new()) };
    let text = std::fs::read_to_string(&path).map_err(Error::io(&path, "reading"))?;
    Ok(text.lines().map(|line| line.trim().to_owned()).collect())
}

/// A label's name: itself where no other is known.
fn name(names: &[String], label: u32) -> String {
    names.get(label as usize).filter(|name| !name.is_empty()).cloned().unwrap_or_else(|| label.to_string())
}

fn label_checksum(labels: &[u32]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(&labels.iter().map(|&label| label as u8).collect::<Vec<u8>>());
    crc.sum()
}

type Raw = (Items, Vec<u32>);

fn labelled(path: &Path, items: Items, labels_path: &Path, labels: Vec<u32>) -> Result<Raw> {
    if items.len() == labels.len() && !labels.is_empty() {
        return Ok((items, labels));
    }
    let (found, expected) = (labels.len(), items.len());
    let detail = if found == expected {
        format!("no items: it and {} are empty", path.display())
    } else {
        format!(
            "has {found} labels for the {expected} items of {}; take both files from one place",
            path.display()
        )
    };
    Err(Error::data(labels_path, detail))
}

fn labelled_images(images: &Path, labels: &Path) -> Result<Raw> {
    labelled(images, Items::Images(idx::read_images(images)?), labels, idx::read_labels(labels)?)
}

/// A split whose parts have one class list, in the order of the labels; the queries search each other.
fn shared(train: Raw, queries: Raw, name: impl Fn(u32) -> String) -> Split {
    let mut index: BTreeMap<u32, u32> = train.1.iter().chain(&queries.1).map(|&label| (label, 0)).collect();
    index.values_mut().zip(0..).for_each(|(slot, position)| *slot = position);
    let classes: Vec<String> = index.keys().map(|&label| name(label)).collect();
    let set = |(items, labels): Raw| Dataset {
        items,
        labels: labels.iter().map(|l| index[l]).collect(),
        classes: classes.clone(),
    };
    Split { train: set(train), queries: set(queries), gallery: None }
}

fn by_class(table: &Path, (items, labels): Raw, classes: &BTreeMap<u32, (String, bool)>) -> Result<Split> {
    if let Some((row, label)) = labels.iter().enumerate().find(|(_, label)| !classes.contains_key(label)) {
        return Err(Error::data(
            table,
            format!("has no class {label}, the label of item {row}; add its line"),
        ));
    }
    let part = |evaluation: bool| -> Result<Dataset> {
        let rows: Vec<usize> =
            (0..labels.len()).filter(|&row| classes[&labels[row]].1 == evaluation).collect();
        if rows.is_empty() {
            let name = if evaluation { "evaluation" } else { "background" };
            return Err(Error::data(table, format!("no item is of a class of the {name} split")));
        }
        let chosen: BTreeMap<u32, u32> =
            classes.iter().filter(|(_, c)| c.1 == evaluation).map(|(&label, _)| label).zip(0..).collect();
        Ok(Dataset {
            items: items.select(&rows),
            labels: rows.iter().map(|&row| chosen[&labels[row]]).collect(),
            classes: chosen.keys().map(|label| classes[label].0.clone()).collect(),
        })
    };
    Ok(Split { train: part(false)?, queries: part(true)?, gallery: None })
}

fn from_csv(train: &Path, test: &Path, options: &DataOptions) -> Result<Split> {
    let parts = [text::read_table(train)?, text::read_table(test)?];
    let [Table::Labelled(train_texts, train_names), Table::Labelled(test_texts, test_names)] = parts else {
        return joined(test, parts, options.score_threshold);
    };
    let mut index: BTreeMap<&str, u32> =
        train_names.iter().chain(&test_names).map(|name| (name.as_str(), 0)).collect();
    index.values_mut().zip(0..).for_each(|(slot, position)| *slot = position);
    let classes: Vec<String> = index.keys().map(|&name| name.to_owned()).collect();
    let set = |texts: Vec<String>, names: &[String]| Dataset {
        items: Items::Text(texts),
        labels: names.iter().map(|name| index[name.as_str()]).collect(),
        classes: classes.clone(),
    };
    let train = set(train_texts, &train_names);
    Ok(Split { queries: set(test_texts, &test_names), gallery: Some(train.clone()), train })
}

/// Pairs of texts: what they join, over both files, is a class; each different text is an item.
fn joined(test: &Path, parts: [Table; 2], threshold: f64) -> Result<Split> {
    let [Table::Pairs(train_pairs, train_scores), Table::Pairs(test_pairs, test_scores)] = &parts else {
        return Err(Error::data(test, "one file holds pairs and the other labels; give both in one form"));
    };
    let mut all = Joined::default();
    let mut rows = Vec::new();
    for (pairs, scores) in [(train_pairs, train_scores), (test_pairs, test_scores)] {
        let mut part = Vec::new();
        for (at, [left, right]) in pairs.iter().enumerate() {
            let [a, b] = [all.add(left), all.add(right)];
            if scores.as_ref().is_none_or(|scores| scores[at] >= threshold) {
                all.join(a, b);
            }
            part.extend([a, b]);
        }
        // Each text once, in the order of the file.
        let mut seen = std::collections::HashSet::new();
        part.retain(|row| seen.insert(*row));
        rows.push(part);
    }
    let texts = all.texts();
    let (labels, classes) = all.classes();
    let set = |rows: &[usize]| Dataset {
        items: Items::Text(rows.iter().map(|&row| texts[row].to_owned()).collect()),
        labels: rows.iter().map(|&row| labels[row]).collect(),
        classes: classes.clone(),
    };
    Ok(Split { train: set(&rows[0]), queries: set(&rows[1]), gallery: None })
}
