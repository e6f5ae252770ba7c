//! CSV files with a text and a label column, and class-split tables.

use std::collections::BTreeMap;
use std::path::Path;

use crate::{Error, Result};

const TEXT: [&str; 5] = ["text", "query", "sentence", "item", "utterance"];
const LABEL: [&str; 5] = ["label", "category", "intent", "class", "target"];

/// Texts and label names of a CSV file with a header. The columns are found by name.
///
/// # Errors
/// [`Error::Data`] with the line: a missing column, a row of another length, an empty label, bytes that are not UTF-8.
pub fn read_csv(path: &Path) -> Result<(Vec<String>, Vec<String>)> {
    let bytes = std::fs::read(path).map_err(Error::io(path, "reading"))?;
    if bytes.is_empty() {
        return Err(Error::data(
            path,
            "is empty; it needs a header with a text and a label column, and rows",
        ));
    }
    let mut reader = csv::Reader::from_reader(bytes.as_slice());
    let headers = reader.headers().map_err(|e| broken(path, &e))?.clone();
    let find = |names: &[&str], what: &str| {
        headers
            .iter()
            .position(|h| {
                names.iter().any(|n| h.trim().trim_start_matches('\u{feff}').eq_ignore_ascii_case(n))
            })
            .ok_or_else(|| {
                Error::data(
                    path,
                    format!(
                        "no {what} column: the header is {:?}; name it one of {names:?}",
                        headers.iter().collect::<Vec<_>>()
                    ),
                )
            })
    };
    let (text, label) = (find(&TEXT, "text")?, find(&LABEL, "label")?);
    let (mut texts, mut labels) = (Vec::new(), Vec::new());
    for record in reader.records() {
        let record = record.map_err(|e| broken(path, &e))?;
        let line = record.position().map_or(0, csv::Position::line);
        let field = |column: usize| record.get(column).unwrap_or_default();
        if field(label).trim().is_empty() {
            return Err(Error::data(
                path,
                format!("line {line}: the label is empty; fill it in or remove the line"),
            ));
        }
        texts.push(field(text).to_owned());
        labels.push(field(label).trim().to_owned());
    }
    if texts.is_empty() {
        return Err(Error::data(path, "it has a header and no rows; add some"));
    }
    Ok((texts, labels))
}

/// Classes of a tab-separated table with columns `class`, `split` (`background` or `evaluation`) and, for names,
/// `alphabet` and `character`: class to (name, whether it is for evaluation).
///
/// # Errors
/// [`Error::Data`] with the line.
pub fn read_class_split(path: &Path) -> Result<BTreeMap<u32, (String, bool)>> {
    let bytes = std::fs::read(path).map_err(Error::io(path, "reading"))?;
    let mut reader = csv::ReaderBuilder::new().delimiter(b'\t').from_reader(bytes.as_slice());
    let headers = reader.headers().map_err(|e| broken(path, &e))?.clone();
    let column = |name: &str| headers.iter().position(|h| h.trim() == name);
    let need = |name: &str| {
        column(name)
            .ok_or_else(|| Error::data(path, format!("no column `{name}`: the header is {headers:?}")))
    };
    let (class, split) = (need("class")?, need("split")?);
    let mut classes = BTreeMap::new();
    for record in reader.records() {
        let record = record.map_err(|e| broken(path, &e))?;
        let line = record.position().map_or(0, csv::Position::line);
        let field = |column: usize| record.get(column).unwrap_or_default().trim();
        let number: u32 = field(class).parse().map_err(|_| {
            Error::data(path, format!("line {line}: class `{}` is not a whole number", field(class)))
        })?;
        let evaluation = match field(split) {
            "background" => false,
            "evaluation" => true,
            other => {
                return Err(Error::data(
                    path,
                    format!("line {line}: split `{other}` is neither background nor evaluation"),
                ));
            }
        };
        let name: Vec<&str> = ["alphabet", "character"].iter().filter_map(|n| column(n)).map(field).collect();
        let name = if name.is_empty() { number.to_string() } else { name.join("/") };
        classes.insert(number, (name, evaluation));
    }
    Ok(classes)
}

/// A line that cannot be read, with what to do about it.
fn broken(path: &Path, error: &csv::Error) -> Error {
    let line = error.position().map_or(0, csv::Position::line);
    let detail = match error.kind() {
        csv::ErrorKind::Utf8 { err, .. } => {
            format!("line {line}, column {}: not UTF-8; save the file as UTF-8", err.field() + 1)
        }
        csv::ErrorKind::UnequalLengths { expected_len, len, .. } => format!(
            "line {line} has {len} columns and the header {expected_len}; quote values that hold the separator"
        ),
        _ => format!("line {line}: {error}"),
    };
    Error::data(path, detail)
}
