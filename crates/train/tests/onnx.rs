//! Exported models compute what the encoder computes: onnxruntime runs them.
//!
//! Needs a Python with onnxruntime: `EMBEDTUNE_PYTHON`, or `python3` where it has the package. Without one the test says
//! that it skips, and checks the files' form alone.

use std::path::{Path, PathBuf};
use std::process::Command;

use embedtune_pooling::{PoolerKind, PoolerOptions, Sign};
use embedtune_train::data::{Items, Sequences};
use embedtune_train::encoder::{Batch, Encoder, EncoderSpec, InputSpec, Layer, Mode};
use embedtune_train::export::onnx;
use embedtune_train::io::write_npy;
use embedtune_train::optim::Param;
use embedtune_train::{State, core, optim};
use ndarray::{Array2, Array3, Array4, Axis};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

fn python() -> Option<PathBuf> {
    let python = std::env::var_os("EMBEDTUNE_PYTHON").map_or_else(|| "python3".into(), PathBuf::from);
    let has = Command::new(&python).args(["-c", "import onnxruntime, numpy"]).output();
    has.is_ok_and(|output| output.status.success()).then_some(python)
}

/// A `.npy` array of any number of axes, of `f32`.
fn write_array(path: &Path, shape: &[usize], values: impl Iterator<Item = f32>) {
    let shape: String = shape.iter().map(|n| format!("{n}, ")).collect();
    let header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({shape}), }}\n");
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend_from_slice(&(header.len() as u16).to_le_bytes());
    bytes.extend_from_slice(header.as_bytes());
    bytes.extend(values.flat_map(f32::to_le_bytes));
    std::fs::write(path, bytes).unwrap();
}

/// An encoder whose weights and running statistics are not those that it starts with.
fn trained(spec: EncoderSpec, items: &Items) -> Encoder {
    let mut encoder = Encoder::new(spec, 5).unwrap();
    let rows: Vec<usize> = (0..items.len()).collect();
    encoder.prepare(items, &rows).unwrap();
    let mut optimizer = optim::build(optim::OptimizerKind::Adam, &Default::default(), 0.02).unwrap();
    let pool = core::Pool::new();
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    for step in 0..4 {
        let tape = core::Tape::new(&pool);
        let batch = Batch::gather(items, &rows).unwrap();
        let pass = encoder.forward(&tape, &batch, Mode::Train { seed: step }).unwrap();
        let upstream = pass.output.value().mapv(|_| rng.random_range(-1.0f32..1.0));
        let mut grads = tape.backward_from(pass.output, upstream).unwrap();
        let grads: Vec<_> = pass.leaves.iter().map(|&leaf| grads.take(leaf)).collect();
        let statistics = pass.statistics;
        let mut named = encoder.params_mut();
        let mut params: Vec<Param<'_>> =
            named.iter_mut().zip(grads).map(|((name, value), grad)| Param { name, value, grad }).collect();
        optimizer.step(&mut params, None).unwrap();
        drop(params);
        drop(named);
        encoder.after_step(&statistics);
    }
    encoder
}

fn check(name: &str, encoder: &Encoder, items: &Items) {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let bytes = onnx(encoder, &["a".to_owned(), "b \"quoted\"".to_owned()]).unwrap();
    // A graph with its operators and weights, whatever reads it.
    for word in ["embeddings", "embedtune", "Gemm"] {
        assert!(bytes.windows(word.len()).any(|w| w == word.as_bytes()), "{name} lacks {word}");
    }
    std::fs::write(at.join("model.onnx"), bytes).unwrap();
    let rows: Vec<usize> = (0..items.len()).collect();
    let expected = encoder.embed(items, &rows).unwrap();
    write_npy(&at.join("expected.npy"), expected.view()).unwrap();
    match items {
        Items::Images(images) => {
            let pixels = images.iter().map(|&v| f32::from(v) / 255.0);
            write_array(&at.join("pixels.npy"), images.shape(), pixels);
        }
        Items::Vectors(vectors) => write_npy(&at.join("vectors.npy"), vectors.view()).unwrap(),
        Items::Sequences(sequences) => {
            let values = sequences.values();
            let (items, tokens, _) = values.dim();
            // Masked tokens hold NaN, which must not matter.
            let of_item = values.outer_iter().zip(sequences.lengths());
            let kept = of_item.flat_map(|(item, &length)| {
                let rows: Vec<f32> = item
                    .axis_iter(Axis(0))
                    .enumerate()
                    .flat_map(|(token, row)| row.mapv(|v| if token < length { v } else { f32::NAN }).to_vec())
                    .collect();
                rows
            });
            write_array(&at.join("tokens.npy"), values.shape(), kept);
            let mask = sequences
                .lengths()
                .iter()
                .flat_map(|&length| (0..tokens).map(move |token| if token < length { 1.0 } else { 0.0 }));
            write_array(&at.join("mask.npy"), &[items, tokens], mask);
        }
        Items::Text(texts) => {
            std::fs::write(at.join("texts.json"), serde_json::to_string(texts).unwrap()).unwrap();
        }
        other => panic!("no inputs for {}", other.describe()),
    }
    let Some(python) = python() else {
        println!("{name}: skipped: no Python with onnxruntime (EMBEDTUNE_PYTHON)");
        return;
    };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/onnx/check.py");
    let output = Command::new(python).arg(script).arg(at).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{name}: {}{}", text(&output.stdout), text(&output.stderr));
    println!("{name}: {}", text(&output.stdout).trim());
}

