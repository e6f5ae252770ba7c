//! The files that a run's data were read from, so that a change is named by its file.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use crate::data::{Items, Split};
use crate::{Error, Result, io};

/// Folders inside folders that are looked into: `train/CLASS/*.png` has two.
const DEPTH: usize = 4;
/// Bytes read at a time.
const BLOCK: usize = 1 << 16;
/// Files that a message names.
const NAMED: usize = 3;

/// A file's length in bytes and the CRC-32 of its contents.
type Seen = (u64, u32);

/// The files below a folder, hidden ones left out: names relative to it.
fn list(folder: &Path, below: &Path, depth: usize, into: &mut Vec<PathBuf>) {
    // What cannot be read, the data's reader reports.
    for entry in std::fs::read_dir(folder.join(below)).into_iter().flatten().flatten() {
        let name = below.join(entry.file_name());
        if entry.file_name().to_string_lossy().starts_with('.') {
            continue;
        }
        let path = folder.join(&name);
        if path.is_file() {
            into.push(name);
        } else if depth > 1 && path.is_dir() {
            list(folder, &name, depth - 1, into);
        }
    }
}

fn look(path: &Path) -> Option<Seen> {
    let mut file = File::open(path).ok()?;
    let mut crc = flate2::Crc::new();
    let (mut block, mut length) = (vec![0; BLOCK], 0);
    loop {
        match file.read(&mut block) {
            Ok(0) => return Some((length, crc.sum())),
            Ok(count) => {
                crc.update(&block[..count]);
                length += count as u64;
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => return None,
        }
    }
}

/// All files below `folder`, in the order of their names; those in `known` are not read again.
fn scan(folder: &Path, known: &HashMap<&Path, Seen>) -> BTreeMap<String, Seen> {
    let mut names = Vec::new();
    list(folder, Path::new(""), DEPTH, &mut names);
    let seen = names.par_iter().filter_map(|name| {
        let path = folder.join(name);
        let seen = known.get(path.as_path()).copied().or_else(|| look(&path))?;
        Some((name.to_str()?.to_owned(), seen))
    });
    seen.collect::<Vec<_>>().into_iter().collect()
}

/// The files that were read as images, and what they held then.
fn seen(split: &Split) -> HashMap<&Path, Seen> {
    let parts = [Some(&split.train), Some(&split.queries), split.gallery.as_ref()];
    let mut seen = HashMap::new();
    for part in parts.into_iter().flatten() {
        if let Items::Files(files) = &part.items {
            seen.extend(files.seen());
        }
    }
    seen
}

/// Writes the files below `folder`, from which `split` was read, to `path`: CSV with columns `file`, `bytes`, `crc32`; a copy
/// of `listed`, if that is there.
pub(in crate::run) fn record(folder: &Path, listed: Option<&Path>, path: &Path, split: &Split) -> Result<()> {
    if let Some(list) = listed.and_then(|listed| std::fs::read(listed).ok()) {
        return io::write_atomically(path, &list);
    }
    let broken = |e: csv::Error| Error::data(path, e.to_string());
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(["file", "bytes", "crc32"]).map_err(broken)?;
    for (name, (bytes, sum)) in scan(folder, &seen(split)) {
        writer.write_record([name, bytes.to_string(), format!("{sum:08x}")]).map_err(broken)?;
    }
    let bytes = writer.into_inner().map_err(|e| Error::data(path, e.to_string()))?;
    io::write_atomically(path, &bytes)
}

/// Which files below `folder` are not those that `path` lists, in words; `None` where the list is missing or damaged (older
/// runs have none), or all are the same.
pub(in crate::run) fn changed(folder: &Path, path: &Path) -> Option<String> {
    let mut reader = csv::Reader::from_path(path).ok()?;
    let mut then = BTreeMap::new();
    for record in reader.records() {
        let record = record.ok()?;
        let bytes: u64 = record.get(1)?.parse().ok()?;
        then.insert(record.get(0)?.to_owned(), (bytes, u32::from_str_radix(record.get(2)?, 16).ok()?));
    }
    let now = scan(folder, &HashMap::new());
    let mut found = Vec::new();
    for (name, was) in &then {
        match now.get(name) {
            None => found.push(format!("{name} is gone")),
            Some(is) if is.0 != was.0 => {
                found.push(format!("{name} is another ({} bytes, then {})", is.0, was.0));
            }
            Some(is) if is.1 != was.1 => {
                found.push(format!("{name} is another (CRC-32 {:08x}, then {:08x})", is.1, was.1));
            }
            Some(_) => {}
        }
    }
    found.extend(now.keys().filter(|name| !then.contains_key(*name)).map(|name| format!("{name} is new")));
    let more = found.len().saturating_sub(NAMED);
    found.truncate(NAMED);
    if more > 0 {
        found.push(format!("and {more} more"));
    }
    (!found.is_empty()).then(|| found.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Dataset;

    #[test]
    fn what_changed_is_named() {
        let part = || Dataset::new(Items::Text(Vec::new()), Vec::new(), Vec::new());
        let split = Split { train: part(), queries: part(), gallery: None };
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        let list = folder.path().join("list.csv");
        std::fs::create_dir_all(data.join("train/a")).unwrap();
        let write = |name: &str, text: &str| std::fs::write(data.join(name), text).unwrap();
        write("train/a/1.png", "one");
        write("x.csv", "text, label");
        write(".hidden", "1");
        assert_eq!(changed(&data, &list), None);
        record(&data, None, &list, &split).unwrap();
        let copy = folder.path().join("copy.csv");
        record(Path::new("nowhere"), Some(&list), &copy, &split).unwrap();
        assert_eq!(std::fs::read(&copy).unwrap(), std::fs::read(&list).unwrap());
        write(".hidden", "2");
        assert_eq!(changed(&data, &list), None);
        write("train/a/1.png", "two");
        let said = changed(&data, &list).unwrap();
        assert!(said.starts_with("train/a/1.png is another (CRC-32 "), "{said}");
        write("x.csv", "more than before");
        write("y.csv", "");
        std::fs::remove_file(data.join("train/a/1.png")).unwrap();
        let said = changed(&data, &list).unwrap();
        assert_eq!(said, "train/a/1.png is gone, x.csv is another (16 bytes, then 11), y.csv is new");
        (0..3).for_each(|i| write(&format!("z{i}"), ""));
        assert!(changed(&data, &list).unwrap().ends_with("y.csv is new, and 3 more"));
        std::fs::write(&list, "file,bytes,crc32\nx.csv,many,0\n").unwrap();
        assert_eq!(changed(&data, &list), None);
    }
}
