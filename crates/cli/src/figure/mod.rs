//! The picture of what each loss learnt: ten classes projected to two dimensions, a panel for each variant.

mod pca;
mod svg;
mod tsne;

use clap::ValueEnum;
use embedtune_train::ndarray::ArrayView2;
use serde::Serialize;

/// How embeddings are brought to two dimensions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum, Serialize)]
pub(crate) enum Projection {
    /// Neighbour embedding (exact t-SNE): near stays near; distances between clusters mean little.
    #[default]
    Tsne,
    /// The two directions of largest variance: linear, distances mean what they say, classes overlap.
    Pca,
}

/// One panel: embeddings of the same items under one variant.
pub(crate) struct Panel<'a> {
    pub(crate) title: String,
    pub(crate) subtitle: String,
    pub(crate) embeddings: ArrayView2<'a, f32>,
}

/// Draws the panels as one SVG. `labels[i]` indexes `classes` for row `i` of every panel. The same input gives
/// the same bytes on any number of threads: each panel is computed by one thread.
pub(crate) fn draw(
    panels: &[Panel<'_>],
    labels: &[usize],
    classes: &[String],
    projection: Projection,
) -> String {
    let points: Vec<Vec<[f64; 2]>> = std::thread::scope(|scope| {
        let running: Vec<_> =
            panels.iter().map(|panel| scope.spawn(|| project(panel.embeddings, projection))).collect();
        running.into_iter().map(|thread| thread.join().unwrap_or_default()).collect()
    });
    svg::render(panels, &points, labels, classes, projection)
}

/// Rows are brought to unit length first, as retrieval compares directions.
fn project(embeddings: ArrayView2<'_, f32>, projection: Projection) -> Vec<[f64; 2]> {
    let rows: Vec<Vec<f64>> = embeddings
        .rows()
        .into_iter()
        .map(|row| {
            let norm = row.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>().sqrt().max(1e-12);
            row.iter().map(|&v| f64::from(v) / norm).collect()
        })
        .collect();
    let start = pca::project(&rows);
    match projection {
        Projection::Pca => start,
        Projection::Tsne => tsne::project(&rows, &start),
    }
}
