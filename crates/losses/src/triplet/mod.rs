//! The triplet margin loss over all or mined triplets, without forming one.

mod buffer;
mod check;
mod count;
mod dense;
mod gradient;
mod groups;
mod hardest;
mod loss;
mod options;
mod product;
mod rows;
mod softplus;
mod stream;

/// What the miner and the memory bank share with the loss.
pub(crate) mod parts {
    pub(crate) use super::check::check;
    pub(crate) use super::count::Mining;
    pub(crate) use super::groups::Groups;
    pub(crate) use super::rows::{Frame, Rows};
    pub(crate) use super::stream::{distances, hardest_triplets};
}

pub(crate) use options::check_margin;
pub use options::{Distance, Reduction, TripletMarginOptions};

use ndarray::ArrayView2;

use crate::{GradsMut, Input, Loss, Output, Result, Sampling, Stats, Workspace};

/// The triplet margin loss.
#[derive(Debug, Clone, PartialEq)]
pub struct TripletMargin {
    options: TripletMarginOptions,
}

impl TripletMargin {
    /// The default options; see [`TripletMarginOptions`].
    pub fn builder() -> TripletMarginOptions {
        TripletMarginOptions::default()
    }

    pub(crate) fn new(options: TripletMarginOptions) -> Self {
        Self { options }
    }

    /// The options it was built with.
    pub fn options(&self) -> &TripletMarginOptions {
        &self.options
    }

    /// Value and gradient for embeddings `[batch, dim]` and their labels.
    ///
    /// # Errors
    /// As [`Loss::forward_backward`].
    pub fn value_and_grad(&self, x: ArrayView2<'_, f32>, labels: &[u32]) -> Result<Output> {
        self.evaluate(Input::new(x, labels))
    }
}

impl Loss for TripletMargin {
    fn name(&self) -> &'static str {
        "TripletMarginLoss"
    }

    fn weight_shape(&self) -> Option<[usize; 2]> {
        None
    }

    fn sampling(&self) -> Sampling {
        Sampling::ClassRequired
    }

    fn workspace_bytes(&self, batch: usize, reference: usize, dim: usize) -> usize {
        loss::workspace_bytes(&self.options, batch, reference, dim)
    }

    fn forward_backward(&self, input: Input<'_>, grads: GradsMut<'_>, work: &mut Workspace) -> Result<Stats> {
        let reference = input.reference.map_or(0, |reference| reference.labels.len());
        loss::forward_backward(&self.options, input, grads, work.beside(reference))
    }
}
