//! Encoders as a whole.

use embedtune_core::{Pool, Tape};
use embedtune_pooling::{PoolerKind, PoolerOptions};
use ndarray::{Array2, Array4};

use super::*;
use crate::data::Items;

fn items() -> [Items; 3] {
    let images = Array4::from_shape_fn((6, 1, 8, 9), |(n, _, y, x)| ((n * 31 + y * 7 + x * 13) % 256) as u8);
    let vectors = Array2::from_shape_fn((6, 5), |(i, j)| ((i * 5 + j) as f32 * 0.7).sin());
    let texts = ["where is my card", "card arrival", "", "top up failed", "TOP UP", "refund?"];
    [Items::Images(images), Items::Vectors(vectors), Items::Text(texts.map(String::from).to_vec())]
}

fn embed(encoder: &Encoder, items: &Items, rows: &[usize]) -> Vec<f32> {
    let tape = Tape::new(&Pool::new());
    let batch = Batch::gather(items, rows).unwrap();
    encoder.forward(&tape, &batch, Mode::Eval).unwrap().output.value().iter().copied().collect()
}

#[test]
fn an_embedding_does_not_depend_on_its_batch_and_survives_a_state() {
    for items in items() {
        let spec = EncoderSpec::default_for(&items, None).unwrap();
        let mut encoder = Encoder::new(spec.clone(), 3).unwrap();
        let text = toml::to_string(&spec).unwrap();
        assert_eq!(toml::from_str::<EncoderSpec>(&text).unwrap(), spec);
        // A training pass moves the running statistics away from their start.
        let tape = Tape::new(&Pool::new());
        let batch = Batch::gather(&items, &[0, 1, 2, 3]).unwrap();
        let forward = encoder.forward(&tape, &batch, Mode::Train { seed: 0 }).unwrap();
        let statistics = forward.statistics.clone();
        let grads = tape.backward(forward.output).unwrap();
        let reached = forward.leaves.iter().filter(|&&leaf| grads.get(leaf).is_some()).count();
        assert_eq!(reached, forward.leaves.len(), "a parameter without a gradient");
        encoder.after_step(&statistics);
        let all = embed(&encoder, &items, &[0, 1, 2, 3, 4, 5]);
        let dim = encoder.output_dim();
        for row in 0..6 {
            let alone = embed(&encoder, &items, &[row]);
            for (a, b) in alone.iter().zip(&all[row * dim..]) {
                assert!((a - b).abs() <= 1e-5 * b.abs().max(1.0), "{spec:?} {row}");
            }
        }
        let mut other = Encoder::new(spec, 4).unwrap();
        assert_ne!(other.state(), encoder.state());
        other.load(&encoder.state()).unwrap();
        assert_eq!(embed(&other, &items, &[0, 1, 2, 3, 4, 5]), all);
        assert!(other.load(&State::default()).is_err());
    }
}

#[test]
fn the_head_on_vectors_starts_as_the_identity() {
    let [_, vectors, _] = items();
    let encoder = Encoder::new(EncoderSpec::mlp(5, None), 9).unwrap();
    let Items::Vectors(x) = &vectors else { panic!("vectors") };
    assert_eq!(embed(&encoder, &vectors, &[0, 1, 2, 3, 4, 5]), x.as_slice().unwrap());
}

#[test]
fn the_pooler_is_replaced_where_there_is_one() {
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
    assert!(EncoderSpec::cnn([1, 3, 8], 4).is_err());
}
