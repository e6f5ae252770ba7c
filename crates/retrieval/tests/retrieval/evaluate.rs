//! Metrics against pytorch-metric-learning, against a full sort, on several threads, and on wrong input.

use crate::common::{cases, noise, on};
use embedtune_retrieval::{Error, EvaluateOptions, Metric, Metrics, evaluate};
use ndarray::{Array2, ArrayView2, array, s};

fn field(metrics: &Metrics, name: &str) -> f64 {
    let value = serde_json::to_value(metrics).unwrap();
    // A value at 1 may have a field of its own as well.
    if let Some((_, k)) = name.rsplit_once("_at_").filter(|(_, k)| k.parse::<usize>().is_ok()) {
        let at_k = &value[name.replace(&format!("_at_{k}"), "_at_k")][k];
        if let Some(alone) = value[name].as_f64() {
            assert_eq!(at_k.as_f64(), Some(alone));
        }
        return at_k.as_f64().unwrap();
    }
    value[name].as_f64().unwrap()
}

#[test]
fn metrics_are_pytorch_metric_learnings() {
    for case in cases() {
        let ((queries, labels), gallery) = case.data();
        let options = EvaluateOptions { metric: case.metric, recall_at: vec![2, 5, 10] };
        let searched = gallery.as_ref().map(|(vectors, labels)| (vectors.view(), labels.as_slice()));
        let metrics = evaluate(queries.view(), &labels, searched, &options).unwrap();
        // Six of the whole ranking, and five at each of four k, of which precision at 1 is counted twice.
        assert_eq!(case.expected.len(), 25);
        assert_eq!(metrics.recall_at_k, metrics.hit_at_k);
        for (name, &expected) in &case.expected {
            let got = field(&metrics, name);
            // mean_reciprocal_rank is float32 there.
            assert!((got - expected).abs() < 1e-6, "{}: {name} is {got}, expected {expected}", case.name);
        }
        assert_eq!(metrics.recall_at_1, metrics.precision_at_1);
        assert_eq!(metrics.queries_without_match, case.without_match);
        assert_eq!(metrics.classes, case.classes);
        assert_eq!((metrics.queries, metrics.items), (case.queries, case.gallery.unwrap_or(case.queries)));
    }
}

/// Ranks from a full sort of `f64` scores.
fn naive(
    queries: ArrayView2<'_, f32>,
    labels: &[u32],
    gallery: ArrayView2<'_, f32>,
    of: &[u32],
    own: bool,
) -> [f64; 3] {
    let (mut recall, mut map_at_r, mut ndcg, mut count) = (0.0, 0.0, 0.0, 0.0);
    for (i, query) in queries.rows().into_iter().enumerate() {
        let query = query.mapv(f64::from);
        let score = |j: usize| {
            let row = gallery.row(j).mapv(f64::from);
            query.dot(&row) / row.dot(&row).sqrt()
        };
        let mut order: Vec<(usize, f64)> =
            (0..of.len()).filter(|&j| !own || i != j).map(|j| (j, score(j))).collect();
        order.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        let hits: Vec<bool> = order.iter().map(|&(j, _)| of[j] == labels[i]).collect();
        let relevant = hits.iter().filter(|&&hit| hit).count();
        if relevant == 0 {
            continue;
        }
        count += 1.0;
        recall += f64::from(u8::from(hits[0]));
        let (mut found, mut gain) = (0.0, 0.0);
        for (rank, _) in hits.iter().enumerate().filter(|(_, hit)| **hit) {
            found += 1.0;
            gain += 1.0 / (rank as f64 + 2.0).log2();
            if rank < relevant {
                map_at_r += found / (rank as f64 + 1.0) / relevant as f64;
            }
        }
        ndcg += gain / (0..relevant).map(|rank| 1.0 / (rank as f64 + 2.0).log2()).sum::<f64>();
    }
    [recall / count, map_at_r / count, ndcg / count]
}

