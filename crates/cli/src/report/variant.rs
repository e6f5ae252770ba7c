//! What one variant's vectors look like and what they retrieve.

use std::collections::BTreeMap;

use embedtune_train::data::Split;
use embedtune_train::ndarray::Axis;
use embedtune_train::retrieval::{Exclude, Hit, Metric, Neighbours, knn, search_watched};
use embedtune_train::run::Quality;
use embedtune_train::{Error, Result};
use serde::Serialize;

use super::Confused;
use super::entries::Entries;
use super::histogram::Histogram;
use crate::figure::Projection;
use crate::vectors::Vectors;
use crate::work::Work;

/// Neighbours shown of an item.
const NEAR: usize = 5;
/// Queries that the confusion and the galleries are made from, at most.
const MEASURED: usize = 10_000;
/// Items whose pairs make the histograms, at most.
const PAIRED: usize = 1500;
/// Queries in the gallery of errors, and in that of the narrowest successes.
const WRONG: usize = 24;
const RIGHT: usize = 12;
/// Pairs of classes in the confusion, at most: every pair of twenty classes.
const PAIRS: usize = 400;
/// Places along an axis of the projection.
const GRID: f64 = 4095.0;

/// The rows of the queries, and of the gallery, that a report looks at.
pub(super) struct Sample {
    pub(super) shown: Vec<usize>,
    measured: Vec<usize>,
    paired: Vec<usize>,
    paired_gallery: Vec<usize>,
}

impl Sample {
    pub(super) fn new(split: &Split, items: usize) -> Self {
        Self {
            shown: split.queries.balanced(items),
            measured: split.queries.balanced(MEASURED),
            paired: split.queries.balanced(PAIRED),
            paired_gallery: split.gallery.as_ref().map_or(Vec::new(), |gallery| gallery.balanced(PAIRED)),
        }
    }
}

/// A query of a gallery with what it found.
#[derive(Serialize)]
struct Search {
    query: u32,
    near: Vec<u32>,
    score: Vec<f32>,
}

/// How classes are taken for each other by the nearest neighbour.
#[derive(Serialize)]
struct Confusion {
    /// Queries of each class, and how many of them found their own first.
    queries: Vec<u32>,
    right: Vec<u32>,
    /// Class, the class found instead, how often; the most frequent first.
    pairs: Vec<(u32, u32, u32)>,
}

#[derive(Serialize)]
pub(super) struct Variant {
    pub(super) name: String,
    pub(super) quality: Option<Quality>,
    /// Places of the shown items, x and y by turns, on a grid of 4096.
    places: Vec<u16>,
    /// The nearest of each shown item and their similarities: [`NEAR`] each, fewer in small sets.
    near: Vec<Vec<u32>>,
    score: Vec<Vec<f32>>,
    wrong: Vec<Search>,
    right: Vec<Search>,
    confusion: Confusion,
    distances: Histogram,
}

impl Variant {
    pub(super) fn new(
        name: &str,
        quality: Option<Quality>,
        vectors: &Vectors,
        split: &Split,
        sample: &Sample,
        projection: Projection,
        entries: &mut Entries,
        work: &Work,
    ) -> Result<Self> {
        let unsearchable = |e: embedtune_train::retrieval::Error| Error::Unsuitable(format!("{name}: {e}"));
        work.stage(&format!("{name}: searching"), "queries", sample.measured.len());
        let searched = Searched::new(vectors, split, &sample.measured, work).map_err(unsearchable)?;
        let shown = vectors.queries.select(Axis(0), &sample.shown);
        let near = match &vectors.gallery {
            // Where all items are shown, they have been searched.
            None if sample.shown.len() == vectors.queries.nrows() && sample.shown == sample.measured => None,
            // Among themselves the neighbours are those among the items shown: each has its point.
            None => Some(knn(shown.view(), shown.view(), NEAR, Metric::Cosine, Exclude::SameRow)),
            Some(gallery) => Some(knn(shown.view(), gallery.view(), NEAR, Metric::Cosine, Exclude::None)),
        };
        let near = near.transpose().map_err(unsearchable)?;
        let near = near.as_ref().unwrap_or(&searched.found);
        let entry = |hit: &Hit, entries: &mut Entries| match vectors.gallery {
            None => hit.index,
            Some(_) => entries.found(hit.index),
        };
        work.stage(&format!("{name}: projecting"), "rounds", projection.rounds(shown.nrows()));
        let places = places(&projection.places(shown.view(), work)?);
        Ok(Self {
            name: name.to_owned(),
            quality,
            places,
            near: near.rows().map(|hits| hits.iter().map(|hit| entry(hit, entries)).collect()).collect(),
            score: near.rows().map(|hits| hits.iter().map(|hit| rounded(hit.score)).collect()).collect(),
            wrong: searched.wrong(entries).map_err(unsearchable)?,
            right: searched.right(entries),
            confusion: searched.confusion(split.queries.classes.len()),
            distances: distances(vectors, split, sample)?,
        })
    }

