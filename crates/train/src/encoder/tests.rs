//! Encoders as a whole.

use embedtune_core::{Grad, Pool, Tape};
use embedtune_pooling::{PoolerKind, PoolerOptions, Sign};
use ndarray::{Array2, Array4};

use super::*;
use crate::data::Items;

const ROWS: [usize; 6] = [0, 1, 2, 3, 4, 5];

fn items() -> [Items; 3] {
    let images =
        Array4::from_shape_fn((6, 2, 8, 9), |(n, c, y, x)| ((n * 31 + c * 77 + y * 7 + x * 13) % 256) as u8);
    let vectors = Array2::from_shape_fn((6, 5), |(i, j)| ((i * 5 + j) as f32 * 0.7).sin() * 20.0);
    let texts =
        ["where is my card", "card arrival", "", "top up failed", "TOP UP, top up", "refund \u{1F4B8}?"];
    [Items::Images(images), Items::Vectors(vectors), Items::Text(texts.map(String::from).to_vec())]
}

/// Small encoders of every kind, with every layer.
fn specs() -> Vec<(EncoderSpec, Items)> {
    let [images, vectors, texts] = items();
    let gem = |spec: EncoderSpec, per_channel| {
        let options = PoolerOptions { per_channel, sign: Some(Sign::Clamp), ..PoolerOptions::default() };
        spec.with_pooler(PoolerKind::GeM, options).unwrap()
    };
    let cnn = |side: usize| {
        let convolution = |out| Layer::Conv { out, kernel: 3, padding: 1 };
        let layers = vec![
            convolution(3),
            Layer::BatchNorm,
            Layer::Relu,
            Layer::MaxPool { side },
            convolution(4),
            Layer::BatchNorm,
            Layer::Gelu,
            Layer::Pool { pooler: PoolerKind::Avg, options: PoolerOptions::default() },
            Layer::Linear { out: 3, bias: true },
        ];
        EncoderSpec { input: InputSpec::Image { channels: 2, height: 8, width: 9 }, layers }
    };
    let deep = EncoderSpec {
        input: InputSpec::Vector { dim: 5 },
        layers: vec![
            Layer::Linear { out: 8, bias: true },
            Layer::BatchNorm,
            Layer::Gelu,
            Layer::Dropout { p: 0.25 },
            Layer::LayerNorm,
            Layer::Residual { hidden: 6 },
            Layer::Normalize,
        ],
    };
    let tokens = TokenSpec { rows: 97, max_tokens: 24, ..TokenSpec::default() };
    let text = EncoderSpec {
        input: InputSpec::Text(tokens),
        layers: vec![
            Layer::Embedding { rows: 97, dim: 4 },
            Layer::Pool { pooler: PoolerKind::Avg, options: PoolerOptions::default() },
            Layer::Normalize,
            Layer::Linear { out: 3, bias: false },
        ],
    };
    let max = text.clone().with_pooler(PoolerKind::Max, PoolerOptions::default()).unwrap();
    vec![
        (cnn(2), images.clone()),
        (gem(cnn(3), false), images),
        (EncoderSpec::mlp(5, None), vectors.clone()),
        (EncoderSpec::mlp(5, Some(3)), vectors.clone()),
        (deep, vectors),
        (gem(text.clone(), true), texts.clone()),
        (max, texts.clone()),
        (text, texts),
    ]
}

/// A prepared encoder, and one training step's statistics taken in.
fn encoder(spec: &EncoderSpec, items: &Items) -> Encoder {
    let mut encoder = Encoder::new(spec.clone(), 3).unwrap();
    encoder.prepare(items, &ROWS).unwrap();
    let tape = Tape::new(&Pool::new());
    let batch = Batch::gather(items, &ROWS[..4]).unwrap();
    let statistics = encoder.forward(&tape, &batch, Mode::Train { seed: 0 }).unwrap().statistics;
    drop(tape);
    encoder.after_step(&statistics);
    encoder
}

