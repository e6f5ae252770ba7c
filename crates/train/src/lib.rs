//! Fine-tune embeddings: data, encoders, optimizers, loss heads, checkpoints and the trainer that composes them.
#![forbid(unsafe_code)]

pub mod data;
pub mod head;
pub mod optim;
