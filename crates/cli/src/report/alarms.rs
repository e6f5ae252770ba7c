//! What a reader should not overlook.

use super::Run;
use super::variant::Variant;

/// Mean cosine distance between classes below which everything lies in one place.
const COLLAPSED: f64 = 0.02;
/// Share of triplets or rows with a gradient below which an epoch hardly moves anything.
const IDLE: f64 = 0.01;
/// What Recall@1 may fall below its best before it is mentioned.
const FALL: f64 = 0.01;

/// Sentences about one run; `tuned` is what it has learnt.
pub(super) fn of(run: &Run, tuned: &Variant) -> Vec<String> {
    let mut alarms = Vec::new();
    let trained: Vec<_> = run.records.iter().filter(|record| record.epoch > 0).collect();
    if trained.len() < run.file.options.epochs {
        alarms.push(format!(
            "The run is not finished: {} of {} epochs are complete.",
            trained.len(),
            run.file.options.epochs
        ));
    }
    for record in &trained {
        alarms.extend(record.alarms.iter().map(|alarm| format!("Epoch {}: {alarm}", record.epoch)));
    }
    let still: Vec<String> = trained
        .iter()
        .filter(|record| record.zero_signal_batches > 0)
        .map(|record| format!("{} of epoch {}", record.zero_signal_batches, record.epoch))
        .collect();
    if !still.is_empty() {
        alarms.push(format!(
            "Batches without any gradient: {}. The loss was satisfied there: a larger margin or a miner gives it work.",
            still.join(", ")
        ));
    }
    if let Some(active) = trained.last().and_then(|record| record.active_fraction).filter(|&a| a < IDLE) {
        alarms.push(format!(
            "At the end {:.2}% of the triplets or rows carried a gradient: training has all but stopped.",
            active * 100.0
        ));
    }
    let recall: Vec<(usize, f64)> = trained
        .iter()
        .filter_map(|record| Some((record.epoch, record.validation.or(record.metrics)?.recall_at_1)))
        .collect();
    let best = recall.iter().fold((0, 0.0f64), |best, &next| if next.1 > best.1 { next } else { best });
    let chosen = run.file.options.callbacks.best_model;
    if let Some(last) = recall.last().filter(|last| !chosen && last.1 < best.1 - FALL) {
        alarms.push(format!(
            "Recall@1 fell from {:.3} after epoch {} to {:.3} at the end: train for fewer epochs.",
            best.1, best.0, last.1
        ));
    }
    let raw = run.first().and_then(|record| record.raw);
    if let (Some(raw), Some(tuned)) = (raw, run.tuned())
        && tuned.recall_at_1 < raw.recall_at_1
    {
        alarms.push(format!(
            "The raw vectors retrieve better ({:.3}) than the tuned ones ({:.3}).",
            raw.recall_at_1, tuned.recall_at_1
        ));
    }
    if tuned.mean_negative().is_some_and(|mean| mean < COLLAPSED) {
        alarms.push(
            "The embeddings have collapsed: items of different classes lie in nearly one direction."
                .to_owned(),
        );
    }
    alarms
}
