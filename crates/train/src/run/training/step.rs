//! One step of training.

use embedtune_core::ops::BatchStatistics;
use embedtune_core::{Grad, Pool, RowGrad, Tape, Value};
use embedtune_losses::{CrossBatchMemory, Input, Stats};
use ndarray::{Array2, Ix2};

use crate::encoder::{Batch, Encoder, Forward, Mode};
use crate::head::{LossHead, Update};
use crate::optim::{OptimizerKind, Param, grad_norm};
use crate::run::setup::plan;
use crate::run::{Trainer, model};
use crate::{Error, Result};

/// Added to the norm that gradients are clipped by, as PyTorch's `clip_grad_norm_` does.
const CLIP_EPS: f64 = 1e-6;

/// What a pass over a batch found.
struct Pass {
    stats: Stats,
    gradients: Vec<Option<Grad>>,
    statistics: Vec<(usize, BatchStatistics)>,
    embeddings: Value,
}

/// What a pass needs besides the encoder.
struct Parts<'a> {
    head: &'a mut dyn LossHead,
    memory: Option<&'a mut CrossBatchMemory>,
    pool: &'a Pool,
    batch: &'a Batch,
    labels: &'a [u32],
    seed: u64,
    place: Place,
}

impl Parts<'_> {
    /// The loss and the gradient of every parameter; `remember` adds the embeddings to the memory first.
    fn pass(&mut self, encoder: &Encoder, update: Update, remember: bool) -> Result<Pass> {
        let tape = Tape::new(self.pool);
        let Forward { output, leaves, statistics } =
            encoder.forward(&tape, self.batch, Mode::Train { seed: self.seed })?;
        let embeddings = output.value();
        let x = model::as_rows(embeddings.view())?;
        self.place.finite("an embedding", x.iter().map(|&v| f64::from(v)))?;
        let mut dx = Array2::zeros(x.dim());
        if let Some(memory) = self.memory.as_deref_mut().filter(|_| remember) {
            memory.push(x, self.labels)?;
        }
        let mut input = Input::new(x, self.labels);
        input.reference = self.memory.as_deref().map(CrossBatchMemory::reference);
        let stats = self.head.step(input, Some(dx.view_mut()), update)?;
        self.place.finite("the loss", [stats.value])?;
        let mut grads = tape.backward_from(output, dx.into_dyn())?;
        let gradients: Vec<_> = leaves.iter().map(|&leaf| grads.take(leaf)).collect();
        self.place.finite("the gradient's norm", [grad_norm(gradients.iter().flatten())])?;
        Ok(Pass { stats, gradients, statistics, embeddings })
    }
}

