//! `embedtune compare`.

use std::fmt::Write;

use embedtune_train::run::{CompareOptions, Comparison, compare};
use embedtune_train::{Error, Result, io};

use crate::args::Compare;
use crate::figure::{Drawn, Panel, Picture, Projection};
use crate::source::Source;
use crate::watch::Watch;
use crate::{Stop, print, say};

/// Epochs on the built-in data: three losses take about a minute and a half on two cores.
const GLYPH_EPOCHS: usize = 10;

pub(crate) fn run(args: &Compare, quiet: bool, stop: &Stop) -> Result<()> {
    let source = Source::new(args.data.as_deref(), args.seed)?;
    let split = source.load()?;
    let mut options = CompareOptions::for_data(&split);
    if matches!(source, Source::Glyphs { .. }) {
        options.run.epochs = GLYPH_EPOCHS;
    }
    options.run.epochs = args.epochs.unwrap_or(options.run.epochs);
    options.run.batch_size = args.batch_size;
    options.run.seed = args.seed;
    options.source = source.describe();
    options.run.check()?;
    options.stop = Some(stop.asked.clone());
    options.folder = Some(args.out.clone());
    std::fs::create_dir_all(&args.out).map_err(Error::io(&args.out, "creating the folder"))?;
    let [svg, png] = ["figure.svg", "figure.png"].map(|name| args.out.join(name));
    io::remove(&svg)?;
    io::remove(&png)?;
    if !quiet {
        say(&format!(
            "{}: {} items of {} classes to train on; {} items to measure on",
            source.describe(),
            split.train.labels.len(),
            split.train.classes.len(),
            split.queries.labels.len()
        ));
    }
    let comparison = compare(&split, &options, &mut Watch::new(quiet, stop)).inspect_err(|error| {
        if matches!(error, Error::Interrupted { .. }) {
            say("note: no summary is written; `compare` starts over when it is run again");
        }
    })?;
    let drawn = draw(&comparison, args.projection)?;
    io::write_atomically(&svg, drawn.svg.as_bytes())?;
    io::write_atomically(&png, &drawn.png)?;
    if args.json {
        return print(&comparison.to_json()?);
    }
    print(&table(&comparison))?;
    print(&format!(
        "\nsummary {}\npicture {} and figure.png\nmodels  {}/<loss>/model.safetensors\n",
        args.out.join("summary.json").display(),
        svg.display(),
        args.out.display()
    ))
}

fn table(comparison: &Comparison) -> String {
    let mut text = format!(
        "\n{:<20} {:>9} {:>8} {:>10} {:>9} {:>6}\n",
        "", "Recall@1", "MAP@R", "1-NN acc.", "seconds", "GeM p"
    );
    for variant in &comparison.variants {
        let quality = &variant.quality;
        let p = variant.gem_p.map_or("-".to_owned(), |p| format!("{p:.2}"));
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "{:<20} {:>9.4} {:>8.4} {:>10.4} {:>9.1} {:>6}",
            variant.name, quality.recall_at_1, quality.map_at_r, quality.one_nn_accuracy, variant.seconds, p
        );
    }
    text
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
    let title = format!("{} items of {} classes, before and after each loss", labels.len(), classes.len());
    Picture { title, panels, labels: &labels, classes }.draw(projection)
}
