//! What a run does beside training: groups, clipping, accumulation, centres, memory, callbacks, alarms.

mod support;

use std::collections::BTreeMap;

use embedtune_losses::{LossKind, LossOptions, Preset};
use embedtune_train::data::{Items, Split};
use embedtune_train::head::CentreSpace;
use embedtune_train::optim::{OptimizerKind, OptimizerOptions, ParamGroup};
use embedtune_train::retrieval::Measure;
use embedtune_train::run::{
    AlarmKind, CallbackOptions, EpochRecord, Measured, Model, Monitor, Observer, Resumed, RunBuilder,
    RunFolder, RunOptions, Trainer, ValSplitBy, resume,
};
use embedtune_train::samplers::SamplerKind;
use embedtune_train::{Error, State};
use support::{CLASSES, Recorder, noisy_vectors};

fn builder(loss: LossKind, change: impl FnOnce(&mut RunOptions)) -> RunBuilder {
    let mut options = RunOptions { loss, epochs: 4, batch_size: 32, seed: 3, ..RunOptions::default() };
    change(&mut options);
    Trainer::builder().options(options)
}

fn encoder_after(split: &Split, loss: LossKind, change: impl FnOnce(&mut RunOptions)) -> State {
    builder(loss, change).build(split).unwrap().fit(&mut ()).unwrap().model.encoder.state()
}

#[test]
fn every_optimizer_trains() {
    let split = noisy_vectors(20);
    for kind in OptimizerKind::ALL {
        if kind == OptimizerKind::SparseAdam {
            continue;
        }
        let rate = match kind {
            OptimizerKind::Adadelta | OptimizerKind::Lbfgs => 1.0,
            OptimizerKind::Sgd | OptimizerKind::Asgd => 0.1,
            _ => 3e-3,
        };
        let mut seen = Recorder::default();
        let run = builder(LossKind::ArcFaceLoss, |o| {
            (o.optimizer, o.learning_rate, o.epochs) = (kind, rate, 6);
            o.loss_optimizer = Some(OptimizerKind::Adam);
            if kind == OptimizerKind::Lbfgs {
                o.optimizer_options.max_iter = Some(3);
                o.optimizer_options.line_search_fn = Some(embedtune_train::optim::LineSearch::StrongWolfe);
            }
        });
        run.build(&split).unwrap().fit(&mut seen).unwrap();
        let losses: Vec<f64> = seen.epochs.iter().filter_map(|epoch| epoch.loss).collect();
        assert!(losses[5] < 0.95 * losses[0], "{kind}: {losses:?}");
    }
}

#[test]
fn accumulated_batches_are_one_larger_batch() {
    let split = noisy_vectors(20);
    // One step an epoch: 5 batches of 32, or one of 160; in different orders, but with the same mean gradient.
    let whole = encoder_after(&split, LossKind::ArcFaceLoss, |o| (o.batch_size, o.epochs) = (160, 1));
    let parts =
        encoder_after(&split, LossKind::ArcFaceLoss, |o| (o.gradient_accumulation_steps, o.epochs) = (5, 1));
    let plain = encoder_after(&split, LossKind::ArcFaceLoss, |o| o.epochs = 1);
    let apart = |a: &State, b: &State| {
        let pairs = a.tensors.iter().map(|(name, tensor)| (tensor, &b.tensors[name]));
        pairs.flat_map(|(a, b)| a.iter().zip(b.iter())).map(|(a, b)| (a - b).abs()).fold(0.0f32, f32::max)
    };
    // Adam's first step is the sign of the gradient, times the rate: equal but where a gradient is next to nothing.
    let same = whole.tensors.iter().flat_map(|(name, tensor)| tensor.iter().zip(parts.tensors[name].iter()));
    let (equal, all) =
        same.fold((0, 0), |(equal, all), (a, b)| (equal + usize::from((a - b).abs() < 1e-5), all + 1));
    assert!(equal * 100 > all * 99, "{equal} of {all}");
    assert!(apart(&plain, &parts) > 1e-3);
}

