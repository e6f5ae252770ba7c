//! Margin-softmax losses against pytorch-metric-learning's values, finite differences and hard inputs.

use embedtune_losses::{
    Angle, Edge, Error, GradsMut, Input, Loss, Margin, MarginGradient, MarginOptions, MarginSoftmax,
    Workspace, Write,
};
use ndarray::Array2;

use super::definition::naive;

const GOLDEN: &str = include_str!("../golden/pml290.json");

fn inputs(centres: usize) -> (Array2<f32>, Array2<f32>, Vec<u32>) {
    let x = Array2::from_shape_fn((12, 5), |(i, j)| {
        let (i, j) = (i as f64, j as f64);
        (1.7 * i + 0.9 * j * j + 0.3 * i * j).sin() as f32
    });
    let w = Array2::from_shape_fn((centres, 5), |(c, j)| {
        let (c, j) = (c as f64, j as f64);
        (0.8 * c + 1.3 * j + 0.2 * c * j).cos() as f32
    });
    (x, w, (0..12).map(|i| i % 3).collect())
}

fn matrix(value: &serde_json::Value) -> Array2<f64> {
    let rows: Vec<Vec<f64>> = serde_json::from_value(value.clone()).unwrap();
    Array2::from_shape_fn((rows.len(), rows[0].len()), |(i, j)| rows[i][j])
}

fn arc(degrees: f64, scale: f64) -> MarginOptions {
    let margin =
        Margin::Arc { angle: Angle::degrees(degrees), edge: Edge::Jump, gradient: MarginGradient::Exact };
    MarginOptions { margin, scale, ..MarginOptions::arcface() }
}

#[test]
fn golden_values_in_both_schedules() {
    let golden: serde_json::Value = serde_json::from_str(GOLDEN).unwrap();
    for (name, options) in [
        ("arcface 28.6deg s64", MarginOptions::arcface()),
        ("arcface 28.6deg s8", arc(28.6, 8.0)),
        ("arcface 0.5rad s64", arc(0.5f64.to_degrees(), 64.0)),
        ("arcface 60deg s8 (theta>pi-m branch exercised by sample 10)", arc(60.0, 8.0)),
        ("cosface .35 s64", MarginOptions::cosface()),
        ("cosface .35 s8", MarginOptions { scale: 8.0, ..MarginOptions::cosface() }),
        ("sphereface m4 s1", MarginOptions::sphereface()),
        ("subcenter K3 28.6deg s64", MarginOptions::sub_center_arcface()),
    ] {
        let case = &golden["losses"][name];
        let (x, w, labels) = inputs(3 * options.sub_centers);
        // The second budget holds one class at a time: the logits are recomputed.
        for budget in [options.logits_budget_bytes, 1] {
            let loss =
                MarginSoftmax::new(3, 5, MarginOptions { logits_budget_bytes: budget, ..options }).unwrap();
            let out = loss.value_and_grad(x.view(), w.view(), &labels).unwrap();
            let expected = case["loss"].as_f64().unwrap();
            assert!(
                (out.stats.value - expected).abs() < 3e-6 * expected,
                "{name}: {} {expected}",
                out.stats.value
            );
            for (got, expected) in [
                (&out.d_embeddings, matrix(&case["grad_e"])),
                (out.d_weights.as_ref().unwrap(), matrix(&case["grad_W"]).reversed_axes()),
            ] {
                let size = expected.iter().fold(0.0f64, |m, v| m.max(v.abs()));
                for (index, e) in expected.indexed_iter() {
                    let error = (f64::from(got[index]) - e).abs();
                    assert!(error < 3e-5 * size, "{name} {index:?}: {} {e}", got[index]);
                }
            }
        }
    }
}

#[test]
fn gradients_are_those_of_the_value() {
    for options in [
        arc(28.6, 8.0),
        MarginOptions {
            margin: Margin::Arc {
                angle: Angle::radians(1.0),
                edge: Edge::Continuous,
                gradient: MarginGradient::Exact,
            },
            ..arc(0.0, 6.0)
        },
        MarginOptions {
            margin: Margin::Arc {
                angle: Angle::radians(1.0),
                edge: Edge::None,
                gradient: MarginGradient::Exact,
            },
            ..arc(0.0, 6.0)
        },
        MarginOptions { scale: 6.0, ..MarginOptions::cosface() },
        MarginOptions::sphereface(),
        MarginOptions { scale: 6.0, ..MarginOptions::sub_center_arcface() },
    ] {
        let (x, w, labels) = inputs(3 * options.sub_centers);
        let loss = MarginSoftmax::new(3, 5, options).unwrap();
        let out = loss.value_and_grad(x.view(), w.view(), &labels).unwrap();
        let (x, w) = (x.mapv(f64::from), w.mapv(f64::from));
        let value = |x: &Array2<f64>, w: &Array2<f64>| naive(&options, 3, x, w, &labels);
        assert!((out.stats.value - value(&x, &w)).abs() < 1e-5, "{options:?}");
        let step = 1e-6;
        for index in [(0, 0), (3, 2), (7, 4), (10, 1), (11, 3)] {
            let (mut up, mut down) = (x.clone(), x.clone());
            up[index] += step;
            down[index] -= step;
            let numeric = (value(&up, &w) - value(&down, &w)) / (2.0 * step);
            assert!((numeric - f64::from(out.d_embeddings[index])).abs() < 2e-5, "{options:?} {index:?}");
        }
        for index in [(0, 0), (1, 2), (2, 4)] {
            let (mut up, mut down) = (w.clone(), w.clone());
            up[index] += step;
            down[index] -= step;
            let numeric = (value(&x, &up) - value(&x, &down)) / (2.0 * step);
            assert!(
                (numeric - f64::from(out.d_weights.as_ref().unwrap()[index])).abs() < 2e-5,
                "{options:?} {index:?}"
            );
        }
    }
}

