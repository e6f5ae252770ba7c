//! An encoder as an ONNX model.

use std::collections::BTreeMap;

use ndarray::ArrayD;

use super::layers::{self, Flow};
use super::proto::Message;
use crate::encoder::{Encoder, InputSpec};
use crate::{Error, Result, State};

/// The version of ONNX's operators that models use (ONNX 1.12, 2022).
pub const OPSET: i64 = 17;
const IR_VERSION: i64 = 8;
/// A protobuf message holds at most 2 GiB.
const MOST_BYTES: usize = i32::MAX as usize;

/// `TensorProto.DataType`.
const FLOAT: i64 = 1;
const INT64: i64 = 7;

/// The bytes of an ONNX model that computes `encoder`'s embeddings, `embeddings` `[batch, dim]`, not normalised, from
///
/// - images: `pixels` `[batch, channels, height, width]`, 0 to 1 (a byte divided by 255);
/// - vectors: `vectors` `[batch, dim]`;
/// - sequences: `tokens` `[batch, tokens, dim]` and `mask` `[batch, tokens]`, above 0 for a token that counts;
/// - text: `ids` `[batch, tokens]` and `weights` `[batch, tokens]`, a text's rows and weights
///   ([`TokenSpec::row_weights`](crate::encoder::TokenSpec::row_weights)) behind which shorter texts are filled up with
///   id 0 and weight 0.
///
/// The numbers of batch and tokens are free. `classes` (the names that it was trained on) and, for text, the
/// specification of the tokens go into the model's metadata as JSON.
///
/// # Errors
/// [`Error::Unsuitable`] for weights of more than 2 GiB, which no ONNX file without external data holds.
pub fn onnx(encoder: &Encoder, classes: &[String]) -> Result<Vec<u8>> {
    let spec = encoder.spec();
    let mut graph = Graph { state: encoder.state(), nodes: Vec::new(), tensors: Vec::new(), names: 0 };
    let float = |name: &str, axes: &[Axis]| value(name, FLOAT, axes);
    let (batch, tokens) = (Axis::Free("batch"), Axis::Free("tokens"));
    let (inputs, mut flow) = match &spec.input {
        &InputSpec::Image { channels, height, width } => (
            vec![float("pixels", &[batch, Axis::Of(channels), Axis::Of(height), Axis::Of(width)])],
            Flow::Map { x: "pixels".to_owned(), channels },
        ),
        &InputSpec::Vector { dim } => {
            (vec![float("vectors", &[batch, Axis::Of(dim)])], Flow::Vector { x: "vectors".to_owned(), dim })
        }
        &InputSpec::Sequence { dim } => {
            let counts = layers::positive(&mut graph, "mask");
            (
                vec![float("tokens", &[batch, tokens, Axis::Of(dim)]), float("mask", &[batch, tokens])],
                Flow::Sequence { x: "tokens".to_owned(), counts, dim },
            )
        }
        InputSpec::Text(_) => (
            vec![value("ids", INT64, &[batch, tokens]), float("weights", &[batch, tokens])],
            Flow::Ids { ids: "ids".to_owned(), weights: "weights".to_owned() },
        ),
    };
    for (index, layer) in spec.layers.iter().enumerate() {
        flow = layers::add(&mut graph, layer, &format!("{index}.{}", layer.name()), flow)?;
    }
    let Flow::Vector { x, dim } = flow else {
        return Err(Error::Unsuitable("the encoder does not end in one vector for each item".to_owned()));
    };
    graph.node("Identity", &[&x], "embeddings", &[]);
    let mut metadata = BTreeMap::from([("classes", serde_json::to_string(classes))]);
    if let InputSpec::Text(tokens) = &spec.input {
        metadata.insert("tokens", serde_json::to_string(tokens));
    }
    let mut model = Message::new()
        .int(1, IR_VERSION)
        .text(2, "embedtune")
        .text(3, env!("CARGO_PKG_VERSION"))
        .message(8, &Message::new().text(1, "").int(2, OPSET));
    for (key, value) in metadata {
        let value = value.map_err(|e| Error::Unsuitable(format!("ONNX metadata `{key}`: {e}")))?;
        model = model.message(14, &Message::new().text(1, key).text(2, &value));
    }
    let graph = Message::new()
        .each(&graph.nodes, |to, node| to.message(1, node))
        .text(2, "encoder")
        .each(&graph.tensors, |to, tensor| to.message(5, tensor))
        .each(&inputs, |to, input| to.message(11, input))
        .message(12, &float("embeddings", &[batch, Axis::Of(dim)]));
    let bytes = model.message(7, &graph).finish();
    if bytes.len() > MOST_BYTES {
        let detail = "the encoder's weights take more than the 2 GiB of an ONNX file; export safetensors";
        return Err(Error::Unsuitable(detail.to_owned()));
    }
    Ok(bytes)
}

