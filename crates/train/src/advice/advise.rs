//! Which margin and which scale a loss can work with.

use embedtune_losses::{
    Distance, LossKind, LossOptions, Margin, MarginOptions, TripletMarginOptions, margin_options,
    triplet_options,
};
use serde::Serialize;

use super::{Separation, Source, named, separation};
use crate::run::default_scale;
use crate::{Error, Result};

/// Above this no loss accepts a scale.
const LARGEST_SCALE: f64 = 1e6;
/// Classes on a circle whose cosines are summed one by one; more are treated as if all were as near as the nearest.
const MOST_SUMMED: usize = 1 << 20;

/// What is asked.
#[derive(Debug, Clone, PartialEq)]
pub struct Question {
    /// The loss.
    pub loss: LossKind,
    /// Its options; what is absent is the preset's.
    pub options: LossOptions,
    /// Classes.
    pub classes: usize,
    /// Dimension of the embeddings.
    pub dim: usize,
    /// Probability that a perfectly placed item's own class should reach, between 0 and 1; 0.99 is usual.
    pub probability: f64,
}

/// What the numbers allow. Angles in degrees; margins in the loss's own unit (degrees for ArcFace and
/// SubCenterArcFace, a cosine for CosFace, a distance for the triplet loss, a multiplier for SphereFace).
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Advice {
    /// The loss.
    pub loss: LossKind,
    /// Classes.
    pub classes: usize,
    /// Dimension.
    pub dim: usize,
    /// How far apart the nearest two class centres can stand at best.
    pub separation: f64,
    /// Reached for certain, and exceeded by no arrangement; both equal `separation` where it is exact.
    pub separation_bounds: [f64; 2],
    /// Where the separation comes from.
    pub source: Source,
    /// The same in words, with the reference.
    pub derivation: &'static str,
    /// The margin, given or the preset's.
    pub margin: f64,
    /// The margin's unit.
    pub unit: &'static str,
    /// The largest margin at which an item at its own centre is at least as near to it, margin included, as to the
    /// next centre; `None` where no margin is out of reach.
    pub largest_margin: Option<f64>,
    /// The same at the upper bound of the separation: above this it is impossible for certain.
    pub impossible_above: Option<f64>,
    /// Whether the margin can be met; with an estimated separation this is by the estimate.
    pub feasible: bool,
    /// How far an item may stand from its centre towards the nearest other and still meet the margin.
    pub room: Option<f64>,
    /// The probability asked for.
    pub probability: f64,
    /// The smallest scale at which an item at its centre reaches `probability`; where the separation is not that of a
    /// simplex or a circle, at most this. `None` for losses without a scale and for margins that cannot be met.
    pub needed_scale: Option<f64>,
    /// The same without a margin: the least that any margin needs.
    pub plain_scale: Option<f64>,
    /// The scale that training takes where none is given; `None` for losses without one.
    pub default_scale: Option<f64>,
    /// The smallest dimension in which the margin can be met.
    pub smallest_dim: Option<usize>,
}

impl Advice {
    /// The error that a margin deserves which no arrangement of the centres can meet; `Ok` where it can, or might,
    /// be met.
    ///
    /// # Errors
    /// [`Error::Option`] with the largest feasible margin and the smallest sufficient dimension.
    pub fn check(&self) -> Result<()> {
        let (Some(largest), Some(above)) = (self.largest_margin, self.impossible_above) else {
            return Ok(());
        };
        if self.margin <= above && (self.feasible || !self.source.exact()) {
            return Ok(());
        }
        let elsewhere = match self.smallest_dim {
            Some(dim) => format!(", or train in {dim} or more dimensions"),
            None => " (no dimension is enough for the present one)".to_owned(),
        };
        Err(Error::option(
            "margin",
            round(self.margin),
            format!(
                "impossible for {} classes in {} dimensions, whose centres can stand {:.2} degrees apart at most: even \
                 an item at its own centre would not meet it; the largest feasible margin is {} {}: write less{elsewhere}",
                self.classes,
                self.dim,
                self.separation_bounds[1],
                round(largest),
                self.unit
            ),
        ))
    }
}

/// The margin that a loss asks for, in the terms of this page.
enum Asked {
    Centres(MarginOptions),
    Triplets(TripletMarginOptions),
}