#[test]
fn clipping_bounds_a_step_and_groups_have_their_rates() {
    let split = noisy_vectors(20);
    let sgd = |o: &mut RunOptions| {
        (o.optimizer, o.learning_rate, o.epochs, o.batch_size) = (OptimizerKind::Sgd, 0.5, 1, 160);
        o.loss_optimizer = Some(OptimizerKind::Adam);
    };
    let before = builder(LossKind::ArcFaceLoss, sgd).build(&split).unwrap().encoder().state();
    let moved = |after: &State, part: &str| {
        let pairs = after.tensors.iter().filter(|(name, _)| name.contains(part));
        let squares = pairs.flat_map(|(name, tensor)| tensor.iter().zip(before.tensors[name].iter()));
        squares.map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>().sqrt()
    };
    let clipped = encoder_after(&split, LossKind::ArcFaceLoss, |o| {
        sgd(o);
        o.max_grad_norm = Some(1e-3);
    });
    // One step of length rate times the norm.
    assert!((moved(&clipped, "") - 0.5e-3).abs() < 1e-5, "{}", moved(&clipped, ""));
    let grouped = encoder_after(&split, LossKind::ArcFaceLoss, |o| {
        sgd(o);
        let group =
            ParamGroup { params: vec!["*.bias2".into()], learning_rate: Some(0.0), weight_decay: None };
        o.param_groups = vec![group];
    });
    assert_eq!(moved(&grouped, "bias2"), 0.0);
    assert!(moved(&grouped, "weight2") > 1e-3);
    let message = builder(LossKind::ArcFaceLoss, |o| {
        o.param_groups =
            vec![ParamGroup { params: vec!["7.*".into()], learning_rate: None, weight_decay: None }];
    })
    .build(&split)
    .map(drop)
    .unwrap_err()
    .to_string();
    assert!(message.starts_with("param_groups.params = 7.*: fits no trained parameter"), "{message}");
}

/// Finetuner's classes and dimension in small: what a run says of its centres at each epoch.
fn centres(change: impl FnOnce(&mut RunOptions)) -> Vec<EpochRecord> {
    let split = noisy_vectors(40);
    let mut seen = Recorder::default();
    let run = builder(LossKind::ArcFaceLoss, |o| {
        // An encoder that hardly moves: what is left to learn is where the classes are.
        (o.epochs, o.learning_rate) = (10, 1e-5);
        o.output_dim = Some(128);
        o.loss_options =
            LossOptions { preset: Some(Preset::Pml2), scale: Some(16.0), ..LossOptions::default() };
        o.loss_optimizer_options.learning_rate = Some(1e-4);
        change(o);
    });
    run.build(&split).unwrap().fit(&mut seen).unwrap();
    seen.epochs.split_off(1)
}

#[test]
fn plain_centres_freeze_and_say_so_and_those_on_the_sphere_do_not() {
    // N(0, 1) and Adam at 1e-4: a step turns a centre by 1e-4 radians at most.
    let plain = centres(|_| ());
    let last = plain.last().unwrap();
    assert!(last.centre_turn_degrees.unwrap() < 0.5, "{last:?}");
    assert!(last.centre_angle_degrees.unwrap() > 80.0, "{last:?}");
    let alarm = last.alarms.iter().find(|alarm| alarm.kind == AlarmKind::FrozenCentres).unwrap();
    assert!(alarm.to_string().contains("write centers = \"unit_sphere\""), "{alarm}");
    let sphere = centres(|o| {
        o.centers = CentreSpace::UnitSphere;
        o.loss_optimizer_options.learning_rate = Some(0.02);
    });
    assert!(sphere[0].centre_turn_degrees.unwrap() > 2.0, "{:?}", sphere[0]);
    let last = sphere.last().unwrap();
    assert!(last.centre_angle_degrees.unwrap() < 55.0, "{last:?}");
    for record in &sphere {
        assert!(record.alarms.iter().all(|alarm| alarm.kind != AlarmKind::FrozenCentres), "{record:?}");
    }
}

