//! Query by query, class by class, and how sure the means are.

use crate::common::{noise, on};
use embedtune_retrieval::{Bootstrap, Error, EvaluateOptions, Evaluation, Measure};

fn evaluation() -> Evaluation {
    let mut vectors = noise(600, 8, 21);
    let labels: Vec<u32> = (0..600).map(|i| i * i % 23).collect();
    for (mut row, &label) in vectors.rows_mut().into_iter().zip(&labels) {
        row[label as usize % 8] += 0.8;
    }
    Evaluation::new(&vectors, &labels, None, &EvaluateOptions::default()).unwrap()
}

#[test]
fn classes_and_queries_add_up_to_the_means() {
    let found = evaluation();
    let metrics = found.metrics();
    let classes = found.per_class();
    assert_eq!(classes.len(), metrics.classes);
    assert!(classes.windows(2).all(|pair| pair[0].label < pair[1].label));
    let queries: usize = classes.iter().map(|class| class.queries).sum();
    assert_eq!((queries, found.query_rows().len()), (600, 600));
    for (measure, expected) in [
        (Measure::Hit(1), metrics.recall_at_1),
        (Measure::Recall(10), metrics.ir_recall_at_k[&10]),
        (Measure::NdcgAt(5), metrics.ndcg_at_k[&5]),
        (Measure::MapAtR, metrics.map_at_r),
        (Measure::Mrr, metrics.mrr),
    ] {
        let each: f64 = found.values(measure).unwrap().sum();
        assert!((each / 600.0 - expected).abs() < 1e-12, "{measure}");
        let of_classes: f64 = classes.iter().map(|c| c.mean(measure).unwrap() * c.queries as f64).sum();
        assert!((of_classes / 600.0 - expected).abs() < 1e-12, "{measure}");
    }
    assert!(found.values(Measure::Hit(3)).is_none());
    assert_eq!(classes[0].mean(Measure::Precision(7)), None);
}

#[test]
fn intervals_are_those_of_a_mean() {
    let found = evaluation();
    let intervals = found.intervals(&Bootstrap { resamples: 2000, ..Bootstrap::default() }).unwrap();
    assert_eq!(intervals.len(), found.measures().len());
    for (measure, interval) in intervals {
        // The percentile interval of a mean of 600 values is close to the normal one.
        let values: Vec<f64> = found.values(measure).unwrap().collect();
        let mean = values.iter().sum::<f64>() / 600.0;
        let deviation = (values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / 600.0).sqrt();
        let half = 1.96 * deviation / 600f64.sqrt();
        for (got, expected) in [(interval.low, mean - half), (interval.high, mean + half)] {
            assert!((got - expected).abs() < 0.12 * half, "{measure}: {interval:?}, {mean} +- {half}");
        }
    }
}

#[test]
fn a_seed_gives_the_same_bits_on_any_number_of_threads() {
    let found = evaluation();
    let run = |seed| found.intervals(&Bootstrap { resamples: 50, seed, level: 0.9 }).unwrap();
    let one = on(1, || run(3));
    assert_eq!(on(4, || run(3)), one);
    assert_ne!(run(4), one);
    let wide = found.intervals(&Bootstrap { resamples: 50, seed: 3, level: 0.99 }).unwrap();
    assert!(wide[0].1.low <= one[0].1.low && wide[0].1.high >= one[0].1.high);
    for (bootstrap, name) in [
        (Bootstrap { resamples: 0, ..Bootstrap::default() }, "resamples"),
        (Bootstrap { level: 1.0, ..Bootstrap::default() }, "level"),
        (Bootstrap { level: f64::NAN, ..Bootstrap::default() }, "level"),
    ] {
        let error = found.intervals(&bootstrap).unwrap_err();
        assert!(matches!(error, Error::Parameter { name: of, .. } if of == name));
    }
}
