//! Figures for which networks are trained.

use embedtune_train::data::{Dataset, Glyphs, Split};
use embedtune_train::losses::LossKind;
use embedtune_train::run::{Report, Trainer};

use super::Drawn;
use super::chart::{Axis, BLUE, GREEN, GREY, Mark, ORANGE, Panel, Series, draw};

const CLASSES: usize = 30;
const TRAIN_ITEMS: usize = 16;
const HELD_OUT: usize = 8;

/// Items `from..to` of each class; the data are ordered by class.
fn items(data: &Dataset, per_class: usize, from: usize, to: usize) -> Dataset {
    let rows: Vec<usize> =
        (0..data.labels.len()).filter(|row| (from..to).contains(&(row % per_class))).collect();
    data.select(&rows)
}

/// Evaluating honestly: what an item's class and its drawing being seen is worth.
pub(super) fn evaluation() -> Drawn {
    let per_class = TRAIN_ITEMS + HELD_OUT;
    let glyphs = Glyphs {
        train_classes: CLASSES,
        train_items: per_class,
        test_classes: CLASSES,
        test_items: HELD_OUT,
        seed: 1,
    };
    let all = glyphs.split();
    let train = items(&all.train, per_class, 0, TRAIN_ITEMS);
    let groups = [
        items(&all.train, per_class, 0, HELD_OUT),
        items(&all.train, per_class, TRAIN_ITEMS, per_class),
        all.queries,
    ];
    let (mut raw, mut untrained, mut tuned) = (Vec::new(), Vec::new(), Vec::new());
    let mut notes = Vec::new();
    for (group, queries) in groups.into_iter().enumerate() {
        // The same seed trains the same network: only what is measured differs.
        let split = Split { train: train.clone(), queries, gallery: None };
        let run =
            Trainer::builder().loss(LossKind::ArcFaceLoss).epochs(12).batch_size(60).measure_epochs(false);
        let report = run.build(&split)?.fit(&mut ())?.report;
        for (series, shift, quality) in [
            (&mut raw, -0.26, report.raw),
            (&mut untrained, 0.0, report.untrained),
            (&mut tuned, 0.26, report.tuned),
        ] {
            let at = (group as f64 + shift, quality.recall_at_1);
            series.push(at);
            notes.push((at.0, at.1 + 0.02, format!("{:.2}", at.1)));
        }
    }
    let panel = Panel {
        title: "Recall@1 of one network, 30 classes of 8 drawings each time".into(),
        x: Axis::new("", -0.5, 2.5, &[]).named(&[
            (0.0, "the training drawings"),
            (1.0, "new drawings, training classes"),
            (2.0, "new classes"),
        ]),
        y: Axis::new("Recall@1", 0.0, 1.1, &[0.0, 0.25, 0.5, 0.75, 1.0]),
        series: vec![
            Series::new("pixels", GREY, Mark::Bars(0.24), raw),
            Series::new("untrained network", ORANGE, Mark::Bars(0.24), untrained),
            Series::new("trained (ArcFace)", BLUE, Mark::Bars(0.24), tuned),
        ],
        notes,
    };
    let description = "Recall at 1 of pixels, the untrained and the trained network: highest for the drawings trained \
                       on, lower for new drawings of the same classes, lowest for new classes";
    Ok(draw(description, &[panel]))
}

fn small_run(threads: usize, seed: u64, split: &Split) -> Result<Report, Box<dyn std::error::Error>> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
    let run = Trainer::builder()
        .loss(LossKind::ArcFaceLoss)
        .epochs(6)
        .batch_size(60)
        .seed(seed)
        .measure_epochs(false);
    Ok(pool.install(|| run.build(split)?.fit(&mut ()))?.report)
}

/// Reproducibility: seeds differ, threads do not.
pub(super) fn seeds() -> Drawn {
    let split =
        Glyphs { train_classes: 20, train_items: 12, test_classes: 20, test_items: 8, seed: 1 }.split();
    let mut series = [(1, Mark::Disc(3.0), BLUE), (2, Mark::Ring(6.0), ORANGE), (4, Mark::Ring(9.0), GREEN)]
        .map(|(threads, mark, colour)| {
            let name = if threads == 1 { "1 thread".to_owned() } else { format!("{threads} threads") };
            (threads, Series::new(name, colour, mark, []))
        });
    for seed in 0..8 {
        for (threads, series) in &mut series {
            series.points.push((seed as f64, small_run(*threads, seed, &split)?.tuned.recall_at_1));
        }
    }
    let seen = series[0].1.points.iter().map(|point| point.1);
    let (low, high) = seen.fold((f64::INFINITY, 0.0f64), |(low, high), v| (low.min(v), high.max(v)));
    let panel = Panel {
        title: format!("The same small run with eight seeds: {low:.3} to {high:.3}"),
        x: Axis::new("seed", -0.5, 7.5, &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]),
        y: Axis::new("Recall@1 on new classes", 0.2, 0.5, &[0.2, 0.3, 0.4, 0.5]),
        series: series.map(|(_, series)| series).into(),
        notes: vec![],
    };
    let description = "Recall at 1 of runs that differ in the seed is spread; for each seed the runs on one, two and four \
                       threads coincide";
    Ok(draw(description, &[panel]))
}
