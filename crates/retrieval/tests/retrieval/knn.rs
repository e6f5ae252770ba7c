//! Neighbours against a full sort: ties, exclusions, few items, threads, wrong input.

use crate::common::{cases, noise, on};
use embedtune_retrieval::{Error, Exclude, Hit, Index, KMeans, Metric, Rows, kmeans, knn, search};
use ndarray::{Array2, ArrayView2, array, s};

fn indices(hits: &[Hit]) -> Vec<u32> {
    hits.iter().map(|hit| hit.index).collect()
}

/// The score that a hit shows, in `f64`.
fn score(metric: Metric, a: ArrayView2<'_, f32>, i: usize, b: ArrayView2<'_, f32>, j: usize) -> f64 {
    let (a, b) = (a.row(i).mapv(f64::from), b.row(j).mapv(f64::from));
    match metric {
        Metric::L2 => (&a - &b).mapv(|v| v * v).sum().sqrt(),
        Metric::Dot => a.dot(&b),
        _ => a.dot(&b) / (a.dot(&a) * b.dot(&b)).sqrt(),
    }
}

#[test]
fn golden_rankings() {
    for case in cases() {
        let ((queries, _), gallery) = case.data();
        let (searched, exclude) = match &gallery {
            Some((gallery, _)) => (gallery.view(), Exclude::None),
            None => (queries.view(), Exclude::SameRow),
        };
        let found = knn(queries.view(), searched, 4, case.metric, exclude).unwrap();
        for (i, (row, expected)) in found.rows().zip(&case.nearest).enumerate() {
            assert_eq!(&indices(row), expected, "{}, query {i}", case.name);
            for hit in row {
                let expected = score(case.metric, queries.view(), i, searched, hit.index as usize);
                assert!((f64::from(hit.score) - expected).abs() < 1e-6, "{}: {hit:?} {expected}", case.name);
            }
        }
    }
}

#[test]
fn several_tiles_and_any_k_equal_a_full_sort() {
    let (queries, gallery) = (noise(70, 8, 1), noise(2500, 8, 2));
    for metric in [Metric::Cosine, Metric::Dot, Metric::L2] {
        let index = Index::new(gallery.view(), metric).unwrap();
        let sorted = |i: usize| {
            let mut all: Vec<(f64, u32)> = (0..2500u32)
                .map(|j| (score(metric, queries.view(), i, gallery.view(), j as usize), j))
                .map(|(score, j)| (if metric == Metric::L2 { score } else { -score }, j))
                .collect();
            all.sort_by(|a, b| a.partial_cmp(b).unwrap());
            all.into_iter().map(|(_, j)| j).collect::<Vec<_>>()
        };
        for k in [1, 3, 100, 2500] {
            let found = index.search(queries.view(), k, Exclude::None).unwrap();
            for i in [0, 1, 63, 64, 69] {
                let (got, expected) = (indices(found.row(i)), sorted(i));
                assert_eq!(got.len(), k);
                // Rounding may swap neighbours of nearly equal score, so ranks are compared by score.
                for (a, b) in got.iter().zip(&expected) {
                    let [a, b] =
                        [a, b].map(|&j| score(metric, queries.view(), i, gallery.view(), j as usize));
                    assert!((a - b).abs() < 2e-6, "{metric:?}, k = {k}, query {i}: {a} {b}");
                }
                let mut unique = got.clone();
                unique.sort_unstable();
                unique.dedup();
                assert_eq!(unique.len(), k);
            }
        }
    }
}

/// Whole numbers whose mean is none, near the origin and far from it: many items at exactly the same distance.
#[test]
fn equal_euclidean_distances_tie() {
    for (far, side) in [(0usize, 3), (1000, 3), (70_000, 7)] {
        let grid = |rows: usize, step: usize| {
            Array2::from_shape_fn((rows, 3), |(i, j)| (far + (i * step * (j + 2) + i / 3) % side) as f32)
        };
        let (gallery, queries) = (grid(997, 5), grid(40, 11));
        let found = knn(queries.view(), gallery.view(), 200, Metric::L2, Exclude::None).unwrap();
        for (i, row) in found.rows().enumerate() {
            let mut all: Vec<(f64, u32)> = (0..997u32)
                .map(|j| (score(Metric::L2, queries.view(), i, gallery.view(), j as usize), j))
                .collect();
            all.sort_by(|a, b| a.partial_cmp(b).unwrap());
            let expected: Vec<u32> = all[..200].iter().map(|&(_, j)| j).collect();
            assert_eq!(indices(row), expected, "around {far}, query {i}");
        }
    }
    // A column without any spread, and a mean between its values.
    let gallery = array![[0.1f32, 0.0], [0.1, 2.0], [0.1, 5.0]];
    let found = knn(array![[0.1f32, 1.0]].view(), gallery.view(), 3, Metric::L2, Exclude::None).unwrap();
    assert_eq!(indices(found.row(0)), [0, 1, 2]);
    assert_eq!(found.row(0)[1].score, 1.0);
}

