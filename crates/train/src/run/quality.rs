//! How well vectors retrieve.

use embedtune_retrieval::{EvaluateOptions, evaluate};
use ndarray::Array2;
use serde::{Deserialize, Serialize};

use crate::data::{Dataset, Items};
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
        let options = EvaluateOptions { recall_at: Vec::new(), ..EvaluateOptions::default() };
        let vectors = embed(&queries.items)?;
        let searched = gallery.map(|gallery| embed(&gallery.items)).transpose()?;
        let searched = searched.as_ref().zip(gallery).map(|(v, g)| (v.view(), g.labels.as_slice()));
        let metrics = evaluate(vectors.view(), &queries.labels, searched, &options)
            .map_err(|e| Error::Unsuitable(format!("retrieval cannot be measured: {e}")))?;
        let mut classes = queries.labels.clone();
        classes.sort_unstable();
        classes.dedup();
        Ok(Self {
            recall_at_1: metrics.recall_at_1,
            map_at_r: metrics.map_at_r,
            one_nn_accuracy: metrics.precision_at_1,
            items: queries.labels.len(),
            classes: classes.len(),
        })
    }
}
