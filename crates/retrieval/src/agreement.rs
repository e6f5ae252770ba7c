//! How well a clustering and the classes agree.

use std::collections::BTreeMap;

use rayon::prelude::*;
use serde::Serialize;

use crate::frame::Metric;
use crate::kmeans::{KMeans, kmeans_watched};
use crate::progress::Progress;
use crate::rows::{Rows, Units};
use crate::{Error, Result};

/// The agreement of two partitions of the same items, the same with both exchanged. 1 is the same partition.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Agreement {
    /// Normalised mutual information: `MI / mean(H(a), H(b))`, from 0 (Strehl and Ghosh 2002, with the arithmetic mean
    /// that scikit-learn has by default). It rises with the number of clusters even for random ones.
    pub nmi: f64,
    /// Adjusted mutual information: `(MI - E[MI]) / (mean(H(a), H(b)) - E[MI])`, 0 on average for random partitions of
    /// the same sizes (Vinh, Epps and Bailey 2010, equations 8 and 24a).
    pub ami: f64,
}

impl Agreement {
    /// Of two labels for each item, any numbers. Of the same partition, one that divides nothing included, both figures are
    /// 1.
    ///
    /// # Errors
    /// No items, on which there is nothing to agree; another number of labels in `b` than in `a`.
    pub fn new(a: &[u32], b: &[u32]) -> Result<Self> {
        if a.len() != b.len() {
            return Err(Error::Shape {
                what: "the second partition",
                expected: format!("[{}], as the first", a.len()),
                got: vec![b.len()],
            });
        }
        if a.is_empty() {
            let expected = "[n], a label for each of at least one item".to_owned();
            return Err(Error::Shape { what: "the first partition", expected, got: vec![0] });
        }
        let (sizes_a, sizes_b) = (sizes(a), sizes(b));
        let count = a.len() as f64;
        let mut cells: BTreeMap<(u32, u32), usize> = BTreeMap::new();
        a.iter().zip(b).for_each(|(&a, &b)| *cells.entry((a, b)).or_insert(0) += 1);
        // The same partition under other names. Where it sets every item apart, chance alone would explain the agreement,
        // and rounding decide between 0 and 1.
        if cells.len() == sizes_a.len() && cells.len() == sizes_b.len() {
            return Ok(Self { nmi: 1.0, ami: 1.0 });
        }
        let information: f64 = cells
            .iter()
            .map(|(&(a, b), &size)| {
                let size = size as f64;
                size / count * (count * size / (sizes_a[&a] as f64 * sizes_b[&b] as f64)).ln()
            })
            .sum();
        // Rounding must not make it negative.
        let information = information.max(0.0);
        let mean = 0.5 * (entropy(&sizes_a, count) + entropy(&sizes_b, count));
        let expected = expected_information(&sizes_a, &sizes_b, a.len());
        // Where chance explains everything the difference may vanish or change its sign by rounding.
        let range = mean - expected;
        let range = if range < 0.0 { range.min(-f64::EPSILON) } else { range.max(f64::EPSILON) };
        let nmi = if information <= f64::EPSILON { 0.0 } else { information / mean.max(f64::EPSILON) };
        Ok(Self { nmi, ami: (information - expected) / range })
    }

    /// Of the classes and a k-means clustering with as many clusters; `options.clusters` is ignored. With the cosine
    /// unit vectors are clustered, otherwise the vectors as they are.
    ///
    /// # Errors
    /// As [`kmeans`](crate::kmeans()); another number of labels than of items, or none.
    pub fn of_kmeans(items: &dyn Rows, labels: &[u32], metric: Metric, options: &KMeans) -> Result<Self> {
        Self::of_kmeans_watched(items, labels, metric, options, &()).map(|(agreement, _)| agreement)
    }

    /// [`of_kmeans`](Self::of_kmeans) that tells how far it has come, as [`kmeans_watched`](crate::kmeans_watched()) does, and
    /// how many starts there were.
    ///
    /// # Errors
    /// As [`of_kmeans`](Self::of_kmeans).
    pub fn of_kmeans_watched(
        items: &dyn Rows,
        labels: &[u32],
        metric: Metric,
        options: &KMeans,
        progress: &dyn Progress,
    ) -> Result<(Self, usize)> {
        crate::relevant::check_labels("labels", items.shape().0, labels)?;
        if labels.is_empty() {
            let expected = "[n], a label for each of at least one item".to_owned();
            return Err(Error::Shape { what: "labels", expected, got: vec![0] });
        }
        let options = KMeans { clusters: sizes(labels).len(), ..*options };
        let found = match metric {
            Metric::Cosine => kmeans_watched(&Units(items), &options, progress)?,
            Metric::Dot | Metric::L2 => kmeans_watched(items, &options, progress)?,
        };
        Ok((Self::new(labels, &found.assignment)?, options.starts(items.shape())))
    }
}

fn sizes(labels: &[u32]) -> BTreeMap<u32, usize> {
    let mut sizes = BTreeMap::new();
    labels.iter().for_each(|&label| *sizes.entry(label).or_insert(0) += 1);
    sizes
}

fn entropy(sizes: &BTreeMap<u32, usize>, count: f64) -> f64 {
    sizes.values().map(|&size| size as f64 / count).map(|share| -share * share.ln()).sum()
}

/// The mean mutual information of random partitions of these sizes (Vinh, Epps and Bailey 2010, equation 24a): cells
/// are hypergeometric. Pairs of equal sizes are computed once.
fn expected_information(a: &BTreeMap<u32, usize>, b: &BTreeMap<u32, usize>, count: usize) -> f64 {
    let (a, b) = (multiplicities(a), multiplicities(b));
    let mut logs = Vec::with_capacity(count + 1);
    let mut log = 0.0f64;
    logs.push(log);
    for n in 1..=count {
        log += (n as f64).ln();
        logs.push(log);
    }
    let pairs: Vec<((usize, usize), (usize, usize))> =
        a.iter().flat_map(|&a| b.iter().map(move |&b| (a, b))).collect();
    let parts: Vec<f64> = pairs
        .into_par_iter()
        .map(|((a, times_a), (b, times_b))| (times_a * times_b) as f64 * cell(a, b, count, &logs))
        .collect();
    parts.iter().sum()
}

/// Each size and how often it occurs.
fn multiplicities(sizes: &BTreeMap<u32, usize>) -> Vec<(usize, usize)> {
    let mut times = BTreeMap::new();
    sizes.values().for_each(|&size| *times.entry(size).or_insert(0) += 1);
    times.into_iter().collect()
}

/// The mean contribution of one cell of a class of `a` and a cluster of `b` items. `logs[n]` is `ln n!`.
fn cell(a: usize, b: usize, count: usize, logs: &[f64]) -> f64 {
    let total = count as f64;
    let fixed = logs[a] + logs[b] + logs[count - a] + logs[count - b] - logs[count];
    ((a + b).saturating_sub(count).max(1)..=a.min(b))
        .map(|both| {
            let log = fixed - logs[both] - logs[a - both] - logs[b - both] - logs[count + both - a - b];
            let size = both as f64;
            size / total * (total * size / (a as f64 * b as f64)).ln() * log.exp()
        })
        .sum()
}
