//! The picture of what each loss learnt: classes projected to two dimensions, a panel for each variant.

mod font;
pub(crate) mod palette;
mod png;
mod scene;
mod svg;

use clap::ValueEnum;
use embedtune_train::ndarray::ArrayView2;
use embedtune_train::retrieval::{self, Progress, project_watched};
use embedtune_train::{Error, Result};
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

impl Projection {
    /// Rounds that [`places`](Self::places) takes for so many rows.
    pub(crate) fn rounds(self, rows: usize) -> usize {
        retrieval::Projection::from(self).rounds(rows)
    }

    /// The rows' places.
    ///
    /// # Errors
    /// More rows than a search can take.
    pub(crate) fn places(
        self,
        embeddings: ArrayView2<'_, f32>,
        progress: &dyn Progress,
    ) -> Result<Vec<[f64; 2]>> {
        project_watched(embeddings, self.into(), progress)
            .map_err(|e| Error::Unsuitable(format!("the projection: {e}")))
    }
}

impl From<Projection> for retrieval::Projection {
    fn from(projection: Projection) -> Self {
        match projection {
            Projection::Tsne => Self::Tsne,
            Projection::Pca => Self::Pca,
        }
    }
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
            .map(|panel| projection.places(panel.embeddings, &()))
            .collect::<Result<_>>()?;
        let scene = scene::layout(self, &points, projection);
        Ok(Drawn { svg: svg::render(&scene), png: png::render(&scene)? })
    }
}

#[cfg(test)]
mod tests {
    use embedtune_train::ndarray::Array2;

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
