//! A guide to training embeddings, with examples that run and figures that are computed.
//!
//! | page | answers |
//! |---|---|
//! | [choosing a loss](choosing_a_loss) | triplets or class centres, and which of them |
//! | [margins and scales](margins_and_scales) | in which unit, how large, what is impossible |
//! | [samplers] | why triplets need batches drawn by class |
//! | [the loss optimizer](loss_optimizer) | why class centres freeze, and how it is seen |
//! | [mining] | which triplets still teach something |
//! | [GeM pooling](gem) | for images and for text |
//! | [evaluating honestly](evaluation) | what to measure, on what, beside what |
//! | [reproducibility] | what the same seed promises, and what it does not |
//! | [moving from other libraries](migrating) | pytorch-metric-learning, Finetuner, InsightFace, option by option |
//!
//! The examples are tests of this crate. The figures are drawn by `examples/guide_figures`, which computes every curve
//! with the functions that the page is about:
//!
//! ```text
//! cargo run --release -p embedtune-train --example guide_figures
//! ```

pub mod choosing_a_loss;
pub mod evaluation;
pub mod gem;
pub mod loss_optimizer;
pub mod margins_and_scales;
pub mod migrating;
pub mod mining;
pub mod reproducibility;
pub mod samplers;
