//! `explain` and `advise`: losses before any training.

use std::fmt::Write;

use clap::Args;
use embedtune_train::advice::{Advice, Explanation, Question, Source, advise, explain};
use embedtune_train::losses::{LossKind, LossOptions, Preset};
use embedtune_train::{Error, Result};

use crate::fit::margin;
use crate::{print, print_json};

/// What `explain` and `advise` share.
#[derive(Args)]
struct Loss {
    /// TripletMarginLoss, ArcFaceLoss, CosFaceLoss, SphereFaceLoss or SubCenterArcFaceLoss.
    #[arg(long)]
    loss: String,
    /// Whose defaults: finetuner, pml2, pml3, insightface or paper.
    #[arg(long, default_value = "finetuner")]
    preset: String,
    /// The loss's margin in place of the preset's: "28.6deg" or "0.5rad" for ArcFace, a number for the others.
    #[arg(long, allow_hyphen_values = true)]
    margin: Option<String>,
    /// Factor of the logits in place of the preset's.
    #[arg(long, allow_negative_numbers = true)]
    scale: Option<f64>,
}

impl Loss {
    fn kind(&self) -> Result<LossKind> {
        self.loss.parse().map_err(option)
    }

    fn options(&self) -> Result<LossOptions> {
        Ok(LossOptions { margin: margin(&self.margin)?, scale: self.scale, ..LossOptions::default() })
    }
}

/// A loss's error as an option's.
fn option(error: embedtune_train::losses::Error) -> Error {
    match error {
        embedtune_train::losses::Error::Option { option, value, reason } => {
            Error::option(option, value, reason)
        }
        other => other.into(),
    }
}

fn preset(field: &str, text: &str) -> Result<Preset> {
    Preset::ALL.into_iter().find(|preset| preset.name() == text).ok_or_else(|| {
        let names = Preset::ALL.map(Preset::name).join(", ");
        Error::option(field, text, format!("unknown; write one of {names}"))
    })
}

/// The arguments of `explain`.
#[derive(Args)]
pub(crate) struct Explain {
    #[command(flatten)]
    loss: Loss,
    /// A second preset to set beside it.
    #[arg(long)]
    against: Option<String>,
    /// Angles of the table, in degrees.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "0,10,30,60,90,120,150,165,180",
        allow_hyphen_values = true
    )]
    angles: Vec<f64>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run_explain(args: &Explain) -> Result<()> {
    let against = args.against.as_deref().map(|text| preset("against", text)).transpose()?;
    let own = preset("preset", &args.loss.preset)?;
    let found = explain(args.loss.kind()?, own, against, &args.loss.options()?, &args.angles)?;
    if args.json {
        return print_json(&found);
    }
    print(&explanation(&found))
}

/// Writing to a String cannot fail.
macro_rules! line {
    ($to:expr, $($arg:tt)*) => { let _ = writeln!($to, $($arg)*); };
}

