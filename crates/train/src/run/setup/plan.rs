//! From options and data to the parts of a run.

use std::collections::{BTreeMap, HashMap};

use embedtune_losses::Sampling;
use embedtune_samplers::{ClassSampler, RandomSampler, SamplerKind};
use ndarray::{ArrayView1, ArrayView2};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use crate::data::vectors::check_finite;
use crate::data::{Dataset, ImageFiles, Items, Split};
use crate::encoder::{Encoder, EncoderSpec};
use crate::optim::{self, Optimizer, OptimizerKind};
use crate::run::memory::forecast::LARGEST;
use crate::run::{EncoderChoice, RunOptions, ValSplitBy};
use crate::{Error, Result};

/// What each random choice of a run is for: each has its own stream, so that changing one changes no other.
#[derive(Debug, Clone, Copy)]
pub(in crate::run) enum Purpose {
    Encoder = 1,
    Centres,
    Batches,
    Validation,
    Dropout,
}

/// A seed of its own for each purpose (SplitMix64's output function over both numbers).
pub(in crate::run) fn derive_seed(seed: u64, purpose: Purpose, step: u64) -> u64 {
    let mix = |mut z: u64| {
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    let gamma = 0x9e37_79b9_7f4a_7c15u64;
    mix(mix(seed.wrapping_add(gamma.wrapping_mul(purpose as u64))).wrapping_add(gamma.wrapping_mul(step + 1)))
}

/// The batches of a run: a pure function of the epoch.
pub(in crate::run) enum Batches {
    Random(RandomSampler),
    Class(ClassSampler),
}

impl Batches {
    /// The sampler.
    pub(in crate::run) fn kind(&self) -> SamplerKind {
        match self {
            Self::Random(_) => SamplerKind::Random,
            Self::Class(_) => SamplerKind::Class,
        }
    }

    /// The batches of `epoch` (from 0): positions in the training rows.
    pub(in crate::run) fn of(&self, epoch: usize) -> Vec<Vec<usize>> {
        match self {
            Self::Random(sampler) => sampler.batches(epoch as u64),
            Self::Class(sampler) => sampler.batches(epoch as u64),
        }
    }
}

/// Training rows, and those held out for validation; both ascending.
pub(in crate::run) struct Rows {
    pub(in crate::run) train: Vec<usize>,
    pub(in crate::run) held_out: Vec<usize>,
}

/// Holds rows out of the training, drawn by `seed`: `share` of each class's items, rounded down, so that small classes
/// keep theirs; or, by class, `share` of the classes that have items, with all of them: at least one if any, and never
/// so many that fewer than two remain.
pub(in crate::run) fn split_rows(
    labels: &[u32],
    classes: usize,
    share: f64,
    by: ValSplitBy,
    seed: u64,
) -> Rows {
    let mut by_class = vec![Vec::new(); classes];
    for (row, &label) in labels.iter().enumerate() {
        if let Some(rows) = by_class.get_mut(label as usize) {
            rows.push(row);
        }
    }
    let mut rng = ChaCha8Rng::seed_from_u64(derive_seed(seed, Purpose::Validation, 0));
    let (mut train, mut held_out) = (Vec::new(), Vec::new());
    match by {
        ValSplitBy::Item => {
            for mut rows in by_class {
                rows.shuffle(&mut rng);
                let out = (rows.len() as f64 * share).floor() as usize;
                held_out.extend(rows.drain(..out));
                train.extend(rows);
            }
        }
        ValSplitBy::Class => {
            by_class.retain(|rows| !rows.is_empty());
            by_class.shuffle(&mut rng);
            let least = usize::from(share > 0.0);
            let out = ((by_class.len() as f64 * share).floor() as usize).max(least);
            let out = out.min(by_class.len().saturating_sub(2));
            held_out.extend(by_class.drain(..out).flatten());
            train.extend(by_class.into_iter().flatten());
        }
    }
    train.sort_unstable();
    held_out.sort_unstable();
    Rows { train, held_out }
}

/// The classes of the training items in `rows`, in the order of their labels: those that are only measured, or held out, have
/// no centres.
pub(in crate::run) fn trained_classes<'a>(data: &'a Dataset, rows: &[usize]) -> Vec<&'a String> {
    let mut labels: Vec<u32> = rows.iter().filter_map(|&row| data.labels.get(row).copied()).collect();
    labels.sort_unstable();
    labels.dedup();
    labels.into_iter().filter_map(|label| data.classes.get(label as usize)).collect()
}

