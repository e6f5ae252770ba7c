//! What is wrong with a run although it goes on, with a name and a remedy.

use std::fmt;

use embedtune_losses::MinerKind;
use serde::{Deserialize, Serialize};

use super::telemetry::Watched;
use crate::head::CentreSpace;
use crate::run::setup::scale::{fitting_scale, given_scale};
use crate::run::{EpochRecord, RunOptions};

/// All embeddings point the same way when two of them have this mean cosine.
const COLLAPSED: f64 = 0.95;
/// Share of an epoch's batches without signal.
const MOSTLY: f64 = 0.5;
/// What sums of shares may be off by.
const ROUNDING: f64 = 1e-9;
/// A scale so many times the fitting one is a slip, however many items still have a gradient: it multiplies that, too.
const FAR: f64 = 16.0;
/// Centres that turn by less than this in an epoch (degrees) although they are further than `ASTRAY` from their class.
const STILL: f64 = 2.0;
const ASTRAY: f64 = 60.0;

/// The names of the alarms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum AlarmKind {
    /// All embeddings point the same way.
    Collapse,
    /// Most batches moved nothing.
    ZeroSignal,
    /// The scale is so large that most items have no gradient.
    SaturatedScale,
    /// The class centres do not follow their classes.
    FrozenCentres,
    /// Items further from their class's centre than from chance.
    LabelNoise,
}

/// An alarm of one epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Alarm {
    /// Which.
    pub kind: AlarmKind,
    /// What was seen and what to do.
    pub message: String,
}

impl fmt::Display for AlarmKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Collapse => "collapse",
            Self::ZeroSignal => "zero-signal batches",
            Self::SaturatedScale => "saturated scale",
            Self::FrozenCentres => "frozen centres",
            Self::LabelNoise => "label noise",
        })
    }
}

impl fmt::Display for Alarm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind, self.message)
    }
}

/// What an epoch's figures warn of; `earlier` are the epochs before it.
pub(in crate::run) fn alarms(
    options: &RunOptions,
    classes: usize,
    batches: usize,
    earlier: &[EpochRecord],
    record: &EpochRecord,
    watched: &Watched,
) -> Vec<Alarm> {
    let mut alarms = Vec::new();
    let mut raise = |kind, message| alarms.push(Alarm { kind, message });
    if let Some(cosine) = watched.mean_cosine.filter(|&cosine| cosine > COLLAPSED) {
        raise(AlarmKind::Collapse, collapse(options, earlier, cosine, watched.centre_turn.is_some()));
    }
    let active = record.active_fraction.unwrap_or(1.0);
    if let Some(message) = zero_signal(options, batches, record, active) {
        raise(AlarmKind::ZeroSignal, message);
    }
    let loss = &options.loss_options;
    if let Some(scale) = given_scale(options.loss, loss)
        && let Some(fitting) = fitting_scale(options.loss, loss, classes).filter(|&fitting| scale > fitting)
        && watched.centre_turn.is_some()
        && (active < MOSTLY || scale > FAR * fitting)
    {
        let (origin, remedy) = match loss.preset.filter(|_| loss.scale.is_none()) {
            Some(preset) => {
                (format!(" (preset {})", preset.name()), format!("write loss_options.scale = {fitting}"))
            }
            None => (String::new(), format!("leave scale out, which chooses {fitting}, or write that")),
        };
        let seen = if active < MOSTLY { "only" } else { "as yet" };
        raise(
            AlarmKind::SaturatedScale,
            format!(
                "{seen} {:.0}% of the items have a gradient: at loss_options.scale = {scale}{origin} the loss of {classes} \
                 classes is a hard hinge; {remedy} (`advise` derives it)",
                active * 100.0
            ),
        );
    }
    if let (Some(turn), Some(angle)) = (watched.centre_turn, watched.centre_angle)
        && turn < STILL
        && angle > ASTRAY
    {
        let remedy = match options.centers {
            CentreSpace::Plain => {
                "write centers = \"unit_sphere\", whose learning rate is in radians per step, or a higher \
                 loss_optimizer_options.learning_rate"
            }
            CentreSpace::UnitSphere => {
                "write a higher loss_optimizer_options.learning_rate, e.g. 0.01 radians per step"
            }
        };
        let rate = record.loss_learning_rate.unwrap_or_default();
        raise(
            AlarmKind::FrozenCentres,
            format!(
                "class centres turned by {turn:.2} degrees in this epoch and are {angle:.1} degrees from their classes' \
                 means (learning rate {rate}); {remedy}"
            ),
        );
    }
    alarms
}

