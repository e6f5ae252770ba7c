//! Which items a query should find.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::{Error, Result};

/// Items of a class side by side: a query's relevant items are one range of positions.
pub(crate) struct ByLabel {
    /// The rows by label, then by row.
    pub(crate) order: Vec<u32>,
    /// Where each class stands.
    pub(crate) classes: BTreeMap<u32, Range<usize>>,
}

/// A query that has relevant items. There may be millions: it is small.
#[derive(Clone, Copy)]
pub(crate) struct Query {
    pub(crate) row: u32,
    pub(crate) label: u32,
    start: u32,
    end: u32,
    /// Whether it is itself an item, of the same row.
    pub(crate) alone: bool,
}

impl Query {
    /// Positions of the items of its class, itself included where it is one.
    pub(crate) fn class(&self) -> Range<usize> {
        self.start as usize..self.end as usize
    }

    /// Number of relevant items.
    pub(crate) fn relevant(&self) -> usize {
        self.class().len() - usize::from(self.alone)
    }
}

impl ByLabel {
    pub(crate) fn new(labels: &[u32]) -> Self {
        let mut order: Vec<u32> = (0..).take(labels.len()).collect();
        order.sort_by_key(|&row| labels[row as usize]);
        let mut classes = BTreeMap::new();
        for (position, &row) in order.iter().enumerate() {
            classes.entry(labels[row as usize]).or_insert(position..position).end = position + 1;
        }
        Self { order, classes }
    }

    /// The queries that have a relevant item, by label and then by row. `alone`: the queries are the items.
    pub(crate) fn queries(&self, labels: &[u32], alone: bool) -> Vec<Query> {
        let mut rows: Vec<u32> = (0..).take(labels.len()).collect();
        rows.sort_by_key(|&row| labels[row as usize]);
        rows.into_iter()
            .filter_map(|row| {
                let label = labels[row as usize];
                let class = self.classes.get(&label)?;
                // Galleries have fewer than 2^32 items, which has been checked.
                let query = Query { row, label, start: class.start as u32, end: class.end as u32, alone };
                (query.relevant() > 0).then_some(query)
            })
            .collect()
    }
}

pub(crate) fn check_labels(what: &'static str, rows: usize, labels: &[u32]) -> Result<()> {
    if labels.len() == rows {
        return Ok(());
    }
    Err(Error::Shape { what, expected: format!("[{rows}], one for each row"), got: vec![labels.len()] })
}

/// The part of `a` inside `b`; an empty range inside `b` if there is none.
pub(crate) fn overlap(a: &Range<usize>, b: &Range<usize>) -> Range<usize> {
    let start = a.start.clamp(b.start, b.end);
    start..a.end.clamp(start, b.end)
}