/// The most rows that an epoch has. Batches drawn by class take as often from each class as the largest asks for, and the
/// last one is filled.
pub(in crate::run) fn most_rows(labels: &[u32], sampling: Sampling, options: &RunOptions) -> usize {
    if !by_class(options, sampling) {
        return labels.len();
    }
    let mut counts: BTreeMap<u32, usize> = BTreeMap::new();
    labels.iter().for_each(|&label| *counts.entry(label).or_default() += 1);
    let largest = counts.values().max().copied().unwrap_or(0);
    // Groups of items of a class are filled too.
    let group = options.num_items_per_class.max(1);
    let filled = largest.div_ceil(group).saturating_mul(group);
    filled.saturating_mul(counts.len()).saturating_add(options.batch_size.max(LARGEST))
}

/// Checks that there is something to learn.
pub(in crate::run) fn check_data(split: &Split, notices: &mut Vec<String>) -> Result<()> {
    let data = &split.train;
    let count = |name: &str, data: &Dataset| {
        if data.items.len() == data.labels.len() {
            return Ok(());
        }
        let (items, labels) = (data.items.len(), data.labels.len());
        Err(Error::Unsuitable(format!("the {name} data hold {items} items but {labels} labels")))
    };
    let parts =
        [("training", Some(data)), ("query", Some(&split.queries)), ("gallery", split.gallery.as_ref())];
    for (name, data) in parts {
        let Some(data) = data else { continue };
        count(name, data)?;
        // Readers refuse them too; these may come from elsewhere.
        if let Items::Vectors(vectors) = &data.items {
            if vectors.ncols() == 0 {
                let what = format!("the {name} vectors have no columns; an item needs at least one value");
                return Err(Error::Unsuitable(what));
            }
            check_finite(vectors.view())
                .map_err(|e| Error::Unsuitable(format!("the {name} vectors: {e}")))?;
        }
    }
    for (name, data) in parts {
        // What is only measured may leave its classes unnamed.
        let Some(data) = data.filter(|data| name == "training" || !data.classes.is_empty()) else { continue };
        let classes = data.classes.len();
        let beyond = data.labels.iter().enumerate().find(|(_, label)| **label as usize >= classes);
        if let Some((row, label)) = beyond {
            return Err(Error::Unsuitable(format!(
                "{name} item {row} has label {label}, but there are {classes} classes (0 to {}); re-index the labels or \
                 name more classes",
                classes.saturating_sub(1)
            )));
        }
        let mut first = HashMap::new();
        for (at, class) in data.classes.iter().enumerate() {
            if let Some(before) = first.insert(class, at) {
                return Err(Error::Unsuitable(format!(
                    "{name} classes {before} and {at} are both called `{class}`; give each a name of its own, or their items \
                     one label"
                )));
            }
        }
    }
    let mut present = data.labels.clone();
    present.sort_unstable();
    present.dedup();
    if present.len() < 2 {
        let items = data.labels.len();
        let classes = present.len();
        return Err(Error::Unsuitable(format!(
            "the training data hold {items} items of {classes} class(es); telling classes apart needs at least 2"
        )));
    }
    notices.extend(check_measurable(split)?);
    match &data.items {
        Items::Vectors(vectors) => notices.extend(far_rows(&lengths(vectors.view()))),
        Items::VectorFile(file) => {
            notices.extend(far_rows(&file.map_blocks(|_, block| lengths(block))?.concat()));
        }
        Items::Files(files) => notices.extend(of_files(files)),
        _ => {}
    }
    Ok(())
}

