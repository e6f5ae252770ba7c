//! Runs from end to end.

mod support;

use embedtune_losses::LossKind;
use embedtune_pooling::{PoolerKind, PoolerOptions};
use embedtune_train::Error;
use embedtune_train::data::Glyphs;
use embedtune_train::optim::OptimizerKind;
use embedtune_train::run::{
    CompareOptions, Model, RunBuilder, RunFolder, RunOptions, SchedulerKind, SchedulerOptions, Trainer,
    compare,
};
use support::{CLASSES, Recorder, noisy_vectors};

fn builder(loss: LossKind) -> RunBuilder {
    Trainer::builder().loss(loss).epochs(4).batch_size(32).seed(3)
}

#[test]
fn every_loss_beats_the_raw_vectors() {
    let split = noisy_vectors(60);
    let learn = |loss| builder(loss).epochs(8).optimizer(OptimizerKind::Adam, 5e-3);
    for loss in [LossKind::TripletMarginLoss, LossKind::ArcFaceLoss, LossKind::CosFaceLoss] {
        let mut seen = Recorder::default();
        let trained = learn(loss).build(&split).unwrap().fit(&mut seen).unwrap();
        let report = &trained.report;
        assert!(report.tuned.recall_at_1 > report.raw.recall_at_1 + 0.1, "{loss}: {report:?}");
        assert!(report.tuned.map_at_r > report.raw.map_at_r + 0.05, "{loss}: {report:?}");
        assert_eq!((report.tuned.items, report.tuned.classes), (20 * CLASSES, CLASSES));
        assert_eq!(seen.epochs.iter().map(|e| e.epoch).collect::<Vec<_>>(), (0..=8).collect::<Vec<_>>());
        assert!(seen.epochs[0].raw.is_some() && seen.epochs[0].loss.is_none());
        let losses: Vec<f64> = seen.epochs.iter().filter_map(|e| e.loss).collect();
        assert!(losses.len() == 8 && losses.iter().all(|l| l.is_finite()));
        assert_eq!(trained.model.centres().is_some(), loss != LossKind::TripletMarginLoss);
        assert_eq!(seen.epochs[1].loss_learning_rate.is_some(), loss != LossKind::TripletMarginLoss);
    }
}

#[test]
fn a_convolutional_encoder_learns_glyphs_of_unseen_classes() {
    let data = Glyphs { train_classes: 48, train_items: 20, test_classes: 12, test_items: 10, seed: 1 };
    let split = data.split();
    let mut seen = Recorder::default();
    let run =
        Trainer::builder().loss(LossKind::CosFaceLoss).pooler(PoolerKind::GeM, PoolerOptions::default());
    let report = run.epochs(6).batch_size(32).build(&split).unwrap().fit(&mut seen).unwrap().report;
    assert!(report.tuned.map_at_r > report.untrained.map_at_r + 0.1, "{report:?}");
    assert!(report.tuned.recall_at_1 > report.untrained.recall_at_1, "{report:?}");
    let powers: Vec<f64> = seen.epochs.iter().filter_map(|e| e.gem_p).collect();
    assert!(powers.len() == 7 && powers[0] == 3.0 && powers[6] != 3.0, "{powers:?}");
}

#[test]
fn a_written_model_is_loaded_back_and_nothing_is_overwritten_unasked() {
    let split = noisy_vectors(20);
    let folder = tempfile::tempdir().unwrap();
    let run = RunFolder::new(folder.path().join("runs/one"));
    let train = |overwrite| {
        builder(LossKind::ArcFaceLoss).folder(run.path()).overwrite(overwrite).build(&split)?.fit(&mut ())
    };
    let trained = train(false).unwrap();
    let model = Model::load(&run).unwrap();
    assert_eq!(
        model.embed(&split.queries.items).unwrap(),
        trained.model.embed(&split.queries.items).unwrap()
    );
    assert_eq!(model.classes, split.train.classes);
    assert_eq!(model.centres(), trained.model.centres());
    let evaluation = model.evaluate(&split).unwrap();
    assert_eq!((evaluation.tuned, evaluation.raw), (trained.report.tuned, trained.report.raw));
    assert_eq!(run.read_metrics().unwrap().len(), 5);

    let message = train(false).unwrap_err().to_string();
    assert!(message.starts_with("out = ") && message.contains("not empty"), "{message}");
    train(true).unwrap();
}

