//! CSV files of texts with labels or in pairs, and class-split tables.

use std::collections::BTreeMap;
use std::path::Path;

use crate::{Error, Result};

pub(super) const TEXT: [&str; 5] = ["text", "query", "sentence", "item", "utterance"];
pub(super) const LABEL: [&str; 6] = ["label", "category", "intent", "class", "target", "finetuner_label"];

/// Left and right of a pair, and how much they belong together.
pub(super) const LEFT: [&str; 7] = ["text1", "sentence1", "item1", "query", "question", "anchor", "left"];
pub(super) const RIGHT: [&str; 7] =
    ["text2", "sentence2", "item2", "document", "answer", "positive", "right"];
pub(super) const SCORE: [&str; 3] = ["score", "similarity", "finetuner_score"];

/// What a CSV file of texts holds.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Table {
    /// Texts, the names of their labels, and their lines in the file, from 1.
    Labelled(Vec<String>, Vec<String>, Vec<u64>),
    /// Pairs of texts; with the score of each where the file has scores; and their lines, if it is a file of lines.
    Pairs(Vec<[String; 2]>, Option<Vec<f64>>, Vec<u64>),
}

/// Texts and label names of a CSV file with a header. The columns are found by name.
///
/// # Errors
/// As [`read_table`]; a file of pairs.
pub fn read_csv(path: &Path) -> Result<(Vec<String>, Vec<String>)> {
    match read_table(path)? {
        Table::Labelled(texts, labels, _) => Ok((texts, labels)),
        Table::Pairs(..) => Err(Error::data(path, "holds pairs where texts with labels are expected")),
    }
}

/// The column of texts in a CSV file without labels.
///
/// # Errors
/// [`Error::Data`] if the header names none.
pub(super) fn text_column(path: &Path, headers: &csv::StringRecord) -> Result<usize> {
    column(headers, &TEXT).ok_or_else(|| missing(path, headers, "text", &TEXT))
}

fn column(headers: &csv::StringRecord, names: &[&str]) -> Option<usize> {
    let known =
        |h: &str| names.iter().any(|n| h.trim().trim_start_matches('\u{feff}').eq_ignore_ascii_case(n));
    headers.iter().position(known)
}

fn missing(path: &Path, headers: &csv::StringRecord, what: &str, names: &[&str]) -> Error {
    let found = headers.iter().collect::<Vec<_>>();
    let detail = format!(
        "no {what} column: the header is {found:?}; name it one of {names:?}, or name the two columns of pairs text1 \
         and text2"
    );
    Error::data(path, detail)
}

/// A CSV file of texts with a header, by which its form is recognised: texts with labels (`text` or `query`,
/// `sentence`, `item`, `utterance`; `label` or `category`, `intent`, `class`, `target`), or pairs (`text1` and `text2`;
/// or `sentence`, `item`; `query` and `document`, `question` and `answer`, `anchor` and `positive`, `left` and `right`),
/// with a `score` (or `similarity`) where not every pair belongs together.
///
/// # Errors
/// [`Error::Data`] with the line: a missing column, a row of another length, an empty label or text, a score that is
/// no number, bytes that are not UTF-8.
pub fn read_table(path: &Path) -> Result<Table> {
    let bytes = std::fs::read(path).map_err(Error::io(path, "reading"))?;
    if bytes.is_empty() {
        return Err(Error::data(
            path,
            "is empty; it needs a header with a text and a label column, and rows",
        ));
    }
    closed_quotes(path, bytes.iter().copied(), b',')?;
    let mut reader = csv::Reader::from_reader(bytes.as_slice());
    let headers = reader.headers().map_err(|e| broken(path, &e))?.clone();
    let find = |names: &[&str]| column(&headers, names);
    let (text, label) = (find(&TEXT), find(&LABEL));
    if let (Some(left), Some(right), None) = (find(&LEFT), find(&RIGHT), label) {
        return pairs(path, &mut reader, [left, right], find(&SCORE));
    }
    let text = text.ok_or_else(|| missing(path, &headers, "text", &TEXT))?;
    let label = label.ok_or_else(|| missing(path, &headers, "label", &LABEL))?;
    let (mut texts, mut labels, mut lines) = (Vec::new(), Vec::new(), Vec::new());
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
        if field(text).trim().is_empty() {
            return Err(Error::data(
                path,
                format!("line {line}: the text is empty; fill it in or remove the line"),
            ));
        }
        lines.push(line);
        texts.push(field(text).to_owned());
        labels.push(field(label).trim().to_owned());
    }
    if texts.is_empty() {
        return Err(Error::data(path, "it has a header and no rows; add some"));
    }
    Ok(Table::Labelled(texts, labels, lines))
}

