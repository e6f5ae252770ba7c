//! `embedtune compare`.

use std::path::Path;

use embedtune_train::data::{DataOptions, Split};
use embedtune_train::losses::LossKind;
use embedtune_train::run::{CompareOptions, Comparison, RunFolder, compare};
use embedtune_train::{Error, Result, io};
use serde_json::Value;

use crate::args::Compare;
use crate::claims::{Findings, Focus};
use crate::columns::counted;
use crate::figure::{Drawn, Panel, Picture, Projection};
use crate::line::Progress;
use crate::source::Source;
use crate::vectors::Vectors;
use crate::watch::Watch;
use crate::work::Work;
use crate::{Stop, print, print_json, report, say, summary};

/// Epochs on the built-in data: three losses take about a minute and a half on two cores.
const GLYPH_EPOCHS: usize = 10;

/// Most seeds: beyond it the table of t has no more to say.
const MOST_SEEDS: usize = 20;

pub(crate) fn run(args: &Compare, quiet: bool, progress: Progress, stop: &Stop) -> Result<()> {
    if args.seeds == 0 || args.seeds > MOST_SEEDS {
        return Err(Error::option("seeds", args.seeds, format!("compare with 1 to {MOST_SEEDS} seeds")));
    }
    for (name, items) in [("train-items", args.train_items), ("test-items", args.test_items)] {
        if items.is_some_and(|items| items < 2) {
            return Err(Error::option(name, items.unwrap_or(0), "write 2 or more, or leave it out for all"));
        }
    }
    let source = Source::new(args.data.as_deref(), args.seed)?.limited(args.train_items, args.test_items);
    let split = source.load(&DataOptions::default())?;
    let focus = Focus::new(&args.focus, &split.queries)?;
    let mut options = CompareOptions::for_data(&split);
    if source.is_built_in() {
        options.run.epochs = GLYPH_EPOCHS;
    }
    options.run.epochs = args.epochs.unwrap_or(options.run.epochs);
    options.run.batch_size = args.batch_size;
    options.run.seed = args.seed;
    options.source = source.describe();
    options.data_folder = source.folder().map(Path::to_path_buf);
    let least = 2 * options.run.num_items_per_class;
    if args.batch_size < least {
        let remedy = format!(
            "the triplet loss takes {} items of each of at least 2 classes; write {least} or more",
            options.run.num_items_per_class
        );
        return Err(Error::option("batch_size", args.batch_size, remedy));
    }
    options.run.check()?;
    options.stop = Some(stop.asked.clone());
    options.folder = Some(args.out.clone());
    check_folder(&args.out)?;
    std::fs::create_dir_all(&args.out).map_err(Error::io(&args.out, "creating the folder"))?;
    let result = compare_in(args, &source, &split, focus, &options, quiet, progress, stop);
    if result.is_err() {
        // Only a folder that nothing was written to goes: others are not empty.
        let _ = std::fs::remove_dir(&args.out);
    }
    result
}

/// Refuses a folder that holds anything but an earlier comparison: a run or somebody's files.
fn check_folder(folder: &Path) -> Result<()> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Ok(()) };
    for entry in entries {
        let entry = entry.map_err(Error::io(folder, "reading"))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let own = ["summary.json", "figure.svg", "figure.png", "report.html"].contains(&name.as_str())
            || name.starts_with("seed-")
            || LossKind::ALL.iter().any(|loss| loss.name() == name)
            || io::is_temporary(&name);
        if !own {
            let remedy = format!("the folder holds `{name}`, which no comparison writes; name another");
            return Err(Error::option("out", folder.display(), remedy));
        }
    }
    Ok(())
}