#[test]
fn several_blocks_and_tiles_equal_a_full_sort() {
    // 1,500 items fill more than one tile and 200 queries more than one block, neither evenly.
    let (vectors, queries) = (noise(1500, 7, 1), noise(200, 7, 2));
    let labels: Vec<u32> = (0..1500).map(|i| i * i % 97).collect();
    let query_labels: Vec<u32> = (0..200).map(|i| i % 120).collect();
    let options = EvaluateOptions::default();
    let among = evaluate(vectors.view(), &labels, None, &options).unwrap();
    let between = evaluate(queries.view(), &query_labels, Some((vectors.view(), &labels)), &options).unwrap();
    for (got, expected) in [
        (among, naive(vectors.view(), &labels, vectors.view(), &labels, true)),
        (between, naive(queries.view(), &query_labels, vectors.view(), &labels, false)),
    ] {
        for (got, expected) in [got.recall_at_1, got.map_at_r, got.ndcg].into_iter().zip(expected) {
            assert!((got - expected).abs() < 1e-5, "{got} {expected}");
        }
    }
}

#[test]
fn the_number_of_threads_does_not_change_a_bit() {
    let vectors = noise(1200, 9, 5);
    let labels: Vec<u32> = (0..1200).map(|i| i % 31).collect();
    let run = || evaluate(vectors.view(), &labels, None, &EvaluateOptions::default()).unwrap();
    let one = on(1, run);
    for threads in [2, 3, 5] {
        assert_eq!(on(threads, run), one);
    }
}

#[test]
fn any_strides_and_extreme_magnitudes_will_do() {
    let vectors = noise(90, 6, 3);
    let labels: Vec<u32> = (0..90).map(|i| i % 8).collect();
    for metric in [Metric::Cosine, Metric::Dot, Metric::L2] {
        let options = EvaluateOptions { metric, ..EvaluateOptions::default() };
        let run = |x: ArrayView2<'_, f32>| evaluate(x, &labels, None, &options).unwrap();
        let plain = run(vectors.view());
        let transposed = vectors.t().as_standard_layout().into_owned();
        assert_eq!(run(transposed.t()), plain);
        // Powers of two change no digit, and neither overflow nor vanish.
        for exponent in [-120, 127] {
            assert_eq!(run((&vectors * 2f32.powi(exponent)).view()), plain, "{metric:?} {exponent}");
        }
    }
}

#[test]
fn a_distance_far_from_the_origin_keeps_its_digits() {
    // On a grid that survives the shift, so that the two sets have the same distances. Without centring those of the
    // far one would be wrong by more than 1.
    let near = noise(64, 4, 6).mapv(|v| (v * 64.0).round() / 64.0);
    let far = near.mapv(|v| v + 10_000.0);
    let labels: Vec<u32> = (0..64).map(|i| i % 5).collect();
    let options = EvaluateOptions { metric: Metric::L2, ..EvaluateOptions::default() };
    let run = |x: &Array2<f32>| evaluate(x.view(), &labels, None, &options).unwrap();
    let (near, far) = (run(&near), run(&far));
    assert!((near.map - far.map).abs() < 1e-3, "{} {}", near.map, far.map);
}