impl Trainer<'_> {
    /// One step on `batch`, which holds the training rows at `positions`; `last` of the epoch, so that what has
    /// accumulated is applied.
    pub(in crate::run) fn step(
        &mut self,
        batch: &Batch,
        positions: &[usize],
        index: usize,
        last: bool,
    ) -> Result<Stats> {
        let train = &self.split.train;
        let rows: Vec<usize> = positions.iter().map(|&position| self.rows.train[position]).collect();
        let labels: Vec<u32> = rows.iter().map(|&row| self.class_index[train.labels[row] as usize]).collect();
        let factor = self.schedule.factor(self.progress.updates, self.progress.epoch);
        self.optimizer.set_learning_rate(self.options.learning_rate * factor)?;
        if let Some(rate) = self.centre_rate {
            self.head.set_learning_rate(rate * factor)?;
        }
        let every = self.options.gradient_accumulation_steps;
        let seed = plan::derive_seed(self.options.seed, plan::Purpose::Dropout, self.progress.step);
        let place = Place { epoch: self.progress.epoch + 1, batch: index + 1 };
        if self.options.optimizer == OptimizerKind::Lbfgs {
            return self.minimise(batch, &labels, seed, place);
        }
        let mut parts = Parts {
            head: self.head.as_mut(),
            memory: self.memory.as_mut(),
            pool: &self.pool,
            batch,
            labels: &labels,
            seed,
            place,
        };
        let update = if every == 1 { Update::Apply } else { Update::Accumulate };
        let Pass { stats, mut gradients, statistics, embeddings } =
            parts.pass(&self.encoder, update, true)?;
        self.telemetry.watch(&embeddings, &labels)?;
        // Once the tape is gone nothing shares the parameters' buffers, and they are updated in place.
        drop(embeddings);
        if every > 1 {
            add_all(&mut self.accumulated.gradients, gradients)?;
            self.accumulated.batches += 1;
            if self.accumulated.batches < every && !last {
                self.encoder.after_step(&statistics);
                return Ok(stats);
            }
            gradients = std::mem::take(&mut self.accumulated.gradients);
        }
        let batches = std::mem::take(&mut self.accumulated.batches).max(1);
        let mean = 1.0 / batches as f64;
        let norm = grad_norm(gradients.iter().flatten()) * mean;
        self.telemetry.gradient(norm);
        let clip = self.options.max_grad_norm.map_or(1.0, |most| (most / (norm + CLIP_EPS)).min(1.0));
        scale_all(&mut gradients, (mean * clip) as f32);
        if every > 1 {
            self.head.apply(mean as f32)?;
        }
        let mut named = self.encoder.params_mut();
        let mut params: Vec<Param<'_>> = named
            .iter_mut()
            .zip(gradients)
            .map(|((name, value), grad)| Param { name, value, grad })
            .collect();
        self.optimizer.step(&mut params, None)?;
        for param in params {
            if let Some(Grad::Dense(gradient)) = param.grad {
                self.pool.give(gradient.into_raw_vec_and_offset().0);
            }
        }
        self.encoder.after_step(&statistics);
        self.progress.updates += 1;
        Ok(stats)
    }

    /// A step of LBFGS: the batch is looked at several times, the centres and the memory stay as they are meanwhile and
    /// move once at the end, by the embeddings at the start of the step.
    fn minimise(&mut self, batch: &Batch, labels: &[u32], seed: u64, place: Place) -> Result<Stats> {
        let mut first: Option<Pass> = None;
        // The parameters are the optimizer's to move; passes run on a copy that shares their buffers.
        let mut scratch = self.encoder.clone();
        let mut parts = Parts {
            head: self.head.as_mut(),
            memory: self.memory.as_mut(),
            pool: &self.pool,
            batch,
            labels,
            seed,
            place,
        };
        let mut evaluate = |params: &mut [Param<'_>]| {
            for ((_, own), param) in scratch.params_mut().into_iter().zip(&*params) {
                *own = param.value.clone();
            }
            let mut pass = parts.pass(&scratch, Update::None, first.is_none())?;
            let value = pass.stats.value;
            params
                .iter_mut()
                .zip(std::mem::take(&mut pass.gradients))
                .for_each(|(param, grad)| param.grad = grad);
            if first.is_none() {
                self.telemetry.gradient(grad_norm(params.iter().filter_map(|param| param.grad.as_ref())));
                first = Some(pass);
            }
            Ok(value)
        };
        let mut named = self.encoder.params_mut();
        let mut params: Vec<Param<'_>> =
            named.iter_mut().map(|(name, value)| Param { name, value, grad: None }).collect();
        self.optimizer.step(&mut params, Some(&mut evaluate))?;
        let Some(Pass { stats, statistics, embeddings, .. }) = first else {
            return Err(Error::Unsuitable("LBFGS took a step without looking at the loss".to_owned()));
        };
        let x = model::as_rows(embeddings.view())?;
        let mut input = Input::new(x, labels);
        input.reference = self.memory.as_ref().map(CrossBatchMemory::reference);
        self.head.step(input, None, Update::Apply)?;
        self.telemetry.watch(&embeddings, labels)?;
        self.encoder.after_step(&statistics);
        self.progress.updates += 1;
        Ok(stats)
    }
}

/// Adds gradients parameter by parameter.
fn add_all(sums: &mut Vec<Option<Grad>>, gradients: Vec<Option<Grad>>) -> Result<()> {
    if sums.is_empty() {
        *sums = gradients;
        return Ok(());
    }
    for (sum, gradient) in sums.iter_mut().zip(gradients) {
        *sum = match (sum.take(), gradient) {
            (Some(sum), Some(gradient)) => Some(add(sum, gradient)?),
            (sum, gradient) => sum.or(gradient),
        };
    }
    Ok(())
}

