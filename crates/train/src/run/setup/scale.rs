//! The scale of a margin-softmax loss, from the number of classes.

use embedtune_losses::{LossKind, LossOptions, MarginValue, margin_options};

/// The smallest scale chosen: the value at which ten-class and thousand-class runs were compared with PyTorch.
const FLOOR: f64 = 16.0;
/// The probability that a perfectly separated item's own class must be able to reach.
const PROBABILITY: f64 = 0.99;

/// The scale for `classes` classes where the user gives none.
///
/// On a perfect simplex of centres (own cosine 1, all others -1/(C-1)) the own class reaches probability P only if
/// `s >= ln((C-1) P / (1-P)) / gap`, where `gap` is how far the margin leaves the own logit above the others:
/// `1 + 1/(C-1) - m` for CosFace, `cos m + 1/(C-1)` for ArcFace (`own_cosine` is `1 - m` or `cos m`). Below that scale
/// no amount of training can satisfy the loss; far above it the loss is a hard hinge whose gradient is gone as
/// soon as the own class leads by 5/s. The literature's 64 was chosen for 10^5 to 10^6 identities at 512
/// dimensions and is about ten times too large for 10 classes. The result is that bound for P = 0.99, and at least 16.
/// It is rounded to a tenth, so that it reads well in a log.
pub fn auto_scale(classes: usize, own_cosine: f64) -> f64 {
    let others = classes.max(2) as f64 - 1.0;
    let gap = (own_cosine + 1.0 / others).max(0.1);
    let bound = (others * PROBABILITY / (1.0 - PROBABILITY)).ln() / gap;
    (bound.max(FLOOR) * 10.0).round() / 10.0
}

/// The scale to fill in, if it is ours to choose: for ArcFace and CosFace without `scale` and without `preset`.
///
/// A preset that is named, `finetuner` included, keeps its fixed scale; SphereFace's scale is 1 with feature norms
/// that are learnt.
pub fn default_scale(loss: LossKind, options: &LossOptions, classes: usize) -> Option<f64> {
    if options.preset.is_some() || options.scale.is_some() {
        return None;
    }
    fitting_scale(loss, options, classes)
}

/// The scale that fits the loss's margin ([`auto_scale`]), whatever scale it has; `None` for losses without a scale of this
/// kind, and for a margin in another unit.
pub(in crate::run) fn fitting_scale(loss: LossKind, options: &LossOptions, classes: usize) -> Option<f64> {
    Some(auto_scale(classes, own_cosine(loss, options)?))
}

/// What to say of a scale at which even a perfectly separated item's own class is less likely than all others together.
pub(in crate::run) fn too_small(loss: LossKind, options: &LossOptions, classes: usize) -> Option<String> {
    let scale = given_scale(loss, options)?;
    let others = classes.max(2) as f64 - 1.0;
    let gap = own_cosine(loss, options)? + 1.0 / others;
    let reached = 1.0 / (1.0 + others * (-scale * gap).exp());
    (reached < 0.5).then(|| {
        format!(
            "loss_options.scale = {scale}: of {classes} classes a perfectly separated item's own reaches a probability of \
             {reached:.2} and no more; leave scale out, which chooses {}",
            fitting_scale(loss, options, classes).unwrap_or(FLOOR)
        )
    })
}

/// The cosine that a perfect item's own class has after the margin.
fn own_cosine(loss: LossKind, options: &LossOptions) -> Option<f64> {
    let defaults = options.preset.unwrap_or_default().defaults();
    Some(match (loss, options.margin) {
        (LossKind::ArcFaceLoss | LossKind::SubCenterArcFaceLoss, None) => {
            defaults.arc_margin.as_radians().cos()
        }
        (LossKind::ArcFaceLoss | LossKind::SubCenterArcFaceLoss, Some(MarginValue::Angle(m))) => {
            m.as_radians().cos()
        }
        (LossKind::CosFaceLoss, None) => 1.0 - defaults.cos_margin,
        (LossKind::CosFaceLoss, Some(MarginValue::Number(m))) => 1.0 - m,
        _ => return None,
    })
}

/// The scale that such a loss has: the one given, or its preset's. `None` where it is chosen for the classes.
pub(in crate::run) fn given_scale(loss: LossKind, options: &LossOptions) -> Option<f64> {
    let preset = || margin_options(loss, options).ok().map(|margin| margin.scale);
    options.scale.or_else(|| options.preset.and_then(|_| preset()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use embedtune_losses::Preset;

    #[test]
    fn a_scale_too_small_for_its_classes_is_said() {
        let with = |scale| LossOptions { scale: Some(scale), ..LossOptions::default() };
        let said = too_small(LossKind::CosFaceLoss, &with(1.0), 10).unwrap();
        assert!(said.contains("of 10 classes") && said.contains("probability of 0.19"), "{said}");
        assert!(said.contains("leave scale out, which chooses 16"), "{said}");
        for (loss, options, classes) in [
            (LossKind::CosFaceLoss, with(8.0), 10),
            (LossKind::ArcFaceLoss, with(64.0), 100_000),
            (LossKind::CosFaceLoss, LossOptions::default(), 10),
            (LossKind::SphereFaceLoss, with(1.0), 10),
            (LossKind::TripletMarginLoss, LossOptions::default(), 10),
        ] {
            assert_eq!(too_small(loss, &options, classes), None);
        }
    }

    #[test]
    fn only_an_open_scale_is_filled_in() {
        let open = LossOptions::default();
        let with = |change: fn(&mut LossOptions)| {
            let mut options = LossOptions::default();
            change(&mut options);
            options
        };
        for (loss, options, expected) in [
            (LossKind::ArcFaceLoss, open.clone(), Some(16.0)),
            (LossKind::CosFaceLoss, open.clone(), Some(17.7)),
            (LossKind::CosFaceLoss, with(|o| o.margin = Some(0.5.into())), Some(23.0)),
            (LossKind::SphereFaceLoss, open.clone(), None),
            (LossKind::TripletMarginLoss, open, None),
            (LossKind::ArcFaceLoss, with(|o| o.scale = Some(30.0)), None),
            (LossKind::ArcFaceLoss, with(|o| o.preset = Some(Preset::Finetuner)), None),
            // A margin in the wrong unit is the loss's error to report.
            (LossKind::ArcFaceLoss, with(|o| o.margin = Some(0.5.into())), None),
        ] {
            assert_eq!(default_scale(loss, &options, 1000), expected, "{loss} {options:?}");
        }
    }

    #[test]
    fn the_scale_grows_with_the_classes_and_has_a_floor() {
        let (arc, cos) = (0.5f64.cos(), 1.0 - 0.35);
        for (classes, own, expected) in [
            (0, arc, 16.0),
            (2, arc, 16.0),
            (10, cos, 16.0),
            (1_000, arc, 16.0),
            (1_000, cos, 17.7),
            (100_000, arc, 18.4),
            (1_000_000, cos, 28.3),
        ] {
            assert_eq!(auto_scale(classes, own), expected, "{classes} classes, own cosine {own}");
        }
    }
}
