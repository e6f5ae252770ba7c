//! A convolutional encoder against PyTorch: `golden/cnn.json`, made by `golden/make_cnn.py`.

use std::collections::BTreeMap;

use embedtune_core::{Pool, Tape};
use embedtune_pooling::{PoolerKind, PoolerOptions};
use embedtune_train::State;
use embedtune_train::encoder::{Batch, Encoder, EncoderSpec, InputSpec, Layer, Mode};
use embedtune_train::ndarray::{ArrayD, ArrayViewD, Ix4};
use serde::Deserialize;

#[derive(Deserialize)]
struct Tensor {
    shape: Vec<usize>,
    values: Vec<f32>,
}

impl Tensor {
    fn array(&self) -> ArrayD<f32> {
        ArrayD::from_shape_vec(self.shape.clone(), self.values.clone()).unwrap()
    }
}

#[derive(Deserialize)]
struct Golden {
    input: Tensor,
    upstream: Tensor,
    parameters: BTreeMap<String, Tensor>,
    output: Tensor,
    gradients: BTreeMap<String, Tensor>,
    buffers: BTreeMap<String, Tensor>,
    evaluation: Tensor,
}

/// Differences relative to the largest expected magnitude.
fn close(what: &str, got: ArrayViewD<'_, f32>, expected: &Tensor) {
    let expected = expected.array();
    assert_eq!(got.shape(), expected.shape(), "{what}");
    let largest = expected.iter().fold(1e-3f32, |m, v| m.max(v.abs()));
    for (got, expected) in got.iter().zip(&expected) {
        assert!((got - expected).abs() <= 3e-6 * largest, "{what}: {got}, PyTorch has {expected}");
    }
}

#[test]
fn a_training_step_and_an_evaluation_equal_pytorchs() {
    let golden: Golden = serde_json::from_str(include_str!("golden/cnn.json")).unwrap();
    let convolution = |out| Layer::Conv { out, kernel: 3, padding: 1 };
    let layers = vec![
        convolution(3),
        Layer::BatchNorm,
        Layer::Relu,
        Layer::MaxPool { side: 2 },
        convolution(4),
        Layer::BatchNorm,
        Layer::Relu,
        Layer::Pool { pooler: PoolerKind::GeM, options: PoolerOptions::default() },
        Layer::Linear { out: 3, bias: true },
    ];
    let spec = EncoderSpec { input: InputSpec::Image { channels: 2, height: 7, width: 6 }, layers };
    let mut encoder = Encoder::new(spec, 0).unwrap();
    let mut state: State = encoder.state();
    for (name, tensor) in &golden.parameters {
        assert!(state.tensors.insert(name.clone(), tensor.array()).is_some(), "{name}");
    }
    encoder.load(&state).unwrap();
    let names: Vec<String> = encoder.params_mut().into_iter().map(|(name, _)| name.to_owned()).collect();
    assert_eq!(names.len(), golden.gradients.len());

    let batch = Batch::Images(golden.input.array().into_dimensionality::<Ix4>().unwrap());
    let tape = Tape::new(&Pool::new());
    let forward = encoder.forward(&tape, &batch, Mode::Train { seed: 0 }).unwrap();
    close("output", forward.output.value().view(), &golden.output);
    let statistics = forward.statistics.clone();
    let mut grads = tape.backward_from(forward.output, golden.upstream.array()).unwrap();
    for (name, leaf) in names.iter().zip(&forward.leaves) {
        let grad = grads.take(*leaf).unwrap().into_dense().unwrap();
        close(name, grad.view(), &golden.gradients[name]);
    }
    encoder.after_step(&statistics);
    let state = encoder.state();
    for (name, tensor) in &golden.buffers {
        close(name, state.tensors[name].view(), tensor);
    }
    let tape = Tape::new(&Pool::new());
    let evaluation = encoder.forward(&tape, &batch, Mode::Eval).unwrap().output.value();
    close("evaluation", evaluation.view(), &golden.evaluation);
}