/// A weighted sum of the training output, and the parameters' gradients.
fn objective(encoder: &Encoder, batch: &Batch) -> (f64, Vec<Option<Grad>>) {
    let tape = Tape::new(&Pool::new());
    let forward = encoder.forward(&tape, batch, Mode::Train { seed: 5 }).unwrap();
    let y = forward.output.value();
    let weights =
        Array2::from_shape_fn((y.shape()[0], y.shape()[1]), |(i, j)| ((i * 3 + j * 7) as f32).sin());
    let value = y.iter().zip(&weights).map(|(&y, &w)| f64::from(y) * f64::from(w)).sum();
    let mut grads = tape.backward_from(forward.output, weights.into_dyn()).unwrap();
    (value, forward.leaves.iter().map(|&leaf| grads.take(leaf)).collect())
}

#[test]
fn gradients_match_differences() {
    for (spec, items) in specs() {
        let mut encoder = encoder(&spec, &items);
        for (name, value) in encoder.params_mut() {
            // Away from the residual's start, where the first matrix has no gradient.
            if name.ends_with("weight2") {
                value.indexed_iter_mut().for_each(|(i, v)| *v = ((i[0] * 3 + i[1]) as f32).sin() * 0.2);
            }
        }
        let batch = Batch::gather(&items, &ROWS).unwrap();
        let (_, grads) = objective(&encoder, &batch);
        for (which, grad) in grads.into_iter().enumerate() {
            let grad = grad.expect("a parameter without a gradient").into_dense().unwrap();
            let largest = grad.iter().fold(0.0f32, |m, v| m.max(v.abs()));
            assert!(largest > 0.0 && largest.is_finite(), "{spec:?} parameter {which}");
            // Every 1st, 8th, 15th.. value: enough to see a wrong gradient.
            for at in (0..grad.len()).step_by(7) {
                let moved = |step: f32| {
                    let mut encoder = encoder.clone();
                    let (_, value) = encoder.params_mut().swap_remove(which);
                    *value.iter_mut().nth(at).unwrap() += step;
                    objective(&encoder, &batch).0
                };
                let step = 1e-3;
                let numeric = (moved(step) - moved(-step)) / (2.0 * f64::from(step));
                let analytic = f64::from(*grad.iter().nth(at).unwrap());
                let scale = f64::from(largest).max(0.1);
                assert!(
                    (analytic - numeric).abs() < 2e-2 * scale,
                    "{spec:?} parameter {which}, value {at}: {analytic} and by differences {numeric}"
                );
            }
        }
    }
}

#[test]
fn embeddings_do_not_depend_on_the_batch_or_the_threads_and_survive_a_state() {
    for (spec, items) in specs() {
        let text = toml::to_string(&spec).unwrap();
        assert_eq!(toml::from_str::<EncoderSpec>(&text).unwrap(), spec);
        let encoder = encoder(&spec, &items);
        let all = encoder.embed(&items, &ROWS).unwrap();
        assert!(all.iter().all(|v| v.is_finite()));
        for row in ROWS {
            let alone = encoder.embed(&items, &[row]).unwrap();
            for (a, b) in alone.iter().zip(all.row(row)) {
                assert!((a - b).abs() <= 1e-6 * b.abs().max(1.0), "{spec:?} {row}");
            }
        }
        let many: Vec<usize> = (0..150).map(|i| i * 5 % 6).collect();
        let batch = Batch::gather(&items, &many).unwrap();
        let run = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let grads = objective(&encoder, &batch).1;
                let grads: Vec<_> = grads.into_iter().map(|g| g.map(|g| g.into_dense().unwrap())).collect();
                (encoder.embed(&items, &many).unwrap(), grads)
            })
        };
        let one = run(1);
        assert!([2, 3, 5].into_iter().all(|threads| run(threads) == one), "{spec:?}");
        let mut other = Encoder::new(spec, 4).unwrap();
        assert_ne!(other.state(), encoder.state());
        other.load(&encoder.state()).unwrap();
        assert_eq!(other.embed(&items, &ROWS).unwrap(), all);
    }
}

