//! What a command says at its end: figures in a table, what was learnt, where the files are, what to try next.

use std::io::IsTerminal;
use std::path::Path;

use embedtune_train::io;
use embedtune_train::run::{Comparison, EpochRecord, Quality, Report, RunOptions, Variant};

use crate::columns::cell;
use crate::report::Confused;
use crate::standing;

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

/// A figure in its column, bold where it is the best; the spaces before it are not.
fn figure(style: Style, value: f64, best: bool, columns: usize) -> String {
    let text = format!("{value:.4}");
    let before = " ".repeat(columns.saturating_sub(text.len()));
    if best { before + &style.bold(&text) } else { before + &text }
}

/// Figures of some qualities in a column, the best of them bold.
fn column(style: Style, of: &[Quality], columns: usize, value: fn(&Quality) -> f64) -> Vec<String> {
    let values: Vec<f64> = of.iter().map(value).collect();
    let best = standing::best(&values);
    values.iter().zip(best).map(|(&value, best)| figure(style, value, best, columns)).collect()
}

/// Columns of a class's name.
const NAME: usize = 30;

/// The classes that are taken for each other most, in words.
fn confused(of: &Confused) -> String {
    format!(
        "taken for another most often: {} for {}, {} of {} queries",
        cell(&of.own, NAME),
        cell(&of.found, NAME),
        of.times,
        of.queries
    )
}

/// Columns of the words that begin a line of the end, and of what continues it.
const WORD: usize = 8;

/// What the end says under each word, a line or more.
fn paragraphs(style: Style, of: &[(&str, &[String])]) -> String {
    let mut text = String::new();
    for (word, lines) in of {
        for (at, line) in lines.iter().enumerate() {
            let word = if at == 0 { *word } else { "" };
            let after = " ".repeat(WORD.saturating_sub(word.len()));
            // An empty word must not become an escape sequence.
            let word = if word.is_empty() { String::new() } else { style.bold(word) };
            text += &format!("{word}{after}{line}\n");
        }
    }
    text
}

