//! The head as two more nodes of the body's ONNX file.

use prost::Message;
use tract_onnx::pb::tensor_shape_proto::{Dimension, dimension::Value};
use tract_onnx::pb::{ModelProto, NodeProto, TensorProto, tensor_proto::DataType, type_proto};

use crate::{Error, Head};

/// The new output's name. Not the body's: who asks for that would get other numbers without a word.
pub const OUTPUT: &str = "tuned";

/// The ONNX file `body` with `head` on its first output, and then divided by its length: unit vectors. All else in the
/// file stays as it is.
///
/// # Errors
/// Bytes that are no ONNX model; a model without an output, or with a `tuned` one already.
pub fn with_head(body: &[u8], head: &Head) -> Result<Vec<u8>, Error> {
    let mut model = ModelProto::decode(body)?;
    let graph = model.graph.as_mut().ok_or("the file holds no graph")?;
    if graph.node.iter().any(|node| node.output.iter().any(|name| name == OUTPUT)) {
        return Err(format!("the model has a value `{OUTPUT}` already: give the file without a head").into());
    }
    let output = graph.output.first_mut().ok_or("the model has no output")?;
    let name = |part: &str| format!("{OUTPUT}.{part}");
    graph.node.extend([
        node("Gemm", &[output.name.clone(), name("weight"), name("bias")], &name("linear")),
        // Along the last axis, by the Euclidean length: what this operator does unless told otherwise.
        node("LpNormalization", &[name("linear")], OUTPUT),
    ]);
    graph.initializer.extend([
        tensor(name("weight"), head.weight.shape(), head.weight.iter()),
        tensor(name("bias"), head.bias.shape(), head.bias.iter()),
    ]);
    output.name = OUTPUT.into();
    if let Some(type_proto::Value::TensorType(shaped)) = output.r#type.as_mut().and_then(|t| t.value.as_mut())
        && let Some(width) = shaped.shape.as_mut().and_then(|shape| shape.dim.get_mut(1))
    {
        *width = Dimension { value: Some(Value::DimValue(head.bias.len() as i64)), ..Dimension::default() };
    }
    Ok(model.encode_to_vec())
}

/// A node of the default operator set.
pub(crate) fn node(op: &str, inputs: &[String], output: &str) -> NodeProto {
    NodeProto {
        op_type: op.into(),
        name: output.into(),
        input: inputs.to_vec(),
        output: vec![output.into()],
        ..NodeProto::default()
    }
}

/// A constant of the file, row-major.
pub(crate) fn tensor<'a>(
    name: String,
    shape: &[usize],
    values: impl Iterator<Item = &'a f32>,
) -> TensorProto {
    TensorProto {
        name,
        dims: shape.iter().map(|&size| size as i64).collect(),
        data_type: DataType::Float.into(),
        raw_data: values.flat_map(|value| value.to_le_bytes()).collect(),
        ..TensorProto::default()
    }
}
