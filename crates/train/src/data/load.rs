//! A folder of data, recognised by its files' names.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::pairs::Joined;
use super::parquet::Labels;
use super::text::Table;
use super::{DataOptions, Dataset, Items, Places, Split, folders, idx, parquet, tensors, text, vectors};
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
    /// - `train.parquet`, `test.parquet` ([`parquet::read`]), likewise, or texts with labels as in CSV files;
    /// - `train/CLASS/*.png` (or `.jpg`, `.jpeg`) and `test/CLASS/*.png`: the test images query each other;
    /// - `CLASS/*.png`: likewise, with a share of each class held back to be measured on.
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
        if let Some(images) = folder.find("train-images-idx3", IDX) {
            return mnist(&folder, &images);
        }
        if let Some(table) = folder.find("classes", &[".tsv"]) {
            let images = folder.need("images-idx3", IDX, &table)?;
            let labels = folder.need("labels-idx1", IDX, &table)?;
            let all = labelled_images(&images, &labels, &Names::default())?;
            return by_class(&table, all, &text::read_class_split(&table)?);
        }
        if let Some(train) = folder.find("train", &[".csv"]) {
            let measured = folder.measured(".csv", &train)?;
            return from_csv(&train, &measured, options);
        }
        if let Some(train) = folder.find("train", &[".parquet"]) {
            return from_parquet(&folder, &train, options);
        }
        if let Some(train) = folder.find("train", &[".npz"]) {
            let names = Names::read(&folder)?;
            let read = |path: &Path| {
                let (rows, labels) = vectors::read_npz(path)?;
                labelled(path, rows, path, labels, &names)
            };
            return folder.measured(".npz", &train)?.split(&train, read, &names);
        }
        if let Some(train) = folder.find("train", &[".safetensors"]) {
            let names = Names::read(&folder)?;
            let read = |path: &Path| {
                let (rows, labels) = tensors::open_safetensors(path, options.in_memory)?;
                labelled(path, rows, path, labels, &names)
            };
            return folder.measured(".safetensors", &train)?.split(&train, read, &names);
        }
        if let Some(train) = folder.find("train", &["train.npy"]) {
            let names = Names::read(&folder)?;
            let read = |path: &Path| {
                let name = file_name(path);
                let parts = ["train", "test", "gallery"].into_iter().chain(QUERIES);
                let part = parts.into_iter().find(|part| name.contains(part)).unwrap_or_default();
                let labels = folder.need(part, &["labels.npy"], path)?;
                let items = vectors::open_vectors(path, options.in_memory)?;
                labelled(path, items, &labels, vectors::read_labels(&labels)?, &names)
            };
            return folder.measured(".npy", &train)?.split(&train, read, &names);
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
             train.npz + test.npz; train.safetensors + test.safetensors; train.parquet + test.parquet; or folders of .png or .jpg images, one for \
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

    /// The files to measure on that go with `train`: one whose items search each other, or queries and what they search.
    fn measured(&self, ending: &str, train: &Path) -> Result<Measured> {
        // Labels of NumPy files lie in files whose names only begin alike.
        let named = |names: &[&str]| {
            let ends: Vec<String> = names.iter().map(|name| format!("{name}{ending}")).collect();
            self.find("", &ends.iter().map(String::as_str).collect::<Vec<_>>())
        };
        let Some(queries) = named(&QUERIES) else {
            if let Some(gallery) = named(&["gallery"]) {
                let detail =
                    format!("has {}, but no queries{ending} to search it; add it", file_name(&gallery));
                return Err(Error::data(self.path, detail));
            }
            let ends: &[&str] = if ending == ".npy" { &["test.npy"] } else { &[ending] };
            return Ok(Measured::Test(self.need("test", ends, train)?));
        };
        let Some(gallery) = named(&["gallery"]) else {
            let detail =
                format!("has {}, but no gallery{ending} to be searched; add it", file_name(&queries));
            return Err(Error::data(self.path, detail));
        };
        if let Some(test) = named(&["test"]) {
            let detail = format!(
                "has {}, whose items search each other, and {}, which search the gallery; keep one of them",
                file_name(&test),
                file_name(&queries)
            );
            return Err(Error::data(self.path, detail));
        }
        Ok(Measured::Queries { queries, gallery })
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

/// Names of files (and folders) of queries.
pub(super) const QUERIES: [&str; 2] = ["queries", "query"];

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().display().to_string()
}

/// What is measured on.
enum Measured {
    /// Items that search each other.
    Test(PathBuf),
    /// Items that search others.
    Queries { queries: PathBuf, gallery: PathBuf },
}

impl Measured {
    /// The split of these files and `train`, each read by `read`.
    fn split(&self, train: &Path, read: impl Fn(&Path) -> Result<Raw>, names: &Names) -> Result<Split> {
        let items = read(train)?;
        let alike = |path: &Path| -> Result<Raw> {
            let part = read(path)?;
            same_shape((train, &items.0), (path, &part.0))?;
            Ok(part)
        };
        let (queries, gallery) = match self {
            Self::Test(test) => (alike(test)?, None),
            Self::Queries { queries, gallery } => (alike(queries)?, Some(alike(gallery)?)),
        };
        shared(items, queries, gallery, names)
    }
}

fn mnist(folder: &Folder<'_>, images: &Path) -> Result<Split> {
    let need = |part: &str| folder.need(part, IDX, images);
    let mut names = Names::read(folder)?;
    let train = labelled_images(images, &need("train-labels-idx1")?, &names)?;
    let test = labelled_images(&need("t10k-images-idx3")?, &need("t10k-labels-idx1")?, &names)?;
    let named = folder.path.file_name().and_then(|n| n.to_str()).is_some_and(|n| n.contains("fashion"));
    let known = |labels: &[u32]| FASHION_LABELS.contains(&label_checksum(labels));
    if names.path.is_none() && (named || known(&test.1) || known(&train.1)) {
        names.lines = FASHION.map(str::to_owned).to_vec();
    }
    shared(train, test, None, &names)
}

/// The classes' names by label.
#[derive(Default)]
struct Names {
    /// The file that they are from.
    path: Option<PathBuf>,
    lines: Vec<String>,
}

impl Names {
    /// Those in `classes.txt`; none without that file.
    fn read(folder: &Folder<'_>) -> Result<Self> {
        let Some(path) = folder.find("classes.txt", &[".txt"]) else { return Ok(Self::default()) };
        let bytes = std::fs::read(&path).map_err(Error::io(&path, "reading"))?;
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf".as_slice()).unwrap_or(&bytes);
        let mut lines = Vec::new();
        let mut seen = BTreeMap::new();
        for (at, line) in bytes.split(|&byte| byte == b'\n').enumerate() {
            let number = at + 1;
            let line = std::str::from_utf8(line).map_err(|_| {
                Error::data(&path, format!("line {number}: not UTF-8; save the file as UTF-8"))
            })?;
            let line = line.trim();
            if let Some(before) = seen.insert(line.to_owned(), number).filter(|_| !line.is_empty()) {
                let detail = format!(
                    "lines {before} and {number} both say `{line}`: give each class a name of its own"
                );
                return Err(Error::data(&path, detail));
            }
            lines.push(line.to_owned());
        }
        // What follows the last line break is no line.
        if lines.last().is_some_and(String::is_empty) {
            lines.pop();
        }
        Ok(Self { path: Some(path), lines })
    }

    /// Refuses a label of the file at `path` that is past the last name.
    fn check(&self, path: &Path, labels: &[u32]) -> Result<()> {
        let Some(names) = &self.path else { return Ok(()) };
        let count = self.lines.len();
        let beyond = labels.iter().enumerate().find(|(_, label)| **label as usize >= count);
        let Some((row, label)) = beyond else { return Ok(()) };
        let detail = format!(
            "row {row} has label {label}, and {} has {count} lines, of which line 1 names label 0: correct the label, write a \
             line for each, or remove {} to have the labels name themselves",
            names.display(),
            file_name(names)
        );
        Err(Error::data(path, detail))
    }

    /// A label's name: itself where its line is empty, or where there is no file.
    fn of(&self, label: u32) -> Result<String> {
        match (self.lines.get(label as usize), &self.path) {
            (Some(line), _) if !line.is_empty() => Ok(line.clone()),
            (Some(_), _) | (None, None) => Ok(label.to_string()),
            // Refused before, with the label's file.
            (None, Some(path)) => Err(Error::data(path, format!("names no label {label}; add its line"))),
        }
    }
}

fn label_checksum(labels: &[u32]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(&labels.iter().map(|&label| label as u8).collect::<Vec<u8>>());
    crc.sum()
}

/// Refuses vectors of another length, or items of another kind, than those trained on.
fn same_shape((train, like): (&Path, &Items), (path, items): (&Path, &Items)) -> Result<()> {
    let columns = |items: &Items| match items {
        Items::Vectors(vectors) => Some((vectors.ncols(), "values a row")),
        Items::VectorFile(file) => Some((file.dim(), "values a row")),
        Items::Sequences(sequences) => {
            sequences.values().shape().last().map(|&columns| (columns, "values a token"))
        }
        _ => None,
    };
    match (columns(like), columns(items)) {
        (Some(expected), Some(got)) if expected != got => {
            let detail = format!(
                "has {} {}, and {} has {} {}: all files of a data set hold items of one kind and length",
                got.0,
                got.1,
                file_name(train),
                expected.0,
                expected.1
            );
            Err(Error::data(path, detail))
        }
        _ => Ok(()),
    }
}

type Raw = (Items, Vec<u32>);
/// Items, their labels, and where they were read.
type Part<L> = (Items, Vec<L>, Places);

/// Items and their labels, of which there are as many and which all have a name.
fn labelled(path: &Path, items: Items, labels_path: &Path, labels: Vec<u32>, names: &Names) -> Result<Raw> {
    names.check(labels_path, &labels)?;
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

fn labelled_images(images: &Path, labels: &Path, names: &Names) -> Result<Raw> {
    labelled(images, Items::Images(idx::read_images(images)?), labels, idx::read_labels(labels)?, names)
}

/// [`split`] of parts whose labels are numbers with `names`.
fn shared(train: Raw, queries: Raw, gallery: Option<Raw>, names: &Names) -> Result<Split> {
    let part = |(items, labels): Raw| (items, labels, Places::default());
    split(part(train), part(queries), gallery.map(part), |&label| names.of(label))
}

/// A split whose parts have one class list, in the order of the labels. Without a gallery texts search the training items,
/// others each other.
fn split<L: Ord + Clone>(
    train: Part<L>,
    queries: Part<L>,
    gallery: Option<Part<L>>,
    name: impl Fn(&L) -> Result<String>,
) -> Result<Split> {
    let searched = gallery.iter().flat_map(|(_, labels, _)| labels);
    let labels = train.1.iter().chain(&queries.1).chain(searched);
    let mut index: BTreeMap<L, u32> = labels.map(|label| (label.clone(), 0)).collect();
    index.values_mut().zip(0..).for_each(|(slot, position)| *slot = position);
    let classes: Vec<String> = index.keys().map(name).collect::<Result<_>>()?;
    let set = |(items, labels, places): Part<L>| Dataset {
        items,
        labels: labels.iter().map(|label| index[label]).collect(),
        classes: classes.clone(),
        places,
    };
    let train = set(train);
    let text = matches!(train.items, Items::Text(_));
    let gallery = gallery.map(set).or_else(|| text.then(|| train.clone()));
    Ok(Split { queries: set(queries), gallery, train })
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
            places: Places::default(),
        })
    };
    Ok(Split { train: part(false)?, queries: part(true)?, gallery: None })
}