#[test]
fn wrong_input_is_named() {
    let loss = MarginSoftmax::new(3, 5, MarginOptions::arcface()).unwrap();
    let (mut x, w, mut labels) = inputs(3);
    assert!(matches!(loss.evaluate(Input::new(x.view(), &labels)), Err(Error::Missing { .. })));
    assert!(matches!(loss.value_and_grad(x.view(), w.view(), &labels[1..]), Err(Error::Shape { .. })));
    labels[4] = 3;
    let error = loss.value_and_grad(x.view(), w.view(), &labels).unwrap_err();
    assert_eq!(error, Error::Label { row: 4, label: 3, classes: 3 });
    labels[4] = 0;
    x[[2, 1]] = f32::NAN;
    let error = loss.value_and_grad(x.view(), w.view(), &labels).unwrap_err();
    assert!(matches!(error, Error::NotFinite { row: 2, column: 1, .. }));
    for (margin, scale) in [
        (Margin::Cos { cosine: f64::NAN }, 1.0),
        (Margin::Sphere { multiplier: 0 }, 1.0),
        (Margin::Cos { cosine: 0.1 }, 0.0),
    ] {
        let options = MarginOptions { margin, scale, ..MarginOptions::arcface() };
        assert!(matches!(MarginSoftmax::new(3, 5, options), Err(Error::Option { .. })));
    }
}

#[test]
fn weights_upstream_and_accumulation() {
    let (x, w, labels) = inputs(3);
    let loss = MarginSoftmax::new(3, 5, arc(28.6, 8.0)).unwrap();
    let plain = loss.value_and_grad(x.view(), w.view(), &labels).unwrap();
    let sample = [2.0f32; 12];
    let class = [0.5f32; 3];
    let mut input = Input::new(x.view(), &labels).with_weights(w.view());
    (input.sample_weights, input.class_weights) = (Some(&sample[..]), Some(&class[..]));
    let (mut dx, mut dw) = (Array2::ones(x.dim()), Array2::ones(w.dim()));
    let mut rows = [0.0f32; 12];
    let grads = GradsMut {
        embeddings: Some(dx.view_mut()),
        weights: Some(dw.view_mut()),
        write: Write::Add,
        upstream: 3.0,
        per_sample: Some(&mut rows),
    };
    let stats = loss.forward_backward(input, grads, &mut Workspace::default()).unwrap();
    assert!((stats.value - plain.stats.value).abs() < 1e-6);
    assert!((rows.iter().map(|&v| f64::from(v)).sum::<f64>() / 12.0 - plain.stats.value).abs() < 1e-5);
    // Rows' losses are those before weights, whatever these are.
    let (few, mut unweighted) = ([0.25f32, 0.0, 3.0].repeat(4), [0.0f32; 12]);
    input.sample_weights = Some(&few);
    let grads = GradsMut { per_sample: Some(&mut unweighted), ..GradsMut::default() };
    loss.forward_backward(input, grads, &mut Workspace::default()).unwrap();
    assert_eq!(unweighted, rows);
    assert!(dx.iter().zip(&plain.d_embeddings).all(|(a, b)| (a - 1.0 - 3.0 * b).abs() < 1e-5));
    assert!(dw.iter().zip(plain.d_weights.as_ref().unwrap()).all(|(a, b)| (a - 1.0 - 3.0 * b).abs() < 1e-5));
}

#[test]
fn the_same_bits_for_any_number_of_threads() {
    let x = Array2::from_shape_fn((70, 33), |(i, j)| ((i * 7 + j * 3) as f32 * 0.37).sin());
    let plain = Array2::from_shape_fn((600, 33), |(i, j)| ((i * 5 + j * 11) as f32 * 0.23).cos());
    // Some tiles with centres of extreme norm, one centre without any.
    let mut mixed = plain.clone();
    for (i, factor) in [(3, 1e20), (77, 1e-11), (310, 0.0), (599, 1e-30)] {
        mixed.row_mut(i).mapv_inplace(|v| v * factor);
    }
    let labels: Vec<u32> = (0..70).map(|i| i * 3 % 300).collect();
    for (options, w) in [
        (MarginOptions { sub_centers: 2, ..MarginOptions::arcface() }, &plain),
        (MarginOptions::arcface(), &mixed),
        (MarginOptions::cosface(), &mixed),
        (MarginOptions::sphereface(), &plain),
    ] {
        for logits_budget_bytes in [usize::MAX, 0] {
            let options = MarginOptions { logits_budget_bytes, ..options };
            let loss = MarginSoftmax::new(600 / options.sub_centers, 33, options).unwrap();
            let run = |threads| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                let out = pool.install(|| loss.value_and_grad(x.view(), w.view(), &labels).unwrap());
                let bits: Vec<u32> =
                    out.d_embeddings.iter().chain(&out.d_weights.unwrap()).map(|v| v.to_bits()).collect();
                (out.stats.value.to_bits(), bits)
            };
            let one = run(1);
            for threads in [2, 3, 5] {
                assert!(run(threads) == one, "{:?} on {threads} threads", options.margin);
            }
        }
    }
}
