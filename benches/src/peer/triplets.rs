//! Triplet margin losses.

use std::path::Path;

use embedtune_losses::{GradsMut, Input, Loss, Miner, TripletKind, TripletMargin, Workspace};
use ndarray::{Array0, Array1, Array2};
use ndarray_npy::{read_npy, write_npy};
use serde_json::Value;

use super::{Case, Outcome};

/// One loss with its inputs, gradient and scratch.
pub(super) struct Triplets {
    loss: TripletMargin,
    x: Array2<f32>,
    labels: Vec<u32>,
    dx: Array2<f32>,
    work: Workspace,
    value: f64,
}

impl Triplets {
    pub(super) fn load(case: &Value, folder: &Path) -> Outcome<Self> {
        let options = TripletMargin::builder();
        let options = match case["what"].as_str() {
            Some("all") => options,
            Some("swap") => options.swap(true),
            Some("smooth") => options.smooth(true),
            Some("semihard") => options.miner(Miner::triplet_margin(TripletKind::Semihard)),
            Some("hardest") => options.miner(Miner::BatchHard),
            other => return Err(format!("unknown case {other:?}").into()),
        };
        let x: Array2<f32> = read_npy(folder.join("x.npy"))?;
        let labels: Array1<i64> = read_npy(folder.join("labels.npy"))?;
        let labels = labels.iter().map(|&label| u32::try_from(label)).collect::<Result<_, _>>()?;
        let dx = Array2::zeros(x.dim());
        Ok(Self { loss: options.build()?, x, labels, dx, work: Workspace::default(), value: f64::NAN })
    }
}

impl Case for Triplets {
    fn run(&mut self) -> Outcome<()> {
        let grads = GradsMut { embeddings: Some(self.dx.view_mut()), ..GradsMut::default() };
        let input = Input::new(self.x.view(), &self.labels);
        self.value = self.loss.forward_backward(input, grads, &mut self.work)?.value;
        Ok(())
    }

    fn write(&self, to: &Path) -> Outcome<()> {
        write_npy(to.join("value.npy"), &Array0::from_elem((), self.value))?;
        write_npy(to.join("dx.npy"), &self.dx)?;
        Ok(())
    }
}