#[test]
fn a_state_of_another_encoder_is_refused_whole() {
    let mut encoder = Encoder::new(EncoderSpec::mlp(5, Some(3)), 0).unwrap();
    let before = encoder.state();
    let mut missing = before.clone();
    missing.tensors.remove("1.linear.weight");
    let mut longer = Encoder::new(EncoderSpec::mlp(5, Some(3)), 1).unwrap().state();
    longer.tensors.insert("0.residual.scale".into(), ndarray::ArrayD::zeros(vec![2]));
    for (state, part) in [
        (missing, "tensor 1.linear.weight is missing"),
        (longer, "tensor 0.residual.scale has shape [2]; expected [1]"),
    ] {
        let error = encoder.load(&state).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
        assert_eq!(encoder.state(), before);
    }
}

#[test]
fn the_head_on_vectors_starts_as_the_identity_at_any_scale() {
    let [_, vectors, _] = items();
    let Items::Vectors(x) = &vectors else { panic!("vectors") };
    for factor in [1e-20f32, 1.0, 1e20, 0.0] {
        let x = Items::Vectors(x * factor);
        let mut encoder = Encoder::new(EncoderSpec::mlp(5, None), 9).unwrap();
        encoder.prepare(&x, &ROWS).unwrap();
        assert_eq!(Items::Vectors(encoder.embed(&x, &ROWS).unwrap()), x);
    }
    let mut encoder = Encoder::new(EncoderSpec::mlp(5, None), 9).unwrap();
    encoder.prepare(&vectors, &ROWS).unwrap();
    let expected = (x.iter().map(|v| v * v).sum::<f32>() / 30.0).sqrt();
    assert!((encoder.state().tensors["0.residual.scale"][[0]] - expected).abs() < 1e-3);
}

#[test]
fn texts_without_known_words_have_vectors_too() {
    let [_, _, texts] = items();
    let mut encoder = Encoder::new(EncoderSpec::text(8), 1).unwrap();
    encoder.prepare(&texts, &ROWS).unwrap();
    let idf = &encoder.state().tensors["0.embedding.idf"];
    let (absent, rare) =
        (idf.iter().filter(|v| **v == 0.0).count(), idf.iter().fold(0.0f32, |m, &v| m.max(v)));
    assert!(absent > idf.len() / 2);
    assert!((rare - ((7.0f32 / 2.0).ln() + 1.0)).abs() < 1e-6);
    let strange = ["", "\u{0}", "zzzz qqqq", "\u{FFFD}\u{202E}", "\u{0301}\u{0301}", "ﬀ ǅ İ ß"];
    let long = ["card ".repeat(100_000), "x".repeat(1 << 20), "where is my card".to_owned()];
    let all: Vec<String> = strange.iter().map(|s| (*s).to_owned()).chain(long).collect();
    let items = Items::Text(all);
    let x = encoder.embed(&items, &[0, 1, 2, 3, 4, 5, 6, 7, 8]).unwrap();
    assert!(x.iter().all(|v| v.is_finite()));
    assert!(x.row(0).iter().all(|&v| v == 0.0), "an empty text is the zero vector");
    assert!(x.row(8).iter().any(|&v| v != 0.0));
}

