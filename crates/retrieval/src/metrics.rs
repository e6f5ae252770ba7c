//! Means over queries.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::table::{Measure, Table};

/// Retrieval quality: means over the queries that have at least one relevant item (an item of their class, other than
/// themselves). With `R` relevant items of a query at ranks `r_1 < r_2 < ... < r_R` (from 1, over the whole gallery)
/// and `n_k` of them among the first `k`:
///
/// | field | of one query |
/// |---|---|
/// | `recall_at_k`, `hit_at_k` | 1 if `r_1 <= k`, else 0: metric-learning papers call this Recall@k, search engines hit@k |
/// | `ir_recall_at_k` | `n_k / R`: what search engines call recall@k |
/// | `precision_at_k` | `n_k / k` |
/// | `precision_at_1` | 1 if `r_1 = 1`: the accuracy of the 1-nearest-neighbour classifier |
/// | `r_precision` | share of the first `R` ranks that are relevant |
/// | `map_at_r` | `1/R sum_(i: r_i <= R) i / r_i` (Musgrave, Belongie and Lim 2020, equation 2) |
/// | `map` | `1/R sum_i i / r_i` |
/// | `mrr` | `1 / r_1` |
/// | `ndcg`, `ndcg_at_k` | `sum_i 1 / log2(1 + r_i)` over its largest possible value, `r_i <= k` where there is a k |
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Metrics {
    /// Recall@1.
    pub recall_at_1: f64,
    /// Recall@k by k, for 1 and the values asked for, in the vocabulary of metric learning.
    pub recall_at_k: BTreeMap<usize, f64>,
    /// The same numbers under their other name.
    pub hit_at_k: BTreeMap<usize, f64>,
    /// Recall@k in the vocabulary of search engines: the share of the relevant items that is found.
    pub ir_recall_at_k: BTreeMap<usize, f64>,
    /// Precision@k by k.
    pub precision_at_k: BTreeMap<usize, f64>,
    /// Precision@1.
    pub precision_at_1: f64,
    /// R-precision.
    pub r_precision: f64,
    /// Mean average precision at R.
    pub map_at_r: f64,
    /// Mean average precision over the whole ranking.
    pub map: f64,
    /// Mean reciprocal rank.
    pub mrr: f64,
    /// Normalised discounted cumulative gain over the whole ranking.
    pub ndcg: f64,
    /// The same over the first k, by k.
    pub ndcg_at_k: BTreeMap<usize, f64>,
    /// Items searched.
    pub items: usize,
    /// Queries, those without a relevant item included.
    pub queries: usize,
    /// Classes among the items searched.
    pub classes: usize,
    /// Queries without a relevant item, which no mean includes.
    pub queries_without_match: usize,
}

/// A class's share of an [`Evaluation`](crate::Evaluation).
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct ClassMetrics {
    /// The class.
    pub label: u32,
    /// Its queries that have a relevant item.
    pub queries: usize,
    /// Means over these, in the order of [`Evaluation::measures`](crate::Evaluation::measures).
    pub means: Vec<(Measure, f64)>,
}

impl ClassMetrics {
    /// The mean of one measure; `None` for a k that was not asked for.
    pub fn mean(&self, measure: Measure) -> Option<f64> {
        self.means.iter().find(|(of, _)| *of == measure).map(|&(_, mean)| mean)
    }

    pub(crate) fn of(table: &Table) -> Vec<Self> {
        // Queries of a class stand side by side.
        let mut classes: Vec<Self> = table
            .labels
            .chunk_by(|a, b| a == b)
            .map(|labels| Self { label: labels[0], queries: labels.len(), means: Vec::new() })
            .collect();
        for measure in table.measures() {
            let Some(mut values) = table.values(measure) else { continue };
            for class in &mut classes {
                let sum: f64 = values.by_ref().take(class.queries).sum();
                class.means.push((measure, sum / class.queries as f64));
            }
        }
        classes
    }
}

impl Metrics {
    /// Means in the order of the table.
    pub(crate) fn new(table: &Table, items: usize, queries: usize, classes: usize) -> Self {
        let mean = |measure| {
            table.values(measure).map_or(f64::NAN, |values| values.sum::<f64>() / table.len() as f64)
        };
        let at_k = |of: fn(usize) -> Measure| -> BTreeMap<usize, f64> {
            table.ks().iter().map(|&k| (k, mean(of(k)))).collect()
        };
        Self {
            recall_at_1: mean(Measure::Hit(1)),
            recall_at_k: at_k(Measure::Hit),
            hit_at_k: at_k(Measure::Hit),
            ir_recall_at_k: at_k(Measure::Recall),
            precision_at_k: at_k(Measure::Precision),
            precision_at_1: mean(Measure::Precision(1)),
            r_precision: mean(Measure::RPrecision),
            map_at_r: mean(Measure::MapAtR),
            map: mean(Measure::Map),
            mrr: mean(Measure::Mrr),
            ndcg: mean(Measure::Ndcg),
            ndcg_at_k: at_k(Measure::NdcgAt),
            items,
            queries,
            classes,
            queries_without_match: queries - table.len(),
        }
    }
}
