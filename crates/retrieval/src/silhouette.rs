//! How well classes are separated from each other.

use std::collections::BTreeMap;

use ndarray::{Array1, Array2, ArrayView2, Axis};
use rayon::prelude::*;

use crate::Result;
use crate::frame::check_values;
use crate::relevant::check_labels;

/// The mean silhouette (Rousseeuw 1987) of `vectors`, `[items, dim]`, and their classes by cosine distance, `1 - cos`:
/// from -1 to 1, larger where classes are further apart. Items alone in their class count 0, as does everything where
/// there is one class or none.
///
/// Exact without visiting pairs: for unit vectors the mean distance from `x` to a class of `n` items with sum `S` is
/// `1 - x S / n`.
///
/// ```
/// use embedtune_retrieval::{ndarray::array, silhouette};
///
/// let vectors = array![[1.0f32, 0.0], [2.0, 0.0], [0.0, 1.0], [0.0, 3.0]];
/// assert_eq!(silhouette(vectors.view(), &[0, 0, 1, 1])?, 1.0);
/// # Ok::<(), embedtune_retrieval::Error>(())
/// ```
///
/// # Errors
/// Another number of labels than of items; values that are not finite.
pub fn silhouette(vectors: ArrayView2<'_, f32>, labels: &[u32]) -> Result<f64> {
    check_labels("labels", vectors.nrows(), labels)?;
    check_values("vectors", &vectors)?;
    let mut unit: Array2<f64> = vectors.mapv(f64::from);
    for mut row in unit.rows_mut() {
        let norm = row.dot(&row).sqrt();
        if norm > 0.0 {
            row /= norm;
        }
    }
    let mut classes: BTreeMap<u32, (f64, Array1<f64>)> = BTreeMap::new();
    for (row, &label) in unit.rows().into_iter().zip(labels) {
        let (count, sum) = classes.entry(label).or_insert_with(|| (0.0, Array1::zeros(row.len())));
        *count += 1.0;
        *sum += &row;
    }
    let widths: Vec<f64> = unit
        .axis_iter(Axis(0))
        .into_par_iter()
        .zip(labels)
        .map(|(row, label)| {
            let Some((count, sum)) = classes.get(label).filter(|own| own.0 > 1.0) else { return 0.0 };
            // Without the item itself, whose distance is 0.
            let own = (count - 1.0 - (row.dot(sum) - row.dot(&row))) / (count - 1.0);
            let other = classes
                .iter()
                .filter(|(class, _)| *class != label)
                .map(|(_, (count, sum))| 1.0 - row.dot(sum) / count)
                .fold(f64::INFINITY, f64::min);
            let larger = own.max(other);
            if other.is_finite() && larger > 0.0 { (other - own) / larger } else { 0.0 }
        })
        .collect();
    // In the order of the rows, whatever the number of threads.
    Ok(widths.iter().sum::<f64>() / labels.len().max(1) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> Array2<f32> {
        Array2::from_shape_fn((30, 4), |(i, j)| ((i * 31 + j * 17) % 29) as f32 / 29.0 - 0.2)
    }

    /// Against the definition: mean distances over pairs.
    #[test]
    fn it_is_that_of_the_pairs() {
        let (rows, labels) = (rows(), (0..30).map(|i| i * i % 4).collect::<Vec<u32>>());
        let distance = |a: usize, b: usize| {
            let (a, b) = (rows.row(a).mapv(f64::from), rows.row(b).mapv(f64::from));
            1.0 - a.dot(&b) / (a.dot(&a) * b.dot(&b)).sqrt()
        };
        let mean = |i: usize, class: u32| {
            let others: Vec<f64> =
                (0..30).filter(|&j| j != i && labels[j] == class).map(|j| distance(i, j)).collect();
            others.iter().sum::<f64>() / others.len() as f64
        };
        let width = |i: usize| {
            let own = mean(i, labels[i]);
            let other = (0..4)
                .filter(|&class| class != labels[i] && labels.contains(&class))
                .map(|class| mean(i, class))
                .fold(f64::INFINITY, f64::min);
            (other - own) / own.max(other)
        };
        let expected = (0..30).map(width).sum::<f64>() / 30.0;
        let found = silhouette(rows.view(), &labels).unwrap();
        assert!((found - expected).abs() < 1e-12, "{found} {expected}");
    }

    #[test]
    fn lonely_items_and_single_classes_count_nothing() {
        let rows = rows();
        assert_eq!(silhouette(rows.view(), &[0; 30]), Ok(0.0));
        let alone: Vec<u32> = (0..30).collect();
        assert_eq!(silhouette(rows.view(), &alone), Ok(0.0));
        assert_eq!(silhouette(Array2::zeros((0, 3)).view(), &[]), Ok(0.0));
        assert!(silhouette(Array2::zeros((3, 2)).view(), &[0, 1, 0]).unwrap().is_finite());
        assert!(silhouette(rows.view(), &[0; 3]).is_err());
        assert!(silhouette(Array2::from_elem((2, 1), f32::NAN).view(), &[0, 1]).is_err());
    }
}