    pub(super) fn mean_negative(&self) -> Option<f64> {
        self.distances.mean_negative
    }

    /// The class that is taken for another most often; `None` where every query finds its own.
    pub(super) fn confused(&self, classes: &[String]) -> Option<Confused> {
        let &(own, found, times) = self.confusion.pairs.first()?;
        let name = |label: u32| classes.get(label as usize).cloned().unwrap_or_else(|| label.to_string());
        let queries = self.confusion.queries.get(own as usize).copied().unwrap_or(0);
        Some(Confused { own: name(own), found: name(found), times, queries })
    }
}

fn distances(vectors: &Vectors, split: &Split, sample: &Sample) -> Result<Histogram> {
    let rows = vectors.queries.select(Axis(0), &sample.paired);
    let labels: Vec<u32> = sample.paired.iter().map(|&row| split.queries.labels[row]).collect();
    let others = vectors.gallery.as_ref().zip(split.gallery.as_ref()).map(|(vectors, gallery)| {
        let labels: Vec<u32> = sample.paired_gallery.iter().map(|&row| gallery.labels[row]).collect();
        (vectors.select(Axis(0), &sample.paired_gallery), labels)
    });
    Histogram::of(
        (rows.view(), &labels),
        others.as_ref().map(|(rows, labels)| (rows.view(), labels.as_slice())),
    )
}

/// The measured queries with their nearest items.
struct Searched<'a> {
    vectors: &'a Vectors,
    split: &'a Split,
    rows: &'a [usize],
    found: Neighbours,
}

impl<'a> Searched<'a> {
    fn new(
        vectors: &'a Vectors,
        split: &'a Split,
        rows: &'a [usize],
        work: &Work,
    ) -> embedtune_train::retrieval::Result<Self> {
        let queries = vectors.queries.select(Axis(0), rows);
        let own: Vec<u32> = rows.iter().map(|&row| row as u32).collect();
        let (gallery, exclude) = match &vectors.gallery {
            None => (&vectors.queries, Exclude::SelfById(&own)),
            Some(gallery) => (gallery, Exclude::None),
        };
        let found = search_watched(&queries, gallery, NEAR, Metric::Cosine, exclude, work)?;
        Ok(Self { vectors, split, rows, found })
    }

    fn label(&self, query: usize) -> u32 {
        self.split.queries.labels[self.rows[query]]
    }

    fn labels(&self) -> &[u32] {
        self.split.gallery.as_ref().map_or(&self.split.queries.labels, |gallery| &gallery.labels)
    }

    fn is_right(&self, query: usize) -> Option<bool> {
        let first = self.found.row(query).first()?;
        Some(self.labels()[first.index as usize] == self.label(query))
    }

    fn search(&self, query: usize, entries: &mut Entries) -> Search {
        let hits = self.found.row(query);
        Search {
            query: entries.query(self.rows[query] as u32),
            near: hits.iter().map(|hit| entries.found(hit.index)).collect(),
            score: hits.iter().map(|hit| rounded(hit.score)).collect(),
        }
    }

