//! The files of a folder, told by their names.

use std::path::{Path, PathBuf};

use super::parts::{Raw, same_shape, shared};
use super::{Names, one};
use crate::data::Split;
use crate::{Error, Result};

/// How the names of idx files end: they have no extension of their own.
pub(super) const IDX: &[&str] = &["-ubyte", "-short", "-idx1", "-idx3", ".idx", ".gz"];

/// A folder's files, hidden ones left out, in the order of their names.
pub(super) struct Folder<'a> {
    pub(super) path: &'a Path,
    files: Vec<PathBuf>,
}

impl<'a> Folder<'a> {
    pub(super) fn list(path: &'a Path) -> Result<Self> {
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

    /// The file that `part` with one of `ends` at its end means: the one of exactly this name, else the only one in which
    /// both begin words (`x_train.csv` and `training.csv`, but not `constraints.csv`).
    ///
    /// # Errors
    /// [`Error::Data`] where several may be meant.
    pub(super) fn find(&self, part: &str, ends: &[&str]) -> Result<Option<PathBuf>> {
        let name_of = |path: &PathBuf| path.file_name().and_then(|name| name.to_str()).map(str::to_owned);
        let named: Vec<(&PathBuf, String)> =
            self.files.iter().filter_map(|path| Some((path, name_of(path)?))).collect();
        // `train` and `.csv`; `train` and `labels.npy`; `train` and `train.npy`.
        let exactly = |name: &str| {
            ends.iter().any(|end| match name.strip_suffix(end) {
                Some("") => end.contains(part),
                Some(before) => {
                    before == part || before.strip_suffix('_') == Some(part) && end.starts_with(letter)
                }
                None => false,
            })
        };
        let fits = |name: &str| {
            let ended = |end: &&str| {
                name.strip_suffix(end)
                    .is_some_and(|before| !end.starts_with(letter) || !before.ends_with(letter))
            };
            ends.iter().any(ended) && name.match_indices(part).any(|(at, _)| !name[..at].ends_with(letter))
        };
        let choose = |choice: &dyn Fn(&str) -> bool| -> Vec<&(&PathBuf, String)> {
            named.iter().filter(|(_, name)| choice(name)).collect()
        };
        let mut found = choose(&exactly);
        if found.is_empty() {
            found = choose(&fits);
        }
        // A packed file beside the same one unpacked is no other.
        found.dedup_by(|packed, plain| packed.1.strip_suffix(".gz") == Some(plain.1.as_str()));
        match found.as_slice() {
            [] => Ok(None),
            [(path, _)] => Ok(Some((*path).clone())),
            [(_, first), (_, second), ..] => {
                let detail = format!("has {first} and {second}: which is meant? Move the other elsewhere");
                Err(Error::data(self.path, detail))
            }
        }
    }

    /// The files to measure on that go with `train`: one whose items search each other, or queries and what they search.
    pub(super) fn measured(&self, ending: &str, train: &Path) -> Result<Measured> {
        // Labels of NumPy files lie in files whose names only begin alike.
        let named = |names: &[&str]| {
            let ends: Vec<String> = names.iter().map(|name| format!("{name}{ending}")).collect();
            self.find("", &ends.iter().map(String::as_str).collect::<Vec<_>>())
        };
        let Some(queries) = named(&QUERIES)? else {
            if let Some(gallery) = named(&["gallery"])? {
                let detail =
                    format!("has {}, but no queries{ending} to search it; add it", file_name(&gallery));
                return Err(Error::data(self.path, detail));
            }
            let ends: &[&str] = if ending == ".npy" { &["test.npy"] } else { &[ending] };
            return Ok(Measured::Test(self.need("test", ends, train)?));
        };
        let Some(gallery) = named(&["gallery"])? else {
            let detail =
                format!("has {}, but no gallery{ending} to be searched; add it", file_name(&queries));
            return Err(Error::data(self.path, detail));
        };
        if let Some(test) = named(&["test"])? {
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
    pub(super) fn need(&self, part: &str, ends: &[&str], beside: &Path) -> Result<PathBuf> {
        self.find(part, ends)?.ok_or_else(|| {
            let end = ends.first().copied().unwrap_or_default();
            let what = match end {
                _ if ends == IDX => format!("idx file with `{part}` in its name"),
                end if end.contains(part) => end.to_owned(),
                end if end.starts_with(letter) => format!("{part}_{end}"),
                end => format!("{part}{end}"),
            };
            // What trains must be measured; queries of a gallery will do.
            let or = if part == "test" && !end.contains("labels") {
                let name = file_name(beside);
                let ending = one::ENDINGS.into_iter().find(|&ending| name.ends_with(ending));
                let share = ending.map(|ending| {
                    let labels = if ending == ".npy" { " (and its labels data_labels.npy)" } else { "" };
                    format!(", or call it data{ending}{labels} to have a share of each class held back")
                });
                format!(", or files `queries` and `gallery`{}", share.unwrap_or_default())
            } else {
                String::new()
            };
            let detail = format!("has {}, but no {what} to go with it; add it{or}", file_name(beside));
            Error::data(self.path, detail)
        })
    }
}

/// Names of files (and folders) of queries.
pub(in crate::data) const QUERIES: [&str; 2] = ["queries", "query"];

fn letter(c: char) -> bool {
    c.is_alphabetic()
}

pub(super) fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().display().to_string()
}

/// What is measured on.
pub(super) enum Measured {
    /// Items that search each other.
    Test(PathBuf),
    /// Items that search others.
    Queries { queries: PathBuf, gallery: PathBuf },
}

impl Measured {
    /// The split of these files and `train`, each read by `read`.
    pub(super) fn split(
        &self,
        train: &Path,
        read: impl Fn(&Path) -> Result<Raw>,
        names: &Names,
    ) -> Result<Split> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_that_is_meant_is_found() {
        let of = |files: &[&str]| {
            let mut files: Vec<PathBuf> = files.iter().map(|name| Path::new("set").join(name)).collect();
            files.sort();
            Folder { path: Path::new("set"), files }
        };
        let found = |files: &[&str], part: &str, ends: &[&str]| -> Result<String, String> {
            let path = of(files).find(part, ends).map_err(|e| e.to_string())?;
            Ok(path.as_deref().map(file_name).unwrap_or_default())
        };
        for (files, part, ends, expected) in [
            // The name itself before longer ones, and no word that only holds it.
            (&["constraints.csv", "train.csv"][..], "train", &[".csv"][..], "train.csv"),
            (&["a_train.csv", "train.csv", "train_old.csv"], "train", &[".csv"], "train.csv"),
            (&["constraints.csv"], "train", &[".csv"], ""),
            (&["latest.csv", "test.csv"], "test", &[".csv"], "test.csv"),
            (&["latest.npy", "test.npy"], "test", &["test.npy"], "test.npy"),
            (&["latest.npy"], "test", &["test.npy"], ""),
            (&["subqueries.npy"], "", &["queries.npy"], ""),
            (&["constraints-and-x_train.csv"], "train", &[".csv"], "constraints-and-x_train.csv"),
            (&["training.csv"], "train", &[".csv"], "training.csv"),
            (&["train.npy", "train_labels.npy"], "train", &["train.npy"], "train.npy"),
            (&["train_labels.npy", "train_old_labels.npy"], "train", &["labels.npy"], "train_labels.npy"),
            (&["labels.npy", "train_labels.npy"], "train", &["labels.npy"], "train_labels.npy"),
            (&["labels.npy", "x_train_labels.npy"], "train", &["labels.npy"], "x_train_labels.npy"),
            (&["labels.npy"], "train", &["labels.npy"], ""),
            (&["a_queries.npy", "queries.npy"], "", &["queries.npy"], "queries.npy"),
            (&["x-images-idx3-ubyte.gz"], "images-idx3", IDX, "x-images-idx3-ubyte.gz"),
            (&["x-images-idx3-ubyte", "x-images-idx3-ubyte.gz"], "images-idx3", IDX, "x-images-idx3-ubyte"),
        ] {
            assert_eq!(found(files, part, ends).as_deref(), Ok(expected), "{files:?}");
        }
        let several = found(&["b_train.csv", "a_train.csv"], "train", &[".csv"]).unwrap_err();
        assert_eq!(several, "set: has a_train.csv and b_train.csv: which is meant? Move the other elsewhere");
        assert!(of(&["query.npy", "queries.npy"]).measured(".npy", Path::new("train.npy")).is_err());
        let missing = of(&["latest.csv"]).measured(".csv", Path::new("set/train.csv")).err().unwrap();
        assert_eq!(
            missing.to_string(),
            "set: has train.csv, but no test.csv to go with it; add it, or files `queries` and `gallery`, or call it data.csv to \
             have a share of each class held back"
        );
        let missing = of(&[]).need("test", &["labels.npy"], Path::new("set/test.npy")).unwrap_err();
        assert_eq!(missing.to_string(), "set: has test.npy, but no test_labels.npy to go with it; add it");
    }
}