fn from_csv(train: &Path, measured: &Measured, options: &DataOptions) -> Result<Split> {
    let (queries, gallery) = match measured {
        Measured::Test(test) => (test, None),
        Measured::Queries { queries, gallery } => (queries, Some(gallery)),
    };
    let parts = [text::read_table(train)?, text::read_table(queries)?];
    let gallery = gallery.map(|path| Ok::<_, Error>((path, text::read_table(path)?))).transpose()?;
    let part = |path: &Path, texts, names, lines| (Items::Text(texts), names, Places::lines(path, lines));
    let [train_part, query_part] = match (parts, &gallery) {
        (
            [
                Table::Labelled(texts, names, lines),
                Table::Labelled(queries_texts, queries_names, queries_lines),
            ],
            _,
        ) => [part(train, texts, names, lines), part(queries, queries_texts, queries_names, queries_lines)],
        (_, Some((path, _))) => {
            let detail =
                "texts in pairs search each other; give train.csv and test.csv, or texts with labels";
            return Err(Error::data(path, detail));
        }
        (parts, None) => return joined([train, queries.as_path()], parts, options.score_threshold),
    };
    let gallery = match gallery {
        None => None,
        Some((path, Table::Labelled(texts, names, lines))) => Some(part(path, texts, names, lines)),
        Some((path, Table::Pairs(..))) => {
            return Err(Error::data(path, "holds pairs, and the other files labels; give all in one form"));
        }
    };
    split(train_part, query_part, gallery, |name| Ok(name.clone()))
}