/// Weighs a loss's margin and scale against the number of classes and dimensions.
///
/// # Errors
/// [`Error::Option`] for fewer than 2 classes, no dimension, a probability outside 0 to 1, an option of another loss
/// or outside its range. A margin that cannot be met is no error here: [`Advice::check`] says so.
pub fn advise(question: &Question) -> Result<Advice> {
    let &Question { loss, classes, dim, probability, .. } = question;
    for (wrong, field, value, remedy) in [
        (classes < 2, "classes", classes.to_string(), "telling classes apart needs at least 2"),
        (dim == 0, "dim", dim.to_string(), "an embedding needs a dimension; write e.g. 64"),
        (
            dim == 1 && classes > 2,
            "dim",
            dim.to_string(),
            "unit vectors of one dimension are 1 and -1, no room for more than 2 classes; write e.g. 64",
        ),
        (
            !(probability > 1.0 / classes as f64 && probability < 1.0),
            "probability",
            probability.to_string(),
            "write a number below 1 and above chance, e.g. 0.99",
        ),
    ] {
        if wrong {
            return Err(Error::option(field, value, remedy));
        }
    }
    // The loss's own checks of ranges.
    embedtune_losses::build(loss, &question.options, None, classes.min(1 << 20), dim.min(1 << 20))
        .map_err(named)?;
    let asked = match loss {
        LossKind::TripletMarginLoss => Asked::Triplets(triplet_options(&question.options).map_err(named)?),
        _ => Asked::Centres(margin_options(loss, &question.options).map_err(named)?),
    };
    let found = separation(classes, dim);
    let (margin, unit) = asked.margin();
    let feasible = |at: f64| asked.largest(at).is_none_or(|largest| margin < largest);
    let scales = match &asked {
        Asked::Centres(options) => {
            let own = options.margin.target(0.0)[0];
            let scale = |own| needed_scale(own, classes, &found, probability);
            let ours = default_scale(loss, &question.options, classes);
            (scale(own), scale(1.0), Some(ours.unwrap_or(options.scale)))
        }
        Asked::Triplets(_) => (None, None, None),
    };
    Ok(Advice {
        loss,
        classes,
        dim,
        separation: found.angle.to_degrees(),
        separation_bounds: [found.at_least.to_degrees(), found.at_most.to_degrees()],
        source: found.source,
        derivation: found.source.describe(),
        margin,
        unit,
        largest_margin: asked.largest(found.angle),
        impossible_above: asked.largest(found.at_most),
        feasible: feasible(found.angle),
        room: if feasible(found.angle) { asked.room(found.angle) } else { None },
        probability,
        needed_scale: scales.0,
        plain_scale: scales.1,
        default_scale: scales.2,
        smallest_dim: smallest_dim(classes, |dim| feasible(separation(classes, dim).angle)),
    })
}

impl Asked {
    fn margin(&self) -> (f64, &'static str) {
        match self {
            Self::Triplets(options) => (options.margin, "(a distance)"),
            Self::Centres(options) => match options.margin {
                Margin::Arc { angle, .. } => (angle.as_degrees(), "degrees"),
                Margin::Cos { cosine } => (cosine, "(a cosine)"),
                Margin::Sphere { multiplier } => (f64::from(multiplier), "(a multiplier)"),
                _ => (0.0, ""),
            },
        }
    }

    /// The margin, in its unit, that an item at its centre just meets where the next centre is `apart` (radians) away.
    fn largest(&self, apart: f64) -> Option<f64> {
        match self {
            // Items of length one: without normalising any distance is within reach.
            Self::Triplets(options) if !options.normalize => None,
            Self::Triplets(options) => Some(match options.distance {
                Distance::L2 => 2.0 * (apart / 2.0).sin(),
                Distance::SquaredL2 => 4.0 * (apart / 2.0).sin().powi(2),
                _ => 1.0 - apart.cos(),
            }),
            Self::Centres(options) => match options.margin {
                Margin::Arc { .. } => Some(apart.to_degrees()),
                Margin::Cos { .. } => Some(1.0 - apart.cos()),
                // At its centre an item's angle is 0, whatever it is multiplied by.
                _ => None,
            },
        }
    }

    /// Degrees that an item may stand off its centre towards one `apart` (radians) away.
    fn room(&self, apart: f64) -> Option<f64> {
        let Self::Centres(options) = self else { return None };
        let meets = |off: f64| options.margin.target(off)[0] >= (apart - off).cos();
        let (mut low, mut high) = (0.0, apart);
        for _ in 0..60 {
            let middle = 0.5 * (low + high);
            if meets(middle) { low = middle } else { high = middle }
        }
        Some(low.to_degrees())
    }
}