/// Every pooling: of GeM every rule for signs, with one power and one for each channel.
fn poolings() -> Vec<(PoolerKind, PoolerOptions)> {
    let gem = |sign, p, per_channel| {
        (PoolerKind::GeM, PoolerOptions { sign: Some(sign), p, per_channel, ..PoolerOptions::default() })
    };
    vec![
        (PoolerKind::Avg, PoolerOptions::default()),
        (PoolerKind::Max, PoolerOptions::default()),
        gem(Sign::Clamp, 3.0, false),
        gem(Sign::Clamp, 2.5, true),
        gem(Sign::Shift, 3.0, true),
        gem(Sign::Signed, 3.0, false),
        gem(Sign::Signed, 1.7, true),
    ]
}

#[test]
fn images() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let items = Items::Images(Array4::from_shape_fn((9, 3, 12, 10), |_| rng.random()));
    for (kind, options) in poolings() {
        let spec = EncoderSpec::cnn([3, 12, 10], 16).unwrap().with_pooler(kind, options).unwrap();
        check(&format!("images, {kind:?} {options:?}"), &trained(spec, &items), &items);
    }
}

#[test]
fn vectors() {
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    let mut rows = Array2::from_shape_fn((20, 24), |_| rng.random_range(-3.0f32..3.0));
    // A zero vector has no direction.
    rows.row_mut(3).fill(0.0);
    let items = Items::Vectors(rows);
    check("vectors", &trained(EncoderSpec::mlp(24, None), &items), &items);
    check("vectors, shorter", &trained(EncoderSpec::mlp(24, Some(8)), &items), &items);
    // The layers that no default encoder has.
    let layers = vec![
        Layer::Linear { out: 32, bias: true },
        Layer::BatchNorm,
        Layer::Gelu,
        Layer::Dropout { p: 0.3 },
        Layer::Linear { out: 12, bias: true },
        Layer::LayerNorm,
        Layer::Normalize,
    ];
    let spec = EncoderSpec { input: InputSpec::Vector { dim: 24 }, layers };
    check("vectors, every layer", &trained(spec, &items), &items);
}

#[test]
fn sequences() {
    let mut rng = ChaCha8Rng::seed_from_u64(4);
    let values = Array3::from_shape_fn((8, 5, 16), |_| rng.random_range(-2.0f32..2.0));
    let mask: Vec<bool> = (0..40).map(|i| i % 5 == 0 || rng.random()).collect();
    let items = Items::Sequences(Sequences::new(values, &mask).unwrap());
    for (kind, options) in poolings() {
        let spec = EncoderSpec::sequence(16, Some(10)).with_pooler(kind, options).unwrap();
        check(&format!("sequences, {kind:?} {options:?}"), &trained(spec, &items), &items);
    }
}

#[test]
fn text() {
    let texts = [
        "Where is my card?",
        "my CARD is lost, is it?",
        "",
        "top-up failed; Größe 12 \u{4f60}\u{597d}",
        "a a a b",
    ];
    let items = Items::Text(texts.map(str::to_owned).to_vec());
    for (kind, options) in poolings() {
        let spec = EncoderSpec::text(12).with_pooler(kind, options).unwrap();
        check(&format!("text, {kind:?} {options:?}"), &trained(spec, &items), &items);
    }
}

#[test]
fn a_missing_weight_is_named() {
    let mut encoder = Encoder::new(EncoderSpec::mlp(4, None), 1).unwrap();
    let whole = encoder.state();
    let error = encoder.load(&State::default()).unwrap_err().to_string();
    assert!(error.contains("0.residual.weight1 is missing"), "{error}");
    encoder.load(&whole).unwrap();
    assert!(onnx(&encoder, &[]).is_ok());
}