fn from_parquet(folder: &Folder<'_>, train: &Path, options: &DataOptions) -> Result<Split> {
    let (queries, gallery) = match folder.measured(".parquet", train)? {
        Measured::Test(test) => (test, None),
        Measured::Queries { queries, gallery } => (queries, Some(gallery)),
    };
    if let Some(pairs) = parquet::read_pairs(train)? {
        let searched =
            "texts in pairs search each other; give train.parquet and test.parquet, or texts with labels";
        let other = "holds no pairs, as the training file does; give both in one form";
        return match (parquet::read_pairs(&queries)?, gallery) {
            (_, Some(gallery)) => Err(Error::data(&gallery, searched)),
            (None, _) => Err(Error::data(&queries, other)),
            (Some(test), None) => joined([train, &queries], [pairs, test], options.score_threshold),
        };
    }
    let (train_items, train_labels) = parquet::read(train)?;
    match train_labels {
        Labels::Numbers(labels) => {
            let class_names = Names::read(folder)?;
            let train_part = labelled(train, train_items, train, labels, &class_names)?;
            let read = |path: &Path| match parquet::read(path)? {
                (items, Labels::Numbers(labels)) => {
                    same_shape((train, &train_part.0), (path, &items))?;
                    labelled(path, items, path, labels, &class_names)
                }
                _ => Err(other_labels(path, "names", train, "whole numbers")),
            };
            let gallery = gallery.as_deref().map(read).transpose()?;
            let queries = read(&queries)?;
            shared(train_part, queries, gallery, &class_names)
        }
        Labels::Names(names) => {
            let read = |path: &Path| match parquet::read(path)? {
                (items, Labels::Names(names)) => {
                    same_shape((train, &train_items), (path, &items))?;
                    Ok((items, names, Places::default()))
                }
                _ => Err(other_labels(path, "whole numbers", train, "names")),
            };
            let gallery = gallery.as_deref().map(read).transpose()?;
            let queries = read(&queries)?;
            split((train_items, names, Places::default()), queries, gallery, |name| Ok(name.clone()))
        }
    }
}

