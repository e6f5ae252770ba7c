//! Several losses side by side: the same data, the same initial encoder, the same number of steps.

pub(in crate::run) mod summary;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use embedtune_losses::{LossKind, LossOptions, MinerOptions};
use embedtune_pooling::PoolerKind;
use ndarray::Array2;

use crate::data::{Dataset, Items, Split};
use crate::encoder::Encoder;
use crate::optim::OptimizerOptions;
use crate::run::options::check::has_centres;
use crate::run::{Observer, Quality, RunFolder, RunOptions, Trained, Trainer, model, raw_vectors};
use crate::{Result, State, io};

/// Classes and items of each class in the projected sample: what a figure can show without its points covering
/// each other.
const FIGURE_CLASSES: usize = 10;
const FIGURE_ITEMS: usize = 100;

pub(in crate::run) const SUMMARY: &str = "summary.json";

/// What to compare.
#[derive(Debug, Clone)]
pub struct CompareOptions {
    /// The options of every run; `loss` and `loss_options` are replaced by each of `losses`.
    pub run: RunOptions,
    /// The losses, in the order of the table.
    pub losses: Vec<(LossKind, LossOptions)>,
    /// Where the runs go, each into a folder of its loss's name, with `summary.json` beside them. `None`: nothing
    /// is written.
    pub folder: Option<PathBuf>,
    /// What the run files say about the data's origin.
    pub source: String,
    /// The folder that the data were read from, whose files each run lists ([`RunBuilder::data_folder`]).
    ///
    /// [`RunBuilder::data_folder`]: crate::run::RunBuilder::data_folder
    pub data_folder: Option<PathBuf>,
    /// Stops the comparison after the current batch once it is set.
    pub stop: Option<Arc<AtomicBool>>,
}

impl CompareOptions {
    /// Triplet margin (0.2), ArcFace and CosFace with GeM where the encoder pools images, for `split`.
    ///
    /// The margin of 0.2 is FaceNet's; Finetuner's 0.05 is about 4 degrees for unit vectors near a right angle,
    /// and would compare a weak setting of one loss with usual settings of the others.
    pub fn for_data(split: &Split) -> Self {
        let pooler =
            matches!(split.train.items, Items::Images(_) | Items::Files(_)).then_some(PoolerKind::GeM);
        let triplet = LossOptions { margin: Some(0.2.into()), ..LossOptions::default() };
        Self {
            run: RunOptions { pooler, epochs: 3, ..RunOptions::default() },
            losses: vec![
                (LossKind::TripletMarginLoss, triplet),
                (LossKind::ArcFaceLoss, LossOptions::default()),
                (LossKind::CosFaceLoss, LossOptions::default()),
            ],
            folder: None,
            source: "built-in".to_owned(),
            data_folder: None,
            stop: None,
        }
    }
}

/// One row of the table.
#[derive(Debug, Clone, PartialEq)]
pub struct Variant {
    /// `raw`, `untrained`, or the loss's name.
    pub name: String,
    /// Retrieval on the evaluation items.
    pub quality: Quality,
    /// Seconds: of training for a loss, of embedding the evaluation items otherwise.
    pub seconds: f64,
    /// GeM's power, for encoders that have one.
    pub gem_p: Option<f64>,
    /// Vectors of the projected sample, `[items, dim]`, rows as in [`Projection`].
    pub vectors: Array2<f32>,
}

/// The evaluation items that a figure shows: up to 100 of each of ten classes.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Projection {
    /// The class of each item: an index into `classes`.
    pub labels: Vec<u32>,
    /// The classes' names.
    pub classes: Vec<String>,
}

/// What [`compare`] found.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Comparison {
    /// `raw`, `untrained`, then the losses.
    pub variants: Vec<Variant>,
    /// The items of [`Variant::vectors`].
    pub projection: Projection,
}

/// Trains each loss from the same initial weights and measures it beside the raw vectors and the untrained encoder.
///
/// Runs of an earlier comparison in the same folder are replaced.
///
/// # Errors
/// Those of [`Trainer::fit`], and of the options with the loss they fail for.
pub fn compare(split: &Split, options: &CompareOptions, observer: &mut dyn Observer) -> Result<Comparison> {
    for (loss, loss_options) in &options.losses {
        options_for(options, *loss, loss_options).check()?;
    }
    let sample = sample(&split.queries);
    let mut variants = Vec::new();
    let started = Instant::now();
    let quality = model::raw_quality(split)?;
    let vectors = raw_vectors(&sample.items)?;
    variants.push(Variant {
        name: "raw".to_owned(),
        quality,
        seconds: started.elapsed().as_secs_f64(),
        gem_p: None,
        vectors,
    });
    if let Some(folder) = &options.folder {
        // Neither figures nor models of an earlier comparison may stand beside those of this one.
        io::remove(&folder.join(SUMMARY))?;
        for (loss, _) in &options.losses {
            let old = folder.join(loss.name());
            if old.exists() {
                RunFolder::new(old).clear()?;
            }
        }
    }
    let mut initial: Option<State> = None;
    // Of the first run; reading all the data once more for each other would tell nothing new.
    let mut listed: Option<PathBuf> = None;
    for (loss, loss_options) in &options.losses {
        let mut builder = Trainer::builder()
            .options(options_for(options, *loss, loss_options))
            .source(options.source.clone());
        builder.folder = options.folder.as_ref().map(|folder| folder.join(loss.name()));
        (builder.overwrite, builder.only_ends) = (true, true);
        (builder.data_folder, builder.data_list) = (options.data_folder.clone(), listed.clone());
        listed = listed.or_else(|| Some(RunFolder::new(builder.folder.as_ref()?).data_files()));
        (builder.stop, builder.encoder_state) = (options.stop.clone(), initial.clone());
        let trainer = builder.build(split)?;
        if initial.is_none() {
            variants.push(untrained(trainer.encoder(), split, &sample)?);
            initial = Some(trainer.encoder().state());
        }
        let trained = trainer.fit(observer)?;
        variants.push(tuned(loss.name(), &trained, &sample)?);
    }
    let projection = Projection { labels: sample.labels, classes: sample.classes };
    let comparison = Comparison { variants, projection };
    if let Some(folder) = &options.folder {
        summary::write(&folder.join(SUMMARY), &comparison)?;
    }
    Ok(comparison)
}

