//! What options are refused, and what is said about the others.

use embedtune_losses::{Angle, LossKind, MinerKind, MinerOptions};
use embedtune_pooling::PoolerOptions;
use embedtune_samplers::SamplerKind;
use embedtune_train::head::CentreSpace;
use embedtune_train::optim::{OptimizerKind, OptimizerOptions, ParamGroup};
use embedtune_train::run::{
    Device, EncoderChoice, RunOptions, SchedulerKind, SchedulerStep, Trainer, ValSplitBy,
};

mod support;

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

/// What used to be said only once the data were read.
#[test]
fn what_needs_no_data_is_refused_before_there_are_any_and_in_the_same_words() {
    let group = |learning_rate, weight_decay| {
        vec![ParamGroup { params: vec!["*".into()], learning_rate, weight_decay }]
    };
    type Change = Box<dyn Fn(&mut RunOptions)>;
    let cases: Vec<(Change, &str)> = vec![
        (
            Box::new(|o| (o.loss, o.loss_options.margin) = (LossKind::ArcFaceLoss, Some(0.5.into()))),
            "loss_options.margin = 0.5: this loss's margin is an angle and needs its unit: \"0.5deg\" or \"0.5rad\"?",
        ),
        (
            Box::new(|o| {
                (o.loss, o.loss_options.margin) = (LossKind::CosFaceLoss, Some(Angle::degrees(28.6).into()));
            }),
            "0.4992rad (28.6deg): this loss's margin is a cosine: write a plain number",
        ),
        (
            Box::new(|o| (o.loss, o.loss_options.margin) = (LossKind::CosFaceLoss, Some((-0.1).into()))),
            "loss_options.margin = -0.1: a cosine from 0 to 2",
        ),
        (
            Box::new(|o| (o.loss, o.loss_options.scale) = (LossKind::ArcFaceLoss, Some(-64.0))),
            "loss_options.scale = -64: give a number above 0",
        ),
        (Box::new(|o| o.loss_options.scale = Some(64.0)), "TripletMarginLoss has no such option"),
        (
            Box::new(|o| o.loss_options.margin = Some(f64::NAN.into())),
            "loss_options.margin = NaN: must be between",
        ),
        (
            Box::new(|o| {
                (o.miner, o.miner_options.margin) = (Some(MinerKind::TripletMarginMiner), Some(-1.0))
            }),
            "miner_options.margin = -1: must be between",
        ),
        (
            Box::new(|o| o.optimizer_options.momentum = Some(0.9)),
            "optimizer_options.momentum = 0.9: Adam has no such option (only SGD, RMSprop)",
        ),
        (
            Box::new(|o| o.optimizer_options.layer_wise_lr_decay = Some(1.5)),
            "optimizer_options.layer_wise_lr_decay = 1.5: must be above 0",
        ),
        (
            Box::new(|o| {
                (o.loss, o.loss_optimizer_options.momentum) = (LossKind::ArcFaceLoss, Some(0.9));
            }),
            "loss_optimizer_options.momentum = 0.9: Adam has no such option",
        ),
        (
            Box::new(|o| {
                (o.loss, o.centers) = (LossKind::ArcFaceLoss, CentreSpace::UnitSphere);
                o.loss_optimizer = Some(OptimizerKind::Sgd);
            }),
            "loss_optimizer = SGD: centers = \"unit_sphere\" has a method of its own",
        ),
        (
            Box::new(move |o| o.param_groups = group(Some(-1.0), None)),
            "param_groups.learning_rate = -1: must be a number of at least 0",
        ),
        (
            Box::new(move |o| o.param_groups = group(None, Some(f64::INFINITY))),
            "param_groups.weight_decay = inf: must be a number of at least 0",
        ),
        (
            Box::new(move |o| (o.optimizer, o.param_groups) = (OptimizerKind::Rprop, group(None, Some(0.1)))),
            "param_groups.weight_decay = 0.1: Rprop has no such option",
        ),
        (
            Box::new(|o| {
                let (learning_rate, weight_decay) = (None, None);
                o.param_groups = vec![ParamGroup { params: Vec::new(), learning_rate, weight_decay }];
            }),
            "param_groups.params = []: group 0 names no parameter",
        ),
        (
            Box::new(move |o| (o.optimizer, o.param_groups) = (OptimizerKind::Lbfgs, group(Some(0.1), None))),
            "param_groups = 1 groups: LBFGS takes all parameters as one vector",
        ),
        (
            Box::new(|o| (o.optimizer, o.encoder) = (OptimizerKind::SparseAdam, EncoderChoice::Mlp)),
            "optimizer = SparseAdam: the encoder has no embedding table",
        ),
        (
            Box::new(|o| (o.scheduler, o.scheduler_options.num_warmup_steps) = (SchedulerKind::Linear, -3.0)),
            "scheduler_options.num_warmup_steps = -3: write a whole number",
        ),
        (
            Box::new(|o| o.val_split_by = ValSplitBy::Class),
            "val_split_by = class: nothing is held out; write the share",
        ),
        (
            Box::new(|o| o.scheduler_options.num_warmup_steps = 10.0),
            "scheduler_options.num_warmup_steps = 10: the constant schedule has no warm-up",
        ),
        (
            Box::new(|o| {
                (o.scheduler, o.scheduler_options.num_warmup_steps) = (SchedulerKind::Linear, 6.0);
                (o.epochs, o.scheduler_options.scheduler_step) = (5, SchedulerStep::Epoch);
            }),
            "scheduler_options.num_warmup_steps = 6: the schedule ends after 5 steps",
        ),
        (
            Box::new(|o| (o.scheduler, o.learning_rate) = (SchedulerKind::Polynomial, 1e-8)),
            "scheduler_options.lr_end = 0.0000001: write a rate from 0 to below learning_rate",
        ),
    ];
    let data = support::noisy_vectors(4);
    for (change, expected) in cases {
        let mut options = RunOptions::default();
        change(&mut options);
        let said = options.check().unwrap_err().to_string();
        assert!(said.contains(expected), "{said}\nlacks: {expected}");
        let built = Trainer::builder().options(options).build(&data).err().map(|e| e.to_string());
        assert_eq!(built, Some(said));
    }
}