fn add(sum: Grad, gradient: Grad) -> Result<Grad> {
    Ok(match (sum, gradient) {
        (Grad::Rows(a), Grad::Rows(b)) => {
            let rows: Vec<u32> = a.rows.iter().chain(&b.rows).copied().collect();
            let values = ndarray::concatenate(ndarray::Axis(0), &[a.values.view(), b.values.view()])
                .map_err(|e| Error::Unsuitable(format!("gradients of one table: {e}")))?;
            Grad::Rows(RowGrad::from_contributions(a.table_rows, &rows, &values)?)
        }
        (Grad::Dense(mut a), Grad::Dense(b)) => {
            a += &b;
            Grad::Dense(a)
        }
        (Grad::Dense(mut dense), Grad::Rows(rows)) | (Grad::Rows(rows), Grad::Dense(mut dense)) => {
            if let Ok(mut table) = dense.view_mut().into_dimensionality::<Ix2>() {
                for (&row, value) in rows.rows.iter().zip(rows.values.rows()) {
                    let mut to = table.row_mut(row as usize);
                    to += &value;
                }
            }
            Grad::Dense(dense)
        }
    })
}

fn scale_all(gradients: &mut [Option<Grad>], factor: f32) {
    if factor == 1.0 {
        return;
    }
    for gradient in gradients.iter_mut().flatten() {
        match gradient {
            Grad::Dense(array) => array.mapv_inplace(|v| v * factor),
            Grad::Rows(rows) => rows.values.mapv_inplace(|v| v * factor),
        }
    }
}

/// Gradients that wait for more batches.
#[derive(Default)]
pub(in crate::run) struct Accumulated {
    gradients: Vec<Option<Grad>>,
    pub(in crate::run) batches: usize,
}

/// Where in the run a value is looked at, from 1.
#[derive(Clone, Copy)]
struct Place {
    epoch: usize,
    batch: usize,
}

impl Place {
    fn finite(&self, what: &'static str, values: impl IntoIterator<Item = f64>) -> Result<()> {
        match values.into_iter().find(|v| !v.is_finite()) {
            None => Ok(()),
            Some(value) => Err(Error::NotFinite {
                what,
                value,
                epoch: self.epoch,
                batch: self.batch,
                remedy: "write a lower learning_rate, or check the data for extreme values",
                saved: None,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use embedtune_losses::LossKind;
    use embedtune_pooling::{PoolerKind, PoolerOptions};

    use super::*;
    use crate::data::Glyphs;

    #[test]
    fn steps_reuse_their_memory() -> Result<()> {
        let data =
            Glyphs { train_classes: 4, train_items: 8, test_classes: 2, test_items: 4, seed: 1 }.split();
        for loss in [LossKind::ArcFaceLoss, LossKind::TripletMarginLoss] {
            let mut trainer = Trainer::builder()
                .loss(loss)
                .pooler(PoolerKind::GeM, PoolerOptions::default())
                .build(&data)?;
            let rows: Vec<usize> = (0..16).collect();
            let batch = Batch::gather(&data.train.items, &rows)?;
            let mut held = Vec::new();
            // How many threads unfold images at once, each into a buffer of its own, is chance.
            let one = rayon::ThreadPoolBuilder::new().num_threads(1).build();
            one.expect("a thread").install(|| {
                (0..6).try_for_each(|step| {
                    trainer.step(&batch, &rows, step, false)?;
                    held.push(trainer.pool.free_bytes());
                    Ok::<_, Error>(())
                })
            })?;
            assert!(held[1] > 0 && held[1..].iter().all(|&bytes| bytes == held[1]), "{loss:?}: {held:?}");
        }
        Ok(())
    }

    #[test]
    fn gradients_of_a_table_and_of_a_matrix_add_up() {
        let rows = |rows: Vec<u32>, value: f32| {
            Grad::Rows(RowGrad { table_rows: 3, values: Array2::from_elem((rows.len(), 1), value), rows })
        };
        let expected = ndarray::arr2(&[[1.0f32], [3.0], [2.0]]).into_dyn();
        let sum = add(rows(vec![0, 1], 1.0), rows(vec![1, 2], 2.0)).unwrap();
        assert_eq!(sum.into_dense().unwrap(), expected);
        let dense = Grad::Dense(rows(vec![0, 1], 1.0).into_dense().unwrap());
        assert_eq!(add(dense.clone(), rows(vec![1, 2], 2.0)).unwrap().into_dense().unwrap(), expected);
        let mut all = vec![Some(dense), None];
        scale_all(&mut all, 0.5);
        assert_eq!(
            all[0].take().unwrap().into_dense().unwrap(),
            ndarray::arr2(&[[0.5f32], [0.5], [0.0]]).into_dyn()
        );
    }
}