/// What the user should know of images in files.
fn of_files(files: &ImageFiles) -> Vec<String> {
    let mut notices = Vec::new();
    if !files.left_out().is_empty() {
        let each = files.left_out().iter().map(|(ending, count)| format!("{count} .{ending}"));
        notices.push(format!(
            "images of other kinds than PNG and JPEG are left out ({}); convert them to have them too",
            each.collect::<Vec<_>>().join(", ")
        ));
    }
    if files.decoded_again().is_some() {
        let bytes = files.len() as f64 * files.shape().iter().product::<usize>() as f64;
        notices.push(format!(
            "every epoch decodes the images again: no disk has room for {:.1} MiB of pixels beside as much; set TMPDIR to a \
             folder that has, or data_options.in_memory",
            bytes / f64::from(1 << 20)
        ));
    }
    notices
}

/// Times the median length that a vector may have before we speak of it.
const FAR: f64 = 1e4;

fn lengths(vectors: ArrayView2<'_, f32>) -> Vec<f64> {
    let length = |row: ArrayView1<'_, f32>| row.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>().sqrt();
    vectors.rows().into_iter().map(length).collect()
}

/// Names the longest vector if it is so long that a network cannot serve it and the others at once.
fn far_rows(lengths: &[f64]) -> Option<String> {
    let mut sorted = lengths.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let median = sorted.get(sorted.len() / 2).copied().filter(|&median| median > 0.0)?;
    let (row, longest) = lengths.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1))?;
    let far = lengths.iter().filter(|&&length| length > FAR * median).count();
    (far > 0).then(|| {
        format!(
            "{far} of {} training vectors are over {FAR:.0} times as long as most (row {row}, for one, has length \
             {longest:.3e}; the median is {median:.3e}): their gradients drown the others'; correct or remove them",
            lengths.len()
        )
    })
}

/// Checks that what is measured is like what is trained on, before anything is written or computed. Says how many items
/// cannot be measured.
fn check_measurable(split: &Split) -> Result<Option<String>> {
    let searched = split.gallery.as_ref().unwrap_or(&split.queries);
    for (name, data) in [("evaluation", &split.queries), ("searched", searched)] {
        let (expected, got) = (split.train.items.describe(), data.items.describe());
        if expected != got {
            return Err(Error::Unsuitable(format!(
                "the training items are {expected}, but the {name} items are {got}; give items of one kind and shape"
            )));
        }
    }
    let mut counts: BTreeMap<u32, usize> = BTreeMap::new();
    searched.labels.iter().for_each(|&label| *counts.entry(label).or_default() += 1);
    // Among themselves a query needs an item besides itself.
    let needed = if split.gallery.is_some() { 1 } else { 2 };
    let measured = |label: &u32| counts.get(label).is_some_and(|&count| count >= needed);
    let (all, left) =
        (split.queries.labels.len(), split.queries.labels.iter().filter(|label| !measured(label)).count());
    if left < all {
        return Ok((left > 0).then(|| {
            format!("{left} of {all} evaluation items have no other item of their class to be found and are left out of the figures")
        }));
    }
    Err(Error::Unsuitable(format!(
        "retrieval cannot be measured: none of the {} evaluation items has another item of its class among the {} \
         items searched; give at least two items of a class",
        split.queries.labels.len(),
        searched.labels.len()
    )))
}

