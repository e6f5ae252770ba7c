//! Nearest neighbours, and metrics of labelled vectors.

use std::path::Path;

use embedtune_retrieval::{EvaluateOptions, Exclude, Metric, Metrics, Neighbours, evaluate, knn};
use ndarray::{Array1, Array2};
use ndarray_npy::{read_npy, write_npy};
use serde_json::Value;

use super::{Outcome, size};

/// Loads either kind of case.
pub(super) fn load(case: &Value, folder: &Path) -> Outcome<Box<dyn super::Case>> {
    let gallery: Array2<f32> = read_npy(folder.join("gallery.npy"))?;
    if case["kind"] == "metrics" {
        let labels: Array1<i64> = read_npy(folder.join("labels.npy"))?;
        let labels = labels.iter().map(|&label| u32::try_from(label)).collect::<Result<_, _>>()?;
        return Ok(Box::new(Measured { vectors: gallery, labels, metrics: None }));
    }
    let queries = match case["queries"].as_u64() {
        Some(_) => Some(read_npy(folder.join("queries.npy"))?),
        None => None,
    };
    Ok(Box::new(Search { gallery, queries, k: size(case, "k")?, found: None }))
}

/// One search by dot product, from the arrays as they are.
struct Search {
    gallery: Array2<f32>,
    /// `None`: the gallery.
    queries: Option<Array2<f32>>,
    k: usize,
    found: Option<Neighbours>,
}

impl super::Case for Search {
    fn run(&mut self) -> Outcome<()> {
        let queries = self.queries.as_ref().unwrap_or(&self.gallery);
        // Of one result at a time: the peers free theirs as well.
        self.found = None;
        self.found = Some(knn(queries.view(), self.gallery.view(), self.k, Metric::Dot, Exclude::None)?);
        Ok(())
    }

    fn write(&self, to: &Path) -> Outcome<()> {
        let found = self.found.as_ref().ok_or("nothing was run")?;
        let scores: Vec<f32> = found.rows().flatten().map(|hit| hit.score).collect();
        write_npy(to.join("scores.npy"), &Array2::from_shape_vec((found.len(), self.k), scores)?)?;
        // Neighbours of nearly equal score change places with rounding; the sum of their rows hardly notices, and the
        // first one is compared by itself.
        let first = found.rows().map(|hits| hits.first().map_or(-1.0, |hit| f64::from(hit.index)));
        write_npy(to.join("first.npy"), &Array1::from_iter(first))?;
        Ok(())
    }
}

/// Metrics of vectors that search each other.
struct Measured {
    vectors: Array2<f32>,
    labels: Vec<u32>,
    metrics: Option<Metrics>,
}

impl super::Case for Measured {
    fn run(&mut self) -> Outcome<()> {
        // pytorch-metric-learning searches by Euclidean distance.
        let options = EvaluateOptions { metric: Metric::L2, ..EvaluateOptions::default() };
        self.metrics = Some(evaluate(self.vectors.view(), &self.labels, None, &options)?);
        Ok(())
    }

    fn write(&self, to: &Path) -> Outcome<()> {
        let m = self.metrics.as_ref().ok_or("nothing was run")?;
        let at_r = [m.precision_at_1, m.r_precision, m.map_at_r];
        write_npy(to.join("metrics_at_r.npy"), &Array1::from_iter(at_r))?;
        let whole = at_r.into_iter().chain([m.mrr, m.map]);
        Ok(write_npy(to.join("metrics.npy"), &Array1::from_iter(whole))?)
    }
}
