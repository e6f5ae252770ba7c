//! Items to look at: a batch that became NaN, items that may be labelled wrongly.

use std::path::PathBuf;

use ndarray::ArrayView2;
use serde::Serialize;

use super::telemetry::angle;
use super::{RunFolder, raw_vectors};
use crate::data::{Dataset, Items};
use crate::{Error, Result, io};

/// An item this far (degrees) from its class's main centre is an outlier: pytorch-metric-learning's threshold.
const OUTLIER: f64 = 75.0;

#[derive(Serialize)]
struct Batch<'a> {
    what: &'a str,
    value: String,
    epoch: usize,
    batch: usize,
    items: Vec<Item<'a>>,
}

#[derive(Serialize)]
struct Item<'a> {
    row: usize,
    class: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<String>,
}

/// Writes the items of the batch that `error` happened in: their rows, classes and texts to `nonfinite.json`, vectors and
/// pixels to `nonfinite.npy`. Returns the error with the file's name.
pub(super) fn save(folder: &RunFolder, data: &Dataset, rows: &[usize], error: Error) -> Error {
    let Error::NotFinite { what, value, epoch, batch, remedy, .. } = error else { return error };
    let item = |&row: &usize| Item {
        row,
        class: data
            .labels
            .get(row)
            .and_then(|&label| data.classes.get(label as usize))
            .map_or("", String::as_str),
        text: text(&data.items, row),
        file: file(&data.items, row),
    };
    let found =
        Batch { what, value: value.to_string(), epoch, batch, items: rows.iter().map(item).collect() };
    let write = || -> Result<PathBuf> {
        let path = folder.path().join("nonfinite.json");
        let json = serde_json::to_string_pretty(&found).map_err(|e| Error::data(&path, e.to_string()))?;
        io::write_atomically(&path, (json + "\n").as_bytes())?;
        if !matches!(data.items, Items::Text(_)) {
            let vectors = raw_vectors(&data.items.select(rows))?;
            io::write_npy(&folder.path().join("nonfinite.npy"), vectors.view())?;
        }
        Ok(path)
    };
    // The divergence is the news, whether or not the batch could be written.
    Error::NotFinite { what, value, epoch, batch, remedy, saved: write().ok() }
}

fn text(items: &Items, row: usize) -> Option<&str> {
    match items {
        Items::Text(texts) => texts.get(row).map(String::as_str),
        _ => None,
    }
}

/// The file that an item is read from, if it has one of its own.
pub(super) fn file(items: &Items, row: usize) -> Option<String> {
    match items {
        Items::Files(files) => files.paths().nth(row).map(|path| path.display().to_string()),
        _ => None,
    }
}

/// A training item that lies far from its class.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Outlier {
    /// Its row among the training items.
    pub(super) row: usize,
    /// Its class, a place in the run's classes.
    pub(super) class: usize,
    /// The angle to the class's main centre in degrees.
    pub(super) angle: f64,
}

/// Items more than 75 degrees from the main centre of their class, the one of its `each` centres that most of its items are
/// nearest to (Deng et al. 2020, "Sub-center ArcFace", section 3.4); the furthest first. `vectors` and `labels` are those of
/// the training items in `rows`.
pub(super) fn outliers(
    vectors: ArrayView2<'_, f32>,
    labels: &[u32],
    rows: &[usize],
    centres: ArrayView2<'_, f32>,
    each: usize,
) -> Vec<Outlier> {
    let classes = centres.nrows().checked_div(each).unwrap_or(0);
    let mut votes = vec![vec![0u64; each]; classes];
    let angle_to =
        |item: usize, class: usize, sub: usize| angle(vectors.row(item), centres.row(class * each + sub));
    for (item, &label) in labels.iter().enumerate() {
        let class = label as usize;
        let angles = (0..each).filter_map(|sub| Some((sub, angle_to(item, class, sub)?)));
        if let Some((sub, _)) = angles.reduce(|best, next| if next.1 < best.1 { next } else { best }) {
            votes[class][sub] += 1;
        }
    }
    let main = |class: usize| {
        let votes = votes[class].iter().enumerate();
        votes.reduce(|best, next| if next.1 > best.1 { next } else { best }).map_or(0, |(sub, _)| sub)
    };
    let mains: Vec<usize> = (0..classes).map(main).collect();
    let mut found: Vec<Outlier> = labels
        .iter()
        .enumerate()
        .filter_map(|(item, &label)| {
            let class = label as usize;
            let angle = angle_to(item, class, mains[class])?;
            (angle > OUTLIER).then(|| Outlier { row: rows[item], class, angle })
        })
        .collect();
    found.sort_by(|a, b| b.angle.total_cmp(&a.angle).then(a.row.cmp(&b.row)));
    found
}

/// Writes `outliers.csv` with columns `row` (from 0, of the training items), `class`, `angle_degrees`, `file` (of an image
/// file) and `text`.
pub(super) fn write_outliers(
    folder: &RunFolder,
    data: &Dataset,
    classes: &[String],
    found: &[Outlier],
) -> Result<PathBuf> {
    let path = folder.path().join("outliers.csv");
    let mut writer = csv::Writer::from_writer(Vec::new());
    let broken = |e: csv::Error| Error::data(&path, e.to_string());
    writer.write_record(["row", "class", "angle_degrees", "file", "text"]).map_err(broken)?;
    for outlier in found {
        let (row, angle) = (outlier.row.to_string(), format!("{:.2}", outlier.angle));
        let class = classes.get(outlier.class).map_or("", String::as_str);
        let text = text(&data.items, outlier.row).unwrap_or_default();
        let file = file(&data.items, outlier.row).unwrap_or_default();
        writer.write_record([row.as_str(), class, &angle, &file, text]).map_err(broken)?;
    }
    let bytes = writer.into_inner().map_err(|e| Error::data(&path, e.to_string()))?;
    io::write_atomically(&path, &bytes)?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::arr2;

    #[test]
    fn outliers_are_far_from_the_main_centre() {
        // Class 0 has two centres; two of its items are at the first, one at the second, which is 90 degrees away.
        let centres = arr2(&[[1.0f32, 0.0], [0.0, 1.0], [-1.0, 0.0], [-1.0, 0.1]]);
        let vectors = arr2(&[[2.0f32, 0.1], [1.0, 0.0], [0.1, 3.0], [-1.0, 0.0]]);
        let found = outliers(vectors.view(), &[0, 0, 0, 1], &[10, 11, 12, 13], centres.view(), 2);
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].row, found[0].class), (12, 0));
        assert!((found[0].angle - 88.09).abs() < 0.01, "{found:?}");
    }
}
