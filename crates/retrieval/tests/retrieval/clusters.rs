//! Agreement and k-means against scikit-learn, on several threads, and on wrong input.

use crate::common::{closed_form, noise, on};
use embedtune_retrieval::{Agreement, Error, KMeans, Metric, kmeans, kmeans_from};
use ndarray::{Array2, s};
use serde::Deserialize;

#[derive(Deserialize)]
struct Golden {
    partitions: Vec<Partitions>,
    kmeans: Vec<Run>,
}

#[derive(Deserialize)]
struct Partitions {
    a: Vec<u32>,
    b: Vec<u32>,
    nmi: f64,
    ami: f64,
}

#[derive(Deserialize)]
struct Run {
    rows: usize,
    dim: usize,
    clusters: usize,
    assignment: Vec<u32>,
    inertia: f64,
    centre: Vec<f64>,
}

fn golden() -> Golden {
    serde_json::from_str(include_str!("../golden/verify.json")).unwrap()
}

#[test]
fn agreement_is_scikit_learns() {
    let cases = golden().partitions;
    assert_eq!(cases.len(), 7);
    for Partitions { a, b, nmi, ami } in cases {
        for (a, b) in [(&a, &b), (&b, &a)] {
            let got = Agreement::new(a, b).unwrap();
            assert!((got.nmi - nmi).abs() < 1e-10, "{got:?} {nmi}");
            assert!((got.ami - ami).abs() < 1e-10, "{got:?} {ami}");
        }
    }
    assert_eq!(Agreement::new(&[7], &[3]).unwrap(), Agreement { nmi: 1.0, ami: 1.0 });
    let message = Agreement::new(&[], &[]).unwrap_err().to_string();
    assert!(
        message.contains("has shape [0]; expected [n], a label for each of at least one item"),
        "{message}"
    );
    assert!(matches!(Agreement::new(&[0, 1], &[0]), Err(Error::Shape { .. })));
}

#[test]
fn lloyds_rounds_are_scikit_learns() {
    let cases = golden().kmeans;
    assert_eq!(cases.len(), 2);
    for case in cases {
        let (x, _) = closed_form("wave", case.rows, case.dim, 0);
        let found = kmeans_from(&x, x.slice(s![..case.clusters, ..]), 300).unwrap();
        assert!(found.converged);
        assert_eq!(found.assignment, case.assignment);
        assert!(
            (found.inertia - case.inertia).abs() < 1e-4 * case.inertia,
            "{} {}",
            found.inertia,
            case.inertia
        );
        for (got, expected) in found.centres.row(0).iter().zip(&case.centre) {
            assert!((f64::from(*got) - expected).abs() < 1e-5);
        }
    }
}

/// Five heaps far apart.
fn heaps() -> (Array2<f32>, Vec<u32>) {
    let mut x = noise(250, 4, 3);
    let labels: Vec<u32> = (0..250).map(|i| i % 5).collect();
    for (mut row, &label) in x.rows_mut().into_iter().zip(&labels) {
        row[label as usize % 4] += 20.0 * (1.0 + (label / 4) as f32 * -2.0);
    }
    (x, labels)
}

#[test]
fn heaps_are_found_from_any_seed() {
    let (x, labels) = heaps();
    for metric in [Metric::Cosine, Metric::L2] {
        for seed in 0..5 {
            let options = KMeans { seed, ..KMeans::default() };
            let found = Agreement::of_kmeans(&x, &labels, metric, &options).unwrap();
            assert!(found.nmi > 0.999 && found.ami > 0.999, "{metric:?}, seed {seed}: {found:?}");
        }
    }
    // Labels that the heaps know nothing of.
    let chance: Vec<u32> = (0..250).map(|i| i / 50).collect();
    let found = Agreement::of_kmeans(&x, &chance, Metric::L2, &KMeans::default()).unwrap();
    assert!(found.ami.abs() < 0.05, "{found:?}");
}

#[test]
fn a_seed_gives_the_same_bits_on_any_number_of_threads() {
    let x = noise(3000, 5, 8);
    let run = |seed| {
        move || kmeans(&noise(3000, 5, 8), &KMeans { clusters: 20, seed, ..KMeans::default() }).unwrap()
    };
    let one = on(1, run(1));
    for threads in [2, 5] {
        assert_eq!(on(threads, run(1)), one);
    }
    assert_ne!(on(1, run(2)).assignment, one.assignment);
    let mut squares = 0.0;
    for (row, &cluster) in x.rows().into_iter().zip(&one.assignment) {
        squares += (&row - &one.centres.row(cluster as usize)).mapv(|v| f64::from(v).powi(2)).sum();
    }
    assert!((one.inertia - squares).abs() < 1e-4 * squares, "{} {squares}", one.inertia);
}

