//! Alarms of runs that really go wrong: each comes with a remedy, stands in the run's files, and is gone once the remedy is
//! taken. (Frozen centres, label noise and values that are not finite: `callbacks.rs`.)

mod support;

use embedtune_losses::{LossKind, MinerKind};
use embedtune_train::data::{Items, Split};
use embedtune_train::run::{Alarm, AlarmKind, EpochRecord, Observer, RunFolder, RunOptions, Trainer};
use ndarray::Axis;
use support::{CLASSES, noisy_vectors};

/// Keeps the alarms as they are told.
#[derive(Default)]
struct Told(Vec<Alarm>);

impl Observer for Told {
    fn on_alarm(&mut self, alarm: &Alarm) {
        self.0.push(alarm.clone());
    }
}

/// The epochs of a run, as its folder keeps them.
fn epochs(split: &Split, change: impl FnOnce(&mut RunOptions)) -> Vec<EpochRecord> {
    let folder = tempfile::tempdir().unwrap();
    let mut options = RunOptions { epochs: 3, batch_size: 32, seed: 3, ..RunOptions::default() };
    change(&mut options);
    let mut told = Told::default();
    let run = Trainer::builder().options(options).folder(folder.path()).build(split).unwrap();
    run.fit(&mut told).unwrap();
    let mut records = RunFolder::new(folder.path()).read_metrics().unwrap();
    let kept: Vec<Alarm> = records.iter().flat_map(|record| record.alarms.clone()).collect();
    assert_eq!(told.0, kept);
    records.split_off(1)
}

/// What an epoch's alarm of this kind says.
fn said(record: &EpochRecord, kind: AlarmKind) -> Option<&str> {
    record.alarms.iter().find(|alarm| alarm.kind == kind).map(|alarm| alarm.message.as_str())
}

/// Checks that all epochs warn of `kind` in the words of `parts`.
#[track_caller]
fn warned(records: &[EpochRecord], kind: AlarmKind, parts: &[&str]) {
    for record in records {
        let Some(message) = said(record, kind) else { panic!("no alarm: {record:?}") };
        for part in parts {
            assert!(message.contains(part), "{message}\nlacks: {part}");
        }
    }
}

#[track_caller]
fn silent(records: &[EpochRecord]) {
    assert!(records.iter().all(|record| record.alarms.is_empty()), "{records:?}");
}

fn changed(mut split: Split, change: impl Fn(usize, f32) -> f32) -> Split {
    for data in [&mut split.train, &mut split.queries] {
        let Items::Vectors(vectors) = &mut data.items else { panic!("vectors expected") };
        vectors.indexed_iter_mut().for_each(|((_, column), value)| *value = change(column, *value));
    }
    split
}

/// Vectors of eight classes, each along an axis of its own.
fn easy() -> Split {
    let mut split = noisy_vectors(20);
    for data in [&mut split.train, &mut split.queries] {
        let Items::Vectors(vectors) = &mut data.items else { panic!("vectors expected") };
        for (mut row, &label) in vectors.rows_mut().into_iter().zip(&data.labels) {
            row.mapv_inplace(|value| 0.01 * value);
            row[label as usize] = 5.0;
        }
    }
    split
}

#[test]
fn a_run_that_collapses_says_so_with_what_it_was_before() {
    // The hardest triplets of labels that mean nothing: all that helps is to be in one place.
    let mut split = noisy_vectors(20);
    let count = split.train.labels.len();
    split.train.labels = (0..count).map(|i| ((i * 7919 + i * i * 31) / 3 % CLASSES) as u32).collect();
    let hard = |o: &mut RunOptions| {
        (o.epochs, o.learning_rate, o.miner) = (8, 0.02, Some(MinerKind::BatchHardMiner));
    };
    let records = epochs(&split, hard);
    let (first, last) = (&records[0], records.last().unwrap());
    assert!(first.mean_cosine.unwrap() < 0.2 && last.mean_cosine.unwrap() > 0.95, "{records:?}");
    silent(&records[..1]);
    let before = format!("and {:.3} in epoch 1", first.mean_cosine.unwrap());
    let remedies =
        ["write a lower learning_rate (0.02 now)", "leave the miner out", "a loss with class centres"];
    warned(&records[7..], AlarmKind::Collapse, &[&[before.as_str()], remedies.as_slice()].concat());
    silent(&epochs(&split, |o| (o.loss, o.learning_rate, o.epochs) = (LossKind::ArcFaceLoss, 0.02, 8)));
}

#[test]
fn vectors_with_an_offset_are_in_one_place_from_the_beginning() {
    let split = changed(noisy_vectors(20), |_, value| value + 50.0);
    let expected = ["from the first epoch on", "until the mean of the training vectors is subtracted"];
    for loss in [LossKind::TripletMarginLoss, LossKind::ArcFaceLoss] {
        warned(&epochs(&split, |o| o.loss = loss), AlarmKind::Collapse, &expected);
    }
    let Items::Vectors(vectors) = &split.train.items else { panic!("vectors expected") };
    let mean = vectors.mean_axis(Axis(0)).unwrap();
    silent(&epochs(&changed(split.clone(), |column, value| value - mean[column]), |_| ()));
}

#[test]
fn batches_that_are_satisfied_say_so_and_ask_for_a_larger_margin() {
    let split = easy();
    let margin = |margin: f64| move |o: &mut RunOptions| o.loss_options.margin = Some(margin.into());
    let records = epochs(&split, margin(0.0));
    let expected = ["5 of 5 batches moved nothing: the loss is satisfied", "larger loss_options.margin"];
    warned(&records, AlarmKind::ZeroSignal, &expected);
    assert!(records.iter().all(|record| record.active_fraction == Some(0.0)), "{records:?}");
    // Beyond the distance of two classes at right angles there is work.
    silent(&epochs(&split, margin(1.8)));
}

#[test]
fn items_that_are_all_the_same_say_so_and_no_margin_helps() {
    for value in [0.0, 1.0] {
        let records = epochs(&changed(noisy_vectors(20), |_, _| value), |_| ());
        let expected = ["the gradient of every batch was zero although the loss was not", "look at the data"];
        warned(&records, AlarmKind::ZeroSignal, &expected);
        assert!(records.iter().all(|record| record.loss.unwrap() > 0.0), "{records:?}");
    }
}

#[test]
fn a_scale_that_saturates_says_which_fits() {
    let run = |split: &Split, scale: Option<f64>| {
        epochs(split, |o| {
            (o.loss, o.epochs, o.learning_rate) = (LossKind::ArcFaceLoss, 5, 0.01);
            o.loss_options.scale = scale;
        })
    };
    // One far beyond any that fits: from the first epoch on, while nearly all items still have a gradient.
    let expected = ["as yet", "loss_options.scale = 1000", "leave scale out, which chooses 16"];
    warned(&run(&noisy_vectors(20), Some(1000.0)), AlarmKind::SaturatedScale, &expected);
    // One that is too large for classes that are told apart: once they are, next to none is left.
    let records = run(&easy(), Some(200.0));
    assert!(records.last().unwrap().active_fraction.unwrap() < 0.5, "{records:?}");
    warned(&records[4..], AlarmKind::SaturatedScale, &["only", "leave scale out, which chooses 16"]);
    silent(&run(&easy(), None));
}
