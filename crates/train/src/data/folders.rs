//! Folders of images, one folder for each class.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::files::{ImageFiles, is_image, other_image};
use super::{DataOptions, Dataset, Items, Places, Split};
use crate::{Error, Result};

/// How deep images may lie below their class's folder.
const DEEPEST: usize = 8;

/// Names of the folder of training images, and of those to measure on.
const TRAIN: [&str; 2] = ["train", "training"];
const TEST: [&str; 6] = ["test", "testing", "val", "valid", "validation", "eval"];

type Classes = BTreeMap<String, Vec<PathBuf>>;
/// How many images of a kind that is not read there are of each ending.
type Others = BTreeMap<String, usize>;

/// The images of `folder`, if it holds folders of images; `None` if it holds none.
///
/// # Errors
/// [`Error::Data`] naming the file or folder.
pub(super) fn load(folder: &Path, options: &DataOptions) -> Result<Option<Split>> {
    let mut others = BTreeMap::new();
    let Some(mut split) = found(folder, options, &mut others)? else { return Ok(None) };
    split.train.items = match split.train.items {
        Items::Files(files) => Items::Files(files.beside(others)),
        items => items,
    };
    Ok(Some(split))
}

/// As [`load`]; counts the images of kinds that are not read.
fn found(folder: &Path, options: &DataOptions, others: &mut Others) -> Result<Option<Split>> {
    let named = |names: &[&str]| names.iter().map(|name| folder.join(name)).find(|path| path.is_dir());
    if let Some(train) = named(&TRAIN) {
        let Some(classes) = classes(&train, others)? else { return Ok(None) };
        if let Some(queries) = named(&super::load::QUERIES) {
            let Some(gallery) = named(&["gallery"]) else {
                let detail = format!(
                    "is a folder of queries, but there is no folder {} for them to search",
                    folder.join("gallery").display()
                );
                return Err(Error::data(&queries, detail));
            };
            if let Some(test) = named(&TEST) {
                let detail = format!(
                    "its images search each other, and those of {} the gallery; keep one of the two folders",
                    queries.display()
                );
                return Err(Error::data(&test, detail));
            }
            let [queries, gallery] = [queries, gallery].map(|part| {
                classes_or(&part, others, || {
                    Error::data(&part, "holds no folders of .png, .jpg or .jpeg images, one for each class")
                })
            });
            return parts(classes, queries?, Some(gallery?), options).map(Some);
        }
        let Some(test) = named(&TEST) else {
            let detail = "has a folder of training images, but none named test or val to measure on; add it, or move \
                          the classes' folders up to have a share of each held back (data_options.test_share)";
            return Err(Error::data(folder, detail));
        };
        let empty =
            || Error::data(&test, "holds no folders of .png, .jpg or .jpeg images, one for each class");
        let test = classes_or(&test, others, empty)?;
        return parts(classes, test, None, options).map(Some);
    }
    let Some(all) = classes(folder, others)? else { return Ok(None) };
    let (train, test) = hold_back(all, options.test_share);
    if test.is_empty() {
        let detail = "no class has the four images that it takes to hold two of them back; add images, or give \
                      folders train and test";
        return Err(Error::data(folder, detail));
    }
    parts(train, test, None, options).map(Some)
}

fn classes_or(folder: &Path, others: &mut Others, empty: impl FnOnce() -> Error) -> Result<Classes> {
    classes(folder, others)?.ok_or_else(empty)
}

/// Each subfolder's images; `None` if no subfolder holds any.
fn classes(folder: &Path, others: &mut Others) -> Result<Option<Classes>> {
    let mut found = Classes::new();
    let mut without: Option<PathBuf> = None;
    for path in entries(folder)? {
        if !path.is_dir() {
            continue;
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut images = Vec::new();
        collect(&path, 0, &mut images, others)?;
        if images.is_empty() {
            without = without.or(Some(path));
        } else {
            found.insert(name, images);
        }
    }
    match without {
        _ if found.is_empty() => Ok(None),
        // A class that silently vanished would be a surprise in the results.
        Some(path) => Err(Error::data(
            &path,
            "no .png, .jpg or .jpeg image in this class's folder; add some or remove it",
        )),
        None => Ok(Some(found)),
    }
}

/// Whether images lie in `folder` itself.
pub(super) fn holds_images(folder: &Path) -> Result<bool> {
    Ok(entries(folder)?.iter().any(|path| is_image(path)))
}

/// All images in and below `folder`, in the order of their paths.
pub(super) fn images(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut images = Vec::new();
    collect(folder, 0, &mut images, &mut Others::new())?;
    Ok(images)
}

fn collect(folder: &Path, depth: usize, images: &mut Vec<PathBuf>, others: &mut Others) -> Result<()> {
    for path in entries(folder)? {
        if path.is_dir() {
            if depth < DEEPEST {
                collect(&path, depth + 1, images, others)?;
            }
        } else if is_image(&path) {
            images.push(path);
        } else if let Some(ending) = other_image(&path) {
            *others.entry(ending).or_default() += 1;
        }
    }
    Ok(())
}

/// What a folder holds, hidden entries left out, in the order of the names.
fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let reading = || Error::io(folder, "reading the folder");
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(reading())? {
        let entry = entry.map_err(reading())?;
        if !entry.file_name().to_string_lossy().starts_with('.') {
            paths.push(entry.path());
        }
    }
    paths.sort();
    Ok(paths)
}