#[test]
fn neighbours_in_tight_groups_far_from_each_other_are_exact() {
    // Ten groups a thousand apart; within each two classes side by side. Distances from products would not see them.
    let x = noise(200, 8, 9);
    let spread = noise(10, 8, 10);
    let x = Array2::from_shape_fn((200, 8), |(i, j)| {
        let side = if j == 0 { (i / 10 % 2) as f32 * 0.05 } else { 0.0 };
        1000.0 * spread[[i % 10, j]] + 0.02 * x[[i, j]] + side
    });
    let labels: Vec<u32> = (0..200).map(|i| i % 10 * 2 + i / 10 % 2).collect();
    let mut right = 0;
    let found =
        embedtune_retrieval::knn(x.view(), x.view(), 3, Metric::L2, embedtune_retrieval::Exclude::SameRow);
    for (i, hits) in found.unwrap().rows().enumerate() {
        let square =
            |j: usize| (0..8).map(|k| (f64::from(x[[i, k]]) - f64::from(x[[j, k]])).powi(2)).sum::<f64>();
        let mut order: Vec<usize> = (0..200).filter(|&j| j != i).collect();
        order.sort_by(|&a, &b| square(a).total_cmp(&square(b)));
        let expected: Vec<u32> = order[..3].iter().map(|&j| j as u32).collect();
        assert_eq!(hits.iter().map(|hit| hit.index).collect::<Vec<_>>(), expected, "{i}");
        right += usize::from(labels[order[0]] == labels[i]);
    }
    let options = EvaluateOptions { metric: Metric::L2, ..EvaluateOptions::default() };
    let recall = evaluate(x.view(), &labels, None, &options).unwrap().recall_at_1;
    assert!((recall - right as f64 / 200.0).abs() < 1e-12 && recall > 0.8, "{recall}");
}

#[test]
fn wrong_input_is_an_error() {
    let x = noise(6, 3, 4);
    let labels = [0, 0, 1, 1, 2, 2];
    let options = EvaluateOptions::default();
    let run = |x: ArrayView2<'_, f32>, labels: &[u32]| evaluate(x, labels, None, &options).unwrap_err();
    assert!(matches!(run(x.view(), &labels[..5]), Error::Shape { what: "labels of the queries", .. }));
    assert!(matches!(run(x.slice(s![.., ..0]), &labels), Error::Shape { what: "gallery", .. }));
    assert_eq!(run(x.view(), &[0, 1, 2, 3, 4, 5]), Error::NoMatches { queries: 6, items: 6 });
    assert_eq!(run(x.slice(s![..0, ..]), &[]), Error::NoMatches { queries: 0, items: 0 });
    let mut bad = x.clone();
    bad[[4, 1]] = f32::INFINITY;
    let error = run(bad.view(), &labels);
    assert_eq!(error, Error::NotFinite { what: "the vectors", row: 4, column: 1, value: f32::INFINITY });
    let between = |queries: ArrayView2<'_, f32>, gallery: ArrayView2<'_, f32>, of: &[u32]| {
        evaluate(queries, &labels, Some((gallery, of)), &options).unwrap_err()
    };
    let error = between(bad.view(), x.view(), &labels).to_string();
    assert_eq!(error, "query vectors hold inf in row 4, column 1; remove the row or repair what made it");
    assert!(matches!(between(x.view(), x.slice(s![.., ..2]), &labels), Error::Shape { what: "queries", .. }));
    assert!(matches!(
        between(x.view(), x.view(), &labels[1..]),
        Error::Shape { what: "labels of the gallery", .. }
    ));
    assert!(matches!(between(x.view(), x.view(), &[9; 6]), Error::NoMatches { .. }));
    let zero = EvaluateOptions { recall_at: vec![0], ..options.clone() };
    let error = evaluate(x.view(), &labels, None, &zero).unwrap_err();
    assert!(matches!(error, Error::Parameter { name: "recall_at", .. }));
}

#[test]
fn equal_vectors_rank_by_row() {
    // The twin of the query's class stands behind the other class's: rank 2 for the first query, 1 for the last.
    let x = array![[1.0f32, 0.0], [1.0, 0.0], [1.0, 0.0], [1.0, 0.0]];
    let metrics = evaluate(x.view(), &[0, 1, 1, 0], None, &EvaluateOptions::default()).unwrap();
    // First relevant ranks: 3, 2, 2, 1.
    assert!((metrics.mrr - (1.0 / 3.0 + 0.5 + 0.5 + 1.0) / 4.0).abs() < 1e-12);
    let zeros = Array2::<f32>::zeros((4, 2));
    assert_eq!(evaluate(zeros.view(), &[0, 1, 1, 0], None, &EvaluateOptions::default()).unwrap(), metrics);
}
