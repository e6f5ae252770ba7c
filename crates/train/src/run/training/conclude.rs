//! The end of a run: which weights it keeps, and what it then says.

use embedtune_losses::LossKind;
use ndarray::ArrayD;

use crate::head::LossHead;
use crate::run::folder::store;
use crate::run::watch::inspect;
use crate::run::{Alarm, AlarmKind, EpochRecord, Kept, Observer, Report, RunOptions, Trainer};
use crate::{Error, Result};

impl Trainer<'_> {
    /// Chooses the final weights and measures them, if that is not what the last epoch did, and saves.
    pub(in crate::run) fn finish(&mut self, observer: &mut dyn Observer) -> Result<()> {
        let callbacks = self.options.callbacks;
        let epoch = self.progress.epoch;
        self.progress.closed = true;
        let mut changed = false;
        if let Some(best) =
            callbacks.best(&self.records).filter(|&best| callbacks.best_model && best != epoch)
        {
            let state = match (&self.best, &self.folder) {
                (Some(state), _) => state.clone(),
                (None, Some(folder)) => store::read(&folder.best(), store::Kind::Model)?,
                (None, None) => {
                    return Err(Error::Unsuitable("the best epoch's weights are gone".to_owned()));
                }
            };
            self.encoder.load(&state.part("encoder"))?;
            if let Some(centres) = state.part("head").tensors.remove("centres") {
                set_centres(self.head.as_mut(), centres)?;
            }
            observer.on_notice(&format!("best_model: the weights of epoch {best}"));
            changed = true;
        }
        if let (Some(alpha), Some(initial)) = (callbacks.wise_ft_alpha, &self.initial) {
            let mut averaged = self.encoder.state();
            for (name, tensor) in &mut averaged.tensors {
                if let Some(before) = initial.tensors.get(name) {
                    let alpha = alpha as f32;
                    tensor.zip_mut_with(before, |after, &before| {
                        *after = (1.0 - alpha) * before + alpha * *after
                    });
                }
            }
            self.encoder.load(&averaged)?;
            observer
                .on_notice(&format!("wise_ft_alpha = {alpha}: weights averaged with those before training"));
            changed = true;
        }
        let outliers = self.outliers()?;
        let missing = self.records.last().is_some_and(|record| record.metrics.is_none());
        if changed {
            let mut record = EpochRecord { epoch, ..EpochRecord::default() };
            self.measure(&mut record, true, observer)?;
            let EpochRecord { metrics, validation, figures, .. } = record;
            let gem_p = self.encoder.gem_p();
            if let Some(last) = self.records.last_mut() {
                last.kept = metrics.map(|metrics| Kept { metrics, validation, figures, gem_p });
            }
        } else if missing {
            let mut record = self.records.last().cloned().unwrap_or_default();
            self.measure(&mut record, true, observer)?;
            if let Some(last) = self.records.last_mut() {
                *last = record;
            }
        }
        if let (Some(alarm), Some(record)) = (outliers, self.records.last_mut()) {
            observer.on_alarm(&alarm);
            record.alarms.push(alarm);
        }
        self.save(observer)
    }

    /// Lists the training items that lie far from their class, for a loss with sub-centres.
    fn outliers(&self) -> Result<Option<Alarm>> {
        if self.options.loss != LossKind::SubCenterArcFaceLoss {
            return Ok(None);
        }
        let Some(centres) = self.head.weights()? else { return Ok(None) };
        let each = centres.nrows().checked_div(self.classes.len()).unwrap_or(1).max(1);
        let (train, rows) = (&self.split.train, &self.rows.train);
        let vectors = self.encoder.embed(&train.items, rows)?;
        let labels: Vec<u32> = rows.iter().map(|&row| self.class_index[train.labels[row] as usize]).collect();
        let found = inspect::outliers(vectors.view(), &labels, rows, centres.view(), each);
        let Some(worst) = found.first() else { return Ok(None) };
        let place = match &self.folder {
            Some(folder) => {
                let path = inspect::write_outliers(folder, train, &self.classes, &found)?;
                format!("they are listed in {}", path.display())
            }
            None => "give the run a folder to list them".to_owned(),
        };
        let message = format!(
            "{} of {} training items are more than 75 degrees from the main centre of their class, {} of class {} by \
             {:.1}; {place}: check their labels",
            found.len(),
            rows.len(),
            inspect::whereabouts(train, worst.row),
            self.classes.get(worst.class).map_or("?", String::as_str),
            worst.angle
        );
        Ok(Some(Alarm { kind: AlarmKind::LabelNoise, message }))
    }
}

/// Replaces the centres and keeps their optimizer.
pub(in crate::run) fn set_centres(head: &mut dyn LossHead, centres: ArrayD<f32>) -> Result<()> {
    let mut state = head.state()?;
    state.tensors.insert("centres".to_owned(), centres);
    head.load_state(&state)
}

/// The report of a finished run from its records.
pub(in crate::run) fn report(options: &RunOptions, records: &[EpochRecord]) -> Result<Report> {
    let missing = || {
        Error::Unsuitable("metrics.jsonl lacks the measurements of the first or the last epoch".to_owned())
    };
    let (first, last) = records.first().zip(records.last()).ok_or_else(missing)?;
    let watched = |r: &EpochRecord| r.validation.or(r.metrics).map(|quality| quality.recall_at_1);
    let best = records
        .iter()
        .skip(1)
        .filter_map(|r| Some((r.epoch, watched(r)?)))
        .fold(None, |best: Option<(usize, f64)>, next| best.filter(|best| best.1 >= next.1).or(Some(next)));
    Ok(Report {
        loss: options.loss.name().to_owned(),
        epochs: last.epoch,
        seconds: records.iter().map(|r| r.seconds).sum(),
        raw: first.raw.ok_or_else(missing)?,
        untrained: first.metrics.ok_or_else(missing)?,
        init_from: options.init_from.clone(),
        tuned: last.model_metrics().ok_or_else(missing)?,
        best_epoch: best.map_or(0, |best| best.0),
        gem_p: last.kept.as_ref().map_or(last.gem_p, |kept| kept.gem_p),
    })
}