#[test]
fn the_bits_do_not_depend_on_the_number_of_threads() {
    let split = noisy_vectors(20);
    let folder = tempfile::tempdir().unwrap();
    for loss in [LossKind::TripletMarginLoss, LossKind::CosFaceLoss] {
        let bytes = |threads: usize| {
            let path = folder.path().join(format!("{loss}-{threads}"));
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                builder(loss).epochs(2).folder(&path).build(&split).unwrap().fit(&mut ()).unwrap()
            });
            std::fs::read(RunFolder::new(path).model()).unwrap()
        };
        let one = bytes(1);
        for threads in [2, 3, 5] {
            assert!(bytes(threads) == one, "{loss}: {threads} threads gave another model than one");
        }
    }
}

#[test]
fn held_out_items_are_measured_instead_of_the_evaluation_items() {
    let split = noisy_vectors(40);
    let mut seen = Recorder::default();
    builder(LossKind::ArcFaceLoss).val_split(0.25).build(&split).unwrap().fit(&mut seen).unwrap();
    for record in &seen.epochs {
        assert_eq!(record.validation.unwrap().items, 10 * CLASSES);
        assert_eq!(
            record.metrics.is_some(),
            record.epoch == 0 || record.epoch == 4,
            "epoch {}",
            record.epoch
        );
    }
    let items: usize = seen.batches.iter().filter(|b| b.epoch == 1).map(|b| b.items).sum();
    assert_eq!(items, 30 * CLASSES);
}

#[test]
fn the_schedule_reaches_both_optimizers() {
    let split = noisy_vectors(20);
    let mut seen = Recorder::default();
    let options = SchedulerOptions { num_warmup_steps: 2.0, ..SchedulerOptions::default() };
    let built = builder(LossKind::CosFaceLoss).scheduler(SchedulerKind::Linear, options).build(&split);
    built.unwrap().fit(&mut seen).unwrap();
    let last = seen.epochs.last().unwrap();
    // 5 batches an epoch, 20 steps: the last one has 1 of 18 decaying steps left.
    approx::assert_relative_eq!(last.learning_rate.unwrap(), 1e-3 / 18.0, max_relative = 1e-9);
    approx::assert_relative_eq!(last.loss_learning_rate.unwrap(), 1e-2 / 18.0, max_relative = 1e-9);
}

#[test]
fn a_comparison_holds_every_variant_and_writes_its_summary() {
    let split = noisy_vectors(40);
    let folder = tempfile::tempdir().unwrap();
    let mut options = CompareOptions::for_data(&split);
    options.run.batch_size = 32;
    options.folder = Some(folder.path().join("compare"));
    let summary = || {
        let comparison = compare(&split, &options, &mut ()).unwrap();
        let text = std::fs::read_to_string(folder.path().join("compare/summary.json")).unwrap();
        assert_eq!(text, comparison.to_json().unwrap());
        let mut json: serde_json::Value = serde_json::from_str(&text).unwrap();
        for (name, row) in json.as_object_mut().unwrap() {
            let row = row.as_object_mut().unwrap();
            assert!(row.remove("seconds").unwrap().as_f64().unwrap() >= 0.0, "{name}");
            assert!(row["recall_at_1"].is_f64() && row["map_at_r"].is_f64(), "{name}");
        }
        (comparison, json)
    };
    let (comparison, json) = summary();
    let names: Vec<&str> = comparison.variants.iter().map(|v| v.name.as_str()).collect();
    assert_eq!(names, ["raw", "untrained", "TripletMarginLoss", "ArcFaceLoss", "CosFaceLoss"]);
    for variant in &comparison.variants {
        assert_eq!(variant.vectors.nrows(), comparison.projection.labels.len());
    }
    for name in &names[2..] {
        let model = Model::load(&RunFolder::new(folder.path().join("compare").join(name))).unwrap();
        assert_eq!(model.options.loss.name(), *name);
    }
    assert_eq!(summary().1, json, "the same seed gives the same summary");
}

#[test]
fn divergence_is_reported_with_its_place() {
    let mut split = noisy_vectors(20);
    let embedtune_train::data::Items::Vectors(vectors) = &mut split.train.items else {
        panic!("vectors expected")
    };
    // Finite, but once the weights have moved its embedding is not.
    vectors.row_mut(3).fill(f32::MAX);
    let options = RunOptions {
        loss: LossKind::ArcFaceLoss,
        output_dim: Some(16),
        learning_rate: 0.9,
        ..RunOptions::default()
    };
    match Trainer::builder().options(options).build(&split).unwrap().fit(&mut ()).map(|_| ()) {
        Err(error @ Error::NotFinite { what: "an embedding", .. }) => {
            assert!(error.to_string().contains("learning_rate"), "{error}");
        }
        other => panic!("{other:?}"),
    }
}
