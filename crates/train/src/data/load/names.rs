//! The classes' names where labels are numbers.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::listing::{Folder, file_name};
use crate::{Error, Result};

/// The classes' names by label.
#[derive(Default)]
pub(super) struct Names {
    /// The file that they are from.
    pub(super) path: Option<PathBuf>,
    pub(super) lines: Vec<String>,
}

impl Names {
    /// Those in `classes.txt`; none without that file.
    pub(super) fn read(folder: &Folder<'_>) -> Result<Self> {
        let Some(path) = folder.find("classes", &["classes.txt"])? else { return Ok(Self::default()) };
        let bytes = std::fs::read(&path).map_err(Error::io(&path, "reading"))?;
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf".as_slice()).unwrap_or(&bytes);
        let mut lines = Vec::new();
        let mut seen = BTreeMap::new();
        for (at, line) in bytes.split(|&byte| byte == b'\n').enumerate() {
            let number = at + 1;
            let line = std::str::from_utf8(line).map_err(|_| {
                Error::data(&path, format!("line {number}: not UTF-8; save the file as UTF-8"))
            })?;
            let line = line.trim();
            if let Some(before) = seen.insert(line.to_owned(), number).filter(|_| !line.is_empty()) {
                let detail = format!(
                    "lines {before} and {number} both say `{line}`: give each class a name of its own"
                );
                return Err(Error::data(&path, detail));
            }
            lines.push(line.to_owned());
        }
        // What follows the last line break is no line.
        if lines.last().is_some_and(String::is_empty) {
            lines.pop();
        }
        Ok(Self { path: Some(path), lines })
    }

    /// Refuses a label of the file at `path` that is past the last name.
    pub(super) fn check(&self, path: &Path, labels: &[u32]) -> Result<()> {
        let Some(names) = &self.path else { return Ok(()) };
        let count = self.lines.len();
        let beyond = labels.iter().enumerate().find(|(_, label)| **label as usize >= count);
        let Some((row, label)) = beyond else { return Ok(()) };
        let detail = format!(
            "row {row} has label {label}, and {} has {count} lines, of which line 1 names label 0: correct the label, write a \
             line for each, or remove {} to have the labels name themselves",
            names.display(),
            file_name(names)
        );
        Err(Error::data(path, detail))
    }

    /// A label's name: itself where its line is empty, or where there is no file.
    pub(super) fn of(&self, label: u32) -> Result<String> {
        match (self.lines.get(label as usize), &self.path) {
            (Some(line), _) if !line.is_empty() => Ok(line.clone()),
            (Some(_), _) | (None, None) => Ok(label.to_string()),
            // Refused before, with the label's file.
            (None, Some(path)) => Err(Error::data(path, format!("names no label {label}; add its line"))),
        }
    }
}
