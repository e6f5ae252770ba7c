//! Seeded k-means.

use embedtune_core::linalg::squared_norm;
use ndarray::{Array2, ArrayView2};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::frame::{Metric, check_values, read_rows};
use crate::knn::{Exclude, Index};
use crate::progress::Progress;
use crate::random::{below, generator, unit};
use crate::rows::Rows;
use crate::{Error, Result};

/// How [`kmeans`] clusters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KMeans {
    /// Clusters, from 1 to the number of items; default 8.
    pub clusters: usize,
    /// Which random numbers; default 0.
    pub seed: u64,
    /// Starts, of which the one with the least inertia is taken, the first of several; at least 1. Default `None`: 10, or
    /// fewer where a round is long ([`KMeans::starts`]).
    pub restarts: Option<usize>,
    /// Rounds of a start, at most; default 100.
    pub iterations: usize,
}

impl Default for KMeans {
    fn default() -> Self {
        Self { clusters: 8, seed: 0, restarts: None, iterations: 100 }
    }
}

/// Starts where nothing else is asked for: one start's agreement with the classes moves by several points with its seed.
const STARTS: usize = 10;
/// Products of all the starts' rounds, one round each, beyond which there are fewer starts: a few seconds a round of all.
const PRODUCTS: u64 = 20_000_000_000;

/// Units of progress that a start is.
const START: u64 = 1000;

impl KMeans {
    /// The starts for items of a shape: those asked for; otherwise 10 as long as `items * dim * clusters` is at most 2e9,
    /// beyond it as many as keep the time of ten starts of that size, and 1 from 2e10 on.
    pub fn starts(&self, (items, dim): (usize, usize)) -> usize {
        let round = [dim, self.clusters].iter().fold(items as u64, |n, &m| n.saturating_mul(m as u64));
        let fitting = (PRODUCTS / round.max(1)).clamp(1, STARTS as u64);
        self.restarts.unwrap_or(fitting as usize)
    }
}

/// A clustering.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Clusters {
    /// Each item's cluster.
    pub assignment: Vec<u32>,
    /// Their means, `[clusters, dim]`, in standard layout.
    pub centres: Array2<f32>,
    /// Sum of the items' squared distances from their centres.
    pub inertia: f64,
    /// Rounds.
    pub iterations: usize,
    /// Whether the last round changed no assignment.
    pub converged: bool,
}

/// Clusters items by Euclidean distance: starts by k-means++ (Arthur and Vassilvitskii 2007), rounds by Lloyd (1982).
/// The same seed gives the same bits for any number of threads.
///
/// # Errors
/// [`Error::Parameter`] for a number of clusters or starts out of range; values that are not finite; what reading
/// fails with.
pub fn kmeans(items: &dyn Rows, options: &KMeans) -> Result<Clusters> {
    kmeans_watched(items, options, &())
}

/// [`kmeans`] that tells how far it has come; a unit is a thousandth of a start. Nobody knows how many rounds a start will
/// take: each is told as a tenth of what is left of it.
///
/// # Errors
/// As [`kmeans`].
pub fn kmeans_watched(items: &dyn Rows, options: &KMeans, progress: &dyn Progress) -> Result<Clusters> {
    let starts = options.starts(items.shape()) as u64;
    check(options.clusters, items.shape())?;
    check_values("items", items)?;
    progress.begin(starts.saturating_mul(START));
    let mut best: Option<Clusters> = None;
    for start in 0..starts {
        let mut left = START;
        let mut round = || {
            progress.advance(left / 10);
            left -= left / 10;
        };
        let centres = plus_plus(items, options.clusters, options.seed, start)?;
        round();
        let found = rounds(items, centres.view(), options.iterations, &mut round)?;
        progress.advance(left);
        if best.as_ref().is_none_or(|best| found.inertia < best.inertia) {
            best = Some(found);
        }
    }
    best.ok_or(Error::Parameter { name: "restarts", value: "0".to_owned(), remedy: "write 1 or more" })
}

/// Lloyd's rounds from given centres, `[clusters, dim]`, until no assignment changes.
///
/// A cluster that has lost its items takes the item farthest from its centre, unless every item is at its centre.
///
/// # Errors
/// As [`kmeans`], and centres of another dimension than the items.
pub fn kmeans_from(items: &dyn Rows, centres: ArrayView2<'_, f32>, iterations: usize) -> Result<Clusters> {
    let (len, dim) = items.shape();
    check(centres.nrows(), (len, dim))?;
    if centres.ncols() != dim {
        return Err(Error::Shape {
            what: "centres",
            expected: format!("[clusters, {dim}], as the items"),
            got: centres.shape().to_vec(),
        });
    }
    check_values("centres", &centres)?;
    check_values("items", items)?;
    rounds(items, centres, iterations, &mut || {})
}

/// [`kmeans_from`] of what has been checked; calls `round` after each.
fn rounds(
    items: &dyn Rows,
    centres: ArrayView2<'_, f32>,
    iterations: usize,
    round: &mut dyn FnMut(),
) -> Result<Clusters> {
    let len = items.shape().0;
    let mut found = Clusters {
        assignment: vec![u32::MAX; len],
        centres: centres.to_owned(),
        inertia: 0.0,
        iterations: 0,
        converged: false,
    };
    let mut distances = vec![0.0f32; len];
    loop {
        let nearest = Index::new(found.centres.view(), Metric::L2)?.search_rows(items, 1, Exclude::None)?;
        let mut changed = false;
        for (i, hits) in nearest.rows().enumerate() {
            let Some(hit) = hits.first() else { continue };
            changed |= found.assignment[i] != hit.index;
            (found.assignment[i], distances[i]) = (hit.index, hit.score);
        }
        found.inertia = distances.iter().map(|&d| f64::from(d) * f64::from(d)).sum();
        found.converged = !changed;
        if found.converged || found.iterations == iterations {
            return Ok(found);
        }
        found.iterations += 1;
        found.centres = means(items, &mut found.assignment, &mut distances, found.centres.view())?;
        round();
    }
}

