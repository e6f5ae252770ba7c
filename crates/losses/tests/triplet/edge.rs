//! Degenerate batches, extreme values and wrong inputs.

use embedtune_losses::{
    Distance, Error, GradsMut, Input, Loss, Miner, Reduction, Reference, TripletKind, TripletMargin,
    Workspace, Write, miner,
};
use ndarray::{Array2, array};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::naive::naive;
use super::support::{all_options, clusters, relative_error};

#[test]
fn a_collapsed_batch_costs_the_margin_and_has_no_gradient() {
    let x = Array2::from_elem((12, 5), 0.7f32);
    let labels: Vec<u32> = (0..12).map(|i| i % 3).collect();
    for normalize in [true, false] {
        for options in [
            TripletMargin::builder(),
            TripletMargin::builder().swap(true),
            TripletMargin::builder().miner(Miner::BatchHard),
            TripletMargin::builder().miner(Miner::triplet_margin(TripletKind::Hard)),
        ] {
            let loss = options.clone().normalize(normalize).build().unwrap();
            let got = loss.value_and_grad(x.view(), &labels).unwrap();
            approx::assert_relative_eq!(got.stats.value, 0.05, max_relative = 1e-6);
            assert_eq!(got.stats.active_fraction, 1.0);
            assert!(got.stats.zero_signal, "{options:?}");
            assert!(got.d_embeddings.iter().all(|&d| d == 0.0), "{options:?}");
        }
    }
}

#[test]
fn near_duplicates_keep_their_digits() {
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let base: Vec<f32> = (0..128).map(|_| rng.random_range(-1.0..1.0)).collect();
    for (spread, normalize) in [(1e-2, true), (1e-4, true), (1e-2, false), (1e-4, false)] {
        let x = Array2::from_shape_fn((20, 128), |(_, j)| base[j] + spread * rng.random_range(-1.0..1.0f32));
        let labels: Vec<u32> = (0..20).map(|i| i % 4).collect();
        let options = TripletMargin::builder().normalize(normalize).margin(f64::from(spread) * 0.1);
        let got = options.clone().build().unwrap().value_and_grad(x.view(), &labels).unwrap();
        let expected = naive(&options, Input::new(x.view(), &labels));
        approx::assert_relative_eq!(got.stats.value, expected.value, max_relative = 1e-4);
        let error = relative_error(got.d_embeddings.view(), expected.d_embeddings.view(), 0.0);
        assert!(error < 1e-4, "spread {spread}, normalize {normalize}: {error}");
    }
}

#[test]
fn a_batch_far_from_the_origin_keeps_its_digits() {
    let (x, labels) = clusters(30, 16, 4, 0.8, 3);
    let far = x.mapv(|v| v + 1000.0);
    let options = TripletMargin::builder().normalize(false).margin(0.5);
    let got = options.clone().build().unwrap().value_and_grad(far.view(), &labels).unwrap();
    let expected = naive(&options, Input::new(far.view(), &labels));
    approx::assert_relative_eq!(got.stats.value, expected.value, max_relative = 1e-5);
    assert!(relative_error(got.d_embeddings.view(), expected.d_embeddings.view(), 0.0) < 1e-5);
}

#[test]
fn batches_without_a_triplet_are_zero() {
    let (x, _) = clusters(6, 4, 2, 0.5, 1);
    for options in all_options(0.2) {
        let loss = options.clone().build().unwrap();
        for labels in [vec![3; 6], (0..6).collect::<Vec<_>>()] {
            let got = loss.value_and_grad(x.view(), &labels).unwrap();
            assert_eq!((got.stats.value, got.stats.triplets), (0.0, 0), "{options:?}");
            assert!(got.stats.zero_signal && got.d_embeddings.iter().all(|&d| d == 0.0));
        }
        for rows in [0, 1] {
            let got = loss.value_and_grad(x.slice_axis(ndarray::Axis(0), (0..rows).into()), &[0; 1][..rows]);
            assert_eq!(got.unwrap().stats.triplets, 0, "{rows} rows, {options:?}");
        }
        let mut input = Input::new(x.view(), &[1; 6]);
        let empty = Array2::zeros((0, 4));
        input.reference = Some(Reference { embeddings: empty.view(), labels: &[], same_item: None });
        assert!(loss.evaluate(input).unwrap().stats.zero_signal);
    }
    let no_columns = Array2::zeros((4, 0));
    let got = TripletMargin::builder().build().unwrap().value_and_grad(no_columns.view(), &[0, 0, 1, 1]);
    assert!(got.unwrap().stats.zero_signal);
}

