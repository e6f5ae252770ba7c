//! Two presets of a loss side by side.

use embedtune_losses::{
    Angle, CentreInit, Edge, LossKind, LossOptions, Margin, MarginGradient, MarginOptions, Preset,
    TripletMargin, TripletMarginOptions, margin_options, triplet_options,
};
use ndarray::arr2;
use serde::Serialize;

use super::named;
use crate::{Error, Result};

/// What [`explain`] says.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Explanation {
    /// The loss.
    pub loss: LossKind,
    /// What it computes.
    pub formula: &'static str,
    /// Where the formula is from.
    pub source: &'static str,
    /// The presets, one or two.
    pub sides: Vec<Side>,
    /// The parameters.
    pub parameters: Vec<Parameter>,
    /// What the differing parameters do; empty with one preset.
    pub differences: Vec<String>,
    /// What the numbers of `table` are.
    pub table_is: &'static str,
    /// Values at the angles asked for.
    pub table: Vec<TableRow>,
}

/// One preset.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Side {
    /// Its name.
    pub preset: &'static str,
    /// What should be known about it here.
    pub remark: Option<&'static str>,
}

/// One parameter.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Parameter {
    /// Its name, as in `loss_options`.
    pub name: &'static str,
    /// Its value in each preset.
    pub values: Vec<String>,
}

/// The loss at one angle, for each preset.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct TableRow {
    /// Degrees.
    pub angle: f64,
    /// The logit, scale included (a triplet's loss for the triplet loss).
    pub values: Vec<f64>,
    /// The slope of the logit in the cosine that training uses, scale included; empty for the triplet loss. `None`
    /// where it is infinite.
    pub slopes: Vec<Option<f64>>,
}

