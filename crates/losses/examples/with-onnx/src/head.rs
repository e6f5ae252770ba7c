//! What is trained: a linear layer on the body's vectors, with ArcFace.

use embedtune_losses::ndarray::{Array1, Array2, ArrayView2, Axis};
use embedtune_losses::{MarginOptions, MarginSoftmax};
use embedtune_samplers::RandomSampler;

use crate::Error;

const EPOCHS: u64 = 20;
const BATCH: usize = 64;
const RATE: f32 = 0.05;
const MOMENTUM: f32 = 0.9;

/// `y = x weight + bias`; the angle between two `y` is what it was trained for.
#[derive(Clone, Debug)]
pub struct Head {
    /// `[dim, dim]`
    pub weight: Array2<f32>,
    /// `[dim]`
    pub bias: Array1<f32>,
}

impl Head {
    /// Standardises the vectors `x`, `[items, dim]`, as a whole (their mean, one scale), so that rates mean the same
    /// for every body, and changes nothing else: training starts from what the body gives.
    fn start(x: ArrayView2<'_, f32>) -> Result<Self, Error> {
        let mean = x.mean_axis(Axis(0)).ok_or("no vectors to train on")?;
        let spread = (&x - &mean).mapv(|v| v * v).mean().unwrap_or(0.0).sqrt();
        if !(spread > 0.0 && spread.is_finite()) {
            return Err(
                format!("the body's vectors have a spread of {spread}: are they all the same?").into()
            );
        }
        let weight = Array2::eye(x.ncols()) / spread;
        Ok(Self { bias: -mean.dot(&weight), weight })
    }

    /// Trains a head on `x`, `[items, dim]`; `labels` are classes from 0 on, one for each row.
    ///
    /// # Errors
    /// A count of labels that is not that of the vectors, vectors that are all the same, and what the loss says of labels
    /// and values.
    pub fn train(x: ArrayView2<'_, f32>, labels: &[u32], seed: u64) -> Result<Self, Error> {
        if labels.len() != x.nrows() {
            return Err(format!("{} labels for {} vectors", labels.len(), x.nrows()).into());
        }
        let start = Self::start(x)?;
        let x = start.apply(x);
        let classes = labels.iter().max().map_or(0, |&label| label as usize + 1);
        let loss = MarginSoftmax::new(
            classes,
            x.ncols(),
            MarginOptions { scale: 16.0, ..MarginOptions::arcface() },
        )?;

        let (mut weight, mut weight_step) = (Array2::eye(x.ncols()), Array2::zeros((x.ncols(), x.ncols())));
        // A class's centre starts at the mean of its items.
        let mut centres = Array2::<f32>::zeros((classes, x.ncols()));
        for (row, &label) in x.outer_iter().zip(labels) {
            centres.row_mut(label as usize).scaled_add(1.0, &row);
        }
        let mut centres_step = Array2::zeros(centres.dim());
        let sampler = RandomSampler::new(x.nrows(), BATCH, seed)?;
        for epoch in 0..EPOCHS {
            for batch in sampler.batches(epoch) {
                let of_batch: Vec<u32> = batch.iter().map(|&item| labels[item]).collect();
                let input = x.select(Axis(0), &batch);
                let out = loss.value_and_grad(input.dot(&weight).view(), centres.view(), &of_batch)?;
                let d_weight = input.t().dot(&out.d_embeddings);
                let d_centres = out.d_weights.ok_or("the loss has no centres")?;
                for (value, step, gradient) in
                    [(&mut weight, &mut weight_step, d_weight), (&mut centres, &mut centres_step, d_centres)]
                {
                    *step *= MOMENTUM;
                    step.scaled_add(-RATE, &gradient);
                    *value += &*step;
                }
            }
        }
        Ok(Self { weight: start.weight.dot(&weight), bias: start.bias.dot(&weight) })
    }

    /// `[items, dim]` for the body's vectors `x`, `[items, dim]`.
    pub fn apply(&self, x: ArrayView2<'_, f32>) -> Array2<f32> {
        x.dot(&self.weight) + &self.bias
    }
}