    /// The hardest errors: those whose nearest item is ahead of the nearest right one by most.
    fn wrong(&self, entries: &mut Entries) -> embedtune_train::retrieval::Result<Vec<Search>> {
        let mut of_class: BTreeMap<u32, (Vec<usize>, Vec<usize>)> = BTreeMap::new();
        for (row, &label) in self.labels().iter().enumerate() {
            of_class.entry(label).or_default().0.push(row);
        }
        // Without a right item there is nothing to find.
        for query in (0..self.rows.len()).filter(|&query| self.is_right(query) == Some(false)) {
            if let Some((_, queries)) = of_class.get_mut(&self.label(query)) {
                queries.push(query);
            }
        }
        let gallery = self.vectors.gallery.as_ref().unwrap_or(&self.vectors.queries);
        let mut errors: Vec<(f32, usize)> = Vec::new();
        for (items, queries) in of_class.into_values().filter(|(_, queries)| !queries.is_empty()) {
            let rows: Vec<usize> = queries.iter().map(|&query| self.rows[query]).collect();
            let place = |row: &usize| items.binary_search(row).map_or(u32::MAX, |at| at as u32);
            let own: Vec<u32> = rows.iter().map(place).collect();
            let exclude = match &self.vectors.gallery {
                None => Exclude::SelfById(&own),
                Some(_) => Exclude::None,
            };
            let (asked, right) =
                (self.vectors.queries.select(Axis(0), &rows), gallery.select(Axis(0), &items));
            let found = knn(asked.view(), right.view(), 1, Metric::Cosine, exclude)?;
            errors.extend(queries.iter().zip(found.rows()).filter_map(|(&query, right)| {
                let first = self.found.row(query).first()?;
                Some((first.score - right.first()?.score, query))
            }));
        }
        errors.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        Ok(errors.iter().take(WRONG).map(|&(_, query)| self.search(query, entries)).collect())
    }

    /// The narrowest successes: those whose nearest wrong item is closest behind.
    fn right(&self, entries: &mut Entries) -> Vec<Search> {
        let mut right: Vec<(f32, usize)> = (0..self.rows.len())
            .filter(|&query| self.is_right(query) == Some(true))
            .map(|query| {
                let hits = self.found.row(query);
                let wrong = hits.iter().find(|hit| self.labels()[hit.index as usize] != self.label(query));
                let lead =
                    hits.first().zip(wrong).map_or(f32::MAX, |(first, wrong)| first.score - wrong.score);
                (lead, query)
            })
            .collect();
        right.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        right.iter().take(RIGHT).map(|&(_, query)| self.search(query, entries)).collect()
    }

    fn confusion(&self, classes: usize) -> Confusion {
        let (mut queries, mut right) = (vec![0; classes], vec![0; classes]);
        let mut counts: BTreeMap<(u32, u32), u32> = BTreeMap::new();
        for query in 0..self.rows.len() {
            let Some(first) = self.found.row(query).first() else { continue };
            let (own, found) = (self.label(query), self.labels()[first.index as usize]);
            queries[own as usize] += 1;
            if own == found {
                right[own as usize] += 1;
            } else {
                *counts.entry((own, found)).or_default() += 1;
            }
        }
        let mut pairs: Vec<(u32, u32, u32)> = counts.into_iter().map(|((a, b), n)| (a, b, n)).collect();
        pairs.sort_by(|a, b| b.2.cmp(&a.2).then(a.cmp(b)));
        pairs.truncate(PAIRS);
        Confusion { queries, right, pairs }
    }
}

/// Four digits are more than anybody reads.
fn rounded(score: f32) -> f32 {
    (score * 1e4).round() / 1e4
}

/// Coordinates on a grid, y downwards as screens have it; both axes to one scale.
fn places(points: &[[f64; 2]]) -> Vec<u16> {
    let bound = |axis: usize, of: fn(f64, f64) -> f64, start: f64| {
        points.iter().map(|point| point[axis]).fold(start, of)
    };
    let low = [0, 1].map(|axis| bound(axis, f64::min, f64::INFINITY));
    let high = [0, 1].map(|axis| bound(axis, f64::max, f64::NEG_INFINITY));
    let span = (high[0] - low[0]).max(high[1] - low[1]).max(1e-12);
    let middle = [0, 1].map(|axis| (low[axis] + high[axis]) / 2.0);
    let place = |value: f64| ((value + 0.5) * GRID).round().clamp(0.0, GRID) as u16;
    points
        .iter()
        .flat_map(|point| [place((point[0] - middle[0]) / span), place((middle[1] - point[1]) / span)])
        .collect()
}