/// An axis of an input or output.
#[derive(Clone, Copy)]
enum Axis {
    Free(&'static str),
    Of(usize),
}

fn value(name: &str, kind: i64, axes: &[Axis]) -> Message {
    let shape = Message::new().each(axes, |to, axis| {
        let axis = match *axis {
            Axis::Of(length) => Message::new().int(1, length as i64),
            Axis::Free(name) => Message::new().text(2, name),
        };
        to.message(1, &axis)
    });
    let tensor = Message::new().int(1, kind).message(2, &shape);
    Message::new().text(1, name).message(2, &Message::new().message(1, &tensor))
}

/// An attribute of a node.
pub(super) enum Attribute<'a> {
    Int(i64),
    Ints(&'a [i64]),
    Float(f32),
}

/// Nodes and constants under construction.
pub(super) struct Graph {
    state: State,
    nodes: Vec<Message>,
    tensors: Vec<Message>,
    names: usize,
}

impl Graph {
    /// A node with one output, whose name is made up.
    pub(super) fn op(&mut self, op: &str, inputs: &[&str], attributes: &[(&str, Attribute<'_>)]) -> String {
        self.names += 1;
        let output = format!("{}_{}", op.to_lowercase(), self.names);
        self.node(op, inputs, &output, attributes);
        output
    }

    fn node(&mut self, op: &str, inputs: &[&str], output: &str, attributes: &[(&str, Attribute<'_>)]) {
        let node = Message::new()
            .each(inputs, |to, input| to.text(1, input))
            .text(2, output)
            .text(3, output)
            .text(4, op)
            .each(attributes, |to, (name, value)| {
                let attribute = Message::new().text(1, name);
                to.message(
                    5,
                    &match value {
                        Attribute::Float(v) => attribute.float(2, *v).int(20, 1),
                        Attribute::Int(v) => attribute.int(3, *v).int(20, 2),
                        Attribute::Ints(v) => attribute.each(*v, |to, v| to.int(8, *v)).int(20, 7),
                    },
                )
            });
        self.nodes.push(node);
    }

    /// A weight of the encoder under its own name.
    pub(super) fn weight(&mut self, name: &str) -> Result<String> {
        let tensor = self.take(name)?;
        let bytes: Vec<u8> = tensor.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.tensor(name, FLOAT, tensor.shape(), &bytes);
        Ok(name.to_owned())
    }

    /// A weight's values.
    pub(super) fn take(&self, name: &str) -> Result<ArrayD<f32>> {
        let missing = || Error::Unsuitable(format!("the encoder's tensor {name} is missing"));
        self.state.tensors.get(name).cloned().ok_or_else(missing)
    }

    /// A constant of floats.
    pub(super) fn constant(&mut self, shape: &[usize], values: &[f32]) -> String {
        self.names += 1;
        let name = format!("constant_{}", self.names);
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.tensor(&name, FLOAT, shape, &bytes);
        name
    }

    /// A constant number.
    pub(super) fn scalar(&mut self, value: f32) -> String {
        self.constant(&[], &[value])
    }

    /// A constant list of axes.
    pub(super) fn axes(&mut self, values: &[i64]) -> String {
        self.names += 1;
        let name = format!("constant_{}", self.names);
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.tensor(&name, INT64, &[values.len()], &bytes);
        name
    }

    fn tensor(&mut self, name: &str, kind: i64, shape: &[usize], bytes: &[u8]) {
        let tensor = Message::new().each(shape, |to, &length| to.int(1, length as i64));
        self.tensors.push(tensor.int(2, kind).text(8, name).bytes(9, bytes));
    }
}