fn explanation(found: &Explanation) -> String {
    let mut text = String::new();
    let names: Vec<&str> = found.sides.iter().map(|side| side.preset).collect();
    line!(text, "{}: {}\n", found.loss, names.join(" against "));
    line!(text, "formula  {}\nsource   {}", found.formula, found.source);
    for side in &found.sides {
        if let Some(remark) = side.remark {
            line!(text, "note     {}: {remark}", side.preset);
        }
    }
    let width = found.parameters.iter().flat_map(|p| &p.values).map(String::len).max().unwrap_or(0).max(12);
    let _ = write!(text, "\n{:<18}", "");
    names.iter().for_each(|name| text += &format!("{name:<width$}  "));
    text.truncate(text.trim_end().len());
    text.push('\n');
    for parameter in &found.parameters {
        let _ = write!(text, "{:<18}", parameter.name);
        parameter.values.iter().for_each(|value| text += &format!("{value:<width$}  "));
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    if found.sides.len() > 1 {
        text += "\ndifferences\n";
        for difference in &found.differences {
            line!(text, "  {difference}");
        }
        if found.differences.is_empty() {
            text += "  none\n";
        }
    }
    line!(text, "\n{}:\n", found.table_is);
    let slopes = found.table.iter().any(|row| !row.slopes.is_empty());
    let _ = write!(text, "{:>7}", "angle");
    names.iter().for_each(|name| text += &format!(" {name:>12}"));
    if slopes {
        names.iter().for_each(|name| text += &format!(" {:>18}", format!("slope {name}")));
    }
    text.push('\n');
    for row in &found.table {
        let _ = write!(text, "{:>7}", row.angle);
        row.values.iter().for_each(|value| text += &format!(" {value:>12.4}"));
        for slope in &row.slopes {
            let _ = match slope {
                Some(slope) => write!(text, " {slope:>18.4}"),
                None => write!(text, " {:>18}", "-"),
            };
        }
        text.push('\n');
    }
    text
}

/// The arguments of `advise`.
#[derive(Args)]
pub(crate) struct Advise {
    #[command(flatten)]
    loss: Loss,
    /// Classes.
    #[arg(long)]
    classes: usize,
    /// Length of the embeddings.
    #[arg(long)]
    dim: usize,
    /// Probability that an item at its own centre should reach.
    #[arg(long, default_value_t = 0.99, allow_negative_numbers = true)]
    probability: f64,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run_advise(args: &Advise) -> Result<()> {
    let mut options = args.loss.options()?;
    // Left open, it stays open: the scale that training would choose is part of the answer.
    options.preset = Some(preset("preset", &args.loss.preset)?).filter(|preset| *preset != Preset::default());
    let question = Question {
        loss: args.loss.kind()?,
        options,
        classes: args.classes,
        dim: args.dim,
        probability: args.probability,
    };
    let advice = advise(&question)?;
    if args.json {
        print_json(&advice)?;
    } else {
        print(&words(&advice))?;
    }
    advice.check()
}

fn words(advice: &Advice) -> String {
    let mut text = String::new();
    let unit = advice.unit;
    line!(text, "{}, {} classes in {} dimensions\n", advice.loss, advice.classes, advice.dim);
    line!(text, "centres apart      {:.3} degrees at best", advice.separation);
    if !advice.source.exact() {
        let [least, most] = advice.separation_bounds;
        line!(text, "                   between {least:.3} (certain) and {most:.3} (the most)");
    }
    line!(text, "                   {}", advice.derivation);
    match advice.largest_margin {
        Some(largest) => {
            let estimate = if advice.source.exact() { "" } else { ", an estimate" };
            line!(text, "largest margin     {largest:.4} {unit}{estimate}");
        }
        None => {
            line!(text, "largest margin     no bound: an item at its centre meets any");
        }
    }
    let verdict = match (advice.feasible, advice.source.exact()) {
        (true, true) => "can be met",
        (true, false) => "can be met, by the estimate",
        (false, true) => "cannot be met",
        (false, false) => "cannot be met, by the estimate",
    };
    line!(text, "margin             {:.4} {unit}: {verdict}", advice.margin);
    if let Some(room) = advice.room {
        line!(text, "room               {room:.3} degrees off its centre towards the nearest other");
    }
    let bound = if matches!(advice.source, Source::Simplex | Source::Circle) { "" } else { " at most" };
    let at = advice.probability;
    match (advice.needed_scale, advice.plain_scale) {
        (Some(needed), _) => {
            line!(text, "needed scale       {needed:.2}{bound}, for probability {at} at the centre");
        }
        (None, Some(plain)) => {
            line!(
                text,
                "needed scale       none is enough for this margin; without one {plain:.2}{bound}, for probability {at}"
            );
        }
        (None, None) => {}
    }
    if let Some(default) = advice.default_scale {
        line!(text, "scale in training  {default}");
        if advice.needed_scale.is_some_and(|needed| needed > default) {
            line!(
                text,
                "                   below the needed one: write scale = {:.1}",
                advice.needed_scale.unwrap_or(default)
            );
        }
    }
    match advice.smallest_dim {
        Some(dim) => {
            line!(text, "dimensions         {dim} or more leave room for this margin");
        }
        None => {
            line!(text, "dimensions         none leaves room for this margin");
        }
    }
    text
}
