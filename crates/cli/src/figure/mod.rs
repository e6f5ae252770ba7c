//! The picture of what each loss learnt: classes projected to two dimensions, a panel for each variant.

mod affinities;
mod components;
mod font;
pub(crate) mod palette;
mod png;
mod scene;
mod svg;
mod tsne;

use clap::ValueEnum;
use embedtune_train::Result;
use embedtune_train::ndarray::{Array1, Array2, ArrayView1, ArrayView2, Zip};
use embedtune_train::retrieval::Progress;
use serde::Serialize;

/// How embeddings are brought to two dimensions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum, Serialize)]
pub(crate) enum Projection {
    /// Neighbour embedding (t-SNE): near stays near; distances between clusters mean little.
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

/// Panels beside each other. `labels[i]` indexes `classes` for row `i` of every panel.
pub(crate) struct Picture<'a> {
    pub(crate) title: String,
    pub(crate) panels: Vec<Panel<'a>>,
    pub(crate) labels: &'a [usize],
    pub(crate) classes: &'a [String],
}

/// The picture in both forms.
pub(crate) struct Drawn {
    pub(crate) svg: String,
    pub(crate) png: Vec<u8>,
}

impl Picture<'_> {
    /// Draws it; the same picture gives the same bytes on any number of threads.
    ///
    /// # Errors
    /// More panels, classes or items than can be drawn.
    pub(crate) fn draw(&self, projection: Projection) -> Result<Drawn> {
        let points: Vec<Vec<[f64; 2]>> = self
            .panels
            .iter()
            .map(|panel| project(panel.embeddings, projection, &()))
            .collect::<Result<_>>()?;
        let scene = scene::layout(self, &points, projection);
        Ok(Drawn { svg: svg::render(&scene), png: png::render(&scene)? })
    }
}

/// Dimensions that neighbours are sought in. van der Maaten and Hinton reduce to 30 by principal components before
/// t-SNE, Kobak and Berens ("The art of using t-SNE for single-cell transcriptomics", Nature Communications 10, 2019)
/// to 50: it takes noise out of the distances and most of the time out of the search.
const DIMENSIONS: usize = 50;

/// Rounds that [`project`] takes for so many rows; 0 where it takes none.
pub(crate) fn rounds(rows: usize, projection: Projection) -> usize {
    match projection {
        Projection::Pca => 0,
        Projection::Tsne => tsne::rounds(rows),
    }
}

/// The rows' places in two dimensions. Rows are brought to unit length first, as retrieval compares directions.
/// Numbers that are not finite count as 0: the rows of a model that has diverged lie in the middle.
///
/// # Errors
/// More rows than a search can take.
pub(crate) fn project(
    embeddings: ArrayView2<'_, f32>,
    projection: Projection,
    progress: &dyn Progress,
) -> Result<Vec<[f64; 2]>> {
    let rows = centred_units(embeddings);
    let reduced = match projection {
        Projection::Tsne => components::coordinates(rows.view(), DIMENSIONS)?,
        Projection::Pca => components::coordinates(rows.view(), 2)?,
    };
    let coordinate =
        |row: &ArrayView1<'_, f32>, axis: usize| f64::from(row.get(axis).copied().unwrap_or(0.0));
    let start: Vec<[f64; 2]> =
        reduced.rows().into_iter().map(|row| [0, 1].map(|axis| coordinate(&row, axis))).collect();
    match projection {
        Projection::Pca => Ok(start),
        Projection::Tsne => tsne::project(reduced.view(), &start, progress),
    }
}

fn centred_units(embeddings: ArrayView2<'_, f32>) -> Array2<f32> {
    let mut rows = embeddings.as_standard_layout().into_owned();
    rows.par_mapv_inplace(|v| if v.is_finite() { v } else { 0.0 });
    Zip::from(rows.rows_mut()).par_for_each(|mut row| {
        let norm = row.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>().sqrt().max(1e-12);
        row.mapv_inplace(|v| (f64::from(v) / norm) as f32);
    });
    let mut mean = vec![0.0f64; rows.ncols()];
    for row in rows.rows() {
        mean.iter_mut().zip(row).for_each(|(sum, &v)| *sum += f64::from(v));
    }
    let count = rows.nrows().max(1) as f64;
    let mean = Array1::from_iter(mean.iter().map(|sum| (sum / count) as f32));
    rows -= &mean;
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(projection: Projection) -> Drawn {
        let embeddings = Array2::from_shape_fn((40, 5), |(i, j)| ((i * 3 + j * (1 + i % 2)) as f32).sin());
        let labels: Vec<usize> = (0..40).map(|i| i % 2).collect();
        let classes = ["<script>alert(1)</script>".to_owned(), "x".repeat(10_000)];
        let panel = |title: &str| Panel {
            title: title.to_owned(),
            subtitle: "\u{202e}Recall@1 ✓".to_owned(),
            embeddings: embeddings.view(),
        };
        let panels = vec![panel("a<b>&\"c\u{0}"), panel("second")];
        let picture = Picture { title: "A & B".to_owned(), panels, labels: &labels, classes: &classes };
        picture.draw(projection).unwrap()
    }

    #[test]
    fn hostile_names_stay_text() {
        let svg = drawn(Projection::Pca).svg;
        assert!(!svg.contains("<script"));
        assert!(svg.contains("a&lt;b&gt;&amp;&quot;c\u{fffd}"));
        assert!(!svg.contains(&"x".repeat(100)));
        // Two panels of twenty circles and twenty squares, and the legend's.
        assert_eq!((svg.matches("<circle").count(), svg.matches("<path").count()), (41, 41));
    }

    #[test]
    fn the_bytes_do_not_depend_on_the_number_of_threads() {
        for projection in [Projection::Tsne, Projection::Pca] {
            let on = |threads: usize| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                pool.install(|| drawn(projection))
            };
            let one = on(1);
            for threads in [2, 3, 5] {
                let other = on(threads);
                assert!(one.svg == other.svg && one.png == other.png, "{projection:?}, {threads} threads");
            }
            assert!(one.png.starts_with(b"\x89PNG"));
        }
    }
}