/// Explains `loss` as `preset` computes it, and where `against` differs. `options` (the margin, the scale) replace both
/// presets' values; its own `preset` is not looked at. `angles` in degrees, 0 to 180: between an item and its class's
/// centre, or between anchor and positive where the negative is at 90 degrees.
///
/// # Errors
/// [`Error::Option`] for an angle outside 0 to 180, or options that the loss refuses.
pub fn explain(
    loss: LossKind,
    preset: Preset,
    against: Option<Preset>,
    options: &LossOptions,
    angles: &[f64],
) -> Result<Explanation> {
    if let Some(angle) = angles.iter().find(|angle| !(0.0..=180.0).contains(*angle)) {
        return Err(Error::option("angles", angle, "write degrees from 0 to 180"));
    }
    let presets: Vec<Preset> = std::iter::once(preset).chain(against).collect();
    let sides: Vec<Computed> =
        presets.iter().map(|&preset| Computed::new(loss, preset, options)).collect::<Result<_>>()?;
    let lists: Vec<Vec<(&'static str, String)>> = sides.iter().map(Computed::parameters).collect();
    let parameters: Vec<Parameter> = lists[0]
        .iter()
        .enumerate()
        .map(|(at, (name, _))| Parameter {
            name,
            values: lists.iter().map(|list| list[at].1.clone()).collect(),
        })
        .collect();
    let differing = parameters.iter().filter(|p| p.values.windows(2).any(|pair| pair[0] != pair[1]));
    let differences = differing.map(|p| format!("{}: {}", p.name, meaning(p.name))).collect();
    let table = angles.iter().map(|&angle| row(&sides, angle)).collect::<Result<_>>()?;
    let (formula, source, table_is) = texts(loss);
    Ok(Explanation {
        loss,
        formula,
        source,
        sides: presets
            .iter()
            .map(|&preset| Side { preset: preset.name(), remark: remark(preset, loss) })
            .collect(),
        parameters,
        differences,
        table_is,
        table,
    })
}

/// A value as options write it.
fn word(value: &impl Serialize) -> String {
    let value = serde_json::to_value(value).ok();
    value.and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}

/// A loss as a preset computes it: the same options that a run would be built from.
struct Computed {
    what: What,
    centres: CentreInit,
}

enum What {
    Centres(MarginOptions),
    Triplets(TripletMarginOptions),
}

impl Computed {
    fn new(loss: LossKind, preset: Preset, options: &LossOptions) -> Result<Self> {
        let options = LossOptions { preset: Some(preset), ..options.clone() };
        // The loss's own checks of ranges; sizes do not matter.
        let checked = embedtune_losses::build(loss, &options, None, 2, 2);
        let what = checked.and_then(|_| match loss {
            LossKind::TripletMarginLoss => triplet_options(&options).map(What::Triplets),
            _ => margin_options(loss, &options).map(What::Centres),
        });
        let what = what.map_err(named)?;
        Ok(Self { what, centres: options.centre_init() })
    }

    fn parameters(&self) -> Vec<(&'static str, String)> {
        match &self.what {
            What::Triplets(options) => vec![
                ("margin", options.margin.to_string()),
                ("distance", word(&options.distance)),
                ("normalize", options.normalize.to_string()),
                ("swap", options.swap.to_string()),
                ("smooth", options.smooth.to_string()),
                ("reduction", word(&options.reduction)),
            ],
            What::Centres(options) => {
                let mut list = match options.margin {
                    Margin::Arc { angle, edge, gradient } => vec![
                        ("margin", degrees(angle)),
                        ("edge", edge_words(edge).to_owned()),
                        (
                            "margin_gradient",
                            match gradient {
                                MarginGradient::StraightThrough => "straightthrough",
                                _ => "exact",
                            }
                            .to_owned(),
                        ),
                    ],
                    Margin::Cos { cosine } => vec![("margin", cosine.to_string())],
                    Margin::Sphere { multiplier } => vec![("margin", multiplier.to_string())],
                    _ => Vec::new(),
                };
                list.push(("scale", options.scale.to_string()));
                if options.sub_centers > 1 {
                    list.push(("sub_centers", options.sub_centers.to_string()));
                }
                list.push((
                    "centres start as",
                    match self.centres {
                        CentreInit::Normal { std } => format!("normal, std {std}"),
                        _ => "uniform on the unit sphere".to_owned(),
                    },
                ));
                list
            }
        }
    }

    /// Value and slope at an angle in radians.
    fn at(&self, angle: f64) -> Result<(f64, Option<f64>)> {
        match &self.what {
            What::Centres(options) => {
                let [value, slope] = options.margin.target(angle);
                let slope = (options.scale * slope).is_finite().then_some(options.scale * slope);
                Ok((options.scale * value, slope))
            }
            What::Triplets(options) => {
                let loss: TripletMargin = options.clone().build()?;
                let (sine, cosine) = (angle.sin() as f32, angle.cos() as f32);
                // The negative is at a right angle to both, so both triplets have the same loss.
                let x = arr2(&[[1.0, 0.0, 0.0], [cosine, sine, 0.0], [0.0, 0.0, 1.0]]);
                Ok((loss.value_and_grad(x.view(), &[0, 0, 1])?.stats.value, None))
            }
        }
    }

    fn has_slope(&self) -> bool {
        matches!(self.what, What::Centres(_))
    }
}

fn row(sides: &[Computed], angle: f64) -> Result<TableRow> {
    let at: Vec<(f64, Option<f64>)> =
        sides.iter().map(|side| side.at(angle.to_radians())).collect::<Result<_>>()?;
    let slopes =
        if sides.iter().all(Computed::has_slope) { at.iter().map(|(_, s)| *s).collect() } else { Vec::new() };
    Ok(TableRow { angle, values: at.iter().map(|(value, _)| *value).collect(), slopes })
}

fn degrees(angle: Angle) -> String {
    let short = |value: f64| (value * 1e4).round() / 1e4;
    format!("{}deg = {}rad", short(angle.as_degrees()), short(angle.as_radians()))
}

fn edge_words(edge: Edge) -> &'static str {
    match edge {
        Edge::Jump => "jump: cos(a) - m sin(m) beyond 180deg - m",
        Edge::Continuous => "continuous: cos(a) - (1 - cos(m)) beyond 180deg - m",
        _ => "none: cos(a + m) everywhere",
    }
}