#[test]
fn zero_opposite_and_extreme_vectors_stay_finite() {
    let x = array![
        [0.0f32, 0.0, 0.0],
        [1.0, 2.0, -1.0],
        [-1.0, -2.0, 1.0],
        [3e38, -3e38, 3e38],
        [1e-40, 0.0, 1e-40],
        [2.0, 4.0, -2.0],
        [0.0, 0.0, 0.0],
        [3e38, 3e38, 3e38],
    ];
    let labels = [0, 0, 1, 1, 2, 2, 3, 3];
    for options in all_options(0.2) {
        let loss = options.clone().build().unwrap();
        let mut per_sample = [f32::NAN; 8];
        let mut d = Array2::zeros(x.dim());
        let grads = GradsMut {
            embeddings: Some(d.view_mut()),
            per_sample: Some(&mut per_sample),
            ..GradsMut::default()
        };
        let stats =
            loss.forward_backward(Input::new(x.view(), &labels), grads, &mut Workspace::default()).unwrap();
        assert!(stats.value.is_finite(), "{options:?}: {stats:?}");
        assert!(d.iter().all(|v| v.is_finite()), "{options:?}: {d}");
        assert!(per_sample.iter().all(|v| v.is_finite()), "{options:?}: {per_sample:?}");
    }
}

#[test]
fn upstream_accumulation_and_terms() {
    let (x, labels) = clusters(40, 7, 5, 0.8, 1);
    let weights: Vec<f32> = (0..40).map(|i| 0.25 * (i % 7) as f32).collect();
    for options in all_options(0.2).into_iter().filter(|o| o.reduction == Reduction::Sum) {
        let loss = options.clone().build().unwrap();
        let mut input = Input::new(x.view(), &labels);
        input.sample_weights = Some(&weights);
        let plain = loss.evaluate(input).unwrap();
        let mut d = Array2::from_elem(x.dim(), 1.0);
        let mut per_sample = vec![0.0; 40];
        let grads = GradsMut {
            embeddings: Some(d.view_mut()),
            write: Write::Add,
            upstream: -2.0,
            per_sample: Some(&mut per_sample),
            ..GradsMut::default()
        };
        let stats = loss.forward_backward(input, grads, &mut Workspace::default()).unwrap();
        assert_eq!(stats.value, plain.stats.value);
        for (d, g) in d.iter().zip(&plain.d_embeddings) {
            approx::assert_relative_eq!(*d, 1.0 - 2.0 * g, max_relative = 1e-6, epsilon = 1e-6);
        }
        let expected = naive(&options, input);
        for (got, expected) in per_sample.iter().zip(&expected.per_sample) {
            approx::assert_relative_eq!(f64::from(*got), *expected, max_relative = 1e-4, epsilon = 1e-6);
        }
        // Without a gradient the value is the same, and any layout gives the same gradient.
        let value = loss.forward_backward(input, GradsMut::default(), &mut Workspace::default()).unwrap();
        assert_eq!(value.value, plain.stats.value);
        let columns = x.t().as_standard_layout().to_owned();
        let mut strided = Input::new(columns.t(), &labels);
        strided.sample_weights = Some(&weights);
        assert_eq!(loss.evaluate(strided).unwrap(), plain);
    }
}

#[test]
fn weights_of_any_size_leave_everything_finite() {
    let (x, labels) = clusters(24, 5, 4, 0.8, 3);
    let most = [f32::MAX; 24];
    let mixed: Vec<f32> = (0..24).map(|i| [1.0, 0.0, 1e-45, f32::MAX, 1e30][i % 5]).collect();
    let of_classes = [f32::MAX, 1e30, 1.0, 1e-30];
    for options in all_options(0.2) {
        let loss = options.clone().build().unwrap();
        for (sample, class) in [(&most[..], None), (&mixed[..], None), (&most[..], Some(&of_classes[..]))] {
            let mut input = Input::new(x.view(), &labels);
            (input.sample_weights, input.class_weights) = (Some(sample), class);
            let out = loss.evaluate(input).unwrap();
            assert!(out.stats.value.is_finite(), "{options:?}: {:?}", out.stats);
            assert!(out.d_embeddings.iter().all(|v| v.is_finite()), "{options:?}: {}", out.d_embeddings);
            // What is there already is as large as a number gets.
            let mut d = Array2::from_elem(x.dim(), f32::MAX);
            let grads = GradsMut { embeddings: Some(d.view_mut()), write: Write::Add, ..GradsMut::default() };
            loss.forward_backward(input, grads, &mut Workspace::default()).unwrap();
            assert!(d.iter().all(|v| v.is_finite()), "{options:?}: {d}");
        }
    }
}