/// The encoder's layers for these data and options.
pub(in crate::run) fn encoder_spec(options: &RunOptions, items: &Items) -> Result<EncoderSpec> {
    let fits = matches!(
        (options.encoder, items),
        (EncoderChoice::Auto, _)
            | (EncoderChoice::Cnn, Items::Images(_) | Items::Files(_))
            | (EncoderChoice::Mlp, Items::Vectors(_) | Items::VectorFile(_) | Items::Sequences(_))
            | (EncoderChoice::Text, Items::Text(_))
    );
    if !fits {
        let kind = items.kind();
        return Err(Error::option(
            "encoder",
            format!("{:?}", options.encoder).to_lowercase(),
            format!(
                "the data are {kind}; write auto, or cnn for images, mlp for vectors and sequences, text for text"
            ),
        ));
    }
    let spec = EncoderSpec::default_for(items, options.output_dim)?;
    match options.pooler {
        Some(pooler) => spec.with_pooler(pooler, options.pooler_options),
        None => Ok(spec),
    }
}

/// The model's optimizer, for the parameters that learn.
pub(in crate::run) fn optimizer(
    options: &RunOptions,
    encoder: &Encoder,
    notices: &mut Vec<String>,
) -> Result<Box<dyn Optimizer>> {
    if options.optimizer == OptimizerKind::SparseAdam {
        notices.push(
            "optimizer = SparseAdam: for the embedding table; the other parameters get Adam".to_owned(),
        );
    }
    optim::build_groups(
        options.optimizer,
        &options.optimizer_options,
        options.learning_rate,
        &options.param_groups,
        &encoder.trained_params(),
    )
    .map_err(|e| under("optimizer_options", e))
}

/// An option's error under the table that the option stands in.
pub(in crate::run) fn under(table: &str, error: Error) -> Error {
    match error {
        // Options of the run, or under their own table already.
        Error::Option { ref field, .. } if ["optimizer", "loss_optimizer"].contains(&field.as_str()) => error,
        Error::Option { ref field, .. } if field.starts_with("param_groups") || field.starts_with(table) => {
            error
        }
        Error::Option { field, value, remedy } => {
            Error::Option { field: format!("{table}.{field}"), value, remedy }
        }
        other => other,
    }
}

/// Whether batches are drawn by class.
fn by_class(options: &RunOptions, sampling: Sampling) -> bool {
    sampling == Sampling::ClassRequired || options.sampler == SamplerKind::Class
}

/// The smallest batch that can be trained on.
pub(in crate::run) fn least_batch(options: &RunOptions, sampling: Sampling) -> usize {
    if by_class(options, sampling) { options.num_items_per_class.saturating_mul(2) } else { 2 }
}

/// The sampler that the options and the loss ask for.
pub(in crate::run) fn batches(
    options: &RunOptions,
    sampling: Sampling,
    labels: &[u32],
    notices: &mut Vec<String>,
) -> Result<Batches> {
    let seed = derive_seed(options.seed, Purpose::Batches, 0);
    if by_class(options, sampling) {
        let held_out = |e: embedtune_samplers::Error| match options.val_split {
            0.0 => Error::Unsuitable(e.to_string()),
            share => {
                Error::Unsuitable(format!("{e}; val_split = {share} holds the other items out: write less"))
            }
        };
        let sampler = ClassSampler::new(labels, options.batch_size, options.num_items_per_class, seed)
            .map_err(held_out)?;
        notices.extend(sampler.notice());
        notices.extend(lone_items(labels, "without a second item they serve as negatives only"));
        return Ok(Batches::Class(sampler));
    }
    notices.extend(lone_items(labels, "the centre of such a class learns from that item alone"));
    let sampler = RandomSampler::new(labels.len(), options.batch_size, seed);
    Ok(Batches::Random(sampler.map_err(|e| Error::Unsuitable(e.to_string()))?))
}

/// The different sizes of the first epoch's batches where `batch_size` is `size`.
pub(in crate::run) fn batch_sizes(
    options: &RunOptions,
    size: usize,
    sampling: Sampling,
    labels: &[u32],
) -> Vec<usize> {
    let options = RunOptions { batch_size: size, ..options.clone() };
    let Ok(batches) = batches(&options, sampling, labels, &mut Vec::new()) else {
        // Refused later, with its reason.
        return vec![size.min(labels.len())];
    };
    let mut sizes: Vec<usize> = batches.of(0).iter().map(Vec::len).collect();
    sizes.sort_unstable();
    sizes.dedup();
    sizes
}

