//! Trained encoders and their vectors in files that other programs read.
//!
//! [`onnx`] writes an encoder as an ONNX graph, [`safetensors()`] its weights by name, and [`VectorWriter`] vectors as they
//! are computed, a block at a time.

mod graph;
mod layers;
mod pool;
mod proto;
mod vectors;
mod weights;

pub use graph::{OPSET, onnx};
pub use vectors::{VectorFormat, VectorWriter};
pub use weights::safetensors;