#[test]
fn a_factor_on_all_weights_is_one_on_value_and_gradient() {
    let (x, labels) = clusters(40, 7, 5, 0.8, 1);
    let weights: Vec<f32> = (0..40).map(|i| 0.25 * (i % 7) as f32).collect();
    // A power of two, which changes no digit.
    let larger: Vec<f32> = weights.iter().map(|w| w * 1048576.0).collect();
    for options in all_options(0.2) {
        let loss = options.clone().build().unwrap();
        let of = |weights| {
            let mut input = Input::new(x.view(), &labels);
            input.sample_weights = Some(weights);
            loss.evaluate(input).unwrap()
        };
        let (plain, large) = (of(&weights), of(&larger));
        assert_eq!(large.stats.value, 1048576.0 * plain.stats.value, "{options:?}");
        assert_eq!(large.d_embeddings, plain.d_embeddings * 1048576.0, "{options:?}");
    }
}

#[test]
fn wrong_inputs_name_the_row() {
    let loss = TripletMargin::builder().build().unwrap();
    let x = array![[1.0f32, 0.0], [0.0, 1.0], [1.0, 1.0]];
    let labels = [0, 0, 1];
    let mut bad = x.clone();
    bad[[2, 1]] = f32::NAN;
    let error = loss.value_and_grad(bad.view(), &labels).unwrap_err();
    assert!(matches!(error, Error::NotFinite { row: 2, column: 1, .. }), "{error}");
    assert!(matches!(loss.value_and_grad(x.view(), &[0, 1]), Err(Error::Shape { .. })));
    let base = Input::new(x.view(), &labels);
    let fails =
        |input: Input<'_>| (loss.evaluate(input).unwrap_err(), miner::mine(&Miner::All, input).unwrap_err());
    let (error, mined) = fails(Input { class_weights: Some(&[1.0]), ..base });
    assert!(
        error.to_string().contains("class_weights has shape [1]; expected a weight for every class"),
        "{error}"
    );
    assert!(error.to_string().contains("label 1 in row 2"), "{error}");
    assert_eq!(error, mined);
    let (error, _) = fails(Input { sample_weights: Some(&[1.0, f32::INFINITY, 1.0]), ..base });
    assert!(matches!(error, Error::NotFinite { what: "sample_weights", row: 1, .. }), "{error}");
    let reference = Reference { embeddings: bad.view(), labels: &labels, same_item: None };
    let (error, _) = fails(Input { reference: Some(reference), ..base });
    assert!(matches!(error, Error::NotFinite { what: "reference embeddings", row: 2, .. }), "{error}");
    let same = [0, 1, 3];
    let reference = Reference { embeddings: x.view(), labels: &labels, same_item: Some(&same) };
    let (error, _) = fails(Input { reference: Some(reference), ..base });
    assert!(error.to_string().contains("3 in row 2"), "{error}");
    let grads = GradsMut { upstream: f32::NAN, ..GradsMut::default() };
    assert!(loss.forward_backward(base, grads, &mut Workspace::default()).is_err());
}

#[test]
fn wrong_options_are_named() {
    for margin in [f64::NAN, -0.1, f64::INFINITY, 1e16] {
        let error = TripletMargin::builder().margin(margin).build().unwrap_err();
        assert!(error.to_string().starts_with("margin"), "{error}");
        let miner = Miner::TripletMargin { margin, kind: TripletKind::All };
        assert!(TripletMargin::builder().miner(miner).build().is_err());
        assert!(miner::mine(&miner, Input::new(Array2::zeros((0, 1)).view(), &[])).is_err());
    }
    assert!(TripletMargin::builder().distance(Distance::Cosine).normalize(false).build().is_err());
}

#[cfg(feature = "serde")]
#[test]
fn options_read_from_a_file() {
    let text = "margin = 0.2\nminer = { name = \"TripletMarginMiner\", type_of_triplets = \"semihard\" }";
    let options: embedtune_losses::TripletMarginOptions = toml::from_str(text).unwrap();
    let expected = TripletMargin::builder().margin(0.2).miner(Miner::triplet_margin(TripletKind::Semihard));
    assert_eq!(options, expected);
    assert_eq!(
        toml::from_str::<embedtune_losses::TripletMarginOptions>(&toml::to_string(&options).unwrap())
            .unwrap(),
        options
    );
    assert!(toml::from_str::<embedtune_losses::TripletMarginOptions>("marg = 1").is_err());
}
