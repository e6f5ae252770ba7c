//! Something to try it on: drawings of many classes, and a body of random weights.

use embedtune_losses::ndarray::{Array2, ArrayD, IxDyn};
use prost::Message;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use tract_onnx::pb::attribute_proto::AttributeType;
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::tensor_shape_proto::{Dimension, dimension::Value};
use tract_onnx::pb::{
    AttributeProto, GraphProto, ModelProto, OperatorSetIdProto, TensorShapeProto, TypeProto, ValueInfoProto,
    type_proto,
};

use crate::export::{node, tensor};

/// Height and width of a drawing.
const SIZE: usize = 16;
/// Dots in a drawing.
const DOTS: usize = 5;
/// What the body gives for one.
const DIM: usize = 64;

/// Uniform from -1 to 1.
fn uniform(random: &mut ChaCha8Rng) -> f32 {
    (random.next_u32() >> 8) as f32 / (1 << 23) as f32 - 1.0
}

/// `items` drawings of each of `classes` classes, `[classes * items, 1, 16, 16]`, and their classes. A class is a place
/// for each of five dots; a drawing has them a little elsewhere, light from some side, and noise.
pub fn drawings(classes: usize, items: usize, seed: u64) -> (ArrayD<f32>, Vec<u32>) {
    let random = &mut ChaCha8Rng::seed_from_u64(seed);
    let middle = (SIZE as f32 - 1.0) / 2.0;
    let (mut pixels, mut labels) = (Vec::new(), Vec::new());
    for class in 0..classes {
        let places = Array2::from_shape_simple_fn((DOTS, 2), || middle + 6.0 * uniform(random));
        for _ in 0..items {
            let dots = places.mapv(|place| place + 1.2 * uniform(random));
            let light = [uniform(random), uniform(random)];
            for y in 0..SIZE {
                for x in 0..SIZE {
                    let at = [y as f32, x as f32];
                    let near = |a: f32, b: f32| (-(at[0] - a).powi(2) - (at[1] - b).powi(2)).exp();
                    let ink: f32 = dots.outer_iter().map(|dot| near(dot[0], dot[1])).sum();
                    let lit = light[0] * (at[0] / middle - 1.0) + light[1] * (at[1] / middle - 1.0);
                    pixels.push(ink + lit + 0.1 * uniform(random));
                }
            }
            labels.push(class as u32);
        }
    }
    let images = ArrayD::from_shape_fn(IxDyn(&[labels.len(), 1, SIZE, SIZE]), |at| {
        pixels[(at[0] * SIZE + at[2]) * SIZE + at[3]]
    });
    (images, labels)
}

/// An ONNX file that takes drawings to `[items, 64]`: a convolution of random weights, ReLU, a random projection.
pub fn random_body(seed: u64) -> Vec<u8> {
    const CHANNELS: usize = 8;
    let random = &mut ChaCha8Rng::seed_from_u64(seed);
    let mut weights = |name: &str, shape: &[usize]| {
        let values: Vec<f32> = (0..shape.iter().product()).map(|_| uniform(random)).collect();
        tensor(name.into(), shape, values.iter())
    };
    let ints = |name: &str, values: &[i64]| AttributeProto {
        name: name.into(),
        r#type: AttributeType::Ints.into(),
        ints: values.to_vec(),
        ..AttributeProto::default()
    };
    let mut convolution = node("Conv", &["images".into(), "kernel".into()], "convolved");
    convolution.attribute =
        vec![ints("kernel_shape", &[5, 5]), ints("strides", &[2, 2]), ints("pads", &[2, 2, 2, 2])];
    let value = |name: &str, shape: &[usize]| {
        let items = Value::DimParam("items".into());
        let sizes = shape.iter().map(|&size| Value::DimValue(size as i64));
        let dim = std::iter::once(items)
            .chain(sizes)
            .map(|value| Dimension { value: Some(value), ..Default::default() });
        let tensor = type_proto::Tensor {
            elem_type: DataType::Float.into(),
            shape: Some(TensorShapeProto { dim: dim.collect() }),
        };
        let r#type = TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..TypeProto::default() };
        ValueInfoProto { name: name.into(), r#type: Some(r#type), ..ValueInfoProto::default() }
    };
    let graph = GraphProto {
        name: "body".into(),
        node: vec![
            convolution,
            node("Relu", &["convolved".into()], "positive"),
            node("Flatten", &["positive".into()], "flat"),
            node("MatMul", &["flat".into(), "projection".into()], "vectors"),
        ],
        initializer: vec![
            weights("kernel", &[CHANNELS, 1, 5, 5]),
            weights("projection", &[CHANNELS * SIZE * SIZE / 4, DIM]),
        ],
        input: vec![value("images", &[1, SIZE, SIZE])],
        output: vec![value("vectors", &[DIM])],
        ..GraphProto::default()
    };
    let opset = OperatorSetIdProto { domain: String::new(), version: 13 };
    ModelProto { ir_version: 7, opset_import: vec![opset], graph: Some(graph), ..ModelProto::default() }
        .encode_to_vec()
}