/// Says how many classes have one item only, and what that means.
fn lone_items(labels: &[u32], meaning: &str) -> Option<String> {
    let mut counts: BTreeMap<u32, usize> = BTreeMap::new();
    labels.iter().for_each(|&label| *counts.entry(label).or_default() += 1);
    let lone: Vec<u32> = counts.iter().filter(|(_, count)| **count == 1).map(|(&label, _)| label).collect();
    let first = lone.first()?;
    Some(format!(
        "{} of {} classes have a single training item (class {first}, for one): {meaning}",
        lone.len(),
        counts.len()
    ))
}

/// The encoder, with random weights of the run's seed.
pub(in crate::run) fn encoder(options: &RunOptions, spec: EncoderSpec) -> Result<Encoder> {
    Encoder::new(spec, derive_seed(options.seed, Purpose::Encoder, 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_of_each_class_is_held_out() {
        let labels: Vec<u32> = (0..30)
            .map(|i| {
                if i < 20 {
                    0
                } else if i < 29 {
                    1
                } else {
                    2
                }
            })
            .collect();
        let split_rows =
            |labels: &[u32], classes, share, seed| split_rows(labels, classes, share, ValSplitBy::Item, seed);
        let rows = split_rows(&labels, 3, 0.2, 7);
        let count = |rows: &[usize], class| rows.iter().filter(|&&row| labels[row] == class).count();
        assert_eq!([0, 1, 2].map(|c| count(&rows.held_out, c)), [4, 1, 0]);
        let mut all = [rows.train.clone(), rows.held_out.clone()].concat();
        all.sort_unstable();
        assert_eq!(all, (0..30).collect::<Vec<_>>());
        assert_eq!(split_rows(&labels, 3, 0.2, 7).held_out, rows.held_out);
        assert_ne!(split_rows(&labels, 3, 0.2, 8).held_out, rows.held_out);
        assert!(split_rows(&labels, 3, 0.0, 7).held_out.is_empty());
    }

    #[test]
    fn whole_classes_are_held_out() {
        let labels: Vec<u32> = (0..60).map(|i| i % 12).collect();
        for (share, count) in [(0.0, 0), (0.01, 1), (0.25, 3), (0.99, 10)] {
            // Class 12 has no items.
            let rows = split_rows(&labels, 13, share, ValSplitBy::Class, 3);
            let classes_of = |rows: &[usize]| {
                rows.iter().map(|&row| labels[row]).collect::<std::collections::BTreeSet<u32>>()
            };
            let (train, out) = (classes_of(&rows.train), classes_of(&rows.held_out));
            assert_eq!(out.len(), count, "{share}");
            assert!(train.is_disjoint(&out) && train.len() + out.len() == 12);
            assert_eq!(rows.train.len() + rows.held_out.len(), 60);
        }
        let drawn = |seed| split_rows(&labels, 12, 0.25, ValSplitBy::Class, seed).held_out;
        assert_eq!(drawn(1), drawn(1));
        assert!((2..6).any(|seed| drawn(seed) != drawn(1)));
    }

    #[test]
    fn seeds_of_different_purposes_and_steps_differ() {
        let mut seeds: Vec<u64> =
            [Purpose::Encoder, Purpose::Centres, Purpose::Batches, Purpose::Validation, Purpose::Dropout]
                .into_iter()
                .flat_map(|purpose| {
                    (0..4).flat_map(move |seed| (0..50).map(move |step| derive_seed(seed, purpose, step)))
                })
                .collect();
        let count = seeds.len();
        seeds.sort_unstable();
        seeds.dedup();
        assert_eq!(seeds.len(), count);
    }
}
