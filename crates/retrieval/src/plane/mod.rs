//! Vectors in the plane, for a picture.

mod affinities;
mod components;
mod tsne;

use embedtune_core::linalg;
use ndarray::{Array1, Array2, ArrayView1, ArrayView2, Zip};
use serde::{Deserialize, Serialize};

use crate::Result;
use crate::progress::Progress;

/// How vectors are brought to two dimensions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Projection {
    /// t-SNE (van der Maaten and Hinton, "Visualizing Data using t-SNE", JMLR 9, 2008), at a perplexity of 30, of the 50
    /// first principal components: near stays near; distances between clusters mean little.
    #[default]
    Tsne,
    /// The two directions of largest variance: linear, distances mean what they say, classes overlap.
    Pca,
}

/// Dimensions that neighbours are sought in. van der Maaten and Hinton reduce to 30 by principal components before
/// t-SNE, Kobak and Berens ("The art of using t-SNE for single-cell transcriptomics", Nature Communications 10, 2019)
/// to 50: it takes noise out of the distances and most of the time out of the search.
const DIMENSIONS: usize = 50;

impl Projection {
    /// Rounds that [`project`] takes for so many rows; 0 where it takes none.
    pub fn rounds(self, rows: usize) -> usize {
        match self {
            Projection::Pca => 0,
            Projection::Tsne => tsne::rounds(rows),
        }
    }
}

/// Places in the plane, one for each row of `vectors`, `[items, dim]`; of no meaningful unit, their mean near 0. Rows are
/// brought to unit length first, as the cosine compares directions. Numbers that are not finite count as 0, so that the
/// rows of a model that has diverged lie in the middle.
///
/// Nothing is random: the same rows give the same bits for any number of threads. t-SNE takes the repulsion of all pairs
/// exactly; its time grows with the square of the rows (10,000 take about 5 s on two cores), its memory with the rows.
///
/// ```
/// use embedtune_retrieval::ndarray::Array2;
/// use embedtune_retrieval::{Projection, project};
///
/// // Two groups, in opposite directions.
/// let rows = Array2::from_shape_fn((40, 3), |(i, j)| {
///     let side = if i % 2 == 0 { 1.0f32 } else { -1.0 };
///     side * (1.0 + j as f32) + 0.1 * ((i * 3 + j) as f32).sin()
/// });
/// let places = project(rows.view(), Projection::Pca)?;
/// assert!((0..40).all(|i| (places[i][0] > 0.0) == (places[i % 2][0] > 0.0)));
/// # Ok::<(), embedtune_retrieval::Error>(())
/// ```
///
/// # Errors
/// More rows than a search can take.
pub fn project(vectors: ArrayView2<'_, f32>, projection: Projection) -> Result<Vec<[f64; 2]>> {
    project_watched(vectors, projection, &())
}

/// [`project`] that tells how far it has come. A unit is a pair of points in a round of t-SNE; principal components alone
/// tell nothing.
///
/// # Errors
/// As [`project`].
pub fn project_watched(
    vectors: ArrayView2<'_, f32>,
    projection: Projection,
    progress: &dyn Progress,
) -> Result<Vec<[f64; 2]>> {
    let rows = centred_units(vectors);
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

fn centred_units(vectors: ArrayView2<'_, f32>) -> Array2<f32> {
    let mut rows = vectors.as_standard_layout().into_owned();
    rows.par_mapv_inplace(|v| if v.is_finite() { v } else { 0.0 });
    Zip::from(rows.rows_mut()).par_for_each(|mut row| {
        let norm = linalg::norm(&row).max(linalg::NORM_FLOOR);
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

    #[test]
    fn places_do_not_depend_on_the_number_of_threads_and_are_finite() {
        let mut rows = Array2::from_shape_fn((60, 5), |(i, j)| ((i * 3 + j * (1 + i % 2)) as f32).sin());
        rows[[3, 1]] = f32::NAN;
        rows[[4, 0]] = f32::INFINITY;
        rows.row_mut(5).fill(0.0);
        for projection in [Projection::Tsne, Projection::Pca] {
            let on = |threads: usize| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                pool.install(|| project(rows.view(), projection).unwrap())
            };
            let one = on(1);
            assert!(one.len() == 60 && one.iter().flatten().all(|v| v.is_finite()), "{projection:?}");
            for threads in [2, 3, 5] {
                assert!(one == on(threads), "{projection:?}, {threads} threads");
            }
        }
    }

    #[test]
    fn few_rows_and_no_columns_have_places() {
        for shape in [(0, 3), (1, 2), (2, 4), (3, 1), (5, 1), (4, 0)] {
            for projection in [Projection::Tsne, Projection::Pca] {
                let places = project(Array2::ones(shape).view(), projection).unwrap();
                assert!(places.len() == shape.0 && places.iter().flatten().all(|v| v.is_finite()));
            }
        }
    }
}
