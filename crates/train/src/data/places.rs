//! Where the items of a data set were read.

use std::path::Path;
use std::sync::Arc;

/// The file that a data set's items were read from and the line of each, for items that are lines of a text file; unknown
/// for others, and for data that were made in memory.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Places {
    file: Option<Arc<Path>>,
    lines: Vec<u64>,
}

impl Places {
    /// Lines of `file`, from 1, one for each item.
    pub fn lines(file: &Path, lines: Vec<u64>) -> Self {
        Self { file: Some(Arc::from(file)), lines }
    }

    /// The file and the line of an item, where they are known.
    pub fn of(&self, row: usize) -> Option<(&Path, u64)> {
        Some((self.file.as_deref()?, *self.lines.get(row)?))
    }

    /// Those of the items in `rows` that exist, in that order.
    #[must_use]
    pub(super) fn select(&self, rows: &[usize]) -> Self {
        let lines = rows.iter().filter_map(|&row| self.lines.get(row).copied()).collect();
        Self { file: self.file.clone(), lines }
    }
}