#[test]
fn the_best_start_wins_and_large_data_have_fewer() {
    let x = noise(1200, 6, 4);
    let with = |restarts| KMeans { clusters: 30, seed: 3, restarts, ..KMeans::default() };
    let one = kmeans(&x, &with(Some(1))).unwrap();
    let ten = kmeans(&x, &with(None)).unwrap();
    assert_eq!(kmeans(&x, &with(Some(10))).unwrap(), ten);
    assert!(ten.inertia < one.inertia, "{} {}", ten.inertia, one.inertia);
    // Another number of starts beyond the best changes nothing.
    let best = (1..=10).find(|&n| kmeans(&x, &with(Some(n))).unwrap() == ten).unwrap();
    assert!(best > 1 && best <= 10);
    let starts = |items, dim, clusters| KMeans { clusters, ..KMeans::default() }.starts((items, dim));
    for (items, dim, clusters, expected) in [
        (10_000, 64, 10, 10),
        (10_000, 200, 1000, 10),
        (20_000, 200, 1000, 5),
        (60_000, 512, 11_000, 1),
        (usize::MAX, usize::MAX, usize::MAX, 1),
        (0, 3, 2, 10),
    ] {
        assert_eq!(starts(items, dim, clusters), expected, "{items} x {dim}, {clusters}");
    }
    assert_eq!(KMeans { restarts: Some(3), clusters: 9, ..KMeans::default() }.starts((1 << 40, 9)), 3);
}

#[test]
fn a_partition_agrees_with_itself_whatever_it_divides() {
    for a in [vec![7; 5], (0..29).collect(), vec![0, 1], vec![3, 3, 1, 1, 1]] {
        let renamed: Vec<u32> = a.iter().map(|&label| 1000 - label).collect();
        let found = Agreement::new(&a, &renamed).unwrap();
        assert_eq!((found.nmi, found.ami), (1.0, 1.0), "{a:?}");
    }
    // Apart from it nothing of one group agrees with anything.
    let found = Agreement::new(&[0, 0, 0, 0], &[0, 1, 2, 3]).unwrap();
    assert_eq!((found.nmi, found.ami), (0.0, 0.0));
}

#[test]
fn fewer_distinct_items_than_clusters_come_to_rest() {
    let items = Array2::from_shape_fn((12, 3), |(row, column)| (row % 2 * (column + 1)) as f32);
    let found = kmeans(&items, &KMeans { clusters: 5, ..KMeans::default() }).unwrap();
    assert!(found.converged && found.iterations < 5, "{} rounds", found.iterations);
    assert_eq!(found.inertia, 0.0);
    assert!((0..12).all(|row| found.assignment[row] == found.assignment[row % 2]));
}

#[test]
fn empty_clusters_take_items_and_wrong_options_are_errors() {
    let (x, _) = heaps();
    // All centres alike: all but one start empty.
    let centres = Array2::<f32>::zeros((6, 4));
    let found = kmeans_from(&x, centres.view(), 50).unwrap();
    let mut used = found.assignment.clone();
    used.sort_unstable();
    used.dedup();
    assert_eq!(used, [0, 1, 2, 3, 4, 5]);
    // Fewer distinct items than clusters.
    let alike = Array2::<f32>::ones((4, 2));
    assert_eq!(kmeans(&alike, &KMeans { clusters: 4, ..KMeans::default() }).unwrap().inertia, 0.0);
    for clusters in [0, 251] {
        let error = kmeans(&x, &KMeans { clusters, ..KMeans::default() }).unwrap_err();
        assert!(matches!(error, Error::Parameter { name: "clusters", .. }));
    }
    let mut bad = x.clone();
    bad[[7, 2]] = f32::INFINITY;
    let error = kmeans(&bad, &KMeans::default()).unwrap_err();
    assert!(matches!(error, Error::NotFinite { what: "items", row: 7, column: 2, .. }), "{error}");
    let error = kmeans_from(&x, bad.slice(ndarray::s![..8, ..]), 3).unwrap_err();
    assert!(matches!(error, Error::NotFinite { what: "centres", row: 7, column: 2, .. }), "{error}");
    let none = kmeans(&Array2::<f32>::zeros((3, 0)), &KMeans { clusters: 2, ..KMeans::default() });
    assert!(matches!(none, Err(Error::Shape { what: "items", .. })));
    let error = Agreement::of_kmeans(&Array2::<f32>::zeros((0, 2)), &[], Metric::L2, &KMeans::default());
    assert!(error.unwrap_err().to_string().starts_with("labels has shape [0]"));
    let error = kmeans(&x, &KMeans { restarts: Some(0), ..KMeans::default() }).unwrap_err();
    assert!(matches!(error, Error::Parameter { name: "restarts", .. }));
    assert!(matches!(kmeans_from(&x, alike.view(), 5), Err(Error::Shape { what: "centres", .. })));
    let error = Agreement::of_kmeans(&x, &[1, 2], Metric::L2, &KMeans::default()).unwrap_err();
    assert!(matches!(error, Error::Shape { what: "labels", .. }));
}
