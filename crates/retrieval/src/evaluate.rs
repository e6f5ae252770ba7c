//! Measuring retrieval without a list of neighbours.

use std::ops::Range;

use ndarray::ArrayView2;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::frame::{Frame, Metric, searched};
use crate::keys::key;
use crate::metrics::{ClassMetrics, Metrics};
use crate::panels::{Gallery, QUERY_BLOCK, Queries, Segment, gather, lay_out, whole_panels};
use crate::product::{PANEL, scan};
use crate::progress::Progress;
use crate::ranks::Ranks;
use crate::relevant::{ByLabel, Query, check_labels, overlap};
use crate::rows::Rows;
use crate::search::pairs;
use crate::table::{Discounts, Measure, Table};
use crate::{Error, Result};

/// What [`evaluate`] measures.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EvaluateOptions {
    /// What nearest means; default cosine.
    pub metric: Metric,
    /// The k of Recall@k and of all other values at k, beside 1, each at least 1; default 5 and 10.
    pub recall_at: Vec<usize>,
}

impl Default for EvaluateOptions {
    fn default() -> Self {
        Self { metric: Metric::Cosine, recall_at: vec![5, 10] }
    }
}

/// Bytes that the result and the relevant items' ranks of one group of queries may hold together,
const BYTES: usize = 96 << 20;
/// and those that the ranks may hold in any case.
const LEAST_RELEVANT_BYTES: usize = 32 << 20;
/// Blocks that a group is cut into at least, so that all threads have work.
const LEAST_BLOCKS: usize = 16;
/// Bytes of the vectors that are laid out together where relevant items are scored, and how many positions that are at
/// most.
const GATHERED: (usize, usize) = (16 << 20, 16 * 1024);
/// Queries that count together, and panels that they see before they do: a query's ranks are then looked up 1,024
/// times on end, and the panels stay in the second-level cache.
const COUNTED: (usize, usize) = (6, 16);

/// Ranks the whole gallery for every query and measures where the items of its class stand: [`Evaluation::new`] for
/// arrays, and its means.
///
/// # Errors
/// As [`Evaluation::new`].
pub fn evaluate(
    queries: ArrayView2<'_, f32>,
    labels: &[u32],
    gallery: Option<(ArrayView2<'_, f32>, &[u32])>,
    options: &EvaluateOptions,
) -> Result<Metrics> {
    let gallery = gallery.as_ref().map(|(items, labels)| (items as &dyn Rows, *labels));
    Ok(Evaluation::new(&queries, labels, gallery, options)?.metrics())
}

/// What each query found.
#[derive(Debug, Clone, PartialEq)]
pub struct Evaluation {
    table: Table,
    items: usize,
    queries: usize,
    classes: usize,
}

impl Evaluation {
    /// Ranks the whole gallery for every query and measures where the items of its class stand.
    ///
    /// `queries` is `[queries, dim]` with one label each. `gallery` is what is searched, `[items, dim]` with labels of
    /// the same classes, or `None` for the queries among themselves, each without itself. Equal scores rank by index.
    ///
    /// The relevant items' scores are computed first; then all items stream past in blocks and only their number
    /// above each relevant item is kept. Ranks are exact at any depth. Memory beyond the inputs is below 200 MB and
    /// 2 MB a thread up to a million items and queries of up to 65,536 values, vectors not counted (longer vectors take
    /// twice 64 items' memory instead of twice 16 MiB): the gallery may be a file that is larger than memory. It is
    /// read once to be checked, once for each group of queries (as many as have 2 to 5 million relevant items
    /// together), and by the rows of each class.
    ///
    /// # Errors
    /// Shapes that do not fit, values that are not finite (with the row), a `recall_at` of 0,
    /// [`Error::NoMatches`] if no query has a relevant item, and what reading fails with.
    pub fn new(
        queries: &dyn Rows,
        labels: &[u32],
        gallery: Option<(&dyn Rows, &[u32])>,
        options: &EvaluateOptions,
    ) -> Result<Self> {
        Self::watched(queries, labels, gallery, options, &())
    }

    /// [`new`](Self::new) that tells how far it has come. An item of the query's class is compared twice.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn watched(
        queries: &dyn Rows,
        labels: &[u32],
        gallery: Option<(&dyn Rows, &[u32])>,
        options: &EvaluateOptions,
        progress: &dyn Progress,
    ) -> Result<Self> {
        if options.recall_at.contains(&0) {
            return Err(Error::Parameter {
                name: "recall_at",
                value: "0".to_owned(),
                remedy: "k counts neighbours from 1",
            });
        }
        let alone = gallery.is_none();
        let (items, item_labels) = gallery.unwrap_or((queries, labels));
        check_labels("labels of the queries", queries.shape().0, labels)?;
        check_labels("labels of the gallery", items.shape().0, item_labels)?;
        let frame = Frame::new(searched(alone), items, options.metric)?;
        if !alone {
            frame.check(queries)?;
        }
        let by_label = ByLabel::new(item_labels);
        let ranked = by_label.queries(labels, alone);
        let all = Self {
            table: Table::new(&options.recall_at),
            items: frame.len,
            queries: labels.len(),
            classes: by_label.classes.len(),
        };
        if ranked.is_empty() {
            return Err(Error::NoMatches { queries: all.queries, items: all.items });
        }
        let relevant: u64 = ranked.iter().map(|query| query.class().len() as u64).sum();
        progress.begin(relevant.saturating_add(pairs(ranked.len(), frame.len)));
        let pass = Pass { frame: &frame, by_label: &by_label, items, queries, progress };
        pass.run(&ranked, all)
    }

    /// Means over the queries that have a relevant item.
    pub fn metrics(&self) -> Metrics {
        Metrics::new(&self.table, self.items, self.queries, self.classes)
    }

    /// What there is for each query: everything at each k, and the rest.
    pub fn measures(&self) -> Vec<Measure> {
        self.table.measures()
    }

    /// The values of one measure, one for each of [`query_rows`](Self::query_rows); `None` for a k that was not asked
    /// for.
    pub fn values(&self, measure: Measure) -> Option<impl Iterator<Item = f64> + '_> {
        self.table.values(measure)
    }

    /// The rows of the queries that have a relevant item, by label and then by row.
    pub fn query_rows(&self) -> &[u32] {
        &self.table.rows
    }

    /// Means for each class that has queries with relevant items, by label.
    pub fn per_class(&self) -> Vec<ClassMetrics> {
        ClassMetrics::of(&self.table)
    }
}