#[test]
fn early_stopping_the_best_model_and_the_last_checkpoints() {
    let split = noisy_vectors(20);
    let folder = tempfile::tempdir().unwrap();
    let callbacks = CallbackOptions {
        monitor: Monitor::Measure(Measure::MapAtR),
        patience: Some(2),
        min_delta: 0.5,
        best_model: true,
        last_k_epochs: 2,
        tensorboard: true,
        ..CallbackOptions::default()
    };
    let run =
        builder(LossKind::ArcFaceLoss, |o| (o.epochs, o.callbacks) = (30, callbacks)).folder(folder.path());
    let mut seen = Recorder::default();
    let trained = run.build(&split).unwrap().fit(&mut seen).unwrap();
    // Nothing improves by 0.5 after the first epoch.
    assert_eq!(trained.report.epochs, 3);
    let run = RunFolder::new(folder.path());
    let records = run.read_metrics().unwrap();
    let best = records[1..].iter().max_by(|a, b| {
        let map = |r: &EpochRecord| seen.epochs[r.epoch].metrics.unwrap().map_at_r;
        map(a).total_cmp(&map(b)).then(b.epoch.cmp(&a.epoch))
    });
    let best_epoch = best.unwrap().epoch;
    let best = seen.epochs[best_epoch].metrics.unwrap();
    assert_eq!(trained.report.tuned, best);
    // What an epoch found stays beside what was kept.
    let last = records.last().unwrap();
    assert_eq!((last.epoch, last.metrics), (3, seen.epochs[3].metrics));
    assert_eq!(last.kept.as_ref().map(|kept| kept.metrics), (best_epoch != 3).then_some(best));
    assert_eq!(last.model_metrics(), Some(best));
    assert_eq!(Model::load(&run).unwrap().evaluate(&split).unwrap().tuned, best);
    assert!(!run.epoch_checkpoint(1).exists() && run.epoch_checkpoint(2).exists());
    assert_eq!(std::fs::read(run.epoch_checkpoint(3)).unwrap(), std::fs::read(run.checkpoint()).unwrap());
    assert!(std::fs::metadata(run.events()).unwrap().len() > 500);
    match resume(&run, &split, None).unwrap() {
        Resumed::Finished(report) => assert_eq!(report.tuned, best),
        Resumed::Ready(_) => panic!("the run was finished"),
    }
}

#[test]
fn weights_are_averaged_with_those_before_training() {
    let split = noisy_vectors(20);
    let with = |alpha| encoder_after(&split, LossKind::ArcFaceLoss, |o| o.callbacks.wise_ft_alpha = alpha);
    let before = builder(LossKind::ArcFaceLoss, |_| ()).build(&split).unwrap().encoder().state();
    let (after, half) = (with(None), with(Some(0.5)));
    assert_eq!(with(Some(0.0)), before);
    for (name, tensor) in &half.tensors {
        for ((h, a), b) in tensor.iter().zip(&after.tensors[name]).zip(&before.tensors[name]) {
            assert!((h - (a + b) / 2.0).abs() < 1e-6, "{name}");
        }
    }
}

/// Stops after an epoch and notes what it is told.
#[derive(Default)]
struct Own {
    epochs: usize,
    batches: usize,
    checkpoints: usize,
    errors: usize,
    measured: Vec<usize>,
    /// The batch to stop after, if it is to be in the middle of an epoch.
    stop_at: Option<usize>,
}

