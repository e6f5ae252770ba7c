//! Measuring retrieval while a run goes on.

use std::collections::BTreeMap;
use std::time::Instant;

use crate::Result;
use crate::run::{EpochRecord, Measured, Observer, Trainer, model};

impl Trainer<'_> {
    /// Measures the items held out, if any, and with `evaluation` the evaluation items, into the epoch's record.
    pub(in crate::run) fn measure(
        &self,
        record: &mut EpochRecord,
        evaluation: bool,
        observer: &mut dyn Observer,
    ) -> Result<()> {
        observer.on_evaluation_begin(record.epoch);
        let started = Instant::now();
        let monitor = self.options.callbacks.monitor;
        let mut figures: Option<BTreeMap<String, f64>> = None;
        if !self.rows.held_out.is_empty() {
            let data = self.split.train.select(&self.rows.held_out);
            let (quality, found) = model::figures(&self.encoder, &data, None, monitor)?;
            (record.validation, figures) = (Some(quality), Some(found));
        }
        if evaluation {
            let (queries, gallery) = (&self.split.queries, self.split.gallery.as_ref());
            let (quality, found) = model::figures(&self.encoder, queries, gallery, monitor)?;
            record.metrics = Some(quality);
            // With items held out for it, choosing by the evaluation items would be choosing by the answer.
            figures = figures.or(Some(found));
        }
        record.figures = figures.unwrap_or_default();
        observer.on_evaluation(&Measured {
            epoch: record.epoch,
            figures: &record.figures,
            held_out: record.validation,
            evaluation: record.metrics,
            seconds: started.elapsed().as_secs_f64(),
        });
        Ok(())
    }
}
