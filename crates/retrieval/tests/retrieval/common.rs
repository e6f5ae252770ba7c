//! The closed forms of `golden/make_metrics.py`.

use std::collections::BTreeMap;

use embedtune_retrieval::Metric;
use ndarray::Array2;
use serde::Deserialize;

#[derive(Deserialize)]
pub(crate) struct Golden {
    pub(crate) cases: Vec<Case>,
}

#[derive(Deserialize)]
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) metric: Metric,
    pub(crate) data: String,
    pub(crate) dim: usize,
    pub(crate) queries: usize,
    pub(crate) gallery: Option<usize>,
    pub(crate) expected: BTreeMap<String, f64>,
    pub(crate) without_match: usize,
    pub(crate) classes: usize,
    pub(crate) nearest: Vec<Vec<u32>>,
}

pub(crate) fn cases() -> Vec<Case> {
    let golden: Golden = serde_json::from_str(include_str!("../golden/metrics.json")).unwrap();
    assert_eq!(golden.cases.len(), 4);
    golden.cases
}

/// Vectors and labels.
pub(crate) type Labelled = (Array2<f32>, Vec<u32>);

impl Case {
    /// The queries, and the gallery if there is one.
    pub(crate) fn data(&self) -> (Labelled, Option<Labelled>) {
        let queries = self.rows(self.queries, if self.gallery.is_some() { 1000 } else { 0 });
        (queries, self.gallery.map(|rows| self.rows(rows, 0)))
    }

    fn rows(&self, rows: usize, shift: usize) -> Labelled {
        closed_form(&self.data, rows, self.dim, shift)
    }
}

/// Rows of `data`, "wave" or "grid", from `shift` on.
pub(crate) fn closed_form(data: &str, rows: usize, dim: usize, shift: usize) -> Labelled {
    let value = |(i, j): (usize, usize)| {
        let i = i + shift;
        match data {
            "wave" => {
                let (i, j) = (i as f64, j as f64);
                (0.9 * i + 1.7 * j + 0.3 * i * j).sin() as f32
            }
            _ => ((i * (j + 2) + j) % 5) as f32 - 2.0,
        }
    };
    let label = |i: usize| match i + shift {
        7 => 100,
        1003 => 200,
        i => (i * i % 7) as u32,
    };
    (Array2::from_shape_fn((rows, dim), value), (0..rows).map(label).collect())
}

/// Vectors without structure, the same every time.
pub(crate) fn noise(rows: usize, dim: usize, seed: u64) -> Array2<f32> {
    use rand::{Rng, SeedableRng};
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    Array2::from_shape_fn((rows, dim), |_| rng.random_range(-1.0..1.0))
}

/// Runs on a pool of so many threads.
pub(crate) fn on<T: Send>(threads: usize, run: impl FnOnce() -> T + Send) -> T {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(run)
}
