//! What a command says at its end: figures in a table, what was learnt, where the files are, what to try next.

use std::fmt::Write;
use std::io::IsTerminal;
use std::path::Path;

use embedtune_train::run::{Comparison, EpochRecord, Quality, Report, RunOptions};

/// A rise of Recall@1 over the last epoch that promises more.
const RISING: f64 = 0.002;

/// Bold and faint text where standard output is a terminal that wants it (<https://no-color.org>).
#[derive(Debug, Clone, Copy)]
struct Style(bool);

impl Style {
    fn detect() -> Self {
        let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
            || std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Self(std::io::stdout().is_terminal() && !unwanted)
    }

    fn bold(self, text: &str) -> String {
        if self.0 { format!("\x1b[1m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn faint(self, text: &str) -> String {
        if self.0 { format!("\x1b[2m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// A row of figures, bold where it is the best.
fn row(style: Style, best: bool, line: &str) -> String {
    if best { style.bold(line) } else { line.to_owned() }
}

/// The end of `fit`.
pub(crate) fn fit(report: &Report, records: &[EpochRecord], options: &RunOptions, folder: &Path) -> String {
    let style = Style::detect();
    let mut text = style.bold(&format!(
        "{}, {} epoch{}, {:.1} s of training\n",
        report.loss,
        report.epochs,
        if report.epochs == 1 { "" } else { "s" },
        report.seconds
    ));
    text += &style.faint(&format!("{:<12} {:>9} {:>8}\n", "", "Recall@1", "MAP@R"));
    let best = [report.raw, report.untrained, report.tuned].iter().map(|q| q.recall_at_1).fold(0.0, f64::max);
    let before = before(report.init_from.as_deref());
    for (name, quality) in [("raw", report.raw), (before, report.untrained), ("tuned", report.tuned)] {
        let line = format!("{name:<12} {:>9.4} {:>8.4}\n", quality.recall_at_1, quality.map_at_r);
        text += &row(style, quality.recall_at_1 == best, &line);
    }
    let run = folder.display();
    let stopped = stopped(report, options);
    if let Some(why) = &stopped {
        let _ = write!(text, "\n{} {why}", style.bold("Stopped"));
    }
    let _ = write!(
        text,
        "\n{}  {}\n{}   {run}/report.html  open it in a browser\n         {run}/model.safetensors, run.toml, metrics.jsonl\n{}    {}\n",
        style.bold("Learnt"),
        learnt("the tuned embeddings", &report.tuned, &report.raw),
        style.bold("Files"),
        style.bold("Next"),
        next(report, records, stopped.is_some(), folder)
    );
    text
}

/// Where early stopping ended the run, and by what; `None` where it did not.
fn stopped(report: &Report, options: &RunOptions) -> Option<String> {
    let callbacks = &options.callbacks;
    let patience = callbacks.patience.filter(|_| report.epochs < options.epochs)?;
    let least = if callbacks.min_delta > 0.0 {
        format!(" by more than {}", callbacks.min_delta)
    } else {
        String::new()
    };
    Some(format!(
        "after epoch {} of {}: {} did not improve{least} in {patience} measured epoch{} (patience)",
        report.epochs,
        options.epochs,
        callbacks.monitor,
        if patience == 1 { "" } else { "s" },
    ))
}

/// The end of `compare`.
pub(crate) fn compare(comparison: &Comparison, folder: &Path, data: Option<&Path>) -> String {
    let style = Style::detect();
    let mut text = style.faint(&format!(
        "\n{:<20} {:>9} {:>8} {:>10} {:>9} {:>6}\n",
        "", "Recall@1", "MAP@R", "1-NN acc.", "seconds", "GeM p"
    ));
    let best = comparison.variants.iter().map(|v| v.quality.recall_at_1).fold(0.0, f64::max);
    for variant in &comparison.variants {
        let quality = &variant.quality;
        let p = variant.gem_p.map_or("-".to_owned(), |p| format!("{p:.2}"));
        let line = format!(
            "{:<20} {:>9.4} {:>8.4} {:>10.4} {:>9.1} {p:>6}\n",
            variant.name, quality.recall_at_1, quality.map_at_r, quality.one_nn_accuracy, variant.seconds
        );
        text += &row(style, quality.recall_at_1 == best, &line);
    }
    let raw = comparison.variants.iter().find(|v| v.name == "raw");
    let trained = comparison.variants.iter().filter(|v| v.name != "raw" && v.name != "untrained");
    let winner = trained.fold(None, |best: Option<&_>, next| {
        best.filter(|best: &&embedtune_train::run::Variant| {
            best.quality.recall_at_1 >= next.quality.recall_at_1
        })
        .or(Some(next))
    });
    let (Some(raw), Some(winner)) = (raw, winner) else { return text };
    let out = folder.display();
    let data = data.map_or(String::new(), |data| format!(" --data {}", data.display()));
    let _ = write!(
        text,
        "\n{}  {}\n{}   {out}/report.html  open it in a browser\n         {out}/figure.svg, figure.png, summary.json\n         \
         {out}/<loss>/model.safetensors\n{}    embedtune fit{data} --loss {}   train it for longer, with options of your own\n",
        style.bold("Learnt"),
        learnt(&winner.name, &winner.quality, &raw.quality),
        style.bold("Files"),
        style.bold("Next"),
        winner.name,
    );
    text
}

fn learnt(who: &str, tuned: &Quality, raw: &Quality) -> String {
    let points = (tuned.recall_at_1 - raw.recall_at_1) * 100.0;
    let direction = if points >= 0.0 { "more" } else { "fewer" };
    format!(
        "{who}: Recall@1 {:.4}, {:.1} points {direction} than the raw vectors ({:.4})",
        tuned.recall_at_1,
        points.abs(),
        raw.recall_at_1
    )
}

/// One command, and why.
fn next(report: &Report, records: &[EpochRecord], stopped: bool, folder: &Path) -> String {
    let run = folder.display();
    let recall: Vec<f64> = records
        .iter()
        .filter(|record| record.epoch > 0)
        .filter_map(|record| Some(record.validation.or(record.metrics)?.recall_at_1))
        .collect();
    let rising = recall.len() > 1 && recall[recall.len() - 1] > recall[recall.len() - 2] + RISING;
    if report.tuned.recall_at_1 < report.raw.recall_at_1 {
        "the raw vectors retrieve better: try more --epochs, or a lower --learning-rate".to_owned()
    } else if rising && !stopped {
        format!("--epochs {}: Recall@1 was still rising", report.epochs * 2)
    } else if report.best_epoch > 0 && report.best_epoch < report.epochs && !stopped {
        format!("--epochs {}: Recall@1 was best after that epoch", report.best_epoch)
    } else {
        format!("embedtune search --run {run} --query 0   what an item finds")
    }
}

/// What the encoder that training started from is called.
pub(crate) fn before(init_from: Option<&str>) -> &'static str {
    if init_from.is_some() { "before" } else { "untrained" }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quality(recall_at_1: f64) -> Quality {
        Quality { recall_at_1, ..Quality::default() }
    }

    #[test]
    fn the_next_step_follows_from_the_figures() {
        let advice = |raw: f64, recalls: &[f64]| {
            let records: Vec<EpochRecord> = recalls
                .iter()
                .enumerate()
                .map(|(i, &r)| EpochRecord {
                    epoch: i + 1,
                    metrics: Some(quality(r)),
                    ..EpochRecord::default()
                })
                .collect();
            let best = (0..recalls.len()).max_by(|&a, &b| recalls[a].total_cmp(&recalls[b])).unwrap() + 1;
            let report = Report {
                loss: "ArcFaceLoss".to_owned(),
                epochs: recalls.len(),
                seconds: 1.0,
                raw: quality(raw),
                untrained: quality(0.1),
                init_from: None,
                tuned: quality(recalls[recalls.len() - 1]),
                best_epoch: best,
                gem_p: None,
            };
            let next = |stopped| next(&report, &records, stopped, Path::new("R"));
            assert!(!next(true).contains("Recall@1 was"), "early stopping has decided that");
            next(false)
        };
        assert!(advice(0.5, &[0.3, 0.4]).contains("raw vectors retrieve better"));
        assert_eq!(advice(0.2, &[0.3, 0.4]), "--epochs 4: Recall@1 was still rising");
        assert_eq!(advice(0.2, &[0.3, 0.4, 0.35]), "--epochs 2: Recall@1 was best after that epoch");
        assert!(advice(0.2, &[0.3, 0.4, 0.4005]).starts_with("embedtune search --run R"));
    }
}