/// What to say of embeddings whose mean cosine is so high: what training has led to, and what was so from the beginning, have
/// different remedies.
fn collapse(options: &RunOptions, earlier: &[EpochRecord], cosine: f64, centres: bool) -> String {
    let apart = earlier.iter().find(|epoch| epoch.mean_cosine.is_some_and(|before| before <= COLLAPSED));
    let seen = format!("two embeddings have a mean cosine of {cosine:.3} whatever their classes");
    let rate = format!("write a lower learning_rate ({} now)", options.learning_rate);
    let Some((before, epoch)) = apart.and_then(|epoch| Some((epoch.mean_cosine?, epoch.epoch))) else {
        return format!(
            "{seen}, from the first epoch on: items that are alike cannot be told apart, so look at the data; vectors that \
             share an offset are alike until the mean of the training vectors is subtracted from all; where the raw vectors \
             retrieve well, {rate}"
        );
    };
    let miner = match options.miner {
        Some(MinerKind::BatchHardMiner) => {
            ", leave the miner out (the hardest triplets pull all to one place)"
        }
        _ => "",
    };
    // The remedy of the triplet loss alone: one with centres has been chosen already.
    let loss = if centres { "" } else { ", a larger batch_size, or a loss with class centres" };
    format!(
        "{seen}, and {before:.3} in epoch {epoch}; {rate}{miner}{loss}; check that the labels tell of the items"
    )
}