fn other_labels(path: &Path, got: &str, train: &Path, expected: &str) -> Error {
    let detail =
        format!("its labels are {got}, and those of {} {expected}; give all in one form", file_name(train));
    Error::data(path, detail)
}

/// Pairs of texts: what they join, over both files, is a class; each different text is an item.
fn joined(paths: [&Path; 2], parts: [Table; 2], threshold: f64) -> Result<Split> {
    let [
        Table::Pairs(train_pairs, train_scores, train_lines),
        Table::Pairs(test_pairs, test_scores, test_lines),
    ] = &parts
    else {
        return Err(Error::data(
            paths[1],
            "one file holds pairs and the other labels; give both in one form",
        ));
    };
    let mut all = Joined::default();
    let mut rows = Vec::new();
    let parts = [(train_pairs, train_scores, train_lines), (test_pairs, test_scores, test_lines)];
    for (path, (pairs, scores, lines)) in paths.into_iter().zip(parts) {
        let mut part = Vec::new();
        for (at, [left, right]) in pairs.iter().enumerate() {
            let [a, b] = [all.add(left), all.add(right)];
            if scores.as_ref().is_none_or(|scores| scores[at] >= threshold) {
                all.join(a, b);
            }
            let line = lines.get(at).copied().unwrap_or(0);
            part.extend([(a, line), (b, line)]);
        }
        // Each text once, in the order of the file.
        let mut seen = std::collections::HashSet::new();
        part.retain(|(row, _)| seen.insert(*row));
        let (part, of_rows): (Vec<usize>, Vec<u64>) = part.into_iter().unzip();
        let places = if lines.is_empty() { Places::default() } else { Places::lines(path, of_rows) };
        rows.push((part, places));
    }
    let texts = all.texts();
    let (labels, classes) = all.classes();
    let mut sets = rows.into_iter().map(|(rows, places)| Dataset {
        items: Items::Text(rows.iter().map(|&row| texts[row].to_owned()).collect()),
        labels: rows.iter().map(|&row| labels[row]).collect(),
        classes: classes.clone(),
        places,
    });
    match (sets.next(), sets.next()) {
        (Some(train), Some(queries)) => Ok(Split { train, queries, gallery: None }),
        _ => Err(Error::data(paths[0], "holds no pairs; add some")),
    }
}
