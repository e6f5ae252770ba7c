//! Against the definition, triplet by triplet in `f64`.

use embedtune_losses::{Input, Loss, Reference};

use super::naive::naive;
use super::support::{all_options, clusters, relative_error};

#[test]
fn every_option_agrees_with_the_definition() {
    let (x, labels) = clusters(40, 7, 5, 0.8, 1);
    let weights: Vec<f32> = (0..40).map(|i| 0.25 * (i % 7) as f32).collect();
    let class_weights = [1.0, 0.5, 2.0, 0.0, 1.5];
    for options in all_options(0.2) {
        for weighted in [false, true] {
            let mut input = Input::new(x.view(), &labels);
            if weighted {
                input.sample_weights = Some(&weights);
                input.class_weights = Some(&class_weights);
            }
            compare(&options, input);
        }
    }
}

#[test]
fn a_reference_gives_the_positives_and_negatives() {
    let (x, labels) = clusters(12, 7, 5, 0.8, 2);
    let (r, r_labels) = clusters(90, 7, 6, 0.8, 3);
    let same: Vec<u32> = (0..12).map(|i| if i % 3 == 0 { u32::MAX } else { 5 * i }).collect();
    let weights: Vec<f32> = (0..12).map(|i| 0.25 * (i % 7) as f32).collect();
    for options in all_options(0.2) {
        let mut input = Input::new(x.view(), &labels);
        input.reference = Some(Reference { embeddings: r.view(), labels: &r_labels, same_item: None });
        compare(&options, input);
        input.reference = Some(Reference { embeddings: r.view(), labels: &r_labels, same_item: Some(&same) });
        input.sample_weights = Some(&weights);
        compare(&options, input);
    }
}

fn compare(options: &embedtune_losses::TripletMarginOptions, input: Input<'_>) {
    let got = options.clone().build().unwrap().evaluate(input).unwrap();
    let expected = naive(options, input);
    let what = format!("{options:?}, reference {:?}", input.reference.is_some());
    assert_eq!(got.stats.triplets, expected.triplets, "{what}");
    assert_eq!(got.stats.active_triplets, expected.active, "{what}");
    let size = expected.value.abs().max(1e-3);
    assert!(
        (got.stats.value - expected.value).abs() < 1e-5 * size,
        "{what}: {} {}",
        got.stats.value,
        expected.value
    );
    let error = relative_error(got.d_embeddings.view(), expected.d_embeddings.view(), 1e-3);
    assert!(error < 1e-5, "{what}: gradient off by {error}");
}
