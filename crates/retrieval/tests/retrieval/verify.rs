//! Verification against scikit-learn and SciPy, on several threads, and on wrong input.

use crate::common::{closed_form, noise, on};
use embedtune_retrieval::{Error, Metric, Roc, Rows};
use serde::Deserialize;

#[derive(Deserialize)]
struct Golden {
    fars: Vec<f64>,
    pairs: Vec<Pairs>,
    scores: Scores,
}

#[derive(Deserialize)]
struct Pairs {
    metric: Metric,
    data: String,
    dim: usize,
    queries: usize,
    gallery: Option<usize>,
    positives: u64,
    negatives: u64,
    #[serde(flatten)]
    rates: Rates,
}

#[derive(Deserialize)]
struct Scores {
    scores: Vec<f32>,
    same: Vec<bool>,
    #[serde(flatten)]
    rates: Rates,
}

#[derive(Deserialize)]
struct Rates {
    auc: f64,
    eer: f64,
    at_far: Vec<Option<At>>,
}

#[derive(Deserialize)]
struct At {
    far: f64,
    tar: f64,
    threshold: f64,
}

fn golden() -> Golden {
    serde_json::from_str(include_str!("../golden/verify.json")).unwrap()
}

/// `slack` in pairs' share: scores of 32 bits may exchange two pairs that differ by less than their rounding.
#[track_caller]
fn same_rates(roc: &Roc, expected: &Rates, fars: &[f64], sign: f64, slack: f64) {
    assert!((roc.auc() - expected.auc).abs() <= slack, "{} {}", roc.auc(), expected.auc);
    assert!((roc.eer().rate - expected.eer).abs() <= slack, "{:?} {}", roc.eer(), expected.eer);
    assert_eq!(expected.at_far.len(), 6);
    for (&wanted, expected) in fars.iter().zip(&expected.at_far) {
        match (roc.at_far(wanted).unwrap(), expected) {
            (None, None) => {}
            (Some(got), Some(at)) => {
                assert!(
                    (got.far - at.far).abs() <= slack && got.far <= wanted,
                    "{wanted}: {got:?} {}",
                    at.far
                );
                assert!((got.tar - at.tar).abs() <= slack, "{wanted}: {got:?} {}", at.tar);
                // The grid's threshold accepts no other pair; at the loose end it is the grid's.
                if wanted < 1.0 {
                    let off = f64::from(got.threshold) - sign * at.threshold;
                    assert!(off.abs() < 1e-3, "{wanted}: {got:?} {}", at.threshold);
                }
            }
            (got, _) => panic!("FAR {wanted}: {got:?}"),
        }
    }
}

#[test]
fn all_pairs_are_scikit_learns() {
    let Golden { fars, pairs, .. } = golden();
    assert_eq!(pairs.len(), 4);
    for case in pairs {
        let shift = if case.gallery.is_some() { 1000 } else { 0 };
        let (queries, labels) = closed_form(&case.data, case.queries, case.dim, shift);
        let gallery = case.gallery.map(|rows| closed_form(&case.data, rows, case.dim, 0));
        let searched = gallery.as_ref().map(|(rows, labels)| (rows as &dyn Rows, labels.as_slice()));
        let roc = Roc::of_pairs(&queries, &labels, searched, case.metric).unwrap();
        assert_eq!((roc.positives(), roc.negatives()), (case.positives, case.negatives));
        let sign = if case.metric == Metric::L2 { -1.0 } else { 1.0 };
        same_rates(&roc, &case.rates, &fars, sign, 2e-3);
    }
}

#[test]
fn given_scores_are_scikit_learns_ties_included() {
    let Golden { fars, scores: Scores { scores, same, rates }, .. } = golden();
    let roc = Roc::from_scores(&scores, &same, true).unwrap();
    same_rates(&roc, &rates, &fars, 1.0, 1e-12);
    let distances: Vec<f32> = scores.iter().map(|score| -score).collect();
    same_rates(&Roc::from_scores(&distances, &same, false).unwrap(), &rates, &fars, -1.0, 1e-12);
}

#[test]
fn every_threshold_accepts_what_it_says() {
    // Far more points than a block or a panel; each threshold is applied to the cosines themselves.
    let vectors = noise(230, 6, 11);
    let labels: Vec<u32> = (0..230).map(|i| i * i % 13).collect();
    let roc = Roc::of_pairs(&vectors, &labels, None, Metric::Cosine).unwrap();
    let unit = |i: usize| {
        let row = vectors.row(i).mapv(f64::from);
        let length = row.dot(&row).sqrt();
        row / length
    };
    let mut pairs = Vec::new();
    for i in 0..230 {
        for j in i + 1..230 {
            pairs.push((unit(i).dot(&unit(j)), labels[i] == labels[j]));
        }
    }
    assert_eq!(roc.positives() + roc.negatives(), pairs.len() as u64);
    for point in roc.points().iter().step_by(97) {
        let accepted = |same: bool| {
            pairs.iter().filter(|pair| pair.1 == same && pair.0 >= f64::from(point.threshold) - 3e-7).count()
                as u64
        };
        assert!(accepted(true).abs_diff(point.true_accepts) <= 1, "{point:?}");
        assert!(accepted(false).abs_diff(point.false_accepts) <= 2, "{point:?}");
    }
    let thin = roc.thinned(50);
    assert!(thin.len() <= 50 && thin.len() > 10, "{}", thin.len());
    assert!(thin.windows(2).all(|pair| pair[0].far <= pair[1].far && pair[0].tar <= pair[1].tar));
    assert_eq!(thin.last().map(|last| (last.far, last.tar)), Some((1.0, 1.0)));
}