impl Observer for Own {
    fn on_evaluation_begin(&mut self, epoch: usize) {
        assert_eq!(self.measured.len(), epoch);
    }
    fn on_evaluation(&mut self, measured: &Measured<'_>) {
        assert_eq!(
            Some(measured.figures["recall_at_1"]),
            measured.evaluation.map(|quality| quality.recall_at_1)
        );
        assert!(measured.held_out.is_none() && measured.seconds > 0.0);
        self.measured.push(measured.epoch);
    }
    fn stop_batch(&mut self) -> bool {
        self.stop_at == Some(self.batches)
    }
    fn on_epoch_begin(&mut self, epoch: usize) {
        assert_eq!(epoch, self.epochs + 1);
    }
    fn on_batch_begin(&mut self, epoch: usize, _: usize) {
        assert_eq!(epoch, self.epochs + 1);
        self.batches += 1;
    }
    fn on_epoch(&mut self, epoch: &EpochRecord) {
        self.epochs = epoch.epoch;
    }
    fn on_checkpoint(&mut self, path: &std::path::Path) {
        assert!(path.exists());
        self.checkpoints += 1;
    }
    fn on_error(&mut self, _: &Error) {
        self.errors += 1;
    }
    fn stop(&mut self) -> bool {
        self.epochs == 2
    }
}

#[test]
fn ones_own_callback_hears_everything_and_can_stop() {
    let split = noisy_vectors(20);
    let folder = tempfile::tempdir().unwrap();
    let mut own = Own::default();
    let run = builder(LossKind::ArcFaceLoss, |o| o.callbacks.save_steps = 2).folder(folder.path());
    let report = run.build(&split).unwrap().fit(&mut own).unwrap().report;
    assert_eq!((report.epochs, own.epochs, own.batches, own.errors), (2, 2, 10, 0));
    // Batches 2, 4, 6, 8 and the two epochs (their last batches, 5 and 10, are the epochs').
    assert_eq!(own.checkpoints, 6);
    assert_eq!(own.measured, [0, 1, 2]);
}

#[test]
fn a_callback_stops_after_a_batch_and_the_run_continues_to_the_same_bits() {
    let split = noisy_vectors(20);
    let whole = encoder_after(&split, LossKind::ArcFaceLoss, |o| o.epochs = 2);
    let folder = tempfile::tempdir().unwrap();
    let mut own = Own { stop_at: Some(7), ..Own::default() };
    let run = builder(LossKind::ArcFaceLoss, |o| o.epochs = 2).folder(folder.path());
    let stopped = run.build(&split).unwrap().fit(&mut own);
    assert!(matches!(stopped, Err(Error::Interrupted { epoch: 2, folder: Some(_) })));
    assert_eq!((own.batches, own.errors), (7, 1));
    match resume(&RunFolder::new(folder.path()), &split, None).unwrap() {
        Resumed::Ready(trainer) => assert_eq!(trainer.fit(&mut ()).unwrap().model.encoder.state(), whole),
        Resumed::Finished(_) => panic!("the run was not finished"),
    }
}

#[test]
fn every_figure_can_be_monitored_and_decides() {
    let split = noisy_vectors(20);
    let names = [
        "loss",
        "recall_at_1",
        "hit_at_7",
        "ir_recall_at_5",
        "precision_at_3",
        "ndcg_at_10",
        "r_precision",
        "map_at_r",
        "map",
        "mrr",
        "ndcg",
        "nmi",
        "ami",
    ];
    for name in names {
        let monitor: Monitor = name.parse().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let run = builder(LossKind::ArcFaceLoss, |o| {
            o.epochs = 3;
            o.callbacks = CallbackOptions { monitor, best_model: true, ..CallbackOptions::default() };
        });
        let report = run.folder(folder.path()).build(&split).unwrap().fit(&mut ()).unwrap().report;
        let run = RunFolder::new(folder.path());
        let records = run.read_metrics().unwrap();
        assert_eq!(run.read_run_file().unwrap().options.callbacks.monitor, monitor);
        if name == "loss" {
            continue;
        }
        // The model that is kept has been measured again, unless it is the last epoch's.
        let kept = records[3].kept.as_ref().map_or(&records[3].figures, |kept| &kept.figures);
        let figure = |figures: &BTreeMap<String, f64>| figures[&monitor.to_string()];
        assert!((1..=3).all(|epoch| figure(&records[epoch].figures) <= figure(kept)), "{name}: {records:?}");
        assert_eq!(kept["recall_at_1"], report.tuned.recall_at_1, "{name}");
        // Those that take a clustering are measured where they are asked for.
        assert_eq!(records[3].figures.contains_key("nmi"), name == "nmi");
    }
}

