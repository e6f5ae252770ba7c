//! Parquet files: vectors, sequences or texts.

use std::path::Path;

use super::Names;
use super::listing::{Folder, Measured, file_name};
use super::parts::{joined, labelled, same_shape, shared, split};
use crate::data::parquet::{self, Labels};
use crate::data::{DataOptions, Places, Split};
use crate::{Error, Result};

pub(super) fn from_parquet(folder: &Folder<'_>, train: &Path, options: &DataOptions) -> Result<Split> {
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
