//! Every loss on the tape.
#![cfg(feature = "autodiff")]

use embedtune_core::gradcheck::gradcheck;
use embedtune_core::{Error as CoreError, Pool, Tape};
use embedtune_losses::tape::{Labels, record};
use embedtune_losses::{
    Distance, Error, Input, Loss, LossKind, LossOptions, MarginOptions, MarginSoftmax, TripletMargin,
    Workspace, build,
};
use ndarray::{Array2, ArrayD};

const LABELS: [u32; 6] = [0, 1, 2, 0, 1, 2];

fn x() -> Array2<f32> {
    Array2::from_shape_fn((6, 4), |(i, j)| ((1.7 * i as f32) + 0.9 * (j * j) as f32).sin() + 0.1)
}

fn centres(rows: usize) -> Array2<f32> {
    Array2::from_shape_fn((rows, 4), |(c, j)| (0.8 * c as f32 + 1.3 * j as f32).cos())
}

#[test]
fn gradients_of_every_loss_through_other_operations() {
    for kind in LossKind::ALL {
        let options = LossOptions {
            scale: (kind != LossKind::TripletMarginLoss).then_some(2.0),
            ..LossOptions::default()
        };
        let loss = build(kind, &options, None, 3, 4).unwrap();
        let mut inputs: Vec<ArrayD<f32>> = vec![x().into_dyn()];
        inputs.extend(loss.weight_shape().map(|[rows, _]| centres(rows).into_dyn()));
        // The triplet's hinges have kinks: a large margin keeps every triplet away from its own.
        let smooth = TripletMargin::builder().margin(2.0).build().unwrap();
        let loss: &dyn Loss = if kind == LossKind::TripletMarginLoss { &smooth } else { loss.as_ref() };
        let checked = gradcheck(&inputs, 1e-2, |vars| {
            let x = vars[0].mul(vars[0])?.add(vars[0])?;
            let (value, stats) =
                record(loss, x, vars.get(1).copied(), &LABELS[..], &mut Workspace::default())
                    .map_err(|error| CoreError::GradCheck(error.to_string()))?;
            assert!(stats.value > 0.0);
            value.scale(0.7)
        });
        checked.unwrap_or_else(|error| panic!("{kind}: {error}"));
    }
}

#[test]
fn the_same_as_the_plain_call_with_weights_and_upstream() {
    let loss = MarginSoftmax::new(3, 4, MarginOptions::arcface()).unwrap();
    let (sample, class) = ([1.0, 0.5, 2.0, 1.0, 0.0, 1.0], [1.0, 3.0, 0.5]);
    let mut input_x = x();
    let w = centres(3);
    let labels =
        Labels { sample_weights: Some(&sample), class_weights: Some(&class), ..Labels::from(&LABELS[..]) };
    let (pool, mut work) = (Pool::new(), Workspace::default());
    for _ in 0..2 {
        let mut input = Input::new(input_x.view(), &LABELS).with_weights(w.view());
        (input.sample_weights, input.class_weights) = (Some(&sample[..]), Some(&class[..]));
        let plain = loss.evaluate(input).unwrap();
        let tape = Tape::new(&pool);
        let (x, w) = (tape.leaf(input_x.clone().into_dyn()), tape.leaf(w.clone().into_dyn()));
        let (value, stats) = record(&loss, x, Some(w), labels, &mut work).unwrap();
        assert_eq!(stats, plain.stats);
        let grads = tape.backward(value.scale(2.0).unwrap()).unwrap();
        assert_eq!(grads.dense(x).unwrap(), &(plain.d_embeddings * 2.0).into_dyn());
        assert_eq!(grads.dense(w).unwrap(), &(plain.d_weights.unwrap() * 2.0).into_dyn());
        // A second step on the same pool, with other numbers.
        input_x *= 0.5;
    }
}

#[test]
fn constants_get_no_gradient_and_wrong_input_is_an_error() {
    let loss = MarginSoftmax::new(3, 4, MarginOptions::cosface()).unwrap();
    let (pool, mut work) = (Pool::new(), Workspace::default());
    let tape = Tape::new(&pool);
    let (leaf, fixed) = (tape.leaf(x().into_dyn()), tape.constant(centres(3).into_dyn()));
    let missing = record(&loss, leaf, None, &LABELS[..], &mut work);
    assert!(matches!(missing, Err(Error::Missing { .. })));
    let flat = tape.leaf(ArrayD::zeros(vec![24]));
    let flat = record(&loss, flat, Some(fixed), &LABELS[..], &mut work);
    assert!(matches!(flat, Err(Error::Shape { what: "embeddings", .. })));
    let label = record(&loss, leaf, Some(fixed), &[0, 1, 2, 3, 1, 2][..], &mut work);
    assert!(matches!(label, Err(Error::Label { row: 3, .. })));
    let other = Tape::new(&pool);
    let foreign = other.leaf(centres(3).into_dyn());
    let foreign = record(&loss, leaf, Some(foreign), &LABELS[..], &mut work);
    assert!(matches!(foreign, Err(Error::Core(CoreError::ForeignVar { .. }))));
    let (value, _) = record(&loss, leaf, Some(fixed), &LABELS[..], &mut work).unwrap();
    let grads = tape.backward(value).unwrap();
    assert!(grads.dense(leaf).is_some() && grads.dense(fixed).is_none());
    let cosine = TripletMargin::builder().distance(Distance::Cosine).build().unwrap();
    let tape = Tape::new(&pool);
    let leaf = tape.leaf(x().into_dyn());
    let (value, stats) = record(&cosine, leaf, None, &vec![4; 6], &mut work).unwrap();
    assert!(stats.zero_signal && tape.backward(value).is_ok());
}

#[test]
fn the_largest_weights_stay_numbers() {
    let loss = MarginSoftmax::new(3, 4, MarginOptions::arcface()).unwrap();
    let (sample, class) = ([1e30; 6], [1e30; 3]);
    let labels =
        Labels { sample_weights: Some(&sample), class_weights: Some(&class), ..Labels::from(&LABELS[..]) };
    let pool = Pool::new();
    let tape = Tape::new(&pool);
    let (x, w) = (tape.leaf(x().into_dyn()), tape.leaf(centres(3).into_dyn()));
    let (value, stats) = record(&loss, x, Some(w), labels, &mut Workspace::default()).unwrap();
    assert!(stats.value > 1e38 && stats.value.is_finite());
    assert_eq!(value.value().first(), Some(&f32::MAX));
    let (value, _) =
        record(&loss, x, Some(w), Labels { class_weights: None, ..labels }, &mut Workspace::default())
            .unwrap();
    let grads = tape.backward(value.scale(1e20).unwrap()).unwrap();
    assert!(grads.dense(x).unwrap().iter().all(|v| v.is_finite()));
}
