//! How well classes are separated in the space of the embeddings itself, before any projection.

use embedtune_train::ndarray::{ArrayView2, Axis};
use embedtune_train::retrieval::{self, Exclude, Metric, knn, silhouette};
use embedtune_train::{Error, Result};

/// Neighbours whose classes make the purity.
pub(crate) const NEIGHBOURS: usize = 10;

/// Names of the measures, in the order of [`Separation::values`].
pub(crate) const MEASURES: [&str; 3] = ["1-NN accuracy", "purity of 10", "silhouette"];

/// Three measures of the same vectors, each larger for classes that are further apart.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Separation {
    /// Share of items whose nearest neighbour has their class.
    pub(crate) one_nn: f64,
    /// Mean share of an item's ten nearest neighbours (all others, if fewer) that have its class.
    pub(crate) purity: f64,
    /// Mean silhouette (Rousseeuw 1987) by cosine distance, 1 - cos, from -1 to 1.
    pub(crate) silhouette: f64,
}

impl Separation {
    pub(crate) fn values(&self) -> [f64; 3] {
        [self.one_nn, self.purity, self.silhouette]
    }

    /// Of `vectors`, `[items, dim]`, among themselves.
    ///
    /// # Errors
    /// Vectors that are not finite; fewer than two of them.
    pub(crate) fn of(vectors: ArrayView2<'_, f32>, labels: &[u32]) -> Result<Self> {
        if labels.len() < 2 {
            return Err(Error::Unsuitable("separation needs two items or more".to_owned()));
        }
        let wrong = |e: retrieval::Error| Error::Unsuitable(format!("separation cannot be measured: {e}"));
        let found = knn(vectors, vectors, NEIGHBOURS, Metric::Cosine, Exclude::SameRow).map_err(wrong)?;
        let (mut one_nn, mut purity) = (0.0, 0.0);
        for (hits, label) in found.rows().zip(labels) {
            let same = |hit: &embedtune_train::retrieval::Hit| labels[hit.index as usize] == *label;
            one_nn += f64::from(u8::from(hits.first().is_some_and(same)));
            purity += hits.iter().filter(|hit| same(hit)).count() as f64 / hits.len().max(1) as f64;
        }
        let count = labels.len() as f64;
        let silhouette = silhouette(vectors, labels).map_err(wrong)?;
        Ok(Self { one_nn: one_nn / count, purity: purity / count, silhouette })
    }

    /// Of the items of some classes alone, among themselves.
    ///
    /// # Errors
    /// As [`of`](Self::of).
    pub(crate) fn of_classes(vectors: ArrayView2<'_, f32>, labels: &[u32], classes: &[u32]) -> Result<Self> {
        let rows: Vec<usize> = (0..labels.len()).filter(|&row| classes.contains(&labels[row])).collect();
        let labels: Vec<u32> = rows.iter().map(|&row| labels[row]).collect();
        Self::of(vectors.select(Axis(0), &rows).view(), &labels)
    }
}

#[cfg(test)]
mod tests {
    use embedtune_train::ndarray::Array2;

    use super::*;

    /// The rows that `tests/golden/make_separation.py` measures.
    fn rows() -> (Array2<f32>, Vec<u32>) {
        let rows = Array2::from_shape_fn((30, 4), |(i, j)| {
            let noise = ((i * 31 + j * 17) % 29) as f32 / 29.0 - 0.5;
            noise + if i % 3 == j { 0.75 } else { 0.0 }
        });
        (rows, (0..30).map(|i| i % 3).collect())
    }

    #[test]
    fn the_measures_are_those_of_scikit_learn() {
        let golden: serde_json::Value =
            serde_json::from_str(include_str!("../../tests/golden/separation.json")).unwrap();
        let (vectors, labels) = rows();
        let all = Separation::of(vectors.view(), &labels).unwrap();
        let two = Separation::of_classes(vectors.view(), &labels, &[0, 2]).unwrap();
        for (found, expected) in [(all, &golden["all"]), (two, &golden["classes 0 and 2"])] {
            for (name, value) in ["one_nn", "purity", "silhouette"].iter().zip(found.values()) {
                let expected = expected[name].as_f64().unwrap();
                assert!((value - expected).abs() < 1e-6, "{name}: {value} {expected}");
            }
        }
    }

    #[test]
    fn few_items_are_refused_and_zero_vectors_are_not() {
        assert!(Separation::of(Array2::zeros((1, 2)).view(), &[0]).is_err());
        assert!(Separation::of(Array2::zeros((3, 2)).view(), &[0, 1, 0]).unwrap().silhouette.is_finite());
    }
}
