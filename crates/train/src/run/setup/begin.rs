//! What a run begins with: its encoder, its classes, and which items it trains on.

use super::builder::Known;
use super::{init, plan};
use crate::data::Split;
use crate::encoder::{Encoder, EncoderSpec};
use crate::run::{Model, RunOptions, ValSplitBy};
use crate::{Error, Result};

/// All that comes before the loss.
pub(in crate::run) struct Begun {
    pub(in crate::run) encoder: Encoder,
    /// The model that the run starts from, if it is another run's.
    pub(in crate::run) given: Option<Model>,
    /// The run's classes, in the order of the centres.
    pub(in crate::run) classes: Vec<String>,
    /// The place in `classes` of each of the data's classes; no place ([`init::NOWHERE`]) of those not trained on.
    pub(in crate::run) class_index: Vec<u32>,
    pub(in crate::run) rows: plan::Rows,
}

/// From options that have been checked and data that can be trained on.
pub(in crate::run) fn begin(options: &RunOptions, split: &Split, known: Option<&Known>) -> Result<Begun> {
    let train = &split.train;
    // A checkpoint holds all of it, and the other run may be gone.
    let given = if known.is_some_and(|known| known.checkpointed) { None } else { init::load(options)? };
    let spec = match (known, &given) {
        (Some(known), _) if options.init_from.is_some() => known.spec.clone(),
        (_, Some(model)) => init::spec(options, model),
        _ => plan::encoder_spec(options, &train.items)?,
    };
    let (share, by) = (options.val_split, options.val_split_by);
    let rows = plan::split_rows(&train.labels, train.classes.len(), share, by, options.seed);
    if share > 0.0 && rows.held_out.is_empty() {
        let remedy = match by {
            ValSplitBy::Item => {
                "holds no item out, so small is each class's share; write more, or val_split_by = \"class\""
            }
            ValSplitBy::Class => {
                "holds no class out, as training needs two; give more classes, or leave it out"
            }
        };
        return Err(Error::option("val_split", share, remedy));
    }
    let trained = plan::trained_classes(train, &rows.train);
    let classes = match (known, &given) {
        (Some(known), _) => known.classes.clone(),
        (None, Some(model)) => init::classes(model, &trained),
        (None, None) => trained.iter().copied().cloned().collect(),
    };
    if let (Some(model), Some(folder)) = (&given, &options.init_from)
        && !classes.starts_with(&model.classes)
    {
        let remedy =
            "the run there is another than when this one began (it has other classes); start a new run";
        return Err(Error::option("init_from", folder, remedy));
    }
    let class_index = init::class_index(&train.classes, &trained, &classes)?;
    let mut encoder = plan::encoder(options, spec)?;
    match &given {
        Some(model) => encoder.load_part(&model.encoder.state())?,
        // What the first run measured belongs to its weights.
        None if options.init_from.is_some() => {}
        None => encoder.prepare(&train.items, &rows.train)?,
    }
    if options.freeze {
        encoder.freeze(encoder.spec().layers.len().saturating_sub(EncoderSpec::HEAD_LAYERS));
    }
    Ok(Begun { encoder, given, classes, class_index, rows })
}

/// The encoder that a run with these options begins with on these data, before any training: a function of the two, and of
/// the run that `init_from` names.
///
/// # Errors
/// As [`RunBuilder::build`](crate::run::RunBuilder::build)'s, of what concerns the encoder.
pub fn initial_encoder(options: &RunOptions, split: &Split) -> Result<Encoder> {
    options.check()?;
    plan::check_data(split, &mut Vec::new())?;
    begin(options, split, None).map(|begun| begun.encoder)
}
