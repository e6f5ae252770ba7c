//! What `evaluate` measures of one set of vectors.

use std::collections::BTreeMap;

use embedtune_train::retrieval::{
    self, Agreement, Bootstrap, EvaluateOptions, Evaluation, Interval, KMeans, Measure, Operating, Roc, Rows,
};
use embedtune_train::{Error, Result};
use serde::Serialize;

use super::args::{Evaluate, Shown};
use crate::work::Work;

/// Points of the ROC that are written.
const ROC_POINTS: usize = 200;

/// Vectors with their classes, and what they search.
pub(super) struct Labelled<'a> {
    pub(super) queries: &'a dyn Rows,
    pub(super) labels: &'a [u32],
    pub(super) gallery: Option<(&'a dyn Rows, &'a [u32])>,
}

/// Where progress is shown, and what stands before the name of each stage.
#[derive(Clone, Copy)]
pub(super) struct Watched<'a> {
    pub(super) work: &'a Work,
    pub(super) stage: &'static str,
}

impl Watched<'_> {
    fn stage(self, name: &str, unit: &'static str, units: usize) {
        self.work.stage(&format!("{}{name}", self.stage), unit, units);
    }
}

/// How well a k-means clustering and the classes agree.
#[derive(Debug, Serialize)]
pub(super) struct Clustering {
    #[serde(flatten)]
    pub(super) agreement: Agreement,
    /// Starts, of which the best was taken.
    pub(super) starts: usize,
}

/// Figures, or their intervals, by name; those at k by k.
#[derive(Debug, Serialize)]
pub(super) struct Figures<T> {
    #[serde(flatten)]
    values: BTreeMap<&'static str, T>,
    #[serde(flatten)]
    at_k: BTreeMap<&'static str, BTreeMap<usize, T>>,
}

#[derive(Debug, Serialize)]
pub(super) struct Class {
    pub(super) class: String,
    pub(super) queries: usize,
    #[serde(flatten)]
    figures: Figures<f64>,
    #[serde(skip)]
    pub(super) means: Vec<(Measure, f64)>,
}

#[derive(Debug, Serialize)]
pub(super) struct Verification {
    pub(super) pairs_of_one_class: u64,
    pub(super) pairs_of_two: u64,
    pub(super) auc: f64,
    pub(super) eer: f64,
    pub(super) eer_threshold: f32,
    /// For each rate asked for; null where even the strictest threshold accepts more.
    pub(super) at_far: Vec<AtFar>,
    roc: Vec<Operating>,
}

#[derive(Debug, Serialize)]
pub(super) struct AtFar {
    pub(super) wanted: f64,
    pub(super) far: Option<f64>,
    pub(super) tar: Option<f64>,
    pub(super) threshold: Option<f32>,
}

#[derive(Debug, Serialize)]
pub(super) struct Measured {
    #[serde(flatten)]
    figures: Figures<f64>,
    #[serde(skip)]
    pub(super) means: Vec<(Measure, f64)>,
    /// By the names of the figures.
    #[serde(rename = "intervals", skip_serializing_if = "Option::is_none")]
    interval_figures: Option<Figures<Interval>>,
    #[serde(skip)]
    pub(super) intervals: Vec<(Measure, Interval)>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) clustering: Option<Clustering>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) verification: Option<Verification>,
    /// Why there is no threshold although one was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    uncalibrated: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) per_class: Vec<Class>,
    #[serde(skip)]
    pub(super) recall_at_1: f64,
    #[serde(skip)]
    pub(super) map_at_r: f64,
    pub(super) queries_without_match: usize,
}

impl Measured {
    /// The end of the command: an error where a threshold was asked for and the data have none.
    pub(super) fn calibrated(&self) -> Result<()> {
        match &self.uncalibrated {
            None => Ok(()),
            Some(why) => Err(Error::Unsuitable(format!("--calibrate: {why}"))),
        }
    }
}

