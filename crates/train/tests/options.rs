//! What options are refused, and what is said about the others.

use embedtune_losses::LossKind;
use embedtune_losses::{MinerKind, MinerOptions};
use embedtune_pooling::PoolerOptions;
use embedtune_samplers::SamplerKind;
use embedtune_train::head::CentreSpace;
use embedtune_train::optim::{OptimizerKind, OptimizerOptions};
use embedtune_train::run::SchedulerKind;
use embedtune_train::run::{Device, EncoderChoice, RunOptions};

type Change = fn(&mut RunOptions);

fn changed(change: Change) -> RunOptions {
    let mut options = RunOptions::default();
    change(&mut options);
    options
}

#[test]
fn every_error_names_the_field_the_value_and_the_remedy() {
    let cases: Vec<(Change, &str)> = vec![
        (|o| o.batch_size = 1, "batch_size = 1: a batch needs at least 2 items; write 128"),
        (|o| o.epochs = 0, "epochs = 0: write 1 or more"),
        (|o| o.num_items_per_class = 1, "num_items_per_class = 1: a positive pair needs at least 2"),
        (|o| o.num_items_per_class = 65, "num_items_per_class = 65: a batch must hold at least 2 classes"),
        (|o| o.learning_rate = 0.0, "learning_rate = 0: write a number above 0 and below 1"),
        (|o| o.learning_rate = 1.0, "learning_rate = 1: write a number above 0 and below 1"),
        (|o| o.learning_rate = f64::NAN, "learning_rate = NaN: write a number above 0 and below 1"),
        (|o| o.val_split = 1.0, "val_split = 1: write a share from 0 to below 1"),
        (|o| o.val_split = -0.1, "val_split = -0.1: write a share from 0 to below 1"),
        (|o| o.val_split = f64::NAN, "val_split = NaN: write a share from 0 to below 1"),
        (|o| o.output_dim = Some(0), "output_dim = 0: an embedding needs a dimension"),
        (|o| o.freeze = true, "freeze = true: the encoders here start from random weights"),
        (|o| o.max_grad_norm = Some(0.0), "max_grad_norm = 0: write a number above 0"),
        (|o| o.gradient_accumulation_steps = 0, "gradient_accumulation_steps = 0: write 1 or more"),
        (
            |o| (o.loss, o.memory_size) = (LossKind::ArcFaceLoss, 64),
            "memory_size = 64: ArcFaceLoss compares items with",
        ),
        (
            |o| o.centers = CentreSpace::UnitSphere,
            "centers = unit_sphere: TripletMarginLoss has no class centres",
        ),
        (
            |o| (o.optimizer, o.max_grad_norm) = (OptimizerKind::Lbfgs, Some(1.0)),
            "max_grad_norm = 1: LBFGS minimises each batch by itself",
        ),
        (
            |o| (o.loss, o.loss_optimizer) = (LossKind::ArcFaceLoss, Some(OptimizerKind::Lbfgs)),
            "loss_optimizer = LBFGS: LBFGS looks at the loss several times",
        ),
        (
            |o| (o.init_from, o.encoder) = (Some("run".into()), EncoderChoice::Mlp),
            "encoder = mlp: the encoder is that of init_from",
        ),
        (|o| o.callbacks.patience = Some(0), "callbacks.patience = 0: write at least 1"),
        (
            |o| (o.loss, o.miner) = (LossKind::ArcFaceLoss, Some(MinerKind::BatchHardMiner)),
            "miner = BatchHardMiner: a miner selects triplets, and ArcFaceLoss forms none",
        ),
        (
            |o| o.miner_options = MinerOptions { margin: Some(0.1), ..MinerOptions::default() },
            "no miner is given that they could apply to",
        ),
        (
            |o| o.pooler_options = PoolerOptions { p: 4.0, ..PoolerOptions::default() },
            "no pooler is given that they could apply to",
        ),
        (|o| o.pooler_options.p = 0.0, "pooler_options.p = 0: write a number from 0.1"),
        (|o| o.pooler_options.p = -3.0, "pooler_options.p = -3: write a number from 0.1"),
        (|o| o.pooler_options.p = f64::NAN, "pooler_options.p = NaN: write a number from 0.1"),
        (|o| o.pooler_options.p = f64::INFINITY, "pooler_options.p = inf: write a number from 0.1"),
        (|o| o.pooler_options.eps = 0.0, "pooler_options.eps = 0: write a number from 1e-30 to 1"),
        (|o| o.pooler_options.eps = -1e-6, "pooler_options.eps = -0.000001: write a number from 1e-30 to 1"),
        (|o| o.pooler_options.eps = f64::NAN, "pooler_options.eps = NaN: write a number from 1e-30 to 1"),
        (
            |o| o.loss_optimizer = Some(OptimizerKind::Adam),
            "loss_optimizer = Adam: TripletMarginLoss has no class centres",
        ),
        (
            |o| {
                o.loss_optimizer_options =
                    OptimizerOptions { learning_rate: Some(0.1), ..OptimizerOptions::default() }
            },
            "TripletMarginLoss has no class centres that a second optimizer could move",
        ),
        (
            |o| {
                o.loss = LossKind::CosFaceLoss;
                o.loss_optimizer_options =
                    OptimizerOptions { learning_rate: Some(0.0), ..OptimizerOptions::default() };
            },
            "loss_optimizer_options.learning_rate = 0: write a number above 0",
        ),
        (
            |o| {
                o.optimizer_options =
                    OptimizerOptions { learning_rate: Some(0.1), ..OptimizerOptions::default() }
            },
            "optimizer_options.learning_rate = 0.1: the model's rate has an option of its own",
        ),
        (
            |o| (o.loss, o.miner) = (LossKind::CosFaceLoss, Some(MinerKind::TripletMarginMiner)),
            "or write loss = \"TripletMarginLoss\"",
        ),
    ];
    for (change, expected) in cases {
        let message = changed(change).check().unwrap_err().to_string();
        assert!(message.contains(expected), "{message}\nlacks: {expected}");
    }
}

