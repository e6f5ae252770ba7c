//! An encoder's weights as a plain safetensors file.

use std::borrow::Cow;
use std::collections::HashMap;

use safetensors::{Dtype, View};

use crate::encoder::Encoder;
use crate::{Error, Result, State};

struct Tensor {
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl View for &Tensor {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }
    fn shape(&self) -> &[usize] {
        &self.shape
    }
    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(&self.bytes)
    }
    fn data_len(&self) -> usize {
        self.bytes.len()
    }
}

/// The bytes of a safetensors file with the encoder's tensors (`INDEX.LAYER.NAME`, F32, the layers' documentation gives
/// the shapes) and, for losses that have them, the class centres as `centres`. The metadata entry `encoder` holds a JSON
/// object: `spec` (the layers), `classes` (the centres' order).
///
/// # Errors
/// A specification that JSON cannot hold.
pub fn safetensors(encoder: &Encoder, head: &State, classes: &[String]) -> Result<Vec<u8>> {
    let wrong = |e: String| Error::Unsuitable(format!("the encoder cannot be written as safetensors: {e}"));
    let state = encoder.state();
    let centres = head.tensors.iter().filter(|(name, _)| *name == "centres");
    let tensors: Vec<(&String, Tensor)> = state
        .tensors
        .iter()
        .chain(centres)
        .map(|(name, tensor)| {
            let bytes = tensor.iter().flat_map(|v| v.to_le_bytes()).collect();
            (name, Tensor { shape: tensor.shape().to_vec(), bytes })
        })
        .collect();
    let about = serde_json::json!({ "spec": encoder.spec(), "classes": classes });
    let metadata = HashMap::from([("encoder".to_owned(), about.to_string())]);
    safetensors::serialize(tensors.iter().map(|(name, tensor)| (*name, tensor)), Some(metadata))
        .map_err(|e| wrong(e.to_string()))
}