impl<T: Copy> Figures<T> {
    fn new(of: &[(Measure, T)]) -> Self {
        let mut figures = Self { values: BTreeMap::new(), at_k: BTreeMap::new() };
        for &(measure, value) in of {
            let (names, k): (&[&'static str], _) = match measure {
                // The same number in the vocabularies of metric learning and of search engines.
                Measure::Hit(k) => (&["recall_at_k", "hit_at_k"], Some(k)),
                Measure::Recall(k) => (&["ir_recall_at_k"], Some(k)),
                Measure::Precision(k) => (&["precision_at_k"], Some(k)),
                Measure::NdcgAt(k) => (&["ndcg_at_k"], Some(k)),
                Measure::RPrecision => (&["r_precision"], None),
                Measure::MapAtR => (&["map_at_r"], None),
                Measure::Map => (&["map"], None),
                Measure::Mrr => (&["mrr"], None),
                Measure::Ndcg => (&["ndcg"], None),
                _ => (&[], None),
            };
            for &name in names {
                if let Some(k) = k {
                    figures.at_k.entry(name).or_default().insert(k, value);
                } else {
                    figures.values.insert(name, value);
                }
            }
        }
        figures
    }
}

fn shown(measure: Measure) -> Option<Shown> {
    Some(match measure {
        Measure::Hit(_) => Shown::Hit,
        Measure::Recall(_) => Shown::Recall,
        Measure::Precision(_) => Shown::Precision,
        Measure::NdcgAt(_) | Measure::Ndcg => Shown::Ndcg,
        Measure::RPrecision => Shown::RPrecision,
        Measure::MapAtR => Shown::MapAtR,
        Measure::Map => Shown::Map,
        Measure::Mrr => Shown::Mrr,
        _ => return None,
    })
}

/// Measures what the options ask for.
pub(super) fn measure(
    vectors: &Labelled<'_>,
    args: &Evaluate,
    class: &dyn Fn(u32) -> String,
    watched: Watched<'_>,
) -> Result<Measured> {
    let unsuitable = |e: embedtune_train::retrieval::Error| {
        Error::Unsuitable(format!("retrieval cannot be measured: {e}"))
    };
    let metric = args.distance.into();
    let options = EvaluateOptions { metric, recall_at: args.k.clone() };
    let Labelled { queries, labels, gallery } = *vectors;
    watched.stage("ranking", "queries", labels.len());
    let found = Evaluation::watched(queries, labels, gallery, &options, watched.work).map_err(unsuitable)?;
    let wanted = |measure: Measure| shown(measure).is_some_and(|shown| args.shows(shown));
    let metrics = found.metrics();
    let of_all = |measure: Measure| {
        let values = found.values(measure)?;
        Some((measure, values.sum::<f64>() / found.query_rows().len() as f64))
    };
    let means: Vec<(Measure, f64)> =
        found.measures().into_iter().filter(|&measure| wanted(measure)).filter_map(of_all).collect();
    let intervals = match args.bootstrap {
        Some(resamples) => {
            let bootstrap = Bootstrap { resamples, seed: args.seed, ..Bootstrap::default() };
            watched.stage("resampling", "resamples", resamples);
            let all = found.intervals_watched(&bootstrap, watched.work).map_err(unsuitable)?;
            all.into_iter().filter(|(measure, _)| wanted(*measure)).collect()
        }
        None => Vec::new(),
    };
    let per_class = if args.per_class {
        let classes = found.per_class().into_iter().map(|of| {
            let means: Vec<_> = of.means.into_iter().filter(|(measure, _)| wanted(*measure)).collect();
            Class { class: class(of.label), queries: of.queries, figures: Figures::new(&means), means }
        });
        classes.collect()
    } else {
        Vec::new()
    };
    let clustering = if args.shows(Shown::Nmi) || args.shows(Shown::Ami) {
        let clusters = super::distinct(labels);
        let options = KMeans { clusters, seed: args.seed, ..KMeans::default() };
        watched.stage("clustering", "starts", options.starts(queries.shape()));
        let (agreement, starts) =
            Agreement::of_kmeans_watched(queries, labels, metric, &options, watched.work)
                .map_err(unsuitable)?;
        Some(Clustering { agreement, starts })
    } else {
        None
    };
    let mut uncalibrated = None;
    let roc = if args.calibrate {
        watched.stage("comparing pairs", "queries", labels.len());
        match Roc::of_pairs_watched(queries, labels, gallery, metric, watched.work) {
            Ok(roc) => Some(roc),
            Err(retrieval::Error::NoPairs { positives, negatives }) => {
                uncalibrated = Some(one_kind(positives, negatives));
                None
            }
            Err(error) => return Err(unsuitable(error)),
        }
    } else {
        None
    };
    let verification = if let Some(roc) = roc {
        let at_far: Result<Vec<_>> = args
            .far
            .iter()
            .map(|&wanted| {
                let point = roc.at_far(wanted).map_err(unsuitable)?;
                let (far, tar) = (point.map(|at| at.far), point.map(|at| at.tar));
                Ok(AtFar { wanted, far, tar, threshold: point.map(|at| at.threshold) })
            })
            .collect();
        let at_far = at_far?;
        Some(Verification {
            pairs_of_one_class: roc.positives(),
            pairs_of_two: roc.negatives(),
            auc: roc.auc(),
            eer: roc.eer().rate,
            eer_threshold: roc.eer().threshold,
            at_far,
            roc: roc.thinned(ROC_POINTS),
        })
    } else {
        None
    };
    Ok(Measured {
        figures: Figures::new(&means),
        means,
        interval_figures: args.bootstrap.map(|_| Figures::new(&intervals)),
        intervals,
        clustering,
        verification,
        uncalibrated,
        per_class,
        recall_at_1: metrics.recall_at_1,
        map_at_r: metrics.map_at_r,
        queries_without_match: metrics.queries_without_match,
    })
}

/// Why pairs of one kind alone calibrate nothing.
fn one_kind(positives: u64, negatives: u64) -> String {
    let pairs = if negatives == 0 {
        format!("all {positives} pairs are of one class")
    } else {
        format!("all {negatives} pairs are of two classes")
    };
    format!(
        "no threshold can be calibrated: {pairs}, so there is nothing to tell apart; measure items of several classes, \
         at least two of one of them"
    )
}
