//! One step of training.

use embedtune_core::{Grad, Tape};
use embedtune_losses::{Input, Stats};
use ndarray::Array2;

use super::{Trainer, model, plan};
use crate::encoder::{Batch, Forward, Mode};
use crate::head::{LossHead, Update};
use crate::optim::{Param, grad_norm};
use crate::{Error, Result};

impl Trainer<'_> {
    /// One step on the training rows at `positions`.
    pub(super) fn step(&mut self, positions: &[usize], index: usize) -> Result<Stats> {
        let train = &self.split.train;
        let rows: Vec<usize> = positions.iter().map(|&position| self.rows.train[position]).collect();
        let labels: Vec<u32> = rows.iter().map(|&row| train.labels[row]).collect();
        let batch = Batch::gather(&train.items, &rows)?;
        let factor = self.schedule.factor(self.progress.step, self.progress.epoch);
        self.optimizer.set_learning_rate(self.options.learning_rate * factor)?;
        if let Some(rate) = self.centre_rate {
            self.head.set_learning_rate(rate * factor)?;
        }
        let place = Place { epoch: self.progress.epoch + 1, batch: index + 1 };
        let tape = Tape::new(&self.pool);
        let seed = plan::derive_seed(self.options.seed, plan::Purpose::Dropout, self.progress.step);
        let Forward { output, leaves, statistics } =
            self.encoder.forward(&tape, &batch, Mode::Train { seed })?;
        let embeddings = output.value();
        let x = model::as_rows(embeddings.view())?;
        place.finite("an embedding", x.iter().map(|&v| f64::from(v)))?;
        let mut dx = Array2::zeros(x.dim());
        let stats = self.head.step(Input::new(x, &labels), Some(dx.view_mut()), Update::Apply)?;
        place.finite("the loss", [stats.value])?;
        let mut grads = tape.backward_from(output, dx.into_dyn())?;
        let gradients: Vec<_> = leaves.iter().map(|&leaf| grads.take(leaf)).collect();
        place.finite("the gradient's norm", [grad_norm(gradients.iter().flatten())])?;
        // Once the tape is gone nothing shares the parameters' buffers, and they are updated in place.
        drop((grads, embeddings));
        drop(tape);
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
        Ok(stats)
    }
}

/// Where in the run a value is looked at, from 1.
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
            let batch: Vec<usize> = (0..16).collect();
            let mut held = Vec::new();
            // How many threads unfold images at once, each into a buffer of its own, is chance.
            let one = rayon::ThreadPoolBuilder::new().num_threads(1).build();
            one.expect("a thread").install(|| {
                (0..6).try_for_each(|step| {
                    trainer.step(&batch, step)?;
                    held.push(trainer.pool.free_bytes());
                    Ok::<_, Error>(())
                })
            })?;
            assert!(held[1] > 0 && held[1..].iter().all(|&bytes| bytes == held[1]), "{loss:?}: {held:?}");
        }
        Ok(())
    }
}
