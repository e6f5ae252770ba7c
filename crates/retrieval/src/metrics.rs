//! What a ranking is worth.

use std::collections::BTreeMap;

use serde::Serialize;

/// Retrieval quality: means over the queries that have at least one relevant item (an item of their class, other than
/// themselves). With `R` relevant items of a query at ranks `r_1 < r_2 < ... < r_R` (from 1, over the whole gallery):
///
/// | field | of one query |
/// |---|---|
/// | `recall_at_k`, `hit_at_k` | 1 if `r_1 <= k`, else 0: metric-learning papers call this Recall@k, search engines hit@k |
/// | `precision_at_1` | 1 if `r_1 = 1`: the accuracy of the 1-nearest-neighbour classifier |
/// | `r_precision` | share of the first `R` ranks that are relevant |
/// | `map_at_r` | `1/R sum_(i: r_i <= R) i / r_i` (Musgrave, Belongie and Lim 2020, equation 2) |
/// | `map` | `1/R sum_i i / r_i` |
/// | `mrr` | `1 / r_1` |
/// | `ndcg` | `sum_i 1 / log2(1 + r_i)` over its largest possible value |
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Metrics {
    /// Recall@1.
    pub recall_at_1: f64,
    /// Recall@k by k, for 1 and the values asked for.
    pub recall_at_k: BTreeMap<usize, f64>,
    /// The same numbers under their other name.
    pub hit_at_k: BTreeMap<usize, f64>,
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
    /// Items searched.
    pub items: usize,
    /// Queries, those without a relevant item included.
    pub queries: usize,
    /// Classes among the items searched.
    pub classes: usize,
    /// Queries without a relevant item, which no mean includes.
    pub queries_without_match: usize,
}

/// One query's values.
#[derive(Debug, Clone, Copy)]
pub(crate) struct QueryMetrics {
    first: u32,
    r_precision: f64,
    map_at_r: f64,
    map: f64,
    ndcg: f64,
}

/// `1 / log2(1 + rank)` and its running sums.
pub(crate) struct Discounts {
    at: Vec<f64>,
    ideal: Vec<f64>,
}

impl Discounts {
    /// For ranks up to `ranks`.
    pub(crate) fn new(ranks: usize) -> Self {
        let at: Vec<f64> = (1..=ranks).map(|rank| 1.0 / (1.0 + rank as f64).log2()).collect();
        let mut total = 0.0;
        let ideal = at.iter().map(|discount| {
            total += discount;
            total
        });
        Self { ideal: ideal.collect(), at }
    }
}

impl QueryMetrics {
    /// From the ranks of the relevant items, ascending from 1; at least one.
    pub(crate) fn new(ranks: impl Iterator<Item = u32>, relevant: usize, discounts: &Discounts) -> Self {
        let (mut first, mut early, mut at_r, mut all, mut gain) = (u32::MAX, 0usize, 0.0, 0.0, 0.0);
        for (i, rank) in ranks.enumerate() {
            first = first.min(rank);
            let precision = (i + 1) as f64 / f64::from(rank);
            all += precision;
            if rank as usize <= relevant {
                at_r += precision;
                early += 1;
            }
            gain += discounts.at.get(rank as usize - 1).copied().unwrap_or(0.0);
        }
        let count = relevant as f64;
        Self {
            first,
            r_precision: early as f64 / count,
            map_at_r: at_r / count,
            map: all / count,
            ndcg: gain / discounts.ideal.get(relevant - 1).copied().unwrap_or(1.0),
        }
    }
}

impl Metrics {
    /// Means in the order given.
    pub(crate) fn new(
        each: &[QueryMetrics],
        ks: &[usize],
        items: usize,
        queries: usize,
        classes: usize,
    ) -> Self {
        let mean = |of: &dyn Fn(&QueryMetrics) -> f64| each.iter().map(of).sum::<f64>() / each.len() as f64;
        let recall = |k: usize| mean(&|query| f64::from(u8::from(query.first as usize <= k)));
        let recall_at_k: BTreeMap<usize, f64> = ks.iter().chain(&[1]).map(|&k| (k, recall(k))).collect();
        Self {
            recall_at_1: recall(1),
            hit_at_k: recall_at_k.clone(),
            recall_at_k,
            precision_at_1: recall(1),
            r_precision: mean(&|query| query.r_precision),
            map_at_r: mean(&|query| query.map_at_r),
            map: mean(&|query| query.map),
            mrr: mean(&|query| 1.0 / f64::from(query.first)),
            ndcg: mean(&|query| query.ndcg),
            items,
            queries,
            classes,
            queries_without_match: queries - each.len(),
        }
    }
}