#[test]
fn pairs_far_from_all_others_take_nothing_from_these() {
    // One item a million times as far away as all others are from each other.
    for metric in [Metric::Dot, Metric::L2] {
        let near = noise(60, 5, 21);
        let labels: Vec<u32> = (0..60).map(|i| i % 4).collect();
        let alone = Roc::of_pairs(&near, &labels, None, metric).unwrap();
        let mut all = ndarray::concatenate![ndarray::Axis(0), near, noise(1, 5, 22)];
        all.row_mut(60).fill(1e6);
        let labels: Vec<u32> = labels.into_iter().chain([4]).collect();
        let roc = Roc::of_pairs(&all, &labels, None, metric).unwrap();
        assert_eq!((roc.positives(), roc.negatives()), (alone.positives(), alone.negatives() + 60));
        // What the others' thresholds accept of the others' pairs.
        assert!(alone.points().len() > 1700, "{}", alone.points().len());
        assert!(roc.points().len() + 20 > alone.points().len(), "{} points", roc.points().len());
        let far = if metric == Metric::L2 { roc.points().last() } else { roc.points().first() };
        assert!(far.unwrap().threshold.abs() > 1e5 || metric == Metric::Dot, "{far:?}");
    }
}

#[test]
fn a_pair_ties_with_that_of_its_copies() {
    // Every row twice, the second time in another order, so that of each pair each is once the query.
    let once = noise(40, 7, 31);
    let rows: Vec<usize> = (0..40).chain((0..40).rev()).collect();
    let vectors = once.select(ndarray::Axis(0), &rows);
    let labels: Vec<u32> = rows.iter().map(|&row| row as u32 % 3).collect();
    for metric in [Metric::Cosine, Metric::Dot, Metric::L2] {
        let roc = Roc::of_pairs(&vectors, &labels, None, metric).unwrap();
        // Those of 40 with themselves are one distance, or cosine up to its rounding, and as many dot products.
        let own = match metric {
            Metric::L2 => 1,
            Metric::Cosine => 6,
            _ => 40,
        };
        let most = 40 * 39 / 2 + own;
        assert!(roc.points().len() <= most, "{metric:?}: {} points of at most {most}", roc.points().len());
    }
}

#[test]
fn copies_are_at_distance_zero() {
    // Far from the origin, beside their spread and not; every row three times, in two classes.
    for far in [0.0f32, 30.0] {
        let mut vectors =
            ndarray::concatenate![ndarray::Axis(0), noise(40, 32, 5), noise(40, 32, 5), noise(40, 32, 5)];
        vectors += far;
        let labels: Vec<u32> = (0..120).map(|i| if i < 80 { i % 40 } else { 40 + i % 2 }).collect();
        let roc = Roc::of_pairs(&vectors, &labels, None, Metric::L2).unwrap();
        // Each row with its copy of the same class, and with the copy in another, twice.
        let first = roc.points()[0];
        assert_eq!((first.true_accepts, first.false_accepts), (40, 80), "{first:?}");
        assert!(first.threshold < 1e-4 && roc.points()[1].threshold > 0.5, "{:?}", &roc.points()[..2]);
    }
}

#[test]
fn the_number_of_threads_does_not_change_a_bit() {
    let vectors = noise(700, 9, 12);
    let labels: Vec<u32> = (0..700).map(|i| i % 17).collect();
    for metric in [Metric::Cosine, Metric::Dot, Metric::L2] {
        let run = || Roc::of_pairs(&vectors, &labels, None, metric).unwrap();
        let one = on(1, run);
        for threads in [2, 5] {
            assert_eq!(on(threads, run), one);
        }
    }
}

#[test]
fn wrong_input_is_an_error() {
    let x = noise(4, 2, 1);
    let run = |labels: &[u32]| Roc::of_pairs(&x, labels, None, Metric::Cosine).unwrap_err();
    assert!(matches!(run(&[0, 1]), Error::Shape { what: "labels of the queries", .. }));
    assert_eq!(run(&[0; 4]), Error::NoPairs { positives: 6, negatives: 0 });
    assert_eq!(run(&[0, 1, 2, 3]), Error::NoPairs { positives: 0, negatives: 6 });
    let scores = |scores: &[f32], same: &[bool]| Roc::from_scores(scores, same, true).unwrap_err();
    assert!(matches!(scores(&[0.5], &[true, false]), Error::Shape { .. }));
    assert!(matches!(scores(&[0.5, f32::NAN], &[true, false]), Error::NotFinite { row: 1, .. }));
    assert!(matches!(scores(&[], &[]), Error::NoPairs { .. }));
    // All pairs alike: one threshold, which accepts all.
    let alike = ndarray::Array2::<f32>::ones((4, 2));
    for metric in [Metric::Cosine, Metric::Dot, Metric::L2] {
        let roc = Roc::of_pairs(&alike, &[0, 0, 1, 1], None, metric).unwrap();
        assert_eq!((roc.points().len(), roc.auc(), roc.eer().rate), (1, 0.5, 0.5));
        assert_eq!(roc.at_far(0.1).unwrap(), None);
        assert_eq!(roc.at_far(1.0).unwrap().map(|at| at.tar), Some(1.0));
        for far in [5.0, -0.1, f64::NAN] {
            let message = roc.at_far(far).unwrap_err().to_string();
            assert!(message.starts_with(&format!("far = {far}: give a share")), "{message}");
        }
    }
}
