//! Where data come from, as a run remembers it.

use std::path::{Path, PathBuf};

use embedtune_train::data::{Glyphs, Split};
use embedtune_train::{Error, Result};

const BUILT_IN: &str = "built-in glyphs, seed ";

/// A folder, or the built-in data.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Source {
    Folder(PathBuf),
    Glyphs { seed: u64 },
}

impl Source {
    pub(crate) fn new(folder: Option<&Path>, seed: u64) -> Result<Self> {
        let Some(folder) = folder else { return Ok(Self::Glyphs { seed }) };
        // Absolute, so that a run can be continued from another folder.
        Ok(Self::Folder(folder.canonicalize().map_err(Error::io(folder, "opening"))?))
    }

    /// From what [`describe`](Self::describe) wrote.
    pub(crate) fn recall(text: &str) -> Result<Self> {
        match text.strip_prefix(BUILT_IN) {
            None => Ok(Self::Folder(PathBuf::from(text))),
            Some(seed) => seed.parse().map(|seed| Self::Glyphs { seed }).map_err(|_| {
                Error::option("data.source", text, "no seed that this program knows; give --data")
            }),
        }
    }

    pub(crate) fn describe(&self) -> String {
        match self {
            Self::Folder(folder) => folder.display().to_string(),
            Self::Glyphs { seed } => format!("{BUILT_IN}{seed}"),
        }
    }

    pub(crate) fn load(&self) -> Result<Split> {
        match self {
            Self::Folder(folder) => Split::load(folder),
            Self::Glyphs { seed } => Ok(Glyphs { seed: *seed, ..Glyphs::default() }.split()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_recalled_as_it_was_described() {
        for source in [Source::Glyphs { seed: 7 }, Source::Folder("/some/folder".into())] {
            assert_eq!(Source::recall(&source.describe()).unwrap(), source);
        }
        assert!(Source::recall("built-in glyphs, seed x").is_err());
    }
}
