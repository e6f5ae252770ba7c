//! All items in one file: a share of each class is held back to be measured on.

use std::collections::BTreeMap;
use std::path::Path;

use super::Names;
use super::listing::Folder;
use super::parts::{Part, labelled, split};
use crate::data::folders::held_back;
use crate::data::parquet::{self, Labels};
use crate::data::text::{self, Table};
use crate::data::{DataOptions, Dataset, Items, Places, Split, tensors, vectors};
use crate::{Error, Result};

/// How the file's name ends after `data`.
pub(super) const ENDINGS: [&str; 5] = [".csv", ".parquet", ".npz", ".safetensors", ".npy"];

/// The split of the file `data.csv`, `.parquet`, `.npz`, `.safetensors` or `.npy`; `None` where there is none.
///
/// # Errors
/// [`Error::Data`] naming the file.
pub(super) fn load(folder: &Folder<'_>, options: &DataOptions) -> Result<Option<Split>> {
    for ending in ENDINGS {
        let ends: &[&str] = if ending == ".npy" { &["data.npy"] } else { &[ending] };
        if let Some(path) = folder.find("data", ends)? {
            let all = read(folder, &path, ending, options)?;
            return hold_back(&path, &all, options.test_share).map(Some);
        }
    }
    Ok(None)
}

fn read(folder: &Folder<'_>, path: &Path, ending: &str, options: &DataOptions) -> Result<Dataset> {
    let pairs = || {
        let detail =
            "holds pairs, which no class can be held back of; give them in two files, train and test";
        Error::data(path, detail)
    };
    let in_memory = options.in_memory;
    let (items, labels, labels_path) = match ending {
        ".csv" => match text::read_table(path)? {
            Table::Labelled(texts, names, lines) => {
                return named((Items::Text(texts), names, Places::lines(path, lines)));
            }
            Table::Pairs(..) => return Err(pairs()),
        },
        ".parquet" => {
            if parquet::read_pairs(path)?.is_some() {
                return Err(pairs());
            }
            match parquet::read(path)? {
                (items, Labels::Names(names)) => return named((items, names, Places::default())),
                (items, Labels::Numbers(labels)) => (items, labels, path.to_path_buf()),
            }
        }
        ".npz" => {
            let (items, labels) = vectors::read_npz(path)?;
            (items, labels, path.to_path_buf())
        }
        ".safetensors" => {
            let (items, labels) = tensors::open_safetensors(path, in_memory)?;
            (items, labels, path.to_path_buf())
        }
        _ => {
            let labels = folder.need("data", &["labels.npy"], path)?;
            (vectors::open_vectors(path, in_memory)?, vectors::read_labels(&labels)?, labels)
        }
    };
    let names = Names::read(folder)?;
    let (items, labels) = labelled(path, items, &labels_path, labels, &names)?;
    dataset((items, labels, Places::default()), |&label| names.of(label))
}

fn named(part: Part<String>) -> Result<Dataset> {
    dataset(part, |name| Ok(name.clone()))
}

fn dataset<L: Ord + Clone>(part: Part<L>, name: impl Fn(&L) -> Result<String>) -> Result<Dataset> {
    let none = (part.0.select(&[]), Vec::new(), Places::default());
    Ok(split(part, none, None, name)?.train)
}

/// Holds back `share` of each class, chosen by the rows.
fn hold_back(path: &Path, all: &Dataset, share: f64) -> Result<Split> {
    let mut classes: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
    all.labels.iter().enumerate().for_each(|(row, &label)| classes.entry(label).or_default().push(row));
    let (mut train, mut held) = (Vec::new(), Vec::new());
    for rows in classes.into_values() {
        let is_held = held_back(&rows, share, |row| row.to_string().into_bytes());
        for (row, is_held) in rows.into_iter().zip(is_held) {
            if is_held { held.push(row) } else { train.push(row) }
        }
    }
    if held.is_empty() {
        let detail = "no class has the four items that it takes to hold two of them back; add items, or give files train and \
                      test";
        return Err(Error::data(path, detail));
    }
    train.sort_unstable();
    held.sort_unstable();
    let (train, queries) = (all.select(&train), all.select(&held));
    // As with two files.
    let gallery = matches!(all.items, Items::Text(_)).then(|| train.clone());
    Ok(Split { train, queries, gallery })
}

#[cfg(test)]
mod tests {
    use ndarray::Array2;

    use super::*;

    #[test]
    fn a_share_of_each_class_is_held_back_in_every_kind_of_file() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let labels: Vec<u32> = (0..60).map(|row| [7, 3, 3, 9][row % 4]).chain([1, 1, 1]).collect();
        let vectors = Array2::from_shape_fn((63, 2), |(row, column)| (row * 2 + column) as f32);
        let header = "{'descr': '<u4', 'fortran_order': False, 'shape': (63,), }\n";
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend((header.len() as u16).to_le_bytes());
        bytes.extend(header.as_bytes());
        bytes.extend(labels.iter().flat_map(|label| label.to_le_bytes()));
        std::fs::write(at("data_labels.npy"), bytes).unwrap();
        crate::io::write_npy(&at("data.npy"), vectors.view()).unwrap();
        let lines: String =
            labels.iter().enumerate().map(|(row, label)| format!("text {row},{label}\n")).collect();
        std::fs::create_dir(at("texts")).unwrap();
        std::fs::write(at("texts/data.csv"), format!("text,label\n{lines}")).unwrap();
        let of = |folder: &Path| Split::load(folder).unwrap();
        let (numbers, texts) = (of(folder.path()), of(&at("texts")));
        for split in [&numbers, &texts] {
            let counts = |part: &Dataset| {
                let mut counts = BTreeMap::new();
                part.labels
                    .iter()
                    .for_each(|&l| *counts.entry(part.classes[l as usize].clone()).or_insert(0) += 1);
                counts
                    .into_iter()
                    .map(|(name, count)| format!("{name}: {count}"))
                    .collect::<Vec<_>>()
                    .join(", ")
            };
            assert_eq!(counts(&split.train), "1: 3, 3: 24, 7: 12, 9: 12");
            assert_eq!(counts(&split.queries), "3: 6, 7: 3, 9: 3");
            assert_eq!(split.train.classes, split.queries.classes);
        }
        // The same rows, each once.
        let Items::Text(train) = &texts.train.items else { panic!() };
        let Items::Text(held) = &texts.queries.items else { panic!() };
        let mut all: Vec<&String> = train.iter().chain(held).collect();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 63);
        let Items::VectorFile(file) = &numbers.queries.items else { panic!() };
        let rows: Vec<String> =
            (0..12).map(|row| format!("text {}", file.row_in_file(row).unwrap())).collect();
        assert_eq!(&rows, held);
        assert_eq!(texts.gallery.as_ref(), Some(&texts.train));
        assert_eq!(numbers.gallery, None);
        // A line is still known by its file's.
        let row: u64 = held[0].strip_prefix("text ").unwrap().parse().unwrap();
        assert_eq!(texts.queries.places.of(0), Some((&*at("texts/data.csv"), row + 2)));
    }

    #[test]
    fn what_cannot_be_split_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data.csv");
        let refused = |text: &str| {
            std::fs::write(&path, text).unwrap();
            Split::load(folder.path()).unwrap_err().to_string()
        };
        assert!(refused("text,label\na,x\nb,x\nc,y\nd,y\n").contains("no class has the four items"));
        assert!(refused("sentence1,sentence2\na,b\nc,d\n").contains("holds pairs"));
    }
}
