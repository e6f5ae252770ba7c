//! Parts of a data set that was read, and the split that they make.

use std::collections::BTreeMap;
use std::path::Path;

use super::Names;
use super::listing::file_name;
use crate::data::pairs::Joined;
use crate::data::text::Table;
use crate::data::{Dataset, Items, Places, Split};
use crate::{Error, Result};

/// Refuses vectors of another length, or items of another kind, than those trained on.
pub(super) fn same_shape((train, like): (&Path, &Items), (path, items): (&Path, &Items)) -> Result<()> {
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

pub(super) type Raw = (Items, Vec<u32>);
/// Items, their labels, and where they were read.
pub(super) type Part<L> = (Items, Vec<L>, Places);

/// Items and their labels, of which there are as many and which all have a name.
pub(super) fn labelled(
    path: &Path,
    items: Items,
    labels_path: &Path,
    labels: Vec<u32>,
    names: &Names,
) -> Result<Raw> {
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

/// [`split`] of parts whose labels are numbers with `names`.
pub(super) fn shared(train: Raw, queries: Raw, gallery: Option<Raw>, names: &Names) -> Result<Split> {
    let part = |(items, labels): Raw| (items, labels, Places::default());
    split(part(train), part(queries), gallery.map(part), |&label| names.of(label))
}

/// A split whose parts have one class list, in the order of the labels. Without a gallery texts search the training items,
/// others each other.
pub(super) fn split<L: Ord + Clone>(
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

/// Pairs of texts: what they join, over both files, is a class; each different text is an item.
pub(super) fn joined(paths: [&Path; 2], parts: [Table; 2], threshold: f64) -> Result<Split> {
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