/// The smallest `s` with `s own - ln(sum of exp(s cos)) >= ln(P / (1 - P))` over the other centres' cosines; `None`
/// where none up to the largest that a loss takes is enough.
fn needed_scale(own: f64, classes: usize, found: &Separation, probability: f64) -> Option<f64> {
    let others = cosines(classes, found);
    let nearest = others.iter().map(|(cosine, _)| *cosine).fold(f64::NEG_INFINITY, f64::max);
    let target = (probability / (1.0 - probability)).ln();
    let enough = |scale: f64| {
        // Relative to the nearest centre, so that nothing overflows.
        let sum: f64 = others.iter().map(|(cosine, count)| count * (scale * (cosine - nearest)).exp()).sum();
        scale * (own - nearest) - sum.ln() >= target
    };
    if own <= nearest || !enough(LARGEST_SCALE) {
        return None;
    }
    let (mut low, mut high) = (0.0, LARGEST_SCALE);
    for _ in 0..80 {
        let middle = 0.5 * (low + high);
        if enough(middle) { high = middle } else { low = middle }
    }
    Some(high)
}

/// Cosines from one centre to the others and how many have each, in the best arrangement or, where its other cosines
/// are not known, in one that is no better.
fn cosines(classes: usize, found: &Separation) -> Vec<(f64, f64)> {
    let others = classes as f64 - 1.0;
    match found.source {
        Source::Circle if classes <= MOST_SUMMED => {
            (1..classes).map(|step| ((found.angle * step as f64).cos(), 1.0)).collect()
        }
        _ => vec![(found.angle.cos(), others)],
    }
}

/// The smallest dimension with enough room, which grows with the dimension up to `classes - 1`.
fn smallest_dim(classes: usize, enough: impl Fn(usize) -> bool) -> Option<usize> {
    let (mut low, mut high) = (0, classes - 1);
    if !enough(high) {
        return None;
    }
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if enough(middle) { high = middle } else { low = middle }
    }
    Some(high)
}

/// Four significant digits at most.
fn round(value: f64) -> f64 {
    let digits = 3 - value.abs().max(1e-12).log10().floor() as i32;
    let factor = 10f64.powi(digits);
    (value * factor).round() / factor
}

#[cfg(test)]
mod tests {
    use embedtune_losses::{Angle, MarginValue};

    use super::*;

    fn ask(loss: LossKind, margin: Option<MarginValue>, classes: usize, dim: usize) -> Advice {
        let options = LossOptions { margin, ..LossOptions::default() };
        advise(&Question { loss, options, classes, dim, probability: 0.99 }).unwrap()
    }

    /// The closed forms on a simplex: `(C - 1) / C ln((C - 1) P / (1 - P))` and its margins' variants.
    #[test]
    fn scales_on_a_simplex_are_the_closed_forms() {
        for classes in [2usize, 10, 1000, 100_000] {
            let others = classes as f64 - 1.0;
            let log = (others * 0.99 / 0.01).ln();
            for (loss, margin, own) in [
                (LossKind::CosFaceLoss, MarginValue::from(0.0), 1.0),
                (LossKind::CosFaceLoss, MarginValue::from(0.35), 0.65),
                (LossKind::ArcFaceLoss, Angle::radians(0.5).into(), 0.5f64.cos()),
            ] {
                let advice = ask(loss, Some(margin), classes, classes);
                let expected = log / (own + 1.0 / others);
                approx::assert_relative_eq!(advice.needed_scale.unwrap(), expected, max_relative = 1e-9);
                assert!(advice.feasible && advice.check().is_ok());
            }
        }
        // Ten classes: plain softmax, CosFace at 0.35, ArcFace at 0.5 radians.
        let scale =
            |loss, margin| (ask(loss, Some(margin), 10, 9).needed_scale.unwrap() * 10.0).round() / 10.0;
        assert_eq!(scale(LossKind::CosFaceLoss, 0.0.into()), 6.1);
        assert_eq!(scale(LossKind::CosFaceLoss, 0.35.into()), 8.9);
        assert_eq!(scale(LossKind::ArcFaceLoss, Angle::radians(0.5).into()), 6.9);
    }