/// The shared options with one loss in place. What applies to other losses alone is left out, so that one set of
/// options serves losses with class centres and without.
fn options_for(options: &CompareOptions, loss: LossKind, loss_options: &LossOptions) -> RunOptions {
    let mut run = RunOptions { loss, loss_options: loss_options.clone(), ..options.run.clone() };
    if has_centres(loss) {
        (run.miner, run.miner_options) = (None, MinerOptions::default());
    } else {
        (run.loss_optimizer, run.loss_optimizer_options) = (None, OptimizerOptions::default());
    }
    run
}

fn untrained(encoder: &Encoder, split: &Split, sample: &Dataset) -> Result<Variant> {
    let started = Instant::now();
    let quality = model::quality(encoder, split)?;
    let seconds = started.elapsed().as_secs_f64();
    let vectors = model::embed(encoder, &sample.items)?;
    Ok(Variant { name: "untrained".to_owned(), quality, seconds, gem_p: encoder.gem_p(), vectors })
}

fn tuned(name: &str, trained: &Trained, sample: &Dataset) -> Result<Variant> {
    let report = &trained.report;
    let vectors = trained.model.embed(&sample.items)?;
    Ok(Variant {
        name: name.to_owned(),
        quality: report.tuned,
        seconds: report.seconds,
        gem_p: report.gem_p,
        vectors,
    })
}

/// The first items of the first classes of `data`, in the order of the data; labels count from 0.
fn sample(data: &Dataset) -> Dataset {
    let mut chosen: Vec<u32> = data.labels.clone();
    chosen.sort_unstable();
    chosen.dedup();
    chosen.truncate(FIGURE_CLASSES);
    let mut counts = vec![0; chosen.len()];
    let (mut rows, mut labels) = (Vec::new(), Vec::new());
    for (row, label) in data.labels.iter().enumerate() {
        let Ok(class) = chosen.binary_search(label) else { continue };
        if counts[class] < FIGURE_ITEMS {
            counts[class] += 1;
            rows.push(row);
            labels.push(class as u32);
        }
    }
    let name = |&label: &u32| data.classes.get(label as usize).cloned().unwrap_or_else(|| label.to_string());
    let classes = chosen.iter().map(name).collect();
    Dataset::new(data.items.select(&rows), labels, classes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::optim::OptimizerKind;
    use embedtune_losses::MinerKind;

    #[test]
    fn the_sample_holds_ten_classes_with_labels_from_zero() {
        let labels: Vec<u32> = (0..3000).map(|i| 5 + i % 15).collect();
        let vectors = Array2::from_shape_fn((3000, 1), |(i, _)| i as f32);
        let classes = (0..20).map(|c| format!("class {c}")).collect();
        let sample = sample(&Dataset::new(Items::Vectors(vectors), labels, classes));
        assert_eq!(sample.items.len(), FIGURE_CLASSES * FIGURE_ITEMS);
        assert_eq!((sample.classes.len(), sample.classes[0].as_str()), (10, "class 5"));
        assert_eq!(sample.labels.iter().filter(|&&label| label == 9).count(), FIGURE_ITEMS);
        let Items::Vectors(vectors) = sample.items else { panic!("the kind changed") };
        for (row, &label) in vectors.rows().into_iter().zip(&sample.labels) {
            assert_eq!(row[0] as u32 % 15, label);
        }
    }

    #[test]
    fn each_loss_gets_only_the_options_that_apply_to_it() {
        let run = RunOptions {
            loss_optimizer: Some(OptimizerKind::Sgd),
            miner: Some(MinerKind::TripletMarginMiner),
            ..RunOptions::default()
        };
        let options = CompareOptions {
            run,
            losses: vec![],
            folder: None,
            source: String::new(),
            data_folder: None,
            stop: None,
        };
        for loss in [LossKind::TripletMarginLoss, LossKind::ArcFaceLoss] {
            options_for(&options, loss, &LossOptions::default()).check().unwrap();
        }
    }
}