fn texts(loss: LossKind) -> (&'static str, &'static str, &'static str) {
    const LOGIT: &str = "logit of the item's own class (scale included) by the angle between item and centre, and its \
                         slope in the cosine";
    match loss {
        LossKind::ArcFaceLoss => (
            "-log softmax of scale * cos(a_j), where the own class has scale * cos(a + margin)",
            "Deng et al. 2019, \"ArcFace\", arXiv:1801.07698, equation 3",
            LOGIT,
        ),
        LossKind::SubCenterArcFaceLoss => (
            "ArcFace with sub_centers centres a class, of which the nearest counts",
            "Deng et al. 2020, \"Sub-center ArcFace\", ECCV",
            LOGIT,
        ),
        LossKind::CosFaceLoss => (
            "-log softmax of scale * cos(a_j), where the own class has scale * (cos(a) - margin)",
            "Wang et al. 2018, \"CosFace\", arXiv:1801.09414, equation 4",
            LOGIT,
        ),
        LossKind::SphereFaceLoss => (
            "-log softmax of scale * |x| cos(a_j), where the own class has scale * |x| ((-1)^k cos(margin a) - 2k), \
             k = floor(margin a / 180deg)",
            "Liu et al. 2017, \"SphereFace\", arXiv:1704.08063, equation 7",
            "logit of the item's own class (scale included) at |x| = 1 by the angle between item and centre, and its \
             slope in the cosine",
        ),
        _ => (
            "over triplets of anchor, positive and negative: max(d(a, p) - d(a, n) + margin, 0)",
            "Schroff et al. 2015, \"FaceNet\", arXiv:1503.03832, equation 1",
            "loss of one triplet by the angle between anchor and positive, with the negative at 90 degrees",
        ),
    }
}

/// What it means that a parameter differs.
fn meaning(name: &str) -> &'static str {
    match name {
        "margin" => {
            "how far ahead of every other class the own one must be; a larger one asks for tighter classes"
        }
        "edge" => {
            "beyond 180deg - margin the cosine of the sum would rise again: jump and continuous keep the logit \
             falling (jump drops by cos(margin) + margin sin(margin) - 1 there), none lets items on the far side drift away"
        }
        "margin_gradient" => {
            "exact is the gradient of the printed logit; straightthrough takes its slope in the cosine as the scale \
             everywhere, so the margin moves the loss and not the gradient's shape"
        }
        "scale" => {
            "how sharp the softmax is: above what the classes need, gradients vanish early (see `advise`)"
        }
        "centres start as" => {
            "only a centre's direction counts, but its length divides the gradient: at std 1 centres barely turn at \
             usual learning rates"
        }
        "distance" => "what the margin is measured in",
        "reduction" => {
            "a mean over non-zero losses keeps its size as triplets are solved; a plain mean fades"
        }
        _ => "see the loss's documentation",
    }
}

