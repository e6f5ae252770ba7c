//! Margin-softmax losses by angle and by number of classes.

use embedtune_train::advice::{Question, advise, explain};
use embedtune_train::losses::{Angle, LossKind, LossOptions, Preset};
use embedtune_train::run::auto_scale;

use super::Drawn;
use super::chart::{Axis, BLUE, GREEN, INK, Mark, ORANGE, Panel, Series, draw};

type Curve = Vec<(f64, f64)>;

/// The target's logit at scale 1, as the loss itself computes it.
fn logit(
    loss: LossKind,
    preset: Preset,
    margin: Option<Angle>,
    degrees: &[f64],
) -> Result<Curve, embedtune_train::Error> {
    let options = LossOptions { scale: Some(1.0), margin: margin.map(Into::into), ..LossOptions::default() };
    let explained = explain(loss, preset, None, &options, degrees)?;
    let curve: Curve = explained.table.iter().map(|row| (row.angle, row.values[0])).collect();
    // A jump is no slope: the line is cut where it falls faster than SphereFace's 4 in a radian.
    let steepest = 4.5 * (degrees[1] - degrees[0]).to_radians();
    let broken = curve.windows(2).flat_map(|pair| {
        let jumps = (pair[1].1 - pair[0].1).abs() > steepest;
        jumps.then_some((pair[1].0, f64::NAN)).into_iter().chain([pair[1]])
    });
    Ok(curve.first().copied().into_iter().chain(broken).collect())
}

/// Choosing a loss: the target's logit against the angle to its centre.
pub(super) fn losses() -> Drawn {
    let degrees: Vec<f64> = (0..=180).map(f64::from).collect();
    let curve = |loss, margin| logit(loss, Preset::Finetuner, margin, &degrees);
    let panel = Panel {
        title: "What an item's own class gets for its angle".into(),
        x: Axis::new(
            "angle to the class centre, degrees",
            0.0,
            180.0,
            &[0.0, 30.0, 60.0, 90.0, 120.0, 150.0, 180.0],
        ),
        y: Axis::new("target logit at scale 1", -3.0, 1.0, &[-3.0, -2.0, -1.0, 0.0, 1.0]),
        series: vec![
            Series::new(
                "no margin",
                INK,
                Mark::Dotted,
                curve(LossKind::ArcFaceLoss, Some(Angle::degrees(0.0)))?,
            ),
            Series::new("ArcFace 28.6°", BLUE, Mark::Line, curve(LossKind::ArcFaceLoss, None)?),
            Series::new("CosFace 0.35", ORANGE, Mark::Dashed, curve(LossKind::CosFaceLoss, None)?),
            Series::new("SphereFace 4", GREEN, Mark::Line, curve(LossKind::SphereFaceLoss, None)?),
        ],
        notes: vec![],
    };
    let description = "Target logit against angle: without a margin the cosine; CosFace the cosine less 0.35; ArcFace \
                       most below it at right angles, with a step down near 151 degrees; SphereFace far below all";
    Ok(draw(description, &[panel]))
}

/// Moving from other libraries: ArcFace's presets near the antipode.
pub(super) fn presets() -> Drawn {
    let degrees: Vec<f64> = (0..=160).map(|i| 140.0 + f64::from(i) * 0.25).collect();
    let curve = |preset| logit(LossKind::ArcFaceLoss, preset, None, &degrees);
    let panel = Panel {
        title: "ArcFace beyond π − m, where cos(θ + m) would rise again".into(),
        x: Axis::new(
            "angle to the class centre, degrees",
            140.0,
            180.0,
            &[140.0, 150.0, 160.0, 170.0, 180.0],
        ),
        y: Axis::new("target logit at scale 1", -1.25, -0.85, &[-1.2, -1.1, -1.0, -0.9]),
        series: vec![
            Series::new("finetuner, pml2, pml3: edge = jump", BLUE, Mark::Line, curve(Preset::Pml2)?),
            Series::new("paper: edge = continuous", ORANGE, Mark::Dashed, curve(Preset::Paper)?),
            Series::new("insightface: edge = none", GREEN, Mark::Line, curve(Preset::Insightface)?),
        ],
        notes: vec![],
    };
    let description = "Near 180 degrees the logit of pytorch-metric-learning's rule steps down at 151.4 degrees and goes \
                       on falling, the continuous rule falls without the step, InsightFace's rises again";
    Ok(draw(description, &[panel]))
}

/// Margins and scales: the scale that so many classes need.
pub(super) fn scales() -> Drawn {
    let counts: Vec<usize> =
        (0..=100).map(|i| 2.0 * 500_000f64.powf(f64::from(i) / 100.0)).map(|c| c.round() as usize).collect();
    let needed = |loss| {
        let mut curve = Curve::new();
        // Simplex: as many dimensions as the classes can use.
        for &classes in &counts {
            let options = LossOptions::default();
            let advice = advise(&Question { loss, options, classes, dim: classes, probability: 0.99 })?;
            curve.extend(advice.needed_scale.map(|scale| (classes as f64, scale)));
        }
        Ok::<_, embedtune_train::Error>(curve)
    };
    let defaults = Preset::Finetuner.defaults();
    let chosen = |own: f64| counts.iter().map(move |&classes| (classes as f64, auto_scale(classes, own)));
    let panel = Panel {
        title: "The scale at which an item at its centre reaches probability 0.99".into(),
        x: Axis::log("classes", 2.0, 1e6, &[]).named(&[
            (2.0, "2"),
            (10.0, "10"),
            (100.0, "100"),
            (1e3, "1,000"),
            (1e4, "10,000"),
            (1e5, "100,000"),
            (1e6, "1,000,000"),
        ]),
        y: Axis::new("scale", 0.0, 70.0, &[0.0, 16.0, 32.0, 48.0, 64.0]),
        series: vec![
            Series::new("the usual fixed 64", INK, Mark::Dotted, [(2.0, 64.0), (1e6, 64.0)]),
            Series::new("ArcFace: chosen", BLUE, Mark::Line, chosen(defaults.arc_margin.as_radians().cos())),
            Series::new("ArcFace: needed", BLUE, Mark::Dashed, needed(LossKind::ArcFaceLoss)?),
            Series::new("CosFace: chosen", ORANGE, Mark::Line, chosen(1.0 - defaults.cos_margin)),
            Series::new("CosFace: needed", ORANGE, Mark::Dashed, needed(LossKind::CosFaceLoss)?),
        ],
        notes: vec![],
    };
    let description = "The needed scale grows with the logarithm of the number of classes, from about 3 for two classes to \
                       21 (ArcFace) and 28 (CosFace) for a million; the scale chosen is that and at least 16";
    Ok(draw(description, &[panel]))
}