    #[test]
    fn the_plane_holds_ten_classes_36_degrees_apart() {
        let advice = ask(LossKind::CosFaceLoss, Some(0.35.into()), 10, 2);
        assert_eq!((advice.source, advice.feasible, advice.needed_scale), (Source::Circle, false, None));
        approx::assert_relative_eq!(advice.largest_margin.unwrap(), 1.0 - 36f64.to_radians().cos());
        let message = advice.check().unwrap_err().to_string();
        for part in
            ["margin = 0.35: impossible for 10 classes in 2 dimensions", "0.191", "3 or more dimensions"]
        {
            assert!(message.contains(part), "{message}");
        }
        let arc = ask(LossKind::ArcFaceLoss, None, 10, 2);
        approx::assert_relative_eq!(arc.room.unwrap(), (36.0 - 28.6) / 2.0, max_relative = 1e-9);
        assert!(arc.check().is_ok() && arc.needed_scale.unwrap() > 50.0);
    }

    /// The scale is enough and a smaller one is not, by the softmax itself.
    #[test]
    fn the_needed_scale_reaches_the_probability_and_no_more() {
        for (classes, dim, margin) in [(10usize, 2usize, 0.1), (7, 2, 0.2), (12, 6, 0.35), (40, 3, 0.05)] {
            let advice = ask(LossKind::CosFaceLoss, Some(margin.into()), classes, dim);
            let scale = advice.needed_scale.unwrap();
            let apart = advice.separation.to_radians();
            let cosine = |step: usize| if dim == 2 { (apart * step as f64).cos() } else { apart.cos() };
            let own = (scale * (1.0 - margin)).exp();
            let sum: f64 = (1..classes).map(|step| (scale * cosine(step)).exp()).sum();
            approx::assert_relative_eq!(own / (own + sum), 0.99, max_relative = 1e-6);
        }
    }

    #[test]
    fn every_loss_is_answered() {
        // An item 20 degrees off its centre, 4 x 20 = 80, is as near as the centre 100 degrees away in the plane.
        let sphere = ask(LossKind::SphereFaceLoss, None, 3, 2);
        assert_eq!((sphere.largest_margin, sphere.feasible), (None, true));
        approx::assert_relative_eq!(sphere.room.unwrap(), 120.0 / 5.0, max_relative = 1e-9);
        let triplet = ask(LossKind::TripletMarginLoss, Some(1.5.into()), 4, 2);
        approx::assert_relative_eq!(triplet.largest_margin.unwrap(), 2f64.sqrt(), max_relative = 1e-12);
        assert!(triplet.check().unwrap_err().to_string().contains("1.414 (a distance)"));
        assert!(ask(LossKind::TripletMarginLoss, None, 4, 2).feasible);
        let cos = ask(LossKind::CosFaceLoss, Some(1.5.into()), 10, 64);
        assert!(cos.check().unwrap_err().to_string().contains("no dimension is enough"));
        // Between the bounds nothing is refused.
        let unsure = ask(LossKind::ArcFaceLoss, Some(Angle::degrees(65.0).into()), 24, 4);
        assert!(!unsure.feasible && unsure.check().is_ok());
    }

    #[test]
    fn nonsense_is_named() {
        let ask = |loss, options, classes, dim, probability| {
            advise(&Question { loss, options, classes, dim, probability }).unwrap_err().to_string()
        };
        let plain = LossOptions::default;
        let cos = LossKind::CosFaceLoss;
        for (message, expected) in [
            (ask(cos, plain(), 1, 2, 0.99), "classes = 1: "),
            (ask(cos, plain(), 10, 0, 0.99), "dim = 0: "),
            (ask(LossKind::SphereFaceLoss, plain(), 3, 1, 0.99), "dim = 1: "),
            (ask(cos, plain(), 10, 2, 0.1), "probability = 0.1: "),
            (ask(cos, plain(), 10, 2, f64::NAN), "probability = NaN: "),
            (
                ask(cos, LossOptions { margin: Some(f64::NAN.into()), ..plain() }, 10, 2, 0.9),
                "margin = NaN: ",
            ),
            (ask(cos, LossOptions { swap: Some(true), ..plain() }, 10, 2, 0.9), "swap = given: "),
        ] {
            assert!(message.starts_with(expected), "{message}");
        }
    }
}