#[test]
fn ties_go_to_the_lowest_index_across_tiles() {
    // Equal rows in every tile, the last one alone in its tile.
    let gallery = Array2::<f32>::from_elem((2049, 3), 0.7);
    for k in [1, 5, 40, 2049] {
        let found =
            knn(gallery.slice(s![..3, ..]), gallery.view(), k, Metric::Cosine, Exclude::None).unwrap();
        for row in found.rows() {
            assert_eq!(indices(row), (0..k as u32).collect::<Vec<_>>());
        }
    }
    let last = [2048, 0, u32::MAX];
    let found =
        knn(gallery.slice(s![..3, ..]), gallery.view(), 2049, Metric::Dot, Exclude::SelfById(&last)).unwrap();
    assert_eq!(indices(found.row(0)), (0..2048).collect::<Vec<_>>());
    assert_eq!(indices(found.row(1)), (1..2049).collect::<Vec<_>>());
    assert_eq!(found.row(2).len(), 2049);
}

#[test]
fn few_or_no_items_give_what_there_is() {
    let x = noise(3, 2, 1);
    let found = knn(x.view(), x.view(), 10, Metric::Cosine, Exclude::SameRow).unwrap();
    assert_eq!(found.rows().map(<[Hit]>::len).collect::<Vec<_>>(), [2, 2, 2]);
    assert_eq!(found.row(3), []);
    let none = x.slice(s![..0, ..]);
    let found = knn(x.view(), none, 10, Metric::Cosine, Exclude::None).unwrap();
    assert_eq!((found.len(), found.row(0)), (3, [].as_slice()));
    assert!(knn(none, x.view(), 10, Metric::Cosine, Exclude::None).unwrap().is_empty());
    let found = knn(x.view(), x.view(), 0, Metric::L2, Exclude::None).unwrap();
    assert_eq!((found.len(), found.row(2)), (3, [].as_slice()));
    let one = x.slice(s![..1, ..]);
    assert!(knn(one, one, 1, Metric::L2, Exclude::SameRow).unwrap().row(0).is_empty());
    // A zero vector is similar to none and finds rows in their order.
    let found = knn(Array2::zeros((1, 2)).view(), x.view(), 2, Metric::Cosine, Exclude::None).unwrap();
    assert_eq!(found.row(0), [Hit { index: 0, score: 0.0 }, Hit { index: 1, score: 0.0 }]);
}

#[test]
fn near_duplicates_far_away_keep_their_distance() {
    let gallery = array![[1e6f32, 0.0], [1e6 + 0.5, 0.0], [1e6 + 1.5, 0.0], [1e6 - 4.0, 3.0]];
    let found = knn(gallery.slice(s![..1, ..]), gallery.view(), 4, Metric::L2, Exclude::SameRow);
    assert!(matches!(found, Err(Error::Shape { what: "queries", .. })));
    let found = knn(gallery.slice(s![..1, ..]), gallery.view(), 4, Metric::L2, Exclude::None).unwrap();
    let expected = [(0, 0.0), (1, 0.5), (2, 1.5), (3, 5.0)].map(|(index, score)| Hit { index, score });
    assert_eq!(found.row(0), expected);
}