/// The end of `fit`. `confusion`: what the page found, where it has just been written.
pub(crate) fn fit(
    report: &Report,
    records: &[EpochRecord],
    options: &RunOptions,
    folder: &Path,
    confusion: Option<&Confused>,
) -> String {
    let style = Style::detect();
    let mut text = style.bold(&format!(
        "{}, {} epoch{}, {:.1} s of training\n",
        report.loss,
        report.epochs,
        if report.epochs == 1 { "" } else { "s" },
        report.seconds
    ));
    text += &style.faint(&format!("{:<12} {:>9} {:>8}\n", "", "Recall@1", "MAP@R"));
    let all = [report.raw, report.untrained, report.tuned];
    let recall = column(style, &all, 9, |q| q.recall_at_1);
    let map = column(style, &all, 8, |q| q.map_at_r);
    let names = ["raw", before(report.init_from.as_deref()), "tuned"];
    for (name, (recall, map)) in names.iter().zip(recall.iter().zip(&map)) {
        text += &format!("{name:<12} {recall} {map}\n");
    }
    let run = folder.display();
    let stopped = stopped(report, options);
    text.push('\n');
    if let Some(why) = &stopped {
        text += &paragraphs(style, &[("Stopped", std::slice::from_ref(why))]);
    }
    let mut lines = vec![learnt("the tuned embeddings", &report.tuned, &report.raw)];
    lines.extend(confusion.map(confused));
    text += &paragraphs(
        style,
        &[
            ("Learnt", &lines),
            (
                "Files",
                &[
                    format!("{run}/report.html  open it in a browser"),
                    format!("{run}/model.safetensors, run.toml, metrics.jsonl"),
                ],
            ),
            ("Next", &[next(report, records, (stopped.is_some(), options.callbacks.best_model), folder)]),
        ],
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

/// The end of `compare`. `confusion` is that of the loss that retrieves best, `concluded` what several seeds say.
pub(crate) fn compare(
    comparison: &Comparison,
    folder: &Path,
    data: Option<&Path>,
    confusion: Option<&Confused>,
    concluded: Vec<String>,
) -> String {
    let style = Style::detect();
    let mut text = style.faint(&format!(
        "\n{:<20} {:>9} {:>8} {:>10} {:>9} {:>6}\n",
        "", "Recall@1", "MAP@R", "1-NN acc.", "seconds", "GeM p"
    ));
    let all: Vec<Quality> = comparison.variants.iter().map(|variant| variant.quality).collect();
    let recall = column(style, &all, 9, |q| q.recall_at_1);
    let map = column(style, &all, 8, |q| q.map_at_r);
    let nearest = column(style, &all, 10, |q| q.one_nn_accuracy);
    for (at, variant) in comparison.variants.iter().enumerate() {
        let p = variant.gem_p.map_or("-".to_owned(), |p| format!("{p:.2}"));
        let figures = [&recall[at], &map[at], &nearest[at]].map(String::as_str).join(" ");
        text += &format!("{:<20} {figures} {:>9.1} {p:>6}\n", variant.name, variant.seconds);
    }
    let raw = comparison.variants.iter().find(|v| v.name == "raw");
    let trained: Vec<(&Variant, f64)> = comparison
        .variants
        .iter()
        .filter(|variant| variant.name != "raw" && variant.name != "untrained")
        .map(|variant| (variant, variant.quality.recall_at_1))
        .collect();
    let winners = standing::first(&trained);
    let (Some(raw), Some(winner)) = (raw, winners.first()) else { return text };
    let names: Vec<&str> = winners.iter().map(|variant| variant.name.as_str()).collect();
    let who = standing::listed(&names) + if names.len() > 1 { " tie" } else { "" };
    let mut lines = vec![learnt(&who, &winner.quality, &raw.quality)];
    lines.extend(confusion.map(confused));
    lines.extend(concluded);
    let out = folder.display();
    let data = data.map_or(String::new(), |data| format!(" --data {}", io::shell_word(data)));
    text.push('\n');
    text += &paragraphs(
        style,
        &[
            ("Learnt", &lines),
            (
                "Files",
                &[
                    format!("{out}/report.html  open it in a browser"),
                    format!("{out}/figure.svg, figure.png, summary.json"),
                    format!("{out}/<loss>/model.safetensors"),
                ],
            ),
            (
                "Next",
                &[format!(
                    "embedtune fit{data} --loss {}   train it for longer, with options of your own",
                    winner.name
                )],
            ),
        ],
    );
    text
}

fn learnt(who: &str, tuned: &Quality, raw: &Quality) -> String {
    let points = (tuned.recall_at_1 - raw.recall_at_1) * 100.0;
    let change = match points {
        p if p >= 0.05 => format!("{p:.1} points above"),
        p if p <= -0.05 => format!("{:.1} points below", -p),
        _ => "the same as".to_owned(),
    };
    format!("{who}: Recall@1 {:.4}, {change} the raw vectors ({:.4})", tuned.recall_at_1, raw.recall_at_1)
}

/// One command, and why.
/// `stopped`: the run ended early; `chosen`: it kept its best epoch, and a better one than the last is no news.
fn next(report: &Report, records: &[EpochRecord], (stopped, chosen): (bool, bool), folder: &Path) -> String {
    let run = io::shell_word(folder);
    let recall: Vec<f64> = records
        .iter()
        .filter(|record| record.epoch > 0)
        .filter_map(|record| Some(record.validation.or(record.metrics)?.recall_at_1))
        .collect();
    let (last, before) = recall.split_last().map_or((0.0, [].as_slice()), |(last, before)| (*last, before));
    let rising = !before.is_empty() && before.iter().all(|before| last > before + RISING);
    if report.tuned.recall_at_1 < report.raw.recall_at_1 {
        "the raw vectors retrieve better: try more --epochs, or a lower --learning-rate".to_owned()
    } else if rising && !stopped {
        format!("--epochs {}: Recall@1 was still rising", report.epochs * 2)
    } else if report.best_epoch > 0 && report.best_epoch < report.epochs && !stopped && !chosen {
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
    use embedtune_train::run::Kept;

    use super::*;

    fn quality(recall_at_1: f64) -> Quality {
        Quality { recall_at_1, ..Quality::default() }
    }

    #[test]
    fn the_best_figure_alone_is_bold_and_columns_line_up() {
        let of = |values: [f64; 3]| column(Style(true), &values.map(quality), 9, |q| q.recall_at_1);
        let [plain, bold] = ["   0.7500".to_owned(), "   \x1b[1m0.7500\x1b[0m".to_owned()];
        assert_eq!(of([0.5, 0.75, 0.25])[..2], ["   0.5000".to_owned(), bold.clone()]);
        assert_eq!(of([0.5, 0.75, 0.75])[1..], [bold.clone(), bold]);
        assert_eq!(of([0.75; 3]), [plain.clone(), plain.clone(), plain]);
        let lines = ["a".to_owned(), "b".to_owned()];
        let said = paragraphs(Style(true), &[("Files", &lines), ("Stopped", &lines[..1])]);
        assert_eq!(said, "\x1b[1mFiles\x1b[0m   a\n        b\n\x1b[1mStopped\x1b[0m a\n");
    }

    #[test]
    fn confusions_read_well() {
        let of = Confused { own: "Shirt\n".to_owned(), found: "x".repeat(100), times: 3, queries: 10 };
        let expected =
            format!("taken for another most often: Shirt  for {}…, 3 of 10 queries", "x".repeat(29));
        assert_eq!(confused(&of), expected);
    }

    #[test]
    fn differences_read_well() {
        for (tuned, words) in [
            (0.6004, "Recall@1 0.6004, the same as the raw vectors (0.6000)"),
            (0.7, "Recall@1 0.7000, 10.0 points above the raw vectors (0.6000)"),
            (0.55, "Recall@1 0.5500, 5.0 points below the raw vectors (0.6000)"),
        ] {
            assert_eq!(learnt("it", &quality(tuned), &quality(0.6)), format!("it: {words}"));
        }
    }

    #[test]
    fn the_next_step_follows_from_the_figures() {
        let of = |raw: f64, recalls: &[f64], kept: Option<f64>| {
            let mut records: Vec<EpochRecord> = recalls
                .iter()
                .enumerate()
                .map(|(i, &r)| EpochRecord {
                    epoch: i + 1,
                    metrics: Some(quality(r)),
                    ..EpochRecord::default()
                })
                .collect();
            let chosen = kept.is_some();
            let kept = kept.map(|recall| Kept {
                metrics: quality(recall),
                validation: None,
                figures: Default::default(),
                gem_p: None,
            });
            records.last_mut().unwrap().kept = kept.clone();
            let best = (0..recalls.len()).max_by(|&a, &b| recalls[a].total_cmp(&recalls[b])).unwrap() + 1;
            let report = Report {
                loss: "ArcFaceLoss".to_owned(),
                epochs: recalls.len(),
                seconds: 1.0,
                raw: quality(raw),
                untrained: quality(0.1),
                init_from: None,
                tuned: kept.map_or(quality(recalls[recalls.len() - 1]), |kept| kept.metrics),
                best_epoch: best,
                gem_p: None,
            };
            let next = |stopped| next(&report, &records, (stopped, chosen), Path::new("R"));
            assert!(!next(true).contains("Recall@1 was"), "early stopping has decided that");
            next(false)
        };
        let advice = |raw: f64, recalls: &[f64]| of(raw, recalls, None);
        assert!(advice(0.5, &[0.3, 0.4]).contains("raw vectors retrieve better"));
        assert_eq!(advice(0.2, &[0.3, 0.4]), "--epochs 4: Recall@1 was still rising");
        assert_eq!(advice(0.2, &[0.3, 0.4, 0.35]), "--epochs 2: Recall@1 was best after that epoch");
        assert!(advice(0.2, &[0.3, 0.4, 0.4005]).starts_with("embedtune search --run R"));
        assert_eq!(advice(0.2, &[0.7, 0.5, 0.6]), "--epochs 1: Recall@1 was best after that epoch");
        assert!(of(0.2, &[0.7, 0.5, 0.6], Some(0.7)).starts_with("embedtune search --run R"));
        assert_eq!(of(0.2, &[0.5, 0.6], Some(0.6)), "--epochs 4: Recall@1 was still rising");
    }
}
