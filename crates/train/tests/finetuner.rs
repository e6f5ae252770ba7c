//! Jina Finetuner's option names: each has its effect here, or is refused with a reason.

use embedtune_train::run::RunOptions;

/// What becomes of an option: accepted by the options' own checks, or refused with these words.
enum Fate {
    Works,
    Refused(&'static str),
}
use Fate::{Refused, Works};

/// Every name of Finetuner 0.8's `fit()` and its schema, with a value that its users write.
const NAMES: &[(&str, Fate)] = &[
    ("optimizer = 'Adadelta'\nlearning_rate = 1.0", Works),
    ("optimizer = 'Adagrad'", Works),
    ("optimizer = 'Adam'", Works),
    ("optimizer = 'AdamW'", Works),
    ("optimizer = 'SparseAdam'", Works),
    ("optimizer = 'Adamax'", Works),
    ("optimizer = 'ASGD'", Works),
    ("optimizer = 'LBFGS'", Works),
    ("optimizer = 'NAdam'", Works),
    ("optimizer = 'RAdam'", Works),
    ("optimizer = 'RMSprop'", Works),
    ("optimizer = 'Rprop'", Works),
    ("optimizer = 'SGD'\noptimizer_options = { momentum = 0.9, nesterov = true }", Works),
    ("optimizer = 'sgd'", Refused("did you mean SGD?")),
    ("optimizer = 'Lamb'", Refused("unknown optimizer; use Adadelta, ")),
    ("optimizer_options = { layer_wise_lr_decay = 0.98 }", Works),
    ("optimizer_options = { lr = 0.1 }", Refused("write learning_rate")),
    ("optimizer_options = { fused = true }", Refused("how PyTorch computes")),
    ("optimizer_options = { momentum = 0.9 }", Refused("Adam has no such option (only SGD, RMSprop)")),
    ("learning_rate = 0.0", Refused("write a number above 0 and below 1")),
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
        Refused("write TripletMarginLoss, which compares items with each other too"),
    ),
    ("loss = 'NoSuchLoss'", Refused("unknown variant `NoSuchLoss`, expected one of `TripletMarginLoss`")),
    ("loss_options = { margin = 0.2 }", Works),
    ("loss = 'ArcFaceLoss'\nloss_options = { margin = '28.6deg', scale = 64.0 }", Works),
    ("loss = 'ArcFaceLoss'\nloss_options = { margin = 28.6 }", Refused("\"28.6deg\" or \"28.6rad\"?")),
    ("loss = 'ArcFaceLoss'\nloss_options = { num_classes = 10 }", Refused("the data say how many")),
    ("loss_options = { smooth_loss = true }", Refused("write smooth")),
    ("miner = 'TripletMarginMiner'\nminer_options = { margin = 0.3, type_of_triplets = 'hard' }", Works),
    ("miner = 'BatchHardMiner'", Works),
    ("miner = 'DistanceWeightedMiner'", Refused("write TripletMarginMiner with")),
    ("miner_options = { margin = 0.3 }", Refused("no miner is given")),
    ("sampler = 'auto'", Works),
    ("sampler = 'all'", Refused("unknown variant `all`, expected one of `auto`, `random`, `class`")),
    ("sampler = 'class'", Works),
    ("loss = 'ArcFaceLoss'\nsampler = 'random'", Works),
    ("num_items_per_class = 4", Works),
    ("num_items_per_class = 1", Refused("at least 2 items of a class")),
    ("epochs = 5", Works),
    ("batch_size = 128", Works),
    ("batch_size = 'auto'", Works),
    ("epochs = 0", Refused("write 1 or more")),
    ("batch_size = 256", Works),
    ("scheduler = 'linear'\nscheduler_options = { num_warmup_steps = 2, scheduler_step = 'batch' }", Works),
    ("scheduler = 'cosine'\nscheduler_options = { num_warmup_steps = 0.1, scheduler_step = 'epoch' }", Works),
    ("scheduler = 'constant'", Works),
    ("scheduler = 'cosine_with_restarts'\nscheduler_options = { num_cycles = 2 }", Works),
    ("scheduler = 'polynomial'\nscheduler_options = { power = 2.0, lr_end = 1e-6 }", Works),
    ("scheduler = 'inverse_sqrt'", Refused("unknown variant `inverse_sqrt`, expected one of `constant`")),
    ("scheduler = 'constant_with_warmup'", Works),
    ("scheduler = 'linear'\nscheduler_options = { num_training_steps = 100 }", Works),
    ("scheduler_options = { num_training_steps = 'auto' }", Works),
    (
        "scheduler_options = { num_training_steps = 'all' }",
        Refused("give a whole number of steps, or \"auto\""),
    ),
    ("num_training_steps = 100", Refused("write epochs")),
    ("output_dim = 64", Works),
    ("freeze = true\ninit_from = 'run'", Works),
    ("freeze = true", Refused("write init_from with a trained run")),
    ("pooler = 'GeM'", Works),
    ("pooler = 'GeM'\npooler_options = { p = 2.4, eps = 1e-5 }", Works),
    ("model_options = { pooler = 'GeM' }", Refused("write pooler and pooler_options")),
    ("val_split = 0.1", Works),
    ("num_workers = 4", Refused("read ahead")),
    ("device = 'cpu'", Works),
    ("device = 'cuda'", Refused("device = cuda: this build has no CUDA support")),
    ("to_onnx = true", Refused("embedtune export")),
    ("model_artifact = 'x'", Refused("--resume")),
    ("public = true", Refused("a folder on this machine")),
    ("run_name = 'x'", Refused("--out FOLDER")),
    ("description = 'x'", Refused("leave it out")),
    ("eval_data = 'x.csv'", Refused("part of the data folder")),
    ("model = 'resnet50'", Refused("write encoder")),
    ("model = 'mlp'", Refused("write encoder")),
    ("encoder = 'bert-base-cased'", Refused("give its embeddings as vectors")),
    ("callbacks = ['EvaluationCallback']", Refused("callbacks.evaluate_every")),
    ("callbacks = ['BestModelCheckpoint']", Refused("callbacks.best_model")),
    ("callbacks = ['EarlyStopping']", Refused("callbacks.patience")),
    ("callbacks = ['TrainingCheckpoint']", Refused("callbacks.last_k_epochs")),
    ("callbacks = ['WandBLogger']", Refused("callbacks.tensorboard")),
    ("callbacks = ['WiSEFTCallback']", Refused("callbacks.wise_ft_alpha")),
    ("callbacks = { query_data = 'x' }", Refused("part of the data folder")),
    ("callbacks = { index_data = 'x' }", Refused("part of the data folder")),
    ("callbacks = { model = 'x' }", Refused("the run's own")),
    ("callbacks = { index_model = 'x' }", Refused("one encoder")),
    ("callbacks = { batch_size = 32 }", Refused("leave it out")),
    ("callbacks = { exclude_self = true }", Refused("never find themselves")),
    ("callbacks = { limit = 20 }", Refused("precision_at_20")),
    ("callbacks = { distance = 'euclidean' }", Refused("embedtune evaluate --distance")),
    ("callbacks = { gather_examples = true }", Refused("report.html")),
    ("callbacks = { num_example_queries = 5 }", Refused("report.html")),
    ("callbacks = { caption = 'x' }", Refused("--out FOLDER")),
    ("callbacks = { query_sample_size = 100 }", Refused("all queries are measured")),
    ("callbacks = { monitor = 'precision_at_5' }", Works),
    ("callbacks = { monitor = 'recall_at_20' }", Works),
    ("callbacks = { monitor = 'hit_at_5' }", Works),
    ("callbacks = { monitor = 'average_precision' }", Works),
    ("callbacks = { monitor = 'reciprocal_rank' }", Works),
    ("callbacks = { monitor = 'ndcg_at_10' }", Works),
    ("callbacks = { monitor = 'r_precision' }", Works),
    ("callbacks = { monitor = 'train_loss' }", Works),
    ("callbacks = { monitor = 'val_loss' }", Refused("write recall_at_1, or loss")),
    ("callbacks = { monitor = 'f1_score_at_5' }", Refused("precision_at_K or ir_recall_at_K")),
    ("callbacks = { monitor = 'dcg_at_5' }", Refused("write ndcg_at_K")),
    ("callbacks = { best_model = true, mode = 'auto' }", Refused("follows from monitor")),
    ("callbacks = { patience = 2, min_delta = 0, baseline = 0.5 }", Works),
    ("callbacks = { last_k_epochs = 3 }", Works),
    ("callbacks = { wise_ft_alpha = 0.4 }", Works),
    ("callbacks = { alpha = 0.4 }", Refused("write wise_ft_alpha")),
    ("callbacks = { metrics_logger_step = 'epoch' }", Refused("nothing is sent anywhere")),
    ("callbacks = { wandb_args = {} }", Refused("nothing is sent anywhere")),
    ("callbacks = { log_zero_shot = true }", Refused("epoch 0 in metrics.jsonl")),
    ("csv_options = { is_labeled = true }", Refused("recognised by its header")),
    ("data_options = { size = 100 }", Refused("a file is read whole")),
    ("data_options = { sampling_rate = 0.5 }", Refused("draw the lines")),
    ("data_options = { dialect = 'auto' }", Refused("commas")),
    ("data_options = { encoding = 'latin-1' }", Refused("UTF-8")),
    ("data_options = { is_labeled = true }", Refused("the header tells")),
    ("data_options = { convert_to_blob = true }", Refused("images lie in folders")),
    ("data_options = { create_point_clouds = true }", Refused("no encoder for meshes")),
    ("data_options = { point_cloud_size = 2048 }", Refused("no encoder for meshes")),
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

/// A figure that other programs mean something else by.
#[test]
fn a_namesake_is_pointed_out() {
    for (monitor, said) in [("recall_at_20", true), ("recall_at_1", false), ("ir_recall_at_20", false)] {
        let text = format!("callbacks = {{ monitor = '{monitor}' }}");
        let notices = RunOptions::from_toml(&text).and_then(|options| options.check()).unwrap();
        assert_eq!(notices.iter().any(|notice| notice.contains("is ir_recall_at_20")), said, "{notices:?}");
    }
}
