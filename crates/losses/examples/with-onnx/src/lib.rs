//! A head that embedtune's losses train on the vectors of an ONNX model, put back into the ONNX file.

mod body;
pub mod drawn;
mod export;
mod head;

pub use body::embed;
pub use export::{OUTPUT, with_head};
pub use head::Head;

/// What can go wrong.
pub type Error = Box<dyn std::error::Error + Send + Sync>;
