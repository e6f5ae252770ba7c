//! Folders of idx images: MNIST's layout, and images with a table that says which classes train.

use std::collections::BTreeMap;
use std::path::Path;

use super::Names;
use super::listing::{Folder, IDX};
use super::parts::{Raw, labelled, shared};
use crate::data::{Dataset, Items, Places, Split, idx, text};
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

pub(super) fn mnist(folder: &Folder<'_>, images: &Path) -> Result<Split> {
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

fn label_checksum(labels: &[u32]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(&labels.iter().map(|&label| label as u8).collect::<Vec<u8>>());
    crc.sum()
}

fn labelled_images(images: &Path, labels: &Path, names: &Names) -> Result<Raw> {
    labelled(images, Items::Images(idx::read_images(images)?), labels, idx::read_labels(labels)?, names)
}

/// The folder of `table`, which says which classes train and which are measured on.
pub(super) fn by_table(folder: &Folder<'_>, table: &Path) -> Result<Split> {
    let images = folder.need("images-idx3", IDX, table)?;
    let labels = folder.need("labels-idx1", IDX, table)?;
    let all = labelled_images(&images, &labels, &Names::default())?;
    by_class(table, all, &text::read_class_split(table)?)
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
