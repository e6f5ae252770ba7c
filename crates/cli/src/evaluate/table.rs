//! What `evaluate` prints for people.

use std::fmt::Write;

use embedtune_train::retrieval::Measure;

use super::args::{Distance, Evaluate, Shown};
use super::measure::{Measured, Verification};
use crate::columns::{cell, counted, padded, width};

/// Columns of a class's name.
const NAME: usize = 40;

/// A name for each column of figures, and the figures.
pub(super) type Columns<'a> = [(&'static str, &'a Measured)];

/// One row for each figure, one column for each set of vectors; then what else was asked for.
/// `gallery` is the number of items that are searched where they are not the queries.
pub(super) fn table(
    args: &Evaluate,
    (items, classes, gallery): (usize, usize, Option<usize>),
    columns: &Columns<'_>,
) -> String {
    let classes = counted(classes, "class", "classes");
    let mut text = match gallery {
        None => format!("{} of {classes}", counted(items, "item", "items")),
        Some(searched) => format!(
            "{} of {classes}, each in a gallery of {}",
            counted(items, "query", "queries"),
            counted(searched, "item", "items")
        ),
    };
    if let Some((_, first)) = columns.first().filter(|(_, first)| first.queries_without_match > 0) {
        let (left, one) = (first.queries_without_match, first.queries_without_match == 1);
        let (have, its, are) = if one { ("has", "its", "is") } else { ("have", "their", "are") };
        let _ = write!(text, "; {left} {have} no other item of {its} class and {are} left out");
    }
    let rows = rows(args, columns);
    let width = rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    let intervals = args.bootstrap.is_some();
    let cell = if intervals { 24 } else { 8 };
    let _ = write!(text, "\n\n{:<width$}", "");
    for (name, _) in columns {
        let _ = write!(text, "  {name:>cell$}");
    }
    text.push('\n');
    for (name, cells) in &rows {
        let _ = write!(text, "{name:<width$}");
        for value in cells {
            let _ = write!(text, "  {value:>cell$}");
        }
        text.push('\n');
    }
    if intervals {
        let _ = writeln!(text, "[..]: 95% confidence intervals, {} resamples", args.bootstrap.unwrap_or(0));
    }
    for (name, measured) in columns {
        if let Some(verification) = &measured.verification {
            calibration(&mut text, name, verification, args.distance);
        }
    }
    if let Some((name, measured)) = columns.last().filter(|_| args.per_class) {
        per_class(&mut text, name, measured, args.metrics.is_empty());
    }
    text
}

fn rows(args: &Evaluate, columns: &Columns<'_>) -> Vec<(String, Vec<String>)> {
    let Some((_, first)) = columns.first() else { return Vec::new() };
    let mut rows: Vec<(String, Vec<String>)> = Vec::new();
    for (row, &(measure, _)) in first.means.iter().enumerate() {
        let cells = columns.iter().map(|(_, measured)| {
            let mean = measured.means.get(row).map_or(f64::NAN, |&(_, mean)| mean);
            match measured.intervals.iter().find(|(of, _)| *of == measure) {
                Some((_, interval)) => format!("{mean:.4} [{:.4}, {:.4}]", interval.low, interval.high),
                None => format!("{mean:.4}"),
            }
        });
        rows.push((name(measure), cells.collect()));
    }
    for (shown, name) in [(Shown::Nmi, "NMI of k-means"), (Shown::Ami, "AMI of k-means")] {
        if args.shows(shown) {
            let found = columns.iter().filter_map(|(_, measured)| measured.clustering.as_ref());
            // Where they differ, as lengths of raw and tuned vectors may, the column that has most is meant.
            let starts = found.clone().map(|found| found.starts).max().unwrap_or(1);
            let cells = found.map(|found| {
                let agreement = found.agreement;
                format!("{:.4}", if shown == Shown::Nmi { agreement.nmi } else { agreement.ami })
            });
            let of = if starts > 1 { format!(", best of {starts} starts") } else { String::new() };
            rows.push((format!("{name}{of}"), cells.collect()));
        }
    }
    rows
}

/// Both vocabularies where they differ.
fn name(measure: Measure) -> String {
    match measure {
        Measure::Hit(k) => format!("hit@{k} (metric learning: Recall@{k})"),
        Measure::Recall(k) => format!("recall@{k} (share of relevant items found)"),
        other => other.to_string(),
    }
}

fn calibration(text: &mut String, name: &str, found: &Verification, distance: Distance) {
    // What is accepted as a pair of one class.
    let accepts = if distance == Distance::L2 { "distance up to" } else { "similarity from" };
    let _ = write!(
        text,
        "\n{name}: {} of one class, {} of two; AUC {:.4}, EER {:.4} at threshold {:.6}\n{:>12}  {:>12}  {:>8}  \
         {:>15}\n",
        counted(found.pairs_of_one_class as usize, "pair", "pairs"),
        found.pairs_of_two,
        found.auc,
        found.eer,
        found.eer_threshold,
        "FAR at most",
        "FAR",
        "TAR",
        accepts
    );
    for at in &found.at_far {
        let _ = match (at.far, at.tar, at.threshold) {
            (Some(far), Some(tar), Some(threshold)) => {
                writeln!(text, "{:>12}  {far:>12.6}  {tar:>8.4}  {threshold:>15.6}", at.wanted)
            }
            _ => writeln!(text, "{:>12}  no threshold accepts so few pairs of two classes", at.wanted),
        };
    }
}

/// The worst classes first. `few`: those measures alone that are read most, which fit beside each other.
fn per_class(text: &mut String, name: &str, measured: &Measured, few: bool) {
    let Some(first) = measured.per_class.first() else { return };
    let shown =
        |measure: Measure| !few || matches!(measure, Measure::Hit(_) | Measure::RPrecision | Measure::MapAtR);
    let label = |class: &str| cell(class, NAME);
    let widest = measured.per_class.iter().map(|class| width(&label(&class.class))).max().unwrap_or(0).max(5);
    let head = padded("class", widest);
    let _ = write!(text, "\n{name}, by class, the worst first\n{head}  {:>7}", "queries");
    for (measure, _) in first.means.iter().filter(|(measure, _)| shown(*measure)) {
        let _ = write!(text, "  {:>12}", measure.to_string());
    }
    text.push('\n');
    let mut classes: Vec<_> = measured.per_class.iter().collect();
    let rank = |means: &[(Measure, f64)]| means.iter().map(|(_, mean)| mean).sum::<f64>();
    classes.sort_by(|a, b| rank(&a.means).total_cmp(&rank(&b.means)));
    for class in classes {
        let _ = write!(text, "{}  {:>7}", padded(&label(&class.class), widest), class.queries);
        for (_, mean) in class.means.iter().filter(|(measure, _)| shown(*measure)) {
            let _ = write!(text, "  {mean:>12.4}");
        }
        text.push('\n');
    }
    if few {
        text.push_str("(--metrics chooses others, --json gives all)\n");
    }
}
