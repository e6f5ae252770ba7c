//! Margin-softmax losses.

use std::path::Path;

use embedtune_losses::{GradsMut, Input, Loss, MarginOptions, MarginSoftmax, Workspace};
use ndarray::{Array0, Array1, Array2};
use ndarray_npy::{read_npy, write_npy};
use serde_json::Value;

use super::{Case, Outcome, size};

/// One loss with its inputs, gradients and scratch.
pub(super) struct Margin {
    loss: MarginSoftmax,
    x: Array2<f32>,
    w: Array2<f32>,
    labels: Vec<u32>,
    dx: Array2<f32>,
    dw: Array2<f32>,
    work: Workspace,
    value: f64,
}

impl Margin {
    pub(super) fn load(case: &Value, folder: &Path) -> Outcome<Self> {
        let mut options = match case["loss"].as_str() {
            Some("arcface") => MarginOptions::arcface(),
            Some("cosface") => MarginOptions::cosface(),
            other => return Err(format!("unknown loss {other:?}").into()),
        };
        // Four products are those of the recomputing schedule.
        if size(case, "products")? == 4 {
            options.logits_budget_bytes = 0;
        }
        let loss = MarginSoftmax::new(size(case, "classes")?, size(case, "dim")?, options)?;
        let (x, w): (Array2<f32>, Array2<f32>) =
            (read_npy(folder.join("x.npy"))?, read_npy(folder.join("w.npy"))?);
        let labels: Array1<i64> = read_npy(folder.join("labels.npy"))?;
        let labels = labels.iter().map(|&label| u32::try_from(label)).collect::<Result<_, _>>()?;
        let (dx, dw) = (Array2::zeros(x.dim()), Array2::zeros(w.dim()));
        Ok(Self { loss, x, w, labels, dx, dw, work: Workspace::default(), value: f64::NAN })
    }
}

impl Case for Margin {
    fn run(&mut self) -> Outcome<()> {
        let input = Input::new(self.x.view(), &self.labels).with_weights(self.w.view());
        let grads = GradsMut {
            embeddings: Some(self.dx.view_mut()),
            weights: Some(self.dw.view_mut()),
            ..GradsMut::default()
        };
        self.value = self.loss.forward_backward(input, grads, &mut self.work)?.value;
        Ok(())
    }

    fn write(&self, to: &Path) -> Outcome<()> {
        write_npy(to.join("value.npy"), &Array0::from_elem((), self.value))?;
        write_npy(to.join("dx.npy"), &self.dx)?;
        write_npy(to.join("dw.npy"), &self.dw)?;
        Ok(())
    }
}