#[test]
fn the_pooler_is_replaced_where_there_is_one_and_p_keeps_its_floor() {
    let gem = |spec: EncoderSpec| spec.with_pooler(PoolerKind::GeM, PoolerOptions::default());
    for spec in [EncoderSpec::cnn([1, 8, 8], 4).unwrap(), EncoderSpec::text(4)] {
        let mut encoder = Encoder::new(gem(spec).unwrap(), 0).unwrap();
        assert_eq!(encoder.gem_p(), Some(3.0));
        for (name, value) in encoder.params_mut() {
            if name.ends_with(".p") {
                value.fill(-2.0);
            }
        }
        encoder.after_step(&[]);
        assert!((encoder.gem_p().unwrap() - 0.1).abs() < 1e-6);
    }
    let error = gem(EncoderSpec::mlp(4, None)).unwrap_err().to_string();
    assert!(error.starts_with("pooler = GeM") && error.contains("no pooling layer"), "{error}");
    let options = PoolerOptions { p: 0.0, ..PoolerOptions::default() };
    let error = EncoderSpec::text(4).with_pooler(PoolerKind::GeM, options).unwrap_err().to_string();
    assert!(error.starts_with("pooler_options.p = 0: write a number from 0.1"), "{error}");
}

#[test]
fn wrong_specifications_and_items_are_errors_with_a_reason() {
    let linear = |out| Layer::Linear { out, bias: true };
    let on_vectors = |layers| EncoderSpec { input: InputSpec::Vector { dim: 4 }, layers };
    let image = InputSpec::Image { channels: 1, height: 4, width: 4 };
    let on_images = |layers| EncoderSpec { input: image.clone(), layers };
    for (spec, part) in [
        (on_vectors(vec![linear(0)]), "cannot follow Vector(4)"),
        (on_vectors(vec![Layer::Dropout { p: 1.0 }]), "a probability"),
        (on_vectors(vec![Layer::Dropout { p: f32::NAN }]), "a probability"),
        (on_vectors(vec![linear(usize::MAX)]), "at most 2^30"),
        (on_vectors(vec![Layer::Relu, Layer::MaxPool { side: 2 }]), "cannot follow"),
        (on_images(vec![Layer::Relu]), "add a pooling layer"),
        (on_images(vec![Layer::Conv { out: 1, kernel: 5, padding: 0 }]), "cannot follow Map([1, 4, 4])"),
        (on_images(vec![Layer::Conv { out: 1, kernel: 1, padding: usize::MAX }]), "cannot follow"),
        (on_images(vec![Layer::Conv { out: 1, kernel: 3, padding: 1 << 37 }]), "cannot follow"),
        (on_images(vec![Layer::Conv { out: 1 << 10, kernel: 30_000, padding: 29_999 }]), "cannot follow"),
        (EncoderSpec { input: InputSpec::Vector { dim: 0 }, layers: vec![] }, "at least 1"),
        (
            EncoderSpec {
                input: InputSpec::Text(TokenSpec::default()),
                layers: vec![Layer::Embedding { rows: 7, dim: 2 }],
            },
            "cannot follow Ids(32768)",
        ),
    ] {
        let error = Encoder::new(spec.clone(), 0).unwrap_err().to_string();
        assert!(error.contains(part), "{spec:?}: {error}");
    }
    assert!(EncoderSpec::cnn([1, 3, 8], 4).unwrap_err().to_string().contains("too small"));
    let all = items();
    for (spec, own) in specs() {
        let mut encoder = Encoder::new(spec, 0).unwrap();
        for other in all.iter().filter(|other| other.kind() != own.kind()) {
            let error = encoder.embed(other, &[0]).unwrap_err().to_string();
            assert!(error.contains("the encoder takes"), "{error}");
            assert!(encoder.prepare(other, &[]).is_err());
        }
        assert!(encoder.embed(&own, &[6]).unwrap_err().to_string().contains("item 6"));
        assert!(encoder.prepare(&own, &[0, 6]).unwrap_err().to_string().contains("item 6"));
        assert_eq!(encoder.embed(&own, &[]).unwrap().dim(), (0, encoder.output_dim()));
    }
    let narrow = Items::Images(Array4::zeros((6, 2, 8, 8)));
    let error = encoder(&specs()[0].0, &all[0]).embed(&narrow, &[0]).unwrap_err().to_string();
    assert!(error.contains("[2, 8, 9]") && error.contains("[2, 8, 8]"), "{error}");
}
