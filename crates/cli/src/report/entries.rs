//! The items that a page shows: those of the projection, and others that its galleries need.

use std::collections::BTreeMap;
use std::path::Path;

use embedtune_train::Result;
use embedtune_train::data::{Dataset, Items, Split};
use serde::Serialize;

use super::sprite::{self, Picture, Sprite};
use crate::markup::shortened;

/// Longest text of an item, in characters.
const TEXT: usize = 1000;
/// Longest name of a file, in characters.
const FILE: usize = 120;

/// Which part of the data an item is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    Query,
    Gallery,
}

/// Collects items; each is held once and known by its index.
pub(super) struct Entries {
    index: BTreeMap<(Part, u32), u32>,
    order: Vec<(Part, u32)>,
    shown: usize,
    searched: Part,
}

/// The collected items, by index.
#[derive(Serialize)]
pub(super) struct Table {
    /// The items of the projection come first.
    pub(super) shown: usize,
    /// Rows in the data.
    row: Vec<u32>,
    /// Indices into the page's classes.
    class: Vec<u32>,
    /// Items of the gallery (1) or among the queries (0).
    gallery: Vec<u8>,
    text: Option<Vec<String>>,
    /// Names of the image files, without their folders.
    file: Option<Vec<String>>,
    pub(super) sprite: Option<Sprite>,
}

impl Entries {
    /// Begins with the `shown` rows of the queries, in this order.
    pub(super) fn new(split: &Split, shown: &[usize]) -> Self {
        let searched = if split.gallery.is_some() { Part::Gallery } else { Part::Query };
        let mut entries = Self { index: BTreeMap::new(), order: Vec::new(), shown: shown.len(), searched };
        for &row in shown {
            entries.add(Part::Query, row as u32);
        }
        entries
    }

    pub(super) fn query(&mut self, row: u32) -> u32 {
        self.add(Part::Query, row)
    }

    /// An item that is searched: of the gallery, or of the queries where there is none.
    pub(super) fn found(&mut self, row: u32) -> u32 {
        self.add(self.searched, row)
    }

    fn add(&mut self, part: Part, row: u32) -> u32 {
        let next = self.order.len() as u32;
        *self.index.entry((part, row)).or_insert_with(|| {
            self.order.push((part, row));
            next
        })
    }

    /// # Errors
    /// Pictures that cannot be encoded.
    pub(super) fn finish(self, split: &Split) -> Result<Table> {
        let data = |part: Part| -> &Dataset {
            split.gallery.as_ref().filter(|_| part == Part::Gallery).unwrap_or(&split.queries)
        };
        let text = |&(part, row): &(Part, u32)| match &data(part).items {
            Items::Text(texts) => texts.get(row as usize).map(|text| shortened(text, TEXT)),
            _ => None,
        };
        let label = |&(part, row): &(Part, u32)| data(part).labels.get(row as usize).copied().unwrap_or(0);
        let names = |part: Part| -> Vec<&Path> {
            match &data(part).items {
                Items::Files(files) => files.paths().collect(),
                _ => Vec::new(),
            }
        };
        let names = [names(Part::Query), names(Part::Gallery)];
        let file = |&(part, row): &(Part, u32)| names[part as usize].get(row as usize).map(|path| name(path));
        let pictures: Vec<Picture<'_>> = self
            .order
            .iter()
            .filter_map(|&(part, row)| Picture::of(&data(part).items, row as usize))
            .collect();
        Ok(Table {
            shown: self.shown,
            row: self.order.iter().map(|entry| entry.1).collect(),
            class: self.order.iter().map(label).collect(),
            gallery: self.order.iter().map(|entry| u8::from(entry.0 == Part::Gallery)).collect(),
            text: self.order.iter().map(text).collect(),
            file: self.order.iter().map(file).collect(),
            sprite: sprite::of(&pictures)?,
        })
    }
}

fn name(path: &Path) -> String {
    shortened(&path.file_name().unwrap_or_default().to_string_lossy(), FILE)
}