/// Holds back `share` of each class's images, chosen by their names.
fn hold_back(all: Classes, share: f64) -> (Classes, Classes) {
    let (mut train, mut test) = (Classes::new(), Classes::new());
    for (name, mut images) in all {
        // Those of one name, in folders below the class's, by their paths.
        images.sort();
        let is_held = held_back(&images, share, |path| {
            path.file_name().unwrap_or_default().as_encoded_bytes().to_vec()
        });
        let (mut kept, mut held) = (Vec::new(), Vec::new());
        for (path, is_held) in images.into_iter().zip(is_held) {
            if is_held { held.push(path) } else { kept.push(path) }
        }
        if !held.is_empty() {
            test.insert(name.clone(), held);
        }
        train.insert(name, kept);
    }
    (train, test)
}

/// Which items of a class are held back to be measured on: `share` of four or more, at least two; none of fewer. Those whose
/// names have the smallest checksums (of equals the first), so that the choice looks random, needs no seed, and changes little
/// when items are added.
pub(super) fn held_back<T>(items: &[T], share: f64, name: impl Fn(&T) -> Vec<u8>) -> Vec<bool> {
    let count = match items.len() {
        0..4 => 0,
        len => ((len as f64 * share).round() as usize).clamp(2, len - 2),
    };
    let sum = |item: &T| {
        let mut crc = flate2::Crc::new();
        crc.update(&name(item));
        crc.sum()
    };
    let mut order: Vec<(u32, usize)> = items.iter().map(sum).zip(0..).collect();
    order.sort_unstable();
    let mut is_held = vec![false; items.len()];
    order.into_iter().take(count).for_each(|(_, at)| is_held[at] = true);
    is_held
}

/// All parts under one class list, in the order of the names.
fn parts(train: Classes, test: Classes, gallery: Option<Classes>, options: &DataOptions) -> Result<Split> {
    let searched = gallery.iter().flat_map(BTreeMap::keys);
    let mut names: Vec<String> = train.keys().chain(test.keys()).chain(searched).cloned().collect();
    names.sort();
    names.dedup();
    let part = |classes: Classes| -> Result<Dataset> {
        let (mut paths, mut labels) = (Vec::new(), Vec::new());
        for (name, images) in classes {
            let label = names.binary_search(&name).unwrap_or_default() as u32;
            labels.extend(std::iter::repeat_n(label, images.len()));
            paths.extend(images);
        }
        let files = ImageFiles::unseen(paths, options);
        let items = if options.in_memory {
            Items::Images(files.read(&(0..files.len()).collect::<Vec<_>>())?)
        } else {
            Items::Files(files.decode_once()?)
        };
        Ok(Dataset { items, labels, classes: names.clone(), places: Places::default() })
    };
    let gallery = gallery.map(part).transpose()?;
    Ok(Split { train: part(train)?, queries: part(test)?, gallery })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_of_each_class_is_held_back_and_stays_so() {
        let class =
            |count: usize| (0..count).map(|i| PathBuf::from(format!("c/{i}.png"))).collect::<Vec<_>>();
        let all: Classes =
            [("a", 20), ("b", 4), ("c", 3)].map(|(name, n)| (name.to_owned(), class(n))).into();
        let (train, test) = hold_back(all.clone(), 0.2);
        let counts =
            |part: &Classes| part.iter().map(|(name, v)| (name.clone(), v.len())).collect::<Vec<_>>();
        assert_eq!(counts(&test), [("a".to_owned(), 4), ("b".to_owned(), 2)]);
        assert_eq!(counts(&train).iter().map(|(_, n)| n).sum::<usize>(), 16 + 2 + 3);
        // Order of listing does not matter.
        let turned = all.into_iter().map(|(name, v)| (name, v.into_iter().rev().collect())).collect();
        assert_eq!(hold_back(turned, 0.2), (train, test));
    }
}