#[test]
fn a_memory_serves_triplets_and_is_part_of_the_checkpoint() {
    let split = noisy_vectors(20);
    let plain = encoder_after(&split, LossKind::TripletMarginLoss, |_| ());
    let memory = encoder_after(&split, LossKind::TripletMarginLoss, |o| o.memory_size = 64);
    assert_ne!(plain, memory);
    let folder = tempfile::tempdir().unwrap();
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let mut observer = Recorder { stop_after: Some((7, stop.clone())), ..Recorder::default() };
    let run = builder(LossKind::TripletMarginLoss, |o| o.memory_size = 64).folder(folder.path()).stop(stop);
    assert!(matches!(run.build(&split).unwrap().fit(&mut observer), Err(Error::Interrupted { .. })));
    match resume(&RunFolder::new(folder.path()), &split, None).unwrap() {
        Resumed::Ready(trainer) => {
            assert_eq!(trainer.fit(&mut ()).unwrap().model.encoder.state(), memory);
        }
        Resumed::Finished(_) => panic!("an interrupted run is not finished"),
    }
}

#[test]
fn a_run_starts_from_anothers_model_with_new_classes() {
    let mut old = noisy_vectors(20);
    let all = noisy_vectors(20);
    // The earlier run knows all classes but the last two.
    let rows: Vec<usize> = (0..old.train.labels.len()).filter(|&row| old.train.labels[row] < 6).collect();
    old.train = old.train.select(&rows);
    old.train.classes.truncate(6);
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (folder.path().join("first"), folder.path().join("second"));
    let earlier =
        builder(LossKind::ArcFaceLoss, |_| ()).folder(&first).build(&old).unwrap().fit(&mut ()).unwrap();
    // The new data name their classes in another order.
    let mut new = all.clone();
    new.train.classes.reverse();
    new.train.labels.iter_mut().for_each(|label| *label = CLASSES as u32 - 1 - *label);
    let from = |change: fn(&mut RunOptions)| {
        builder(LossKind::ArcFaceLoss, change).init_from(&first).folder(&second).overwrite(true)
    };
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(true));
    assert!(from(|_| ()).stop(stop).build(&new).unwrap().fit(&mut ()).is_err());
    let trainer = from(|_| ()).build(&new).unwrap();
    assert_eq!(trainer.encoder().state(), earlier.model.encoder.state());
    let mut seen = Recorder::default();
    let straight = trainer.fit(&mut seen).unwrap();
    assert_eq!(straight.model.classes[..6], earlier.model.classes[..]);
    assert_eq!(straight.model.classes[6..], ["class 7", "class 6"]);
    assert_eq!(straight.model.centres().unwrap().nrows(), CLASSES);
    assert!(
        seen.notices.iter().any(|n| n.contains("6 classes of the earlier run, 2 new ones")),
        "{:?}",
        seen.notices
    );
    // It starts where the other stood: the centres fit from the first epoch on.
    assert!(seen.epochs[1].accuracy.unwrap() > 0.5, "{:?}", seen.epochs[1]);
    // A resumed run does not need the other one.
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let mut observer = Recorder { stop_after: Some((7, stop.clone())), ..Recorder::default() };
    assert!(from(|_| ()).stop(stop).build(&new).unwrap().fit(&mut observer).is_err());
    std::fs::rename(&first, folder.path().join("gone")).unwrap();
    match resume(&RunFolder::new(&second), &new, None).unwrap() {
        Resumed::Ready(trainer) => {
            let resumed = trainer.fit(&mut ()).unwrap();
            assert_eq!(resumed.model.encoder.state(), straight.model.encoder.state());
            assert_eq!(resumed.model.centres(), straight.model.centres());
        }
        Resumed::Finished(_) => panic!("an interrupted run is not finished"),
    }
    let message = from(|_| ()).build(&new).map(drop).unwrap_err().to_string();
    assert!(message.starts_with("init_from = ") && message.contains("name a finished run"), "{message}");
    std::fs::rename(folder.path().join("gone"), &first).unwrap();
    // Frozen, only the head learns.
    let frozen =
        from(|o| (o.freeze, o.output_dim) = (true, Some(16))).build(&new).unwrap().fit(&mut ()).unwrap();
    for (name, tensor) in &earlier.model.encoder.state().tensors {
        assert_eq!(&frozen.model.encoder.state().tensors[name], tensor, "{name}");
    }
    assert_eq!(frozen.model.centres().unwrap().dim(), (CLASSES, 16));
}

