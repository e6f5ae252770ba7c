//! Each layer as ONNX nodes.

use super::graph::{Attribute, Graph};
use super::pool;
use crate::encoder::Layer;
use crate::{Error, Result};

/// PyTorch's and this crate's, of batch norm and layer norm.
const EPS: f32 = 1e-5;
/// The least length that a vector is divided by.
const LEAST_NORM: f32 = 1e-12;

/// What stands between two layers: names of values.
pub(super) enum Flow {
    /// Feature maps.
    Map {
        x: String,
        channels: usize,
    },
    Vector {
        x: String,
        dim: usize,
    },
    /// Token vectors, and a boolean for each token that counts.
    Sequence {
        x: String,
        counts: String,
        dim: usize,
    },
    /// Rows of a table and their weights.
    Ids {
        ids: String,
        weights: String,
    },
}

impl Flow {
    /// The name, for layers that take maps and vectors alike.
    fn values(&self) -> Option<&str> {
        match self {
            Self::Map { x, .. } | Self::Vector { x, .. } => Some(x),
            _ => None,
        }
    }

    fn with(&self, x: String) -> Self {
        match self {
            Self::Vector { dim, .. } => Self::Vector { x, dim: *dim },
            Self::Map { channels, .. } => Self::Map { x, channels: *channels },
            Self::Sequence { dim, .. } => Self::Vector { x, dim: *dim },
            Self::Ids { .. } => Self::Vector { x, dim: 0 },
        }
    }
}

/// Adds `layer`, whose tensors are called `name.*`.
pub(super) fn add(graph: &mut Graph, layer: &Layer, name: &str, flow: Flow) -> Result<Flow> {
    let weight = |part: &str| format!("{name}.{part}");
    if let Layer::Pool { pooler, options } = layer {
        return pool::add(graph, *pooler, options, name, flow);
    }
    if let (Layer::Embedding { dim, .. }, Flow::Ids { ids, weights }) = (layer, &flow) {
        return embedding(graph, name, *dim, ids, weights);
    }
    let unknown = || Error::Unsuitable(format!("{layer:?} cannot be written as ONNX"));
    let x = flow.values().ok_or_else(unknown)?;
    let out = match layer {
        &Layer::Conv { out, kernel, padding } => {
            let w = graph.weight(&weight("weight"))?;
            let (side, pad) = (kernel as i64, padding as i64);
            let attributes =
                [("kernel_shape", Attribute::Ints(&[side; 2])), ("pads", Attribute::Ints(&[pad; 4]))];
            return Ok(Flow::Map { x: graph.op("Conv", &[x, &w], &attributes), channels: out });
        }
        Layer::BatchNorm => {
            let parts: Vec<String> = ["gamma", "beta", "running_mean", "running_variance"]
                .into_iter()
                .map(|part| graph.weight(&weight(part)))
                .collect::<Result<_>>()?;
            let inputs = [x, &parts[0], &parts[1], &parts[2], &parts[3]];
            graph.op("BatchNormalization", &inputs, &[("epsilon", Attribute::Float(EPS))])
        }
        Layer::LayerNorm => {
            let (gamma, beta) = (graph.weight(&weight("gamma"))?, graph.weight(&weight("beta"))?);
            let attributes = [("axis", Attribute::Int(-1)), ("epsilon", Attribute::Float(EPS))];
            graph.op("LayerNormalization", &[x, &gamma, &beta], &attributes)
        }
        Layer::Normalize => unit(graph, x),
        Layer::Relu => graph.op("Relu", &[x], &[]),
        Layer::Gelu => gelu(graph, x),
        // Evaluation drops nothing.
        Layer::Dropout { .. } => x.to_owned(),
        &Layer::MaxPool { side } => {
            let sides = [side as i64; 2];
            let attributes =
                [("kernel_shape", Attribute::Ints(&sides)), ("strides", Attribute::Ints(&sides))];
            graph.op("MaxPool", &[x], &attributes)
        }
        &Layer::Linear { out, bias } => {
            let bias = if bias { Some(weight("bias")) } else { None };
            let x = linear(graph, x, &weight("weight"), bias.as_deref())?;
            return Ok(Flow::Vector { x, dim: out });
        }
        Layer::Residual { .. } => {
            let Flow::Vector { dim, .. } = flow else { return Err(unknown()) };
            let length = graph.scalar((dim as f32).sqrt());
            let unit = unit(graph, x);
            let unit = graph.op("Mul", &[&unit, &length], &[]);
            let inner = linear(graph, &unit, &weight("weight1"), Some(&weight("bias1")))?;
            let inner = gelu(graph, &inner);
            let inner = linear(graph, &inner, &weight("weight2"), Some(&weight("bias2")))?;
            let scale = graph.weight(&weight("scale"))?;
            let inner = graph.op("Mul", &[&inner, &scale], &[]);
            graph.op("Add", &[x, &inner], &[])
        }
        _ => return Err(unknown()),
    };
    Ok(flow.with(out))
}

/// `x > 0`.
pub(super) fn positive(graph: &mut Graph, x: &str) -> String {
    let zero = graph.scalar(0.0);
    graph.op("Greater", &[x, &zero], &[])
}

fn linear(graph: &mut Graph, x: &str, weight: &str, bias: Option<&str>) -> Result<String> {
    let mut inputs = vec![x.to_owned(), graph.weight(weight)?];
    if let Some(bias) = bias {
        inputs.push(graph.weight(bias)?);
    }
    let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
    Ok(graph.op("Gemm", &inputs, &[("transB", Attribute::Int(1))]))
}

fn unit(graph: &mut Graph, x: &str) -> String {
    let length =
        graph.op("ReduceL2", &[x], &[("axes", Attribute::Ints(&[1])), ("keepdims", Attribute::Int(1))]);
    let least = graph.scalar(LEAST_NORM);
    let length = graph.op("Max", &[&length, &least], &[]);
    graph.op("Div", &[x, &length], &[])
}

/// `x / 2 (1 + erf(x / sqrt(2)))`: opset 17 has no Gelu.
fn gelu(graph: &mut Graph, x: &str) -> String {
    let (root, one, half) = (graph.scalar(std::f32::consts::SQRT_2), graph.scalar(1.0), graph.scalar(0.5));
    let inner = graph.op("Div", &[x, &root], &[]);
    let erf = graph.op("Erf", &[&inner], &[]);
    let sum = graph.op("Add", &[&erf, &one], &[]);
    let half_x = graph.op("Mul", &[x, &half], &[]);
    graph.op("Mul", &[&half_x, &sum], &[])
}

/// Rows of the table times their weights; what weighs nothing does not count.
fn embedding(graph: &mut Graph, name: &str, dim: usize, ids: &str, weights: &str) -> Result<Flow> {
    let (table, idf) = (graph.weight(&format!("{name}.weight"))?, graph.weight(&format!("{name}.idf"))?);
    let idf = graph.op("Gather", &[&idf, ids], &[]);
    let weights = graph.op("Mul", &[weights, &idf], &[]);
    let counts = positive(graph, &weights);
    let rows = graph.op("Gather", &[&table, ids], &[]);
    let last = graph.axes(&[-1]);
    let weights = graph.op("Unsqueeze", &[&weights, &last], &[]);
    Ok(Flow::Sequence { x: graph.op("Mul", &[&rows, &weights], &[]), counts, dim })
}
