//! What a ranking is worth, query by query.

use std::fmt;

use rayon::prelude::*;

use crate::ranks::Ranks;
use crate::relevant::Query;

/// One number for each query. With `R` relevant items of a query at ranks `r_1 < r_2 < ... < r_R` (from 1, over the
/// whole gallery) and `n_k` of them among the first `k`:
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Measure {
    /// 1 if `n_k > 0`, else 0. Metric-learning papers call its mean Recall@k.
    Hit(usize),
    /// `n_k / R`: what search engines call recall@k.
    Recall(usize),
    /// `n_k / k`.
    Precision(usize),
    /// `sum_(i: r_i <= k) 1 / log2(1 + r_i)` over its largest possible value (Järvelin and Kekäläinen 2002).
    NdcgAt(usize),
    /// `n_R / R`.
    RPrecision,
    /// `1/R sum_(i: r_i <= R) i / r_i` (Musgrave, Belongie and Lim 2020, equation 2).
    MapAtR,
    /// `1/R sum_i i / r_i`.
    Map,
    /// `1 / r_1`.
    Mrr,
    /// [`NdcgAt`](Self::NdcgAt) over the whole ranking.
    Ndcg,
}

impl fmt::Display for Measure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hit(k) => write!(f, "hit@{k}"),
            Self::Recall(k) => write!(f, "recall@{k}"),
            Self::Precision(k) => write!(f, "precision@{k}"),
            Self::NdcgAt(k) => write!(f, "nDCG@{k}"),
            Self::RPrecision => f.write_str("R-precision"),
            Self::MapAtR => f.write_str("MAP@R"),
            Self::Map => f.write_str("mAP"),
            Self::Mrr => f.write_str("MRR"),
            Self::Ndcg => f.write_str("nDCG"),
        }
    }
}

/// The numbers from which every measure of a query follows.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Table {
    /// Ascending, 1 among them.
    ks: Vec<usize>,
    pub(crate) rows: Vec<u32>,
    pub(crate) labels: Vec<u32>,
    each: Vec<Row>,
    /// `[queries][ks]`: relevant items among the first k, and nDCG@k.
    found: Vec<u32>,
    ndcg_at: Vec<f64>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Row {
    first: u32,
    relevant: u32,
    /// Relevant items among the first `relevant`.
    early: u32,
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

    /// The largest gain of so many relevant items.
    fn ideal(&self, relevant: usize) -> f64 {
        self.ideal.get(relevant.min(self.ideal.len()).wrapping_sub(1)).copied().unwrap_or(1.0)
    }
}

impl Table {
    /// No queries yet; `ks` in any order, 1 is added.
    pub(crate) fn new(ks: &[usize]) -> Self {
        let mut ks: Vec<usize> = ks.iter().copied().chain([1]).collect();
        ks.sort_unstable();
        ks.dedup();
        Self {
            ks,
            rows: Vec::new(),
            labels: Vec::new(),
            each: Vec::new(),
            found: Vec::new(),
            ndcg_at: Vec::new(),
        }
    }

    /// Makes room for so many queries in all; how many bytes that takes.
    pub(crate) fn reserve(&mut self, queries: usize) -> usize {
        let at_k = queries * self.ks.len();
        self.rows.reserve_exact(queries);
        self.labels.reserve_exact(queries);
        self.each.reserve_exact(queries);
        self.found.reserve_exact(at_k);
        self.ndcg_at.reserve_exact(at_k);
        queries * (2 * size_of::<u32>() + size_of::<Row>()) + at_k * (size_of::<u32>() + size_of::<f64>())
    }

    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    pub(crate) fn ks(&self) -> &[usize] {
        &self.ks
    }

    /// Adds queries with their ranks.
    pub(crate) fn extend(&mut self, queries: &[Query], ranks: &[Ranks], discounts: &Discounts) {
        let width = self.ks.len();
        let old = self.found.len();
        self.rows.extend(queries.iter().map(|query| query.row));
        self.labels.extend(queries.iter().map(|query| query.label));
        self.found.resize(old + queries.len() * width, 0);
        self.ndcg_at.resize(old + queries.len() * width, 0.0);
        let at_k = self.found[old..].par_chunks_mut(width).zip(self.ndcg_at[old..].par_chunks_mut(width));
        let rows = queries.par_iter().zip(ranks).zip(at_k).map(|((query, ranks), (found, ndcg))| {
            Row::new(ranks.ranks(), query.relevant(), discounts, &self.ks, found, ndcg)
        });
        self.each.par_extend(rows);
    }

    pub(crate) fn measures(&self) -> Vec<Measure> {
        let at: [fn(usize) -> Measure; 4] =
            [Measure::Hit, Measure::Recall, Measure::Precision, Measure::NdcgAt];
        let whole = [Measure::RPrecision, Measure::MapAtR, Measure::Map, Measure::Mrr, Measure::Ndcg];
        at.iter().flat_map(|at| self.ks.iter().map(|&k| at(k))).chain(whole).collect()
    }

    /// `None` for a k that is not in the table.
    pub(crate) fn values(&self, measure: Measure) -> Option<impl Iterator<Item = f64> + '_> {
        let column = match measure {
            Measure::Hit(k) | Measure::Recall(k) | Measure::Precision(k) | Measure::NdcgAt(k) => {
                self.ks.binary_search(&k).ok()?
            }
            _ => 0,
        };
        let width = self.ks.len();
        Some(self.each.iter().enumerate().map(move |(i, row)| {
            let relevant = f64::from(row.relevant);
            let found = f64::from(self.found[i * width + column]);
            match measure {
                Measure::Hit(_) => f64::from(u8::from(found > 0.0)),
                Measure::Recall(_) => found / relevant,
                Measure::Precision(k) => found / k as f64,
                Measure::NdcgAt(_) => self.ndcg_at[i * width + column],
                Measure::RPrecision => f64::from(row.early) / relevant,
                Measure::MapAtR => row.map_at_r,
                Measure::Map => row.map,
                Measure::Mrr => 1.0 / f64::from(row.first),
                Measure::Ndcg => row.ndcg,
            }
        }))
    }
}

impl Row {
    /// From the ranks of the relevant items, ascending from 1; at least one.
    fn new(
        ranks: impl Iterator<Item = u32>,
        relevant: usize,
        discounts: &Discounts,
        ks: &[usize],
        found: &mut [u32],
        ndcg_at: &mut [f64],
    ) -> Self {
        let (mut first, mut early, mut at_r, mut all, mut gain) = (u32::MAX, 0, 0.0, 0.0, 0.0);
        let mut next = 0;
        for (i, rank) in ranks.enumerate() {
            // Each k before this rank has seen the items before this one.
            while next < ks.len() && ks[next] < rank as usize {
                (found[next], ndcg_at[next]) = (i as u32, gain);
                next += 1;
            }
            first = first.min(rank);
            let precision = (i + 1) as f64 / f64::from(rank);
            all += precision;
            if rank as usize <= relevant {
                at_r += precision;
                early += 1;
            }
            gain += discounts.at.get(rank as usize - 1).copied().unwrap_or(0.0);
        }
        for k in next..ks.len() {
            (found[k], ndcg_at[k]) = (relevant as u32, gain);
        }
        for (ndcg, &k) in ndcg_at.iter_mut().zip(ks) {
            *ndcg /= discounts.ideal(relevant.min(k));
        }
        let count = relevant as f64;
        Self {
            first,
            relevant: relevant as u32,
            early,
            map_at_r: at_r / count,
            map: all / count,
            ndcg: gain / discounts.ideal(relevant),
        }
    }
}
