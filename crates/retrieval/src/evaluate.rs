//! Measuring retrieval without a list of neighbours.

use std::collections::BTreeMap;
use std::ops::Range;

use ndarray::ArrayView2;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::metrics::{Discounts, Metrics, QueryMetrics};
use crate::ranks::Ranks;
use crate::tiles::{Metric, QUERY_BLOCK, TILE, Tiles, key};
use crate::{Error, Result};

/// What [`evaluate`] measures.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EvaluateOptions {
    /// What nearest means; default cosine.
    pub metric: Metric,
    /// The k of Recall@k beside 1, each at least 1; default 5 and 10.
    pub recall_at: Vec<usize>,
}

impl Default for EvaluateOptions {
    fn default() -> Self {
        Self { metric: Metric::Cosine, recall_at: vec![5, 10] }
    }
}

/// Ranks the whole gallery for every query and measures where the items of its class stand.
///
/// `queries` is `[queries, dim]` with one label each. `gallery` is what is searched, `[items, dim]` with labels of the
/// same classes, or `None` for the queries among themselves, each without itself. Equal scores rank by index.
///
/// The relevant items' scores are computed first; the others then stream past in blocks and only their number above
/// each relevant item is kept. Ranks are exact at any depth, and memory is the gallery once more and, for each thread,
/// a block of queries times their relevant items.
///
/// # Errors
/// Shapes that do not fit, values that are not finite (with the row), a `recall_at` of 0, and
/// [`Error::NoMatches`] if no query has a relevant item.
pub fn evaluate(
    queries: ArrayView2<'_, f32>,
    labels: &[u32],
    gallery: Option<(ArrayView2<'_, f32>, &[u32])>,
    options: &EvaluateOptions,
) -> Result<Metrics> {
    if options.recall_at.contains(&0) {
        return Err(Error::Parameter {
            name: "recall_at",
            value: "0".to_owned(),
            remedy: "k counts neighbours from 1",
        });
    }
    let alone = gallery.is_none();
    let (items, item_labels) = gallery.unwrap_or((queries, labels));
    check_labels("labels of the queries", queries.nrows(), labels)?;
    check_labels("labels of the gallery", items.nrows(), item_labels)?;
    // Items of a class side by side: a query's relevant items are then one range.
    let order = by_label(item_labels);
    let tiles = Tiles::new(items, Some(&order), options.metric)?;
    tiles.check(queries)?;
    let classes = ranges(&order, item_labels);
    let own = usize::from(alone);
    let ranked: Vec<Query> = by_label(labels)
        .into_iter()
        .filter_map(|row| {
            let relevant = classes.get(&labels[row as usize])?.clone();
            (relevant.len() > own).then_some(Query { row, relevant, own: alone.then_some(row) })
        })
        .collect();
    if ranked.is_empty() {
        return Err(Error::NoMatches { queries: queries.nrows(), items: items.nrows() });
    }
    let discounts = Discounts::new(items.nrows());
    let blocks: Vec<Vec<QueryMetrics>> = ranked
        .par_chunks(QUERY_BLOCK)
        .map(|block| measure(&tiles, &order, queries, block, &discounts))
        .collect::<Result<_>>()?;
    let each: Vec<QueryMetrics> = blocks.into_iter().flatten().collect();
    Ok(Metrics::new(&each, &options.recall_at, items.nrows(), queries.nrows(), classes.len()))
}

/// A query with its relevant items: positions in the ordered gallery.
struct Query {
    row: u32,
    relevant: Range<usize>,
    /// The gallery row that is the query itself.
    own: Option<u32>,
}

fn measure(
    tiles: &Tiles,
    order: &[u32],
    queries: ArrayView2<'_, f32>,
    block: &[Query],
    discounts: &Discounts,
) -> Result<Vec<QueryMetrics>> {
    let vectors = tiles.block(queries, block.iter().map(|query| query.row as usize));
    let mut scores = vec![0.0f32; QUERY_BLOCK * TILE];
    let mut keys: Vec<Vec<u64>> =
        block.iter().map(|query| Vec::with_capacity(query.relevant.len())).collect();
    for tile in 0..tiles.count() {
        let range = tiles.range(tile);
        if block.iter().all(|query| overlap(&query.relevant, &range).is_empty()) {
            continue;
        }
        tiles.scores(&vectors, tile, &mut scores)?;
        for ((query, keys), scores) in block.iter().zip(&mut keys).zip(scores.chunks_exact(TILE)) {
            for position in overlap(&query.relevant, &range) {
                if query.own != Some(order[position]) {
                    keys.push(key(scores[position - range.start], order[position]));
                }
            }
        }
    }
    let mut ranks: Vec<Ranks> = keys.into_iter().map(Ranks::new).collect();
    for tile in 0..tiles.count() {
        let range = tiles.range(tile);
        tiles.scores(&vectors, tile, &mut scores)?;
        for ((query, ranks), scores) in block.iter().zip(&mut ranks).zip(scores.chunks_exact(TILE)) {
            let relevant = overlap(&query.relevant, &range);
            for others in [range.start..relevant.start, relevant.end..range.end] {
                let columns = others.start - range.start..others.end - range.start;
                ranks.count(&scores[columns], &order[others]);
            }
        }
    }
    let metrics = |(query, ranks): (&Query, &Ranks)| {
        let relevant = query.relevant.len() - usize::from(query.own.is_some());
        QueryMetrics::new(ranks.ranks(), relevant, discounts)
    };
    Ok(block.iter().zip(&ranks).map(metrics).collect())
}

/// The part of `a` inside `b`; an empty range inside `b` if there is none.
fn overlap(a: &Range<usize>, b: &Range<usize>) -> Range<usize> {
    let start = a.start.clamp(b.start, b.end);
    start..a.end.clamp(start, b.end)
}

fn check_labels(what: &'static str, rows: usize, labels: &[u32]) -> Result<()> {
    if labels.len() == rows {
        return Ok(());
    }
    Err(Error::Shape { what, expected: format!("[{rows}], one for each row"), got: vec![labels.len()] })
}

/// The rows by label, then by row.
fn by_label(labels: &[u32]) -> Vec<u32> {
    let mut order: Vec<u32> = (0..).take(labels.len()).collect();
    order.sort_by_key(|&row| labels[row as usize]);
    order
}

/// Where each class stands in an order by label.
fn ranges(order: &[u32], labels: &[u32]) -> BTreeMap<u32, Range<usize>> {
    let mut ranges = BTreeMap::new();
    for (position, &row) in order.iter().enumerate() {
        ranges.entry(labels[row as usize]).or_insert(position..position).end = position + 1;
    }
    ranges
}