fn compare_in(
    args: &Compare,
    source: &Source,
    split: &Split,
    focus: Option<Focus>,
    options: &CompareOptions,
    quiet: bool,
    progress: Progress,
    stop: &Stop,
) -> Result<()> {
    let [svg, png] = ["figure.svg", "figure.png"].map(|name| args.out.join(name));
    for old in [&svg, &png, &report::path(&args.out)] {
        io::remove(old)?;
    }
    if !quiet {
        say(&format!(
            "{}: {} of {} to train on; {} to measure on",
            source.describe(),
            counted(split.train.labels.len(), "item", "items"),
            counted(split.train.classes.len(), "class", "classes"),
            counted(split.queries.labels.len(), "item", "items")
        ));
    }
    let interrupted = |error: &Error| {
        if matches!(error, Error::Interrupted { .. }) {
            say("note: no summary is written; `compare` starts over when it is run again");
        }
    };
    let partial = |error: &Error| {
        if matches!(error, Error::Interrupted { .. }) {
            say("note: summary.json and the picture are those of the first seed; no report is written");
        }
    };
    let mut watch = Watch::new(quiet, progress, stop);
    let comparison = compare(split, options, &mut watch).inspect_err(interrupted)?;
    let drawn = draw(&comparison, args.projection)?;
    io::write_atomically(&svg, drawn.svg.as_bytes())?;
    io::write_atomically(&png, &drawn.png)?;
    let findings = if args.seeds > 1 {
        let findings = further_seeds(args, options, split, focus, &mut watch, quiet).inspect_err(partial)?;
        add_to_summary(&args.out, &findings)?;
        Some(findings)
    } else {
        None
    };
    if !quiet {
        say("writing the report");
    }
    let confused = report::write(&args.out, split, args.projection, &Work::new(quiet, progress))?;
    if args.json {
        return match &findings {
            Some(_) => print_json(&read_summary(&args.out)?),
            None => print(&comparison.to_json()?),
        };
    }
    // What to read last stands last.
    let concluded = match &findings {
        Some(findings) => {
            print(&findings.table())?;
            findings.concluded()
        }
        None => Vec::new(),
    };
    print(&summary::compare(&comparison, &args.out, args.data.as_deref(), confused.as_ref(), concluded))
}

/// Compares with the other seeds, each in a folder of its own, and measures the separation of all.
fn further_seeds(
    args: &Compare,
    options: &CompareOptions,
    split: &Split,
    focus: Option<Focus>,
    watch: &mut Watch,
    quiet: bool,
) -> Result<Findings> {
    let setting = format!(
        "{} training and {} evaluation items, {} epoch{}, batches of {}",
        split.train.labels.len(),
        split.queries.labels.len(),
        options.run.epochs,
        if options.run.epochs == 1 { "" } else { "s" },
        options.run.batch_size
    );
    let raw = Vectors::raw(split)?;
    let focus = focus.or_else(|| Focus::hardest(raw.queries.view(), &split.queries));
    let mut findings = Findings::new(focus, setting);
    for seed in (args.seed..).take(args.seeds) {
        let mut options = options.clone();
        options.run.seed = seed;
        if seed != args.seed {
            options.folder = Some(args.out.join(format!("seed-{seed}")));
            if !quiet {
                say(&format!("seed {seed}"));
            }
            compare(split, &options, watch)?;
        }
        findings.begin(seed);
        let Some(folder) = &options.folder else { continue };
        let runs: Vec<_> =
            options.losses.iter().map(|(loss, _)| (loss.name(), folder.join(loss.name()))).collect();
        findings.add("raw", &raw, split)?;
        if let Some((_, first)) = runs.first() {
            let run = RunFolder::new(first).read_run_file()?;
            findings.add("untrained", &Vectors::untrained(&run, split, &Work::silent())?, split)?;
        }
        for (name, folder) in &runs {
            findings.add(name, &Vectors::tuned(name, folder, split, &Work::silent())?, split)?;
        }
    }
    Ok(findings)
}

fn read_summary(folder: &Path) -> Result<Value> {
    let path = folder.join("summary.json");
    let text = std::fs::read_to_string(&path).map_err(Error::io(&path, "reading"))?;
    serde_json::from_str(&text).map_err(|e| Error::data(&path, e.to_string()))
}

/// Puts `claims` into `summary.json`.
fn add_to_summary(folder: &Path, findings: &Findings) -> Result<()> {
    let path = folder.join("summary.json");
    let mut summary = read_summary(folder)?;
    if let Value::Object(variants) = &mut summary {
        variants.insert("claims".to_owned(), findings.to_json());
    }
    let text = serde_json::to_string_pretty(&summary).map_err(|e| Error::data(&path, e.to_string()))?;
    io::write_atomically(&path, (text + "\n").as_bytes())
}

/// Before training and after each loss.
fn draw(comparison: &Comparison, projection: Projection) -> Result<Drawn> {
    let panels: Vec<Panel<'_>> = comparison
        .variants
        .iter()
        .filter(|variant| variant.name != "raw")
        .map(|variant| Panel {
            title: if variant.name == "untrained" {
                "Before training".to_owned()
            } else {
                variant.name.clone()
            },
            subtitle: format!("Recall@1 {:.3} on all evaluation items", variant.quality.recall_at_1),
            embeddings: variant.vectors.view(),
        })
        .collect();
    let labels: Vec<usize> = comparison.projection.labels.iter().map(|&label| label as usize).collect();
    let classes = &comparison.projection.classes;
    let title = format!(
        "{} of {}, before and after each loss",
        counted(labels.len(), "item", "items"),
        counted(classes.len(), "class", "classes")
    );
    Picture { title, panels, labels: &labels, classes }.draw(projection)
}
