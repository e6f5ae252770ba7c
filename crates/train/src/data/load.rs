//! A folder of data, recognised by its files' names.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::{Dataset, Items, Split, idx, text, vectors};
use crate::{Error, Result};

/// Names of Fashion-MNIST's classes, for a folder whose name says that it is Fashion-MNIST.
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

impl Split {
    /// Loads a folder:
    ///
    /// - `train-images-idx3-ubyte` and its companions (MNIST's layout, `.gz` or not): the test images query each other;
    /// - `*images-idx3*`, `*labels-idx1*` and `*classes.tsv`: background classes train, the items of the evaluation
    ///   classes query each other;
    /// - `train.csv` and `test.csv` with a text and a label column: test items query the training items;
    /// - `train.npy`, `train_labels.npy`, `test.npy`, `test_labels.npy`: the test vectors query each other.
    ///
    /// # Errors
    /// [`Error::Data`] naming the file; for a folder of none of these kinds, what was looked for.
    pub fn load(folder: &Path) -> Result<Self> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(folder).map_err(Error::io(folder, "reading the folder"))? {
            names.push(entry.map_err(Error::io(folder, "reading the folder"))?.path());
        }
        names.sort();
        let find = |parts: &[&str]| -> Option<PathBuf> {
            names
                .iter()
                .find(|p| {
                    p.file_name()
                        .and_then(|n| n.to_str())
                        .is_some_and(|n| parts.iter().all(|part| n.contains(part)))
                })
                .cloned()
        };
        if let (Some(images), Some(labels)) = (find(&["train-images-idx3"]), find(&["train-labels-idx1"])) {
            let missing = |what: &str| Error::data(folder, format!("has training images and no {what}"));
            let test_images = find(&["t10k-images-idx3"]).ok_or_else(|| missing("t10k-images-idx3-ubyte"))?;
            let test_labels = find(&["t10k-labels-idx1"]).ok_or_else(|| missing("t10k-labels-idx1-ubyte"))?;
            let train = labelled(
                &images,
                Items::Images(idx::read_images(&images)?),
                &labels,
                idx::read_labels(&labels)?,
            )?;
            let test = labelled(
                &test_images,
                Items::Images(idx::read_images(&test_images)?),
                &test_labels,
                idx::read_labels(&test_labels)?,
            )?;
            let fashion = folder.file_name().and_then(|n| n.to_str()).is_some_and(|n| n.contains("fashion"));
            return Ok(shared(train, test, None, |label| match FASHION.get(label as usize) {
                Some(name) if fashion => (*name).to_owned(),
                _ => label.to_string(),
            }));
        }
        if let (Some(images), Some(labels), Some(table)) =
            (find(&["images-idx3"]), find(&["labels-idx1"]), find(&["classes.tsv"]))
        {
            let classes = text::read_class_split(&table)?;
            let all = labelled(
                &images,
                Items::Images(idx::read_images(&images)?),
                &labels,
                idx::read_labels(&labels)?,
            )?;
            return by_class(&table, all, &classes);
        }
        if let (Some(train), Some(test)) = (find(&["train.csv"]), find(&["test.csv"])) {
            return from_csv(&train, &test);
        }
        if let (Some(train), Some(test)) = (find(&["train.npy"]), find(&["test.npy"])) {
            let read = |path: &Path, part: &str| {
                let labels = find(&[part, "labels.npy"])
                    .ok_or_else(|| Error::data(folder, format!("has no {part}_labels.npy")))?;
                labelled(
                    path,
                    Items::Vectors(vectors::read_vectors(path)?),
                    &labels,
                    vectors::read_labels(&labels)?,
                )
            };
            return Ok(shared(read(&train, "train")?, read(&test, "test")?, None, |label| label.to_string()));
        }
        Err(Error::data(
            folder,
            "no data found: expected train-images-idx3-ubyte[.gz] and its companions; images-idx3 + labels-idx1 + \
             classes.tsv; train.csv + test.csv; or train.npy + train_labels.npy + test.npy + test_labels.npy",
        ))
    }
}

type Raw = (Items, Vec<u32>);

fn labelled(path: &Path, items: Items, labels_path: &Path, labels: Vec<u32>) -> Result<Raw> {
    if items.len() == labels.len() && !labels.is_empty() {
        return Ok((items, labels));
    }
    Err(Error::data(
        labels_path,
        format!("has {} labels for the {} items of {}", labels.len(), items.len(), path.display()),
    ))
}

/// Splits whose parts have one class list, in the order of the labels.
fn shared(train: Raw, queries: Raw, gallery: Option<Raw>, name: impl Fn(u32) -> String) -> Split {
    let mut index: BTreeMap<u32, u32> = BTreeMap::new();
    for (_, labels) in [Some(&train), Some(&queries), gallery.as_ref()].into_iter().flatten() {
        labels.iter().for_each(|&label| _ = index.insert(label, 0));
    }
    index.values_mut().zip(0..).for_each(|(slot, position)| *slot = position);
    let classes: Vec<String> = index.keys().map(|&label| name(label)).collect();
    let set = |(items, labels): Raw| Dataset {
        items,
        labels: labels.iter().map(|l| index[l]).collect(),
        classes: classes.clone(),
    };
    Split { train: set(train), queries: set(queries), gallery: gallery.map(set) }
}

fn by_class(table: &Path, (items, labels): Raw, classes: &BTreeMap<u32, (String, bool)>) -> Result<Split> {
    if let Some((row, label)) = labels.iter().enumerate().find(|(_, label)| !classes.contains_key(label)) {
        return Err(Error::data(table, format!("has no class {label}, the label of item {row}")));
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

fn from_csv(train: &Path, test: &Path) -> Result<Split> {
    let ((train_texts, train_names), (test_texts, test_names)) =
        (text::read_csv(train)?, text::read_csv(test)?);
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
