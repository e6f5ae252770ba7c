//! A small labelled problem on which training has something to gain.
#![allow(dead_code)] // Each test file uses its own part.

use embedtune_train::data::{Dataset, Items, Split};
use embedtune_train::run::{BatchReport, EpochRecord, Observer};
use ndarray::Array2;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

pub(crate) const DIM: usize = 24;
pub(crate) const CLASSES: usize = 8;

/// Vectors of which the first six columns carry the class and the rest carry louder noise; raw nearest neighbours
/// are therefore poor, and a linear map can do much better.
pub(crate) fn noisy_vectors(per_class: usize) -> Split {
    let mut rng = ChaCha8Rng::seed_from_u64(11);
    let centres = Array2::from_shape_fn((CLASSES, 6), |_| rng.random_range(-1.0f32..1.0));
    let mut part = |count: usize| {
        let labels: Vec<u32> = (0..count * CLASSES).map(|i| (i % CLASSES) as u32).collect();
        let vectors = Array2::from_shape_fn((labels.len(), DIM), |(row, column)| {
            let class = labels[row] as usize;
            match column {
                0..6 => centres[[class, column]] + rng.random_range(-0.3f32..0.3),
                _ => rng.random_range(-1.5f32..1.5),
            }
        });
        let classes = (0..CLASSES).map(|c| format!("class {c}")).collect();
        Dataset::new(Items::Vectors(vectors), labels, classes)
    };
    Split { train: part(per_class), queries: part(20), gallery: None }
}

/// Keeps all that a run reports, and sets the stop flag after a batch.
#[derive(Default)]
pub(crate) struct Recorder {
    pub(crate) notices: Vec<String>,
    pub(crate) batches: Vec<BatchReport>,
    pub(crate) epochs: Vec<EpochRecord>,
    pub(crate) checkpoints: usize,
    pub(crate) stop_after: Option<(usize, std::sync::Arc<std::sync::atomic::AtomicBool>)>,
}

impl Observer for Recorder {
    fn on_notice(&mut self, notice: &str) {
        self.notices.push(notice.to_owned());
    }
    fn on_batch(&mut self, batch: &BatchReport) {
        self.batches.push(*batch);
        if let Some((count, stop)) = &self.stop_after
            && self.batches.len() == *count
        {
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
        }
    }
    fn on_checkpoint(&mut self, _: &std::path::Path) {
        self.checkpoints += 1;
    }
    fn on_epoch(&mut self, epoch: &EpochRecord) {
        self.epochs.push(epoch.clone());
    }
}
