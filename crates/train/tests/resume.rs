//! Interrupted, damaged and repeated runs.

mod support;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use embedtune_losses::LossKind;
use embedtune_train::Error;
use embedtune_train::data::Split;
use embedtune_train::run::{
    CallbackOptions, Report, Resumed, RunBuilder, RunFolder, RunOptions, StepRecord, Trainer, resume,
};
use support::{Recorder, noisy_vectors};

fn builder(loss: LossKind, folder: &Path) -> RunBuilder {
    Trainer::builder().loss(loss).epochs(3).batch_size(32).seed(3).folder(folder)
}

fn whole(loss: LossKind, split: &Split, folder: &Path) -> Report {
    builder(loss, folder).build(split).unwrap().fit(&mut ()).unwrap().report
}

fn interrupted(loss: LossKind, split: &Split, folder: &Path, batches: usize) {
    let stop = Arc::new(AtomicBool::new(false));
    let mut observer = Recorder { stop_after: Some((batches, stop.clone())), ..Recorder::default() };
    match builder(loss, folder).stop(stop).build(split).unwrap().fit(&mut observer).map(|_| ()) {
        Err(error @ Error::Interrupted { .. }) => assert!(error.to_string().contains("--resume"), "{error}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(observer.batches.len(), batches, "the run stopped after another batch than the one under way");
}

fn continued(split: &Split, folder: &Path) -> Report {
    match resume(&RunFolder::new(folder), split, None).unwrap() {
        Resumed::Ready(trainer) => trainer.fit(&mut ()).unwrap().report,
        Resumed::Finished(_) => panic!("an interrupted run is not finished"),
    }
}

#[test]
fn a_resumed_run_ends_in_the_same_bits() {
    let split = noisy_vectors(20);
    let folder = tempfile::tempdir().unwrap();
    for loss in [LossKind::TripletMarginLoss, LossKind::ArcFaceLoss] {
        let straight = folder.path().join(format!("{loss}-straight"));
        let expected = whole(loss, &split, &straight);
        let model = std::fs::read(RunFolder::new(&straight).model()).unwrap();
        let epochs = RunFolder::new(&straight).read_metrics().unwrap();
        // In the first epoch, at the end of an epoch, and in the middle of a later one.
        for batches in [2, 5, 8] {
            let path = folder.path().join(format!("{loss}-{batches}"));
            interrupted(loss, &split, &path, batches);
            let report = continued(&split, &path);
            let run = RunFolder::new(&path);
            assert!(std::fs::read(run.model()).unwrap() == model, "{loss} stopped after {batches} batches");
            assert_eq!(
                (report.tuned, report.raw, report.untrained),
                (expected.tuned, expected.raw, expected.untrained)
            );
            for (a, b) in run.read_metrics().unwrap().iter().zip(&epochs) {
                assert_eq!(
                    (a.epoch, a.loss, a.active_fraction, a.metrics),
                    (b.epoch, b.loss, b.active_fraction, b.metrics)
                );
            }
        }
    }
}

/// The curves within epochs, without the clock's part of them.
fn curves(folder: &Path) -> Vec<StepRecord> {
    let text = std::fs::read_to_string(RunFolder::new(folder).steps()).unwrap();
    let timeless = |line: &str| {
        let record: StepRecord = serde_json::from_str(line).unwrap();
        assert!(record.seconds > 0.0 && record.items_per_second > 0.0, "{line}");
        StepRecord { seconds: 0.0, items_per_second: 0.0, ..record }
    };
    text.lines().map(timeless).collect()
}

#[test]
fn the_curves_within_epochs_go_on_where_the_checkpoint_stands() {
    let split = noisy_vectors(20);
    let folder = tempfile::tempdir().unwrap();
    let options = RunOptions {
        loss: LossKind::ArcFaceLoss,
        epochs: 3,
        batch_size: 32,
        // Between two steps the curves go on with the last one's gradient.
        gradient_accumulation_steps: 2,
        callbacks: CallbackOptions { log_steps: 1, tensorboard: true, ..CallbackOptions::default() },
        ..RunOptions::default()
    };
    let builder = |path: &Path| Trainer::builder().options(options.clone()).folder(path);
    let straight = folder.path().join("straight");
    let mut observer = Recorder::default();
    builder(&straight).build(&split).unwrap().fit(&mut observer).unwrap();
    let expected = curves(&straight);
    let steps: Vec<(u64, usize, usize)> = expected.iter().map(|r| (r.step, r.epoch, r.batch)).collect();
    let all = (0..15).map(|step| (step + 1, step as usize / 5 + 1, step as usize % 5 + 1));
    assert_eq!(steps, all.collect::<Vec<_>>());
    let epochs = RunFolder::new(&straight).read_metrics().unwrap();
    for record in &expected {
        let batch = &observer.batches[record.step as usize - 1];
        assert_eq!((record.loss, record.grad_norm), (batch.loss, batch.grad_norm));
    }
    assert_eq!(expected[9].learning_rate, epochs[2].learning_rate.unwrap());
    assert!(expected.iter().all(|r| r.accuracy.is_some() && r.loss_learning_rate.is_some()));
    // The first batch comes before the first step.
    assert!(expected.iter().all(|r| (r.grad_norm > 0.0) == (r.step > 1)));
    // Stopped after batch 7; then the checkpoint is an older one than the curves, as after a kill.
    let cut = folder.path().join("cut");
    let stop = Arc::new(AtomicBool::new(false));
    let mut observer = Recorder { stop_after: Some((7, stop.clone())), ..Recorder::default() };
    assert!(builder(&cut).stop(stop).build(&split).unwrap().fit(&mut observer).is_err());
    let run = RunFolder::new(&cut);
    let checkpoint = std::fs::read(run.checkpoint()).unwrap();
    continued(&split, &cut);
    let events = |folder: &Path| std::fs::read(RunFolder::new(folder).step_events()).unwrap();
    for _ in 0..2 {
        assert_eq!(curves(&cut), expected);
        assert_eq!(events(&cut).len(), events(&straight).len());
        std::fs::write(run.checkpoint(), &checkpoint).unwrap();
        continued(&split, &cut);
    }
    // None where a run is shorter than a line, or none is asked for.
    for (log_steps, lines) in [(15, true), (16, false), (0, false)] {
        let short = folder.path().join(format!("every {log_steps}"));
        let callbacks = CallbackOptions { log_steps, ..CallbackOptions::default() };
        builder(&short).callbacks(callbacks).build(&split).unwrap().fit(&mut ()).unwrap();
        let run = RunFolder::new(&short);
        assert_eq!((run.steps().exists(), run.step_events().exists()), (lines, false));
    }
}

#[test]
fn checkpoints_come_by_the_clock_and_change_nothing() {
    let split = noisy_vectors(20);
    let folder = tempfile::tempdir().unwrap();
    let trained = |save_minutes: f64| {
        let path = folder.path().join(format!("{save_minutes:e}"));
        let callbacks = CallbackOptions { save_minutes, ..CallbackOptions::default() };
        let mut observer = Recorder::default();
        let run = builder(LossKind::ArcFaceLoss, &path).callbacks(callbacks);
        run.build(&split).unwrap().fit(&mut observer).unwrap();
        (observer.checkpoints, std::fs::read(RunFolder::new(&path).model()).unwrap())
    };
    let (never, model) = trained(0.0);
    // Three epochs of five batches, all of which take longer than a nanosecond.
    let (always, same) = trained(1e-11);
    assert_eq!((never, always), (3, 15));
    assert!(model == same);
    assert_eq!(trained(1e300).0, 3);
    for wrong in [-1.0, f64::NAN, f64::INFINITY] {
        let callbacks = CallbackOptions { save_minutes: wrong, ..CallbackOptions::default() };
        let refused = Trainer::builder().callbacks(callbacks).build(&split).map(|_| ()).unwrap_err();
        assert!(refused.to_string().contains("callbacks.save_minutes"), "{refused}");
    }
}

#[test]
fn a_finished_run_says_so() {
    let split = noisy_vectors(20);
    let folder = tempfile::tempdir().unwrap();
    let expected = whole(LossKind::CosFaceLoss, &split, folder.path());
    match resume(&RunFolder::new(folder.path()), &split, None).unwrap() {
        Resumed::Finished(report) => assert_eq!(report.tuned, expected.tuned),
        Resumed::Ready(_) => panic!("the run was finished"),
    }
}

#[test]
fn a_run_without_a_checkpoint_starts_over() {
    let split = noisy_vectors(20);
    let folder = tempfile::tempdir().unwrap();
    let (straight, cut) = (folder.path().join("straight"), folder.path().join("cut"));
    whole(LossKind::ArcFaceLoss, &split, &straight);
    interrupted(LossKind::ArcFaceLoss, &split, &cut, 1);
    std::fs::remove_file(RunFolder::new(&cut).checkpoint()).unwrap();
    continued(&split, &cut);
    let model = |folder: &Path| std::fs::read(RunFolder::new(folder).model()).unwrap();
    assert!(model(&cut) == model(&straight));
}

#[test]
fn damaged_and_foreign_files_are_refused_by_name() {
    let split = noisy_vectors(20);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run");
    interrupted(LossKind::ArcFaceLoss, &split, &path, 7);
    let run = RunFolder::new(&path);
    let refusal = || match resume(&run, &split, None) {
        Err(error) => error.to_string(),
        Ok(_) => panic!("accepted"),
    };
    let spoil = |file: &Path, change: &dyn Fn(Vec<u8>) -> Vec<u8>, expected: &str| {
        let good = std::fs::read(file).unwrap();
        std::fs::write(file, change(good.clone())).unwrap();
        let message = refusal();
        assert!(message.contains(&*file.file_name().unwrap().to_string_lossy()), "{message}");
        assert!(message.contains(expected), "{message}");
        std::fs::write(file, good).unwrap();
    };
    let halved = |mut bytes: Vec<u8>| {
        bytes.truncate(bytes.len() / 2);
        bytes
    };
    spoil(&run.checkpoint(), &halved, "not a complete safetensors file");
    spoil(
        &run.checkpoint(),
        &|_| std::fs::read(run.model()).unwrap(),
        "holds a Model, expected a Checkpoint",
    );
    spoil(&run.run_file(), &halved, "");
    spoil(
        &run.run_file(),
        &|text| replace(text, "\nepochs = 3\n", "\nepochs = 3\nepoch = 4\n"),
        "unknown field `epoch`",
    );
    spoil(&run.run_file(), &|text| replace(text, "format = 1", "format = 9"), "this program reads format 1");
    spoil(&run.metrics(), &|_| b"{\"epoch\": 0}\n".to_vec(), "line 1");
    let first_line = |text: Vec<u8>| text.split_inclusive(|&b| b == b'\n').next().unwrap().to_vec();
    spoil(&run.metrics(), &first_line, "lacks a line");

    let other = noisy_vectors(21);
    let message = match resume(&run, &other, None) {
        Err(error) => error.to_string(),
        Ok(_) => panic!("accepted"),
    };
    assert!(message.contains("the data have changed") && message.contains("run.toml"), "{message}");

    let message = match resume(&RunFolder::new(folder.path()), &split, None) {
        Err(error) => error.to_string(),
        Ok(_) => panic!("accepted"),
    };
    assert!(message.contains("not the folder of a run"), "{message}");
    continued(&split, &path);
}

fn replace(text: Vec<u8>, from: &str, to: &str) -> Vec<u8> {
    let text = String::from_utf8(text).unwrap();
    assert!(text.contains(from), "{text}");
    text.replace(from, to).into_bytes()
}
