//! Items to look at: a batch that became NaN, items that may be labelled wrongly.

use std::path::{Path, PathBuf};

use ndarray::ArrayView2;
use serde::Serialize;

use super::telemetry::angle;
use crate::data::{Dataset, Items};
use crate::run::{RunFolder, raw_vectors};
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
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<u64>,
}

/// Writes the items of the batch that `error` happened in: their rows, classes and texts to `nonfinite.json`, vectors and
/// pixels to `nonfinite.npy`. Returns the error with the file's name.
pub(in crate::run) fn save(folder: &RunFolder, data: &Dataset, rows: &[usize], error: Error) -> Error {
    let Error::NotFinite { what, value, epoch, batch, remedy, .. } = error else { return error };
    let item = |&row: &usize| {
        let (file, line) = place(data, row);
        let class = data.labels.get(row).and_then(|&label| data.classes.get(label as usize));
        Item { row, class: class.map_or("", String::as_str), text: text(&data.items, row), file, line }
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

/// The file that an item is read from and, in a text file, its line.
fn place(data: &Dataset, row: usize) -> (Option<String>, Option<u64>) {
    let shown = |path: &Path| path.display().to_string();
    match (&data.items, data.places.of(row)) {
        (Items::Files(files), _) => (files.paths().nth(row).map(shown), None),
        (Items::VectorFile(file), _) => (Some(shown(file.path())), None),
        (_, Some((file, line))) => (Some(shown(file)), Some(line)),
        (_, None) => (None, None),
    }
}

/// Where an item is, in words.
pub(in crate::run) fn whereabouts(data: &Dataset, row: usize) -> String {
    match (&data.items, place(data, row)) {
        (Items::Files(_), (Some(file), _)) => file,
        (_, (Some(file), Some(line))) => format!("{file}, line {line}"),
        (_, (Some(file), None)) => format!("item {row} ({file})"),
        (_, (None, _)) => format!("item {row}"),
    }
}

/// A training item that lies far from its class.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::run) struct Outlier {
    /// Its row among the training items.
    pub(in crate::run) row: usize,
    /// Its class, a place in the run's classes.
    pub(in crate::run) class: usize,
    /// The angle to the class's main centre in degrees.
    pub(in crate::run) angle: f64,
}

/// Items more than 75 degrees from the main centre of their class, the one of its `each` centres that most of its items are
/// nearest to (Deng et al. 2020, "Sub-center ArcFace", section 3.4); the furthest first. `vectors` and `labels` are those of
/// the training items in `rows`.
pub(in crate::run) fn outliers(
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

/// Writes `outliers.csv` with columns `row` (from 0, of the training items), `class`, `angle_degrees`, `file` (that the item
/// is read from), `line` (in a text file, from 1) and `text`.
pub(in crate::run) fn write_outliers(
    folder: &RunFolder,
    data: &Dataset,
    classes: &[String],
    found: &[Outlier],
) -> Result<PathBuf> {
    let path = folder.path().join("outliers.csv");
    let mut writer = csv::Writer::from_writer(Vec::new());
    let broken = |e: csv::Error| Error::data(&path, e.to_string());
    writer.write_record(["row", "class", "angle_degrees", "file", "line", "text"]).map_err(broken)?;
    for outlier in found {
        let (row, angle) = (outlier.row.to_string(), format!("{:.2}", outlier.angle));
        let class = classes.get(outlier.class).map_or("", String::as_str);
        let text = text(&data.items, outlier.row).unwrap_or_default();
        let (file, line) = place(data, outlier.row);
        let (file, line) = (file.unwrap_or_default(), line.map_or_else(String::new, |line| line.to_string()));
        writer.write_record([row.as_str(), class, &angle, &file, &line, text]).map_err(broken)?;
    }
    let bytes = writer.into_inner().map_err(|e| Error::data(&path, e.to_string()))?;
    io::write_atomically(&path, &bytes)?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(feature = "images")]
    use crate::data::ImageFiles;
    use crate::data::{Places, Split};
    use ndarray::arr2;

    #[cfg(feature = "images")]
    fn one_pixel(path: &Path) {
        let mut encoder = png::Encoder::new(std::fs::File::create(path).unwrap(), 1, 1);
        encoder.set_color(png::ColorType::Grayscale);
        encoder.write_header().unwrap().write_image_data(&[7]).unwrap();
    }

    /// The columns `file` and `line` of what is written for the items in rows 2 and 0.
    fn listed(data: &Dataset) -> Vec<[String; 2]> {
        let folder = tempfile::tempdir().unwrap();
        let found = [2, 0].map(|row| Outlier { row, class: 0, angle: 80.0 });
        let path = write_outliers(&RunFolder::new(folder.path()), data, &data.classes, &found).unwrap();
        let mut reader = csv::Reader::from_path(path).unwrap();
        let rows = reader.records().map(|record| {
            let record = record.unwrap();
            [record[3].to_owned(), record[4].to_owned()]
        });
        rows.collect()
    }

    #[test]
    fn outliers_are_listed_with_their_files_and_lines() {
        let folder = tempfile::tempdir().unwrap();
        // A text over two lines: what follows it is further down than its row.
        std::fs::write(folder.path().join("train.csv"), "text,label\n\"a\nb\",x\nc,x\nd,y\n").unwrap();
        std::fs::write(folder.path().join("test.csv"), "text,label\na,x\nc,x\n").unwrap();
        let split = Split::load(folder.path()).unwrap();
        let csv = folder.path().join("train.csv").display().to_string();
        assert_eq!(listed(&split.train), [[csv.clone(), "5".into()], [csv.clone(), "2".into()]]);
        assert_eq!(whereabouts(&split.train, 2), format!("{csv}, line 5"));
        assert_eq!(split.train.select(&[2]).places.of(0).map(|place| place.1), Some(5));
        // Vectors in memory come from nowhere.
        let plain = |items| Dataset::new(items, vec![0; 3], vec!["x".into()]);
        let vectors = plain(Items::Vectors(ndarray::Array2::zeros((3, 1))));
        assert_eq!(listed(&vectors), [[String::new(), String::new()], [String::new(), String::new()]]);
        assert_eq!(whereabouts(&vectors, 1), "item 1");
        assert_eq!(Places::default().of(0), None);
        #[cfg(feature = "images")]
        {
            let names: Vec<_> = ["a.png", "b.png", "c.png"].map(|name| folder.path().join(name)).to_vec();
            names.iter().for_each(|name| one_pixel(name));
            let files = ImageFiles::new(names.clone(), &crate::data::DataOptions::default()).unwrap();
            let shown = |at: usize| [names[at].display().to_string(), String::new()];
            assert_eq!(listed(&plain(Items::Files(files))), [shown(2), shown(0)]);
        }
    }

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
