//! How well vectors retrieve.

use std::collections::BTreeMap;

use embedtune_retrieval::{Agreement, EvaluateOptions, Evaluation, KMeans, Metric, Rows};
use ndarray::Array2;
use serde::{Deserialize, Serialize};

use super::monitor::name;
use crate::data::{Dataset, Items};
use crate::run::Monitor;
use crate::{Error, Result};

/// Retrieval quality by cosine similarity, exact.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Quality {
    /// Share of queries whose nearest neighbour has their class.
    pub recall_at_1: f64,
    /// Mean average precision at R, the number of items of the query's class (Musgrave et al. 2020, "A Metric
    /// Learning Reality Check", section 3.2).
    pub map_at_r: f64,
    /// Accuracy of the one-nearest-neighbour classifier, each item without itself: by definition the same number
    /// as `recall_at_1`, under the name that classification reports give it.
    pub one_nn_accuracy: f64,
    /// Queries.
    pub items: usize,
    /// Classes among them.
    pub classes: usize,
}

impl Quality {
    /// Measures the vectors that `embed` makes of the queries and of what they search (`None`: each other, every
    /// item without itself).
    ///
    /// # Errors
    /// Those of `embed`; [`Error::Unsuitable`] if there is nothing to measure.
    pub fn measure(
        queries: &Dataset,
        gallery: Option<&Dataset>,
        embed: impl Fn(&Items) -> Result<Array2<f32>>,
    ) -> Result<Self> {
        measure(queries, gallery, embed, None).map(|(quality, _)| quality)
    }
}

/// The k of the figures beside 1.
const KS: [usize; 2] = [5, 10];

/// As [`Quality::measure`], with all figures by name where something is monitored.
pub(in crate::run) fn measure(
    queries: &Dataset,
    gallery: Option<&Dataset>,
    embed: impl Fn(&Items) -> Result<Array2<f32>>,
    monitor: Option<Monitor>,
) -> Result<(Quality, BTreeMap<String, f64>)> {
    let recall_at = match monitor {
        Some(monitor) => KS.into_iter().chain(monitor.k()).collect(),
        None => Vec::new(),
    };
    let options = EvaluateOptions { recall_at, ..EvaluateOptions::default() };
    let vectors = embed(&queries.items)?;
    let searched = gallery.map(|gallery| embed(&gallery.items)).transpose()?;
    let searched = searched.as_ref().zip(gallery).map(|(v, g)| (v as &dyn Rows, g.labels.as_slice()));
    let unsuitable =
        |e: embedtune_retrieval::Error| Error::Unsuitable(format!("retrieval cannot be measured: {e}"));
    let found = Evaluation::new(&vectors, &queries.labels, searched, &options).map_err(unsuitable)?;
    let mut figures = BTreeMap::new();
    if monitor.is_some() {
        for measure in found.measures() {
            if let (Some(name), Some(values)) = (name(measure), found.values(measure)) {
                figures.insert(name, values.sum::<f64>() / found.query_rows().len() as f64);
            }
        }
    }
    if let Some(monitor @ (Monitor::Nmi | Monitor::Ami)) = monitor {
        let of = Agreement::of_kmeans(&vectors, &queries.labels, Metric::Cosine, &KMeans::default());
        let of = of.map_err(unsuitable)?;
        figures.insert(monitor.to_string(), if monitor == Monitor::Nmi { of.nmi } else { of.ami });
    }
    let metrics = found.metrics();
    let mut classes = queries.labels.clone();
    classes.sort_unstable();
    classes.dedup();
    let quality = Quality {
        recall_at_1: metrics.recall_at_1,
        map_at_r: metrics.map_at_r,
        one_nn_accuracy: metrics.precision_at_1,
        items: queries.labels.len(),
        classes: classes.len(),
    };
    Ok((quality, figures))
}