fn pairs(
    path: &Path,
    reader: &mut csv::Reader<&[u8]>,
    columns: [usize; 2],
    score: Option<usize>,
) -> Result<Table> {
    let (mut texts, mut scores, mut lines) = (Vec::new(), Vec::new(), Vec::new());
    for record in reader.records() {
        let record = record.map_err(|e| broken(path, &e))?;
        let line = record.position().map_or(0, csv::Position::line);
        let pair = columns.map(|column| record.get(column).unwrap_or_default().to_owned());
        if pair.iter().any(|text| text.trim().is_empty()) {
            let detail = format!("line {line}: a text of the pair is empty; fill it in or remove the line");
            return Err(Error::data(path, detail));
        }
        if let Some(column) = score {
            let text = record.get(column).unwrap_or_default().trim();
            let number = text.parse::<f64>().ok().filter(|score| score.is_finite());
            scores.push(number.ok_or_else(|| {
                Error::data(
                    path,
                    format!("line {line}: the score `{text}` is no number; write one, e.g. 0.8"),
                )
            })?);
        }
        lines.push(line);
        texts.push(pair);
    }
    if texts.is_empty() {
        return Err(Error::data(path, "it has a header and no rows; add some"));
    }
    Ok(Table::Pairs(texts, score.map(|_| scores), lines))
}

/// Classes of a tab-separated table with columns `class`, `split` (`background` or `evaluation`) and, for names,
/// `alphabet` and `character`: class to (name, whether it is for evaluation).
///
/// # Errors
/// [`Error::Data`] with the line.
pub fn read_class_split(path: &Path) -> Result<BTreeMap<u32, (String, bool)>> {
    let bytes = std::fs::read(path).map_err(Error::io(path, "reading"))?;
    closed_quotes(path, bytes.iter().copied(), b'\t')?;
    let mut reader = csv::ReaderBuilder::new().delimiter(b'\t').from_reader(bytes.as_slice());
    let headers = reader.headers().map_err(|e| broken(path, &e))?.clone();
    let column = |name: &str| headers.iter().position(|h| h.trim() == name);
    let need = |name: &str| {
        column(name).ok_or_else(|| {
            let found = headers.iter().collect::<Vec<_>>();
            Error::data(
                path,
                format!("no column `{name}`: the header is {found:?}; add it, or correct its name"),
            )
        })
    };
    let (class, split) = (need("class")?, need("split")?);
    let mut classes = BTreeMap::new();
    for record in reader.records() {
        let record = record.map_err(|e| broken(path, &e))?;
        let line = record.position().map_or(0, csv::Position::line);
        let field = |column: usize| record.get(column).unwrap_or_default().trim();
        let number: u32 = field(class).parse().map_err(|_| {
            Error::data(
                path,
                format!(
                    "line {line}: class `{}` is not a whole number: write the label that its items have",
                    field(class)
                ),
            )
        })?;
        let evaluation = match field(split) {
            "background" => false,
            "evaluation" => true,
            other => {
                return Err(Error::data(
                    path,
                    format!(
                        "line {line}: split `{other}` is neither background nor evaluation: write one of these"
                    ),
                ));
            }
        };
        let name: Vec<&str> = ["alphabet", "character"].iter().filter_map(|n| column(n)).map(field).collect();
        let name = if name.is_empty() { number.to_string() } else { name.join("/") };
        if let Some((_, before)) = classes.insert(number, (name, evaluation))
            && before != evaluation
        {
            let detail = format!(
                "line {line}: class {number} stands for training and for evaluation; keep one of its lines"
            );
            return Err(Error::data(path, detail));
        }
    }
    Ok(classes)
}

/// Refuses a quote that is never closed: everything behind it would be one value.
pub(super) fn closed_quotes(path: &Path, bytes: impl Iterator<Item = u8>, separator: u8) -> Result<()> {
    let (mut line, mut begins, mut open) = (1u64, true, None);
    let mut rest = bytes.peekable();
    while let Some(byte) = rest.next() {
        line += u64::from(byte == b'\n');
        match open {
            Some(_) if byte != b'"' => {}
            Some(_) if rest.peek() == Some(&b'"') => drop(rest.next()),
            Some(_) => (open, begins) = (None, false),
            None if byte == b'"' && begins => open = Some(line),
            None => begins = byte == separator || byte == b'\n' || byte == b'\r',
        }
    }
    match open {
        None => Ok(()),
        Some(line) => {
            let detail = format!(
                "line {line}: the quote that opens there is never closed; close it, or double it if it is text"
            );
            Err(Error::data(path, detail))
        }
    }
}

/// A line that cannot be read, with what to do about it.
pub(super) fn broken(path: &Path, error: &csv::Error) -> Error {
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