/// What to say of batches without a gradient, if most are.
fn zero_signal(options: &RunOptions, batches: usize, record: &EpochRecord, active: f64) -> Option<String> {
    let share = record.zero_signal_batches as f64 / batches.max(1) as f64;
    let mostly = share > MOSTLY;
    // The other batches' share of this is no larger than they are.
    let unsatisfied = mostly && active > 1.0 - share + ROUNDING;
    if unsatisfied || (!mostly && record.grad_norm == Some(0.0)) {
        let which = match record.zero_signal_batches as usize {
            count if unsatisfied && count < batches => format!("{count} of {batches} batches"),
            _ => "every batch".to_owned(),
        };
        return Some(format!(
            "the gradient of {which} was zero although the loss was not: nothing in the items tells them apart for this \
             encoder (empty texts, images or vectors that are all the same?); look at the data"
        ));
    }
    mostly.then(|| {
        let miner = if options.miner.is_some() { "leave the miner out, " } else { "" };
        format!(
            "{} of {batches} batches moved nothing: the loss is satisfied there; if the result is not good yet, {miner}write \
             a larger loss_options.margin or batch_size, or stop earlier",
            record.zero_signal_batches
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use embedtune_losses::{LossKind, Preset};

    #[test]
    fn each_alarm_has_its_figures_and_its_remedy() {
        let mut options = RunOptions { loss: LossKind::ArcFaceLoss, ..RunOptions::default() };
        options.loss_options.scale = Some(64.0);
        let fine = EpochRecord { active_fraction: Some(0.9), ..EpochRecord::default() };
        let quiet = Watched {
            centre_turn: Some(20.0),
            centre_angle: Some(10.0),
            mean_cosine: Some(0.1),
            ..Watched::default()
        };
        let of = |record: &EpochRecord, watched: &Watched| alarms(&options, 10, 4, &[], record, watched);
        assert_eq!(of(&fine, &quiet), []);
        for (record, watched, kind, part) in [
            (fine.clone(), Watched { mean_cosine: Some(0.99), ..quiet }, AlarmKind::Collapse, "0.990"),
            (
                EpochRecord { active_fraction: Some(0.1), ..fine.clone() },
                quiet,
                AlarmKind::SaturatedScale,
                "only 10% of the items",
            ),
            (
                EpochRecord { grad_norm: Some(0.0), ..fine.clone() },
                quiet,
                AlarmKind::ZeroSignal,
                "the gradient of every batch was zero",
            ),
            (
                fine.clone(),
                Watched { centre_turn: Some(0.5), centre_angle: Some(89.8), ..quiet },
                AlarmKind::FrozenCentres,
                "89.8 degrees from",
            ),
        ] {
            let raised = of(&record, &watched);
            assert_eq!(raised.len(), 1, "{raised:?}");
            assert!(raised[0].kind == kind && raised[0].message.contains(part), "{raised:?}");
        }
        // What the last of four batches may add tells satisfied ones from those that have a loss and no gradient.
        options.loss_options.scale = Some(16.0);
        for (active, part) in [
            (0.25, "3 of 4 batches moved nothing: the loss is satisfied"),
            (0.5, "of 3 of 4 batches was zero although"),
        ] {
            let record =
                EpochRecord { zero_signal_batches: 3, active_fraction: Some(active), ..fine.clone() };
            let raised = alarms(&options, 10, 4, &[], &record, &quiet);
            assert!(raised.len() == 1 && raised[0].message.contains(part), "{raised:?}");
        }
    }

    #[test]
    fn the_scale_of_a_preset_saturates_too() {
        let watched = Watched { centre_turn: Some(20.0), centre_angle: Some(10.0), ..Watched::default() };
        let record = EpochRecord { active_fraction: Some(0.1), ..EpochRecord::default() };
        let raised = |loss, preset, scale, classes| {
            let mut options = RunOptions { loss, ..RunOptions::default() };
            (options.loss_options.preset, options.loss_options.scale) = (preset, scale);
            alarms(&options, classes, 4, &[], &record, &watched)
        };
        for (loss, fitting) in [(LossKind::ArcFaceLoss, "16"), (LossKind::CosFaceLoss, "17.7")] {
            let of = raised(loss, Some(Preset::Finetuner), None, 1000);
            assert_eq!(of.len(), 1, "{of:?}");
            let message = &of[0].message;
            assert!(message.contains("scale = 64 (preset finetuner)"), "{message}");
            assert!(message.contains(&format!("write loss_options.scale = {fitting} ")), "{message}");
            // One that fits, one that is chosen, one of a loss that has none.
            assert_eq!(raised(loss, Some(Preset::Finetuner), Some(16.0), 1000), []);
            assert_eq!(raised(loss, None, None, 1000), []);
        }
        assert_eq!(raised(LossKind::SphereFaceLoss, Some(Preset::Finetuner), None, 10), []);
        // One far beyond any that fits, although all items still have a gradient.
        let busy = EpochRecord { active_fraction: Some(1.0), ..EpochRecord::default() };
        let mut options = RunOptions { loss: LossKind::ArcFaceLoss, ..RunOptions::default() };
        for (scale, far) in [(64.0, false), (1000.0, true)] {
            options.loss_options.scale = Some(scale);
            let of = alarms(&options, 10, 4, &[], &busy, &watched);
            assert_eq!(
                of.iter().map(|alarm| alarm.kind).collect::<Vec<_>>(),
                if far { vec![AlarmKind::SaturatedScale] } else { vec![] }
            );
            assert!(of.iter().all(|alarm| alarm.message.starts_with("as yet 100% of the items")), "{of:?}");
        }
    }
}