/// Where a preset's system does not have the loss, or is not known by running it.
fn remark(preset: Preset, loss: LossKind) -> Option<&'static str> {
    match (preset, loss) {
        (Preset::Insightface, LossKind::TripletMarginLoss | LossKind::SphereFaceLoss) => {
            Some("InsightFace's arcface_torch has no such loss: the values are finetuner's")
        }
        (Preset::Insightface, LossKind::SubCenterArcFaceLoss) => {
            Some("the margin's options are those of InsightFace's ArcFace")
        }
        (Preset::Pml3, LossKind::ArcFaceLoss | LossKind::SubCenterArcFaceLoss) => Some(
            "from pytorch-metric-learning 3's documentation; its \"linear continuation\" is taken as the jump rule of \
             version 2",
        ),
        (Preset::Pml3, _) => Some("from pytorch-metric-learning 3's documentation"),
        (Preset::Finetuner, _) => Some(
            "Finetuner's names and defaults; pytorch-metric-learning 2 where it is silent, with shorter centres",
        ),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANGLES: [f64; 6] = [0.0, 30.0, 60.0, 90.0, 150.0, 165.0];

    fn of(loss: LossKind, preset: Preset, against: Option<Preset>) -> Explanation {
        explain(loss, preset, against, &LossOptions::default(), &ANGLES).unwrap()
    }

    #[test]
    fn arcface_of_two_systems() {
        let found = of(LossKind::ArcFaceLoss, Preset::Pml3, Some(Preset::Insightface));
        let differing: Vec<&str> = found.differences.iter().map(|d| d.split(':').next().unwrap()).collect();
        assert_eq!(differing, ["edge", "margin_gradient", "centres start as"]);
        let last = &found.table[5];
        let theta = 165f64.to_radians();
        // pytorch-metric-learning's guard and InsightFace's bare formula: -1.206 and -0.972 before the scale.
        approx::assert_relative_eq!(
            last.values[0],
            64.0 * (theta.cos() - 0.5 * 0.5f64.sin()),
            max_relative = 1e-12
        );
        approx::assert_relative_eq!(last.values[1], 64.0 * (theta + 0.5).cos(), max_relative = 1e-12);
        assert!((last.values[0] / 64.0 + 1.206).abs() < 1e-3 && (last.values[1] / 64.0 + 0.972).abs() < 1e-3);
        // Slopes: sin(theta + m) / sin(theta) below the edge, 1 for straight-through.
        let slopes = &found.table[2].slopes;
        approx::assert_relative_eq!(slopes[0].unwrap() / 64.0, 1.154, max_relative = 1e-3);
        approx::assert_relative_eq!(slopes[1].unwrap(), 64.0, max_relative = 1e-12);
        // At 0 the first is infinite.
        assert_eq!(found.table[0].slopes, [None, Some(64.0)]);
    }

    #[test]
    fn every_loss_and_preset_has_its_table() {
        for loss in LossKind::ALL {
            for preset in Preset::ALL {
                let found = of(loss, preset, None);
                assert!(found.differences.is_empty());
                assert_eq!(found.table.len(), ANGLES.len());
                // The further from its own, the worse; InsightFace's rule turns at the edge.
                let better = |a: &TableRow, b: &TableRow| match loss {
                    LossKind::TripletMarginLoss => a.values[0] <= b.values[0],
                    _ => a.values[0] > b.values[0],
                };
                let falling = found.table.windows(2).all(|pair| better(&pair[0], &pair[1]));
                let turns = preset == Preset::Insightface
                    && matches!(loss, LossKind::ArcFaceLoss | LossKind::SubCenterArcFaceLoss);
                assert_eq!(falling, !turns, "{loss} {preset:?}: {:?}", found.table);
            }
        }
        let psi: Vec<f64> =
            of(LossKind::SphereFaceLoss, Preset::Pml2, None).table.iter().map(|r| r.values[0]).collect();
        for (got, expected) in psi.into_iter().zip([1.0, -0.5, -1.5, -3.0]) {
            approx::assert_abs_diff_eq!(got, expected, epsilon = 1e-9);
        }
        let triplet = of(LossKind::TripletMarginLoss, Preset::Finetuner, Some(Preset::Paper));
        let last = &triplet.table[4];
        let apart = 2.0 * 75f64.to_radians().sin();
        approx::assert_relative_eq!(last.values[0], apart - 2f64.sqrt() + 0.05, max_relative = 1e-5);
        approx::assert_relative_eq!(last.values[1], apart * apart - 2.0 + 0.2, max_relative = 1e-5);
    }

    #[test]
    fn wrong_words_are_named() {
        let ask = |options: &LossOptions, angle: f64| {
            explain(LossKind::ArcFaceLoss, Preset::Paper, None, options, &[angle]).unwrap_err().to_string()
        };
        let plain = LossOptions::default();
        assert!(ask(&plain, 181.0).starts_with("angles = 181: "));
        assert!(ask(&plain, f64::NAN).starts_with("angles = NaN: "));
        let number = LossOptions { margin: Some(0.5.into()), ..LossOptions::default() };
        assert!(ask(&number, 0.0).contains("needs its unit"));
    }
}