/// What all groups of queries share.
struct Pass<'a> {
    frame: &'a Frame,
    by_label: &'a ByLabel,
    items: &'a dyn Rows,
    queries: &'a dyn Rows,
    progress: &'a dyn Progress,
}

impl Pass<'_> {
    fn run(&self, ranked: &[Query], mut all: Evaluation) -> Result<Evaluation> {
        let gallery = Gallery::Streamed(self.items);
        let segments = gallery.segments(self.frame);
        let mut only: Option<Segment<'_>> = None;
        let discounts = Discounts::new(all.items);
        let result = all.table.reserve(ranked.len());
        let budget = BYTES.saturating_sub(result).max(LEAST_RELEVANT_BYTES);
        let mut rest = ranked;
        while !rest.is_empty() {
            let (group, tail) = rest.split_at(self.group_size(rest, budget));
            rest = tail;
            let rows: Vec<u32> = group.iter().map(|query| query.row).collect();
            let vectors = Queries::new(self.frame, self.queries, &rows)?.vectors;
            let mut ranks = self.relevant(group, &vectors)?;
            self.progress.advance(group.iter().map(|query| query.class().len() as u64).sum());
            for items in &segments {
                let segment = match only.take() {
                    Some(segment) => segment,
                    None => gallery.segment(self.frame, items.clone())?,
                };
                self.count(&vectors, &mut ranks, &segment);
                if segments.len() == 1 {
                    only = Some(segment);
                }
            }
            all.table.extend(group, &ranks, &discounts);
        }
        Ok(all)
    }

    /// How many of the queries are measured together: at least one.
    fn group_size(&self, queries: &[Query], budget: usize) -> usize {
        let mut bytes = 0;
        let fitting = queries.iter().take_while(|query| {
            bytes += query.class().len() * Ranks::BYTES;
            bytes <= budget
        });
        fitting.take(Queries::at_once(self.frame.dim)).count().max(1)
    }

    /// Queries of one task.
    fn block(queries: usize) -> usize {
        queries.div_ceil(LEAST_BLOCKS).next_multiple_of(COUNTED.0).min(QUERY_BLOCK)
    }

    /// The relevant items of each query, scored and sorted.
    fn relevant(&self, group: &[Query], vectors: &[f32]) -> Result<Vec<Ranks>> {
        let dim = self.frame.dim;
        let size = Self::block(group.len());
        let mut keys: Vec<(Vec<u64>, Option<u64>)> =
            group.iter().map(|query| (Vec::with_capacity(query.relevant()), None)).collect();
        let ends = group.first().map_or(0, |q| q.class().start)..group.last().map_or(0, |q| q.class().end);
        let (bytes, most) = GATHERED;
        let gathered = whole_panels(bytes, dim).min(most);
        for start in ends.clone().step_by(gathered) {
            let positions = start..ends.end.min(start + gathered);
            if group.iter().all(|query| overlap(&query.class(), &positions).is_empty()) {
                continue;
            }
            let panels = lay_out(self.frame, positions.clone(), |first, to| {
                gather(self.items, &self.by_label.order[first..first + to.len() / dim], dim, to)
            })?;
            let blocks = group.par_chunks(size).zip(vectors.par_chunks(size * dim));
            blocks.zip(keys.par_chunks_mut(size)).for_each(|((queries, vectors), keys)| {
                let ends = queries.first().map_or(0, |q| q.class().start)
                    ..queries.last().map_or(0, |q| q.class().end);
                let ends = overlap(&ends, &positions);
                if ends.is_empty() {
                    return;
                }
                let first = (ends.start - start) / PANEL;
                let panels = &panels[first * dim * PANEL..(ends.end - start).div_ceil(PANEL) * dim * PANEL];
                let mut bounds = vec![f32::NEG_INFINITY; queries.len()];
                scan(self.frame, vectors, panels, &mut bounds, |query, panel, scores, _| {
                    let at = start + (first + panel) * PANEL;
                    let (query, (keys, own)) = (&queries[query], &mut keys[query]);
                    for position in overlap(&query.class(), &(at..at + PANEL)) {
                        let item = self.by_label.order[position];
                        let key = key(scores[position - at], item);
                        if query.alone && query.row == item {
                            *own = Some(key);
                        } else {
                            keys.push(key);
                        }
                    }
                });
            });
        }
        Ok(keys.into_par_iter().map(|(keys, own)| Ranks::new(keys, own)).collect())
    }

    /// Counts a segment's items in the ranks.
    fn count(&self, vectors: &[f32], ranks: &mut [Ranks], segment: &Segment<'_>) {
        let dim = self.frame.dim;
        let size = Self::block(ranks.len());
        let (together, panels_at_once) = COUNTED;
        vectors.par_chunks(size * dim).zip(ranks.par_chunks_mut(size)).for_each_init(
            || vec![0.0f32; together * panels_at_once * PANEL],
            |scratch, (vectors, ranks)| {
                let chunks = segment.panels.chunks(panels_at_once * dim * PANEL);
                for (first, panels) in (segment.items.start..).step_by(panels_at_once * PANEL).zip(chunks) {
                    let items = first..segment.items.end.min(first + panels_at_once * PANEL);
                    for (vectors, ranks) in vectors.chunks(together * dim).zip(ranks.chunks_mut(together)) {
                        count_some(self.frame, vectors, ranks, panels, items.clone(), scratch);
                    }
                }
                self.progress.advance(pairs(ranks.len(), segment.items.len()));
            },
        );
    }
}

fn count_some(
    frame: &Frame,
    vectors: &[f32],
    ranks: &mut [Ranks],
    panels: &[f32],
    items: Range<usize>,
    scratch: &mut [f32],
) {
    let (together, panels_at_once) = COUNTED;
    let mut seen = [0u32; COUNTED.0];
    let mut bounds: Vec<f32> = ranks.iter().map(Ranks::below).collect();
    let width = panels_at_once * PANEL;
    debug_assert_eq!(scratch.len(), together * width);
    scan(frame, vectors, panels, &mut bounds, |query, panel, scores, _| {
        seen[query] |= 1 << panel;
        scratch[query * width + panel * PANEL..][..PANEL].copy_from_slice(scores);
    });
    for ((ranks, scores), seen) in ranks.iter_mut().zip(scratch.chunks_exact(width)).zip(seen) {
        for (panel, scores) in scores.chunks_exact(PANEL).enumerate() {
            if seen >> panel & 1 == 1 {
                let first = items.start + panel * PANEL;
                ranks.count(&scores[..PANEL.min(items.end - first)], first as u32);
            }
        }
    }
}
