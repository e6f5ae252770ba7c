//! The items that a page shows: those of the projection, and others that its galleries need.

use std::collections::BTreeMap;

use embedtune_train::Result;
use embedtune_train::data::{Dataset, Items, Split};
use serde::Serialize;

use super::sprite::{self, Sprite};
use crate::markup::shortened;

/// Longest text of an item, in characters.
const TEXT: usize = 1000;

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
        let images: Vec<_> = self
            .order
            .iter()
            .filter_map(|&(part, row)| match &data(part).items {
                Items::Images(images) => Some((images, row as usize)),
                _ => None,
            })
            .collect();
        Ok(Table {
            shown: self.shown,
            row: self.order.iter().map(|entry| entry.1).collect(),
            class: self.order.iter().map(label).collect(),
            gallery: self.order.iter().map(|entry| u8::from(entry.0 == Part::Gallery)).collect(),
            text: self.order.iter().map(text).collect(),
            sprite: sprite::of(&images)?,
        })
    }
}