#[test]
fn extreme_magnitudes_neither_overflow_nor_vanish() {
    let (queries, gallery) = (noise(9, 4, 7), noise(50, 4, 8));
    for metric in [Metric::Cosine, Metric::Dot, Metric::L2] {
        let order = |queries: &Array2<f32>, gallery: &Array2<f32>| {
            let found = knn(queries.view(), gallery.view(), 5, metric, Exclude::None).unwrap();
            found.rows().map(indices).collect::<Vec<_>>()
        };
        let plain = order(&queries, &gallery);
        for (a, b) in [(127, 127), (-120, -120), (127, -110), (-110, 127)] {
            if metric == Metric::L2 && a != b {
                continue;
            }
            let scaled = |x: &Array2<f32>, exponent| x * 2f32.powi(exponent);
            assert_eq!(order(&scaled(&queries, a), &scaled(&gallery, b)), plain, "{metric:?} {a} {b}");
        }
    }
    // A query beyond all items: every distance is the same to f32, and none is NaN.
    let far = Array2::from_elem((1, 4), 3e38f32);
    let found = knn(far.view(), gallery.view(), 50, Metric::L2, Exclude::None).unwrap();
    assert_eq!(found.row(0).len(), 50);
    assert!(found.row(0).iter().all(|hit| hit.score >= 3e38));
}

#[test]
fn the_number_of_threads_does_not_change_a_bit() {
    let (queries, gallery) = (noise(300, 16, 3), noise(1700, 16, 4));
    for metric in [Metric::Cosine, Metric::L2] {
        let run = || knn(queries.view(), gallery.view(), 10, metric, Exclude::None).unwrap();
        let one = on(1, run);
        for threads in [2, 3, 5] {
            assert_eq!(on(threads, run), one);
        }
        // Nor does what else is asked at the same time, or in which layout.
        let alone = knn(queries.slice(s![299.., ..]), gallery.view(), 10, metric, Exclude::None).unwrap();
        assert_eq!(alone.row(0), one.row(299));
        let transposed = queries.t().as_standard_layout().into_owned();
        assert_eq!(knn(transposed.t(), gallery.view(), 10, metric, Exclude::None).unwrap(), one);
    }
}

#[test]
fn wrong_input_is_an_error() {
    let x = noise(4, 3, 4);
    let mut bad = x.clone();
    bad[[2, 1]] = f32::NAN;
    for metric in [Metric::Cosine, Metric::Dot, Metric::L2] {
        let run = |queries: ArrayView2<'_, f32>, gallery: ArrayView2<'_, f32>, exclude: Exclude<'_>| {
            knn(queries, gallery, 2, metric, exclude).unwrap_err()
        };
        let error = run(x.view(), bad.view(), Exclude::None);
        assert!(matches!(error, Error::NotFinite { what: "gallery vectors", row: 2, column: 1, .. }));
        let error = run(bad.view(), x.view(), Exclude::None);
        assert!(matches!(error, Error::NotFinite { what: "query vectors", row: 2, column: 1, .. }));
        let error = run(x.slice(s![.., 1..]), x.view(), Exclude::None);
        assert!(matches!(error, Error::Shape { what: "queries", .. }));
        let error = run(x.view(), x.view(), Exclude::SelfById(&[0]));
        assert!(matches!(error, Error::Shape { what: "Exclude::SelfById", .. }));
        let error = run(x.view(), x.view(), Exclude::SelfById(&[0, u32::MAX, 4, 1])).to_string();
        assert!(error.starts_with("Exclude::SelfById = 4 for query 2, of 4 gallery rows"), "{error}");
        let all = knn(x.view(), x.view(), usize::MAX, metric, Exclude::None).unwrap();
        assert_eq!((all.row(3).len(), all.row(4).len(), all.row(usize::MAX).len()), (4, 0, 0));
    }
}

/// Rows that no memory holds: read as ones.
struct Ones(usize);

impl Rows for Ones {
    fn shape(&self) -> (usize, usize) {
        (self.0, 1)
    }

    fn read(&self, _: usize, to: &mut [f32]) -> embedtune_retrieval::Result<()> {
        to.fill(1.0);
        Ok(())
    }
}

#[test]
fn more_than_can_be_held_is_refused() {
    let x = noise(2, 1, 1);
    let too_many = Ones(1 << 32);
    let search = |queries: &dyn Rows, items: &dyn Rows| {
        search(queries, items, 1, Metric::Cosine, Exclude::None).unwrap_err().to_string()
    };
    assert!(search(&too_many, &x).starts_with("query rows = 4294967296: at most"));
    assert!(search(&x, &too_many).starts_with("gallery rows = 4294967296: at most"));
    let error = kmeans(&too_many, &KMeans::default()).unwrap_err().to_string();
    assert!(error.starts_with("items = 4294967296: at most"), "{error}");
}
