//! pytorch-metric-learning's values, with its weights and for its miners (`golden/make_margin.py`).

use embedtune_losses::{
    Angle, Edge, GradsMut, Input, Loss, Margin, MarginGradient, MarginOptions, MarginSoftmax, Miner,
    TripletKind, Workspace, miner,
};
use ndarray::Array2;
use serde_json::Value;

fn golden() -> Value {
    serde_json::from_str(include_str!("../golden/margin.json")).unwrap()
}

fn inputs(shift: f64, stretch: f64) -> (Array2<f32>, Vec<u32>) {
    let x = Array2::from_shape_fn((12, 5), |(i, j)| {
        let (a, b) = (i as f64, j as f64);
        ((1.7 * a + 0.9 * b * b + 0.3 * a * b + shift).sin() * stretch.powi((i % 3) as i32)) as f32
    });
    (x, (0..12).map(|i| i % 4).collect())
}

fn centres(rows: usize) -> Array2<f32> {
    Array2::from_shape_fn((rows, 5), |(c, j)| {
        let (c, j) = (c as f64, j as f64);
        (0.8 * c + 1.3 * j + 0.2 * c * j).cos() as f32
    })
}

fn numbers(value: &Value) -> Vec<f32> {
    serde_json::from_value(value.clone()).unwrap()
}

/// Largest difference over the largest expected value.
fn difference<'a>(got: impl IntoIterator<Item = &'a f32>, expected: &Value) -> f32 {
    let expected = numbers(expected);
    let got: Vec<f32> = got.into_iter().copied().collect();
    assert_eq!(got.len(), expected.len());
    let size = expected.iter().fold(0.0f32, |most, v| most.max(v.abs()));
    got.iter().zip(&expected).fold(0.0f32, |most, (a, b)| most.max((a - b).abs())) / size
}

#[test]
fn values_rows_and_gradients_with_and_without_weights() {
    let golden = golden();
    let (sample_weights, class_weights) =
        (numbers(&golden["sample_weights"]), numbers(&golden["class_weights"]));
    let (x, labels) = inputs(0.0, 3.0);
    let cases = golden["cases"].as_array().unwrap();
    assert!(cases.len() > 30);
    for case in cases {
        let margin = case["margin"].as_f64().unwrap();
        let margin = match case["loss"].as_str().unwrap() {
            "CosFaceLoss" => Margin::Cos { cosine: margin },
            "SphereFaceLoss" => Margin::Sphere { multiplier: margin as u32 },
            _ => Margin::Arc {
                angle: Angle::degrees(margin),
                edge: Edge::Jump,
                gradient: MarginGradient::Exact,
            },
        };
        let sub_centers = case["sub_centers"].as_u64().unwrap() as usize;
        let w = centres(4 * sub_centers);
        let mut input = Input::new(x.view(), &labels).with_weights(w.view());
        if case["weighted"].as_bool().unwrap() {
            (input.sample_weights, input.class_weights) =
                (Some(&sample_weights[..]), Some(&class_weights[..]));
        }
        // Kept and recomputed logits.
        for budget in [usize::MAX, 0] {
            let scale = case["scale"].as_f64().unwrap();
            let options = MarginOptions { margin, scale, sub_centers, logits_budget_bytes: budget };
            let what = format!("{options:?} {}", case["weighted"]);
            let (mut dx, mut dw) = (Array2::zeros(x.dim()), Array2::zeros(w.dim()));
            let mut rows = [0.0f32; 12];
            let grads = GradsMut {
                embeddings: Some(dx.view_mut()),
                weights: Some(dw.view_mut()),
                per_sample: Some(&mut rows),
                ..GradsMut::default()
            };
            let loss = MarginSoftmax::new(4, 5, options).unwrap();
            let stats = loss.forward_backward(input, grads, &mut Workspace::default()).unwrap();
            let value = case["value"].as_f64().unwrap();
            assert!((stats.value - value).abs() < 3e-6 * value.abs(), "{what}: {} {value}", stats.value);
            for (name, error) in [
                ("rows", difference(&rows, &case["rows"])),
                ("dx", difference(&dx, &case["dx"])),
                ("dw", difference(&dw, &case["dw"])),
            ] {
                assert!(error < 2e-5, "{what}: {name} is off by {error}");
            }
        }
    }
}

#[test]
fn miners_keep_the_same_triplets() {
    for case in golden()["mined"].as_array().unwrap() {
        let (x, labels) = inputs(case["shift"].as_f64().unwrap(), 1.0);
        let margin = case["margin"].as_f64().unwrap();
        let rule = match case["kind"].as_str().unwrap() {
            "batch_hard" => Miner::BatchHard,
            "easy" => Miner::TripletMargin { margin, kind: TripletKind::Easy },
            "hard" => Miner::TripletMargin { margin, kind: TripletKind::Hard },
            "semihard" => Miner::TripletMargin { margin, kind: TripletKind::Semihard },
            _ => Miner::TripletMargin { margin, kind: TripletKind::All },
        };
        let got = miner::mine(&rule, Input::new(x.view(), &labels)).unwrap();
        let expected: Vec<Vec<u32>> = serde_json::from_value(case["lists"].clone()).unwrap();
        assert_eq!(vec![got.anchors, got.positives, got.negatives], expected, "{rule:?}");
    }
}
