//! Where data come from, as a run remembers it.

use std::path::{Path, PathBuf};

use embedtune_train::data::{DataOptions, Glyphs, Split};
use embedtune_train::{Error, Result};

const BUILT_IN: &str = "built-in glyphs, seed ";
const LIMITED: (&str, &str, &str) = ("up to ", " training and ", " evaluation items of ");
const ALL: &str = "all";

/// Where the items are.
#[derive(Debug, Clone, PartialEq)]
enum Place {
    Folder(PathBuf),
    Glyphs { seed: u64 },
}

/// A folder, or the built-in data; all of it or a part.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Source {
    place: Place,
    /// Most items to train on and to measure on.
    limits: [Option<usize>; 2],
}

impl Source {
    pub(crate) fn new(folder: Option<&Path>, seed: u64) -> Result<Self> {
        let place = match folder {
            None => Place::Glyphs { seed },
            // Absolute, so that a run can be continued from another folder.
            Some(folder) => Place::Folder(folder.canonicalize().map_err(Error::io(folder, "opening"))?),
        };
        Ok(Self { place, limits: [None; 2] })
    }

    /// At most so many items, evenly from all classes.
    pub(crate) fn limited(self, train: Option<usize>, test: Option<usize>) -> Self {
        Self { limits: [train, test], ..self }
    }

    /// The folder of the files.
    pub(crate) fn folder(&self) -> Option<&Path> {
        match &self.place {
            Place::Folder(folder) => Some(folder),
            Place::Glyphs { .. } => None,
        }
    }

    pub(crate) fn is_built_in(&self) -> bool {
        matches!(self.place, Place::Glyphs { .. })
    }

    /// From what [`describe`](Self::describe) wrote.
    pub(crate) fn recall(text: &str) -> Result<Self> {
        let (limits, place) = match text.strip_prefix(LIMITED.0).and_then(parse_limits) {
            Some((limits, place)) => (limits, place),
            None => ([None; 2], text),
        };
        let place = match place.strip_prefix(BUILT_IN) {
            None => Place::Folder(PathBuf::from(place)),
            Some(seed) => Place::Glyphs {
                seed: seed.parse().map_err(|_| {
                    Error::option("data.source", text, "no seed that this program knows; give --data")
                })?,
            },
        };
        Ok(Self { place, limits })
    }

    pub(crate) fn describe(&self) -> String {
        let place = match &self.place {
            Place::Folder(folder) => folder.display().to_string(),
            Place::Glyphs { seed } => format!("{BUILT_IN}{seed}"),
        };
        if self.limits == [None; 2] {
            return place;
        }
        let [train, test] = self.limits.map(|limit| limit.map_or(ALL.to_owned(), |items| items.to_string()));
        format!("{}{train}{}{test}{}{place}", LIMITED.0, LIMITED.1, LIMITED.2)
    }

    pub(crate) fn load(&self, options: &DataOptions) -> Result<Split> {
        let mut split = match &self.place {
            Place::Folder(folder) => Split::load_with(folder, options)?,
            Place::Glyphs { seed } => Glyphs { seed: *seed, ..Glyphs::default() }.split(),
        };
        let [train, test] = self.limits;
        if let Some(items) = train {
            let rows = split.train.balanced(items);
            split.train = split.train.select(&rows);
            // What is searched is limited as what is trained on: of text they are the same items.
            split.gallery = split.gallery.map(|gallery| gallery.select(&gallery.balanced(items)));
        }
        if let Some(items) = test {
            split.queries = split.queries.select(&split.queries.balanced(items));
        }
        Ok(split)
    }
}

/// The limits and the rest of the text after them.
fn parse_limits(text: &str) -> Option<([Option<usize>; 2], &str)> {
    let (train, rest) = text.split_once(LIMITED.1)?;
    let (test, place) = rest.split_once(LIMITED.2)?;
    let limit = |word: &str| if word == ALL { Some(None) } else { word.parse().ok().map(Some) };
    Some(([limit(train)?, limit(test)?], place))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_recalled_as_it_was_described() {
        for place in [Place::Glyphs { seed: 7 }, Place::Folder("/some/up to folder".into())] {
            let source = Source { place, limits: [None; 2] };
            for source in
                [source.clone(), source.clone().limited(Some(50), None), source.limited(None, Some(9))]
            {
                assert_eq!(Source::recall(&source.describe()).unwrap(), source);
            }
        }
        assert!(Source::recall("built-in glyphs, seed x").is_err());
    }

    #[test]
    fn limits_take_evenly_from_all_classes() {
        let source = Source::new(None, 0).unwrap().limited(Some(200), Some(100));
        let split = source.load(&DataOptions::default()).unwrap();
        assert_eq!((split.train.labels.len(), split.queries.labels.len()), (200, 100));
        assert!(
            (0..100).all(|class| split.train.labels.iter().filter(|&&label| label == class).count() == 2)
        );
    }
}
