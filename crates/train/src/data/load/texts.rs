//! Texts in CSV files.

use std::path::Path;

use super::listing::Measured;
use super::parts::{joined, split};
use crate::data::text::{self, Table};
use crate::data::{DataOptions, Items, Places, Split};
use crate::{Error, Result};

pub(super) fn from_csv(train: &Path, measured: &Measured, options: &DataOptions) -> Result<Split> {
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