#[test]
fn vectors_that_are_not_finite_are_refused_with_their_row_and_column() {
    use embedtune_train::data::{Dataset, Items, Split};

    type Part = for<'a> fn(&'a mut Split) -> &'a mut Dataset;
    let parts: [(&str, Part); 3] = [
        ("training", |split| &mut split.train),
        ("query", |split| &mut split.queries),
        ("gallery", |split| split.gallery.get_or_insert_with(|| split.queries.clone())),
    ];
    for (name, part) in parts {
        for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut split = support::noisy_vectors(4);
            if let Items::Vectors(vectors) = &mut part(&mut split).items {
                vectors[[5, 3]] = value;
            }
            let message = Trainer::builder().build(&split).err().map(|e| e.to_string()).unwrap_or_default();
            let expected = format!("the {name} vectors: row 5, column 3 is {value}");
            assert!(message.starts_with(&expected) && message.contains("repair the row"), "{message}");
        }
    }
}

#[test]
fn data_and_folders_of_no_use_are_refused() {
    use embedtune_train::data::{Items, Split};

    type Damage = fn(&mut Split);
    let cases: [(Damage, &str); 5] = [
        (
            |split| split.train.classes[6] = split.train.classes[2].clone(),
            "training classes 2 and 6 are both called `",
        ),
        (
            |split| split.train.labels[3] = 900,
            "training item 3 has label 900, but there are 8 classes (0 to 7)",
        ),
        (
            |split| split.queries.labels[4] = u32::MAX,
            "query item 4 has label 4294967295, but there are 8 classes",
        ),
        (
            |split| {
                split.gallery = Some(split.queries.clone());
                split.gallery.iter_mut().for_each(|gallery| gallery.labels[0] = 8);
            },
            "gallery item 0 has label 8, but there are 8 classes (0 to 7); re-index the labels or name more classes",
        ),
        (
            |split| split.train.items = Items::Vectors(ndarray::Array2::zeros((split.train.labels.len(), 0))),
            "the training vectors have no columns",
        ),
    ];
    for (damage, expected) in cases {
        let mut split = support::noisy_vectors(4);
        damage(&mut split);
        let message = Trainer::builder().build(&split).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(message.starts_with(expected), "{message}");
    }
    let split = support::noisy_vectors(4);
    let thin =
        Trainer::builder().val_split(0.9).build(&split).err().map(|e| e.to_string()).unwrap_or_default();
    assert!(thin.contains("val_split = 0.9 holds the other items out: write less"), "{thin}");
    let none =
        Trainer::builder().val_split(0.01).build(&split).err().map(|e| e.to_string()).unwrap_or_default();
    assert!(none.starts_with("val_split = 0.01: holds no item out"), "{none}");
    let trainer = Trainer::builder().folder("").epochs(1).batch_size(8).build(&split).unwrap();
    let nameless = trainer.fit(&mut ()).err().map(|e| e.to_string()).unwrap_or_default();
    assert!(nameless.starts_with("out = \"\": name the folder"), "{nameless}");
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
