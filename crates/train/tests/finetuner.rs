//! Jina Finetuner's option names: each has its effect here, or is refused with a reason.

use embedtune_train::run::RunOptions;

/// What becomes of an option: accepted by the options' own checks, or refused with these words.
enum Fate {
    Works,
    Refused(&'static str),
}
use Fate::{Refused, Works};

/// Every name of Finetuner 0.8's `fit()` and its schema, with a value that its users write.
const NAMES: [(&str, Fate); 49] = [
    ("optimizer = 'Adam'", Works),
    ("optimizer_options = { weight_decay = 0.01 }", Works),
    ("learning_rate = 1e-4", Works),
    ("learning_rate = 1.5", Refused("write a number above 0 and below 1")),
    ("loss = 'ArcFaceLoss'\nloss_optimizer = 'SGD'", Works),
    ("loss_optimizer = 'SGD'", Refused("has no class centres")),
    ("loss = 'CosFaceLoss'\nloss_optimizer_options = { lr = 0.01 }", Works),
    ("loss = 'TripletMarginLoss'", Works),
    ("loss = 'ArcFaceLoss'", Works),
    ("loss = 'CosFaceLoss'", Works),
    ("loss = 'SphereFaceLoss'", Works),
    ("loss = 'SubCenterArcFaceLoss'", Works),
    ("loss = 'CLIPLoss'", Refused("pairs of image and text")),
    ("loss = 'CosineSimilarityLoss'", Refused("score_threshold")),
    ("loss = 'MarginMSELoss'", Refused("teacher")),
    (
        "loss = 'ContrastiveLoss'",
        Refused("unknown variant `ContrastiveLoss`, expected one of `TripletMarginLoss`"),
    ),
    ("loss_options = { margin = 0.2 }", Works),
    ("miner = 'TripletMarginMiner'\nminer_options = { margin = 0.3, type_of_triplets = 'hard' }", Works),
    ("miner = 'BatchHardMiner'", Works),
    ("miner = 'DistanceWeightedMiner'", Refused("unknown variant `DistanceWeightedMiner`")),
    ("sampler = 'auto'", Works),
    ("sampler = 'class'", Works),
    ("loss = 'ArcFaceLoss'\nsampler = 'random'", Works),
    ("num_items_per_class = 4", Works),
    ("num_items_per_class = 1", Refused("at least 2 items of a class")),
    ("epochs = 5", Works),
    ("batch_size = 128", Works),
    ("batch_size = 'auto'", Works),
    ("scheduler = 'linear'\nscheduler_options = { num_warmup_steps = 2, scheduler_step = 'batch' }", Works),
    ("scheduler = 'cosine'\nscheduler_options = { num_warmup_steps = 0.1, scheduler_step = 'epoch' }", Works),
    ("scheduler = 'constant'", Works),
    ("scheduler = 'constant_with_warmup'", Works),
    ("scheduler = 'linear'\nscheduler_options = { num_training_steps = 100 }", Works),
    ("scheduler_options = { num_training_steps = 'auto' }", Works),
    (
        "scheduler_options = { num_training_steps = 'all' }",
        Refused("give a whole number of steps, or \"auto\""),
    ),
    ("num_training_steps = 100", Refused("write epochs")),
    ("output_dim = 64", Works),
    ("pooler = 'GeM'\npooler_options = { p = 2.4, eps = 1e-5 }", Works),
    ("model_options = { pooler = 'GeM' }", Refused("write pooler and pooler_options")),
    ("val_split = 0.1", Works),
    ("num_workers = 4", Refused("read ahead")),
    ("device = 'cpu'", Works),
    ("device = 'cuda'", Refused("device = cuda: this build has no CUDA support")),
    ("to_onnx = true", Refused("embedtune export")),
    ("model_artifact = 'x'", Refused("--resume")),
    ("public = true", Refused("a folder on this machine")),
    ("model = 'resnet50'", Refused("write encoder")),
    ("train_data = 'x.csv'", Refused("--data FOLDER")),
    ("experiment_name = 'x'", Refused("runs are folders")),
];

#[test]
fn every_name_works_or_is_refused_with_a_reason() {
    for (text, fate) in NAMES {
        // With the feature it depends on the machine (tests/cuda.rs).
        if cfg!(feature = "cuda") && text.contains("cuda") {
            continue;
        }
        let outcome = RunOptions::from_toml(text).and_then(|options| options.check());
        match fate {
            Works => {
                outcome.unwrap_or_else(|e| panic!("{text}: {e}"));
            }
            Refused(reason) => {
                let message = outcome.map(|_| String::new()).unwrap_or_else(|e| e.to_string());
                assert!(message.contains(reason), "{text}: {message:?}\nlacks: {reason}");
            }
        }
    }
}

/// What is accepted is kept: written and read again it is the same.
#[test]
fn what_works_survives_the_run_file() {
    for (text, fate) in NAMES {
        if matches!(fate, Works) {
            let options = RunOptions::from_toml(text).unwrap();
            assert_ne!(options.to_toml().unwrap(), "", "{text}");
            assert_eq!(RunOptions::from_toml(&options.to_toml().unwrap()).unwrap(), options, "{text}");
        }
    }
}