fn check(clusters: usize, (items, dim): (usize, usize)) -> Result<()> {
    if dim == 0 {
        let expected = "[items, dim] with dim at least 1".to_owned();
        return Err(Error::Shape { what: "items", expected, got: vec![items, dim] });
    }
    if u32::try_from(items).is_err() {
        return Err(Error::Parameter {
            name: "items",
            value: items.to_string(),
            remedy: "at most 4,294,967,295 can be clustered; cluster a part",
        });
    }
    if clusters >= 1 && clusters <= items {
        return Ok(());
    }
    Err(Error::Parameter {
        name: "clusters",
        value: clusters.to_string(),
        remedy: "from 1 to the number of items can be made",
    })
}

/// The clusters' means, summed in the order of the items. `assignment` and `distances` are changed where an empty
/// cluster takes an item; one that finds none to take, as in data of fewer distinct items than clusters, stays where it was.
fn means(
    items: &dyn Rows,
    assignment: &mut [u32],
    distances: &mut [f32],
    before: ArrayView2<'_, f32>,
) -> Result<Array2<f32>> {
    let (len, dim) = items.shape();
    let clusters = before.nrows();
    let mut sizes = vec![0usize; clusters];
    assignment.iter().for_each(|&cluster| sizes[cluster as usize] += 1);
    for empty in 0..clusters {
        if sizes[empty] > 0 {
            continue;
        }
        let farther = |&a: &usize, &b: &usize| distances[a].total_cmp(&distances[b]).then(b.cmp(&a));
        // One that would leave its own cluster empty stays, and one that its centre is at.
        let movable = (0..len).filter(|&i| sizes[assignment[i] as usize] > 1 && distances[i] > 0.0);
        let Some(item) = movable.max_by(farther) else { continue };
        sizes[assignment[item] as usize] -= 1;
        sizes[empty] = 1;
        (assignment[item], distances[item]) = (empty as u32, 0.0);
    }
    let mut sums = Array2::<f64>::zeros((clusters, dim));
    let (mut buffer, read) = (Vec::new(), read_rows(dim));
    for first in (0..len).step_by(read) {
        let count = read.min(len - first);
        buffer.resize(count * dim, 0.0);
        items.read(first, &mut buffer)?;
        for (row, &cluster) in buffer.chunks_exact(dim.max(1)).zip(&assignment[first..]) {
            let mut sums = sums.row_mut(cluster as usize);
            sums.iter_mut().zip(row).for_each(|(sum, &value)| *sum += f64::from(value));
        }
    }
    for ((mut row, &size), before) in sums.rows_mut().into_iter().zip(&sizes).zip(before.rows()) {
        if size == 0 {
            row.assign(&before.mapv(f64::from));
        }
        row.mapv_inplace(|sum| sum / size.max(1) as f64);
    }
    Ok(sums.mapv(|mean| mean as f32))
}

/// Centres by k-means++: each an item, drawn with a probability that is proportional to its squared distance from the
/// nearest centre drawn before; the first uniformly.
fn plus_plus(items: &dyn Rows, clusters: usize, seed: u64, restart: u64) -> Result<Array2<f32>> {
    let (len, dim) = items.shape();
    let mut random = generator(seed, restart);
    let mut centres = Array2::<f32>::zeros((clusters, dim));
    let mut nearest = vec![f64::INFINITY; len];
    let (mut centre, read) = (vec![0.0f32; dim], read_rows(dim));
    for (drawn, mut to) in centres.rows_mut().into_iter().enumerate() {
        let item = if drawn == 0 { below(&mut random, len) } else { draw(&nearest, unit(&mut random)) };
        items.read(item, &mut centre)?;
        to.iter_mut().zip(&centre).for_each(|(to, &value)| *to = value);
        if drawn + 1 == clusters {
            break;
        }
        nearest.par_chunks_mut(read).enumerate().try_for_each_init(
            Vec::new,
            |buffer, (block, nearest)| {
                buffer.resize(nearest.len() * dim, 0.0);
                items.read(block * read, buffer)?;
                for (row, nearest) in buffer.chunks_exact_mut(dim.max(1)).zip(nearest) {
                    row.iter_mut().zip(&centre).for_each(|(value, &centre)| *value -= centre);
                    *nearest = nearest.min(squared_norm(row));
                }
                Ok::<(), Error>(())
            },
        )?;
    }
    Ok(centres)
}

/// The position of `at`, in [0, 1), among weights laid end to end; among equal weights where all are 0.
fn draw(weights: &[f64], at: f64) -> usize {
    let total: f64 = weights.iter().sum();
    if total <= 0.0 {
        return ((at * weights.len() as f64) as usize).min(weights.len() - 1);
    }
    let mut rest = at * total;
    let mut last = 0;
    for (i, &weight) in weights.iter().enumerate().filter(|(_, weight)| **weight > 0.0) {
        last = i;
        rest -= weight;
        if rest < 0.0 {
            break;
        }
    }
    last
}