#[test]
fn a_batch_that_diverges_is_saved() {
    let mut split = noisy_vectors(20);
    let Items::Vectors(vectors) = &mut split.train.items else { panic!("vectors expected") };
    // Finite, but once the weights have moved its embedding is not.
    vectors.row_mut(3).fill(f32::MAX);
    let folder = tempfile::tempdir().unwrap();
    let run = builder(LossKind::ArcFaceLoss, |o| (o.learning_rate, o.output_dim) = (0.9, Some(16)))
        .folder(folder.path());
    let error = run.build(&split).unwrap().fit(&mut ()).map(drop).unwrap_err().to_string();
    assert!(error.contains("the batch is saved in") && error.contains("nonfinite.json"), "{error}");
    let text = std::fs::read_to_string(folder.path().join("nonfinite.json")).unwrap();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    let items = json["items"].as_array().unwrap();
    assert!(
        items.len() == 32 && items.iter().any(|item| item["row"] == 3 && item["class"] == "class 3"),
        "{json}"
    );
    assert!(folder.path().join("nonfinite.npy").exists());
}

#[test]
fn wrongly_labelled_items_are_listed() {
    let mut split = noisy_vectors(40);
    let wrong: Vec<usize> = (0..8).map(|i| i * 37).collect();
    for &row in &wrong {
        split.train.labels[row] = (split.train.labels[row] + 3) % CLASSES as u32;
    }
    let folder = tempfile::tempdir().unwrap();
    let run = builder(LossKind::SubCenterArcFaceLoss, |o| o.epochs = 12).folder(folder.path());
    let mut seen = Recorder::default();
    run.build(&split).unwrap().fit(&mut seen).unwrap();
    let records = RunFolder::new(folder.path()).read_metrics().unwrap();
    let alarms = &records.last().unwrap().alarms;
    assert!(alarms.iter().any(|alarm| alarm.kind == AlarmKind::LabelNoise), "{alarms:?}");
    let text = std::fs::read_to_string(folder.path().join("outliers.csv")).unwrap();
    let listed: Vec<usize> =
        text.lines().skip(1).map(|line| line.split(',').next().unwrap().parse().unwrap()).collect();
    let found = wrong.iter().filter(|row| listed.contains(row)).count();
    assert!(found >= 4, "{found} of {wrong:?} in {listed:?}");
}

#[test]
fn changed_options_are_refused_by_name() {
    let split = noisy_vectors(20);
    let folder = tempfile::tempdir().unwrap();
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let mut observer = Recorder { stop_after: Some((7, stop.clone())), ..Recorder::default() };
    let run = builder(LossKind::ArcFaceLoss, |_| ()).folder(folder.path()).stop(stop);
    assert!(run.build(&split).unwrap().fit(&mut observer).is_err());
    let run = RunFolder::new(folder.path());
    let text = std::fs::read_to_string(run.run_file()).unwrap();
    assert!(text.contains("learning_rate = 0.001"));
    std::fs::write(run.run_file(), text.replace("learning_rate = 0.001", "learning_rate = 0.002")).unwrap();
    let message = resume(&run, &split, None).map(drop).unwrap_err().to_string();
    assert!(message.contains("run.toml: options have changed"), "{message}");
    assert!(message.contains("options.learning_rate = 0.002 (the run began with 0.001)"), "{message}");
    std::fs::write(run.run_file(), text).unwrap();
    resume(&run, &split, None).map(drop).unwrap();
}