#[test]
fn what_stops_nothing_is_said() {
    let cases: [(Change, &str); 2] = [
        (|o| o.sampler = SamplerKind::Random, "sampler = random is ignored: TripletMarginLoss"),
        (|o| o.batch_size = 256, "batch_size = 256: large batches mean few steps"),
    ];
    for (change, expected) in cases {
        let notices = changed(change).check().unwrap();
        assert!(notices.iter().any(|notice| notice.starts_with(expected)), "{notices:?} lacks {expected}");
    }
    let quiet = changed(|o| {
        (o.device, o.loss, o.sampler) = (Device::Cpu, LossKind::ArcFaceLoss, SamplerKind::Random)
    });
    assert_eq!(quiet.check().unwrap(), Vec::<String>::new());
}

#[test]
fn toml_survives_and_refuses_what_it_does_not_know() {
    let options = changed(|o| {
        o.loss = LossKind::ArcFaceLoss;
        o.scheduler = SchedulerKind::Cosine;
        o.loss_optimizer_options.learning_rate = Some(0.02);
        o.output_dim = Some(32);
    });
    assert_eq!(RunOptions::from_toml(&options.to_toml().unwrap()).unwrap(), options);
    assert_eq!(RunOptions::from_toml("").unwrap(), RunOptions::default());
    for (text, expected) in [
        ("epoch = 3", "unknown field `epoch`"),
        ("epochs = -3", "epochs"),
        ("loss = \"ArcFace\"", "ArcFaceLoss"),
        ("[scheduler_options]\nwarmup = 3", "num_warmup_steps"),
        ("scheduler = \"exponential\"", "constant_with_warmup"),
        ("epochs = ", ""),
        ("pooler = \"GeM\"\n[pooler_options]\neps = \"small\"", "eps"),
    ] {
        let message = RunOptions::from_toml(text).unwrap_err().to_string();
        assert!(message.contains(expected), "{message}\nlacks: {expected}");
    }
}