#[test]
fn sparse_adam_is_for_text() {
    let split = noisy_vectors(20);
    let sparse = |o: &mut RunOptions| o.optimizer = OptimizerKind::SparseAdam;
    let message = builder(LossKind::ArcFaceLoss, sparse).build(&split).map(drop).unwrap_err().to_string();
    assert!(message.starts_with("optimizer = SparseAdam: the encoder has no embedding table"), "{message}");
    let mut text = split;
    let words = ["card", "account", "transfer", "top up", "pin", "limit", "fee", "refund"];
    for data in [&mut text.train, &mut text.queries] {
        let texts = data.labels.iter().enumerate().map(|(i, &l)| format!("{} {}", words[l as usize], i % 7));
        data.items = Items::Text(texts.collect());
    }
    let mut seen = Recorder::default();
    let run = builder(LossKind::ArcFaceLoss, |o| {
        sparse(o);
        o.optimizer_options = OptimizerOptions { eps: Some(1e-7), ..OptimizerOptions::default() };
        o.epochs = 2;
    });
    run.build(&text).unwrap().fit(&mut seen).unwrap();
    assert!(seen.notices.iter().any(|n| n.starts_with("loss_optimizer = Adam")), "{:?}", seen.notices);
    assert!(seen.epochs[2].loss.unwrap() < seen.epochs[1].loss.unwrap());
}

#[test]
fn options_that_change_nothing_are_told() {
    let split = noisy_vectors(20);
    // 160 items in batches of 32.
    let told = |change: fn(&mut RunOptions)| {
        let mut seen = Recorder::default();
        builder(LossKind::ArcFaceLoss, change).build(&split).unwrap().fit(&mut seen).unwrap();
        seen.notices.join("; ")
    };
    for (change, idle, expected) in [
        ((|o| o.callbacks.save_steps = 7) as fn(&mut RunOptions), false, "save_steps"),
        (|o| o.callbacks.save_steps = 10, true, "callbacks.save_steps = 10 saves nothing more"),
        (|o| o.callbacks.save_steps = 99, true, "callbacks.save_steps = 99 saves nothing more"),
        (|o| o.num_items_per_class = 8, true, "num_items_per_class = 8 is ignored"),
        (|o| (o.num_items_per_class, o.sampler) = (8, SamplerKind::Class), false, "num_items_per_class"),
        (
            |o| (o.callbacks.best_model, o.callbacks.evaluate_every) = (true, 4),
            true,
            "callbacks.best_model chooses nothing",
        ),
        (|o| (o.callbacks.best_model, o.callbacks.evaluate_every) = (true, 2), false, "best_model chooses"),
    ] {
        let notices = told(change);
        assert_eq!(notices.contains(expected), idle, "{expected}: {notices}");
    }
    // Classes that are held out have no centres, and those of an earlier run keep theirs.
    let folder = tempfile::tempdir().unwrap();
    let by_class = |o: &mut RunOptions| (o.val_split, o.val_split_by) = (0.25, ValSplitBy::Class);
    let run = builder(LossKind::ArcFaceLoss, by_class).folder(folder.path());
    let trained = run.build(&split).unwrap().fit(&mut ()).unwrap();
    assert_eq!(trained.model.centres().unwrap().nrows(), CLASSES - 2);
    let run = builder(LossKind::ArcFaceLoss, |_| ()).init_from(folder.path());
    assert_eq!(run.build(&split).unwrap().fit(&mut ()).unwrap().model.centres().unwrap().nrows(), CLASSES);
}
