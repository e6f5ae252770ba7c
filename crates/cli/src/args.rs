//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::evaluate::Evaluate;
use crate::figure::Projection;
use crate::line::Progress;

/// Fine-tune embeddings with metric-learning losses.
///
/// Start with `embedtune compare`: it trains three losses on built-in data and shows what each has learnt.
#[derive(Parser)]
#[command(name = "embedtune", version, propagate_version = true, max_term_width = 100)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
    /// No progress and no notes; results and errors only.
    #[arg(long, short, global = true, help_heading = "Output")]
    pub(crate) quiet: bool,
    /// How progress is shown. Default: a bar on a terminal, lines elsewhere and where CI is set.
    #[arg(long, global = true, value_enum, default_value_t, help_heading = "Output")]
    pub(crate) progress: Progress,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Train the triplet, ArcFace and CosFace losses from the same start; print a table, draw the picture.
    Compare(Compare),
    /// Train an encoder, or continue a run.
    #[command(after_long_help = DATA)]
    Fit(Box<Fit>),
    /// Measure retrieval with a trained run, or of vectors in files.
    Evaluate(Box<Evaluate>),
    /// Write a run's embeddings of a data set.
    #[command(after_long_help = crate::embed::INPUTS)]
    Embed(crate::embed::Embed),
    /// Write a run's encoder for other programs.
    Export(crate::export::Export),
    /// Nearest neighbours of one item among the others.
    Search(Search),
    /// What a loss computes: formula, parameters and logits of a preset, beside another's.
    Explain(crate::advice::Explain),
    /// Which margin and scale so many classes in so many dimensions allow.
    Advise(crate::advice::Advise),
    /// Write the report of a run or of a comparison again.
    Report(Report),
}

/// A seed.
pub(crate) fn seed(text: &str) -> Result<u64, String> {
    // Run files hold no larger one than the message says, which the options' own check refuses.
    text.parse().map_err(|_| format!("a seed is a whole number from 0 to {}", i64::MAX))
}

/// The end of `fit --help`.
const DATA: &str = "\
Data are a folder, recognised by its files' names:

  images   train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte and
           t10k-labels-idx1-ubyte (MNIST's files), gzipped or not
  images of classes to train on and of others to measure on
           *images-idx3*, *labels-idx1* (8 or 16 bits), gzipped or not, and *classes*.tsv with
           columns class and split (background or evaluation)
  text     train.csv and test.csv with a column text (or query, sentence, item, utterance) and
           a column label (or category, intent, class, target); or pairs that belong together,
           text1 and text2 (query and document, question and answer, anchor and positive),
           with a score where not every pair does (score_threshold in [data_options])
  vectors  train.npy, train_labels.npy, test.npy and test_labels.npy; or train.npz and test.npz
           with an array vectors (or embeddings, x, data, arr_0) of float32 or float64,
           [items, dim], and an array labels (or y, targets, arr_1) of whole numbers, [items];
           or train.safetensors and test.safetensors with tensors of these names. Vectors in .npy and
           .safetensors stay in their files, and those trained on may be larger than memory (in_memory)
  vectors or text in Parquet files (where the program is built with the feature parquet)
           train.parquet and test.parquet with a column vector (or embedding: lists of float32 or float64
           of one length) or text, and a column label of whole numbers or names; or pairs as in CSV
  sequences of token vectors
           as train.npz or train.safetensors: tokens, [items, tokens, dim], and mask, [items, tokens]
  image files
           train/CLASS/*.png (or .jpg, .jpeg) and test/CLASS/*.png; or CLASS/*.png, of which a fifth is
           measured on. Resized to 64 x 64 ([data_options] in the TOML file: image_size, grayscale,
           in_memory, test_share), once, into a temporary file (TMPDIR) where a disk has room

One file data.csv (with labels), data.parquet, data.npz, data.safetensors, or data.npy and data_labels.npy
holds all items: a fifth of each class is measured on (test_share).
A file classes.txt beside images or vectors names the classes: its line i, from 0, is label i.
Evaluation items search each other; those of text search the training items. Files (or folders)
queries and gallery instead of test make queries that search a gallery: queries.npy,
queries_labels.npy, gallery.npy and gallery_labels.npy; query/CLASS/*.png and gallery/CLASS/*.png;
and so on for all but MNIST's files. Without --data the
program draws glyphs: 100 classes to train on and 50 others to measure on.

Ctrl-C saves a checkpoint after the current batch; --resume continues from it to the same result.";

#[derive(Args)]
pub(crate) struct Compare {
    /// Folder with data (see `fit --help`). Default: built-in glyphs.
    #[arg(long)]
    pub(crate) data: Option<PathBuf>,
    /// Where results go; an earlier comparison there is replaced.
    #[arg(long, default_value = "runs/compare")]
    pub(crate) out: PathBuf,
    /// Passes over the data. Default: 10 for the built-in glyphs, 3 otherwise.
    #[arg(long)]
    pub(crate) epochs: Option<usize>,
    /// Items in a batch.
    #[arg(long, default_value_t = 128)]
    pub(crate) batch_size: usize,
    /// Seed of weights, batches and the built-in data.
    #[arg(long, default_value_t = 0, allow_negative_numbers = true, value_parser = seed)]
    pub(crate) seed: u64,
    /// How the picture and the report are projected.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) projection: Projection,
    /// Compare with this many seeds, from --seed on, and tell which claims about the losses hold. The picture and
    /// the report show the first; the others go into `seed-N`.
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub(crate) seeds: usize,
    /// Classes, with commas between, whose separation --seeds also measures by themselves. Default: the garments for
    /// the upper body, where the data are Fashion-MNIST's; the five hardest of other data, by the raw vectors.
    #[arg(long, value_delimiter = ',', value_name = "CLASSES")]
    pub(crate) focus: Vec<String>,
    /// Train on this many items at most, evenly from all classes.
    #[arg(long, value_name = "N")]
    pub(crate) train_items: Option<usize>,
    /// Measure on this many items at most, evenly from all classes.
    #[arg(long, value_name = "N")]
    pub(crate) test_items: Option<usize>,
    /// Print the summary as JSON instead of a table.
    #[arg(long)]
    pub(crate) json: bool,
}

/// What the options of `fit` are about, in the order of its help.
const RUN: &str = "Data and run";
const ENCODER: &str = "Encoder";
const LOSS: &str = "Loss";
const OPTIMIZERS: &str = "Optimizers";
const BATCHES: &str = "Batches";
const MEASURING: &str = "Measuring and saving";

#[derive(Args)]
pub(crate) struct Fit {
    #[command(flatten)]
    pub(crate) new: NewRun,
    /// Continue the run in this folder. Its run.toml holds every option, so no other goes with this one.
    #[arg(long, value_name = "FOLDER", conflicts_with = "NewRun")]
    pub(crate) resume: Option<PathBuf>,
    /// Print the report as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// What a new run is made of; the name of the group that `--resume` excludes.
#[derive(Args)]
pub(crate) struct NewRun {
    /// Folder with data. Default: built-in glyphs.
    #[arg(long, help_heading = RUN)]
    pub(crate) data: Option<PathBuf>,
    /// The run's folder.
    #[arg(long, default_value = "runs/fit", help_heading = RUN)]
    pub(crate) out: PathBuf,
    /// Replace a run that is already in the folder.
    #[arg(long, help_heading = RUN)]
    pub(crate) overwrite: bool,
    /// TOML file of options, named as in run.toml; flags win over it. The run.toml of a run does it all again: with its
    /// data, unless --data names others.
    #[arg(long, help_heading = RUN)]
    pub(crate) config: Option<PathBuf>,
    /// Start from the model of the run in this folder; new classes get centres of their own.
    #[arg(long, value_name = "RUN", help_heading = RUN)]
    pub(crate) init_from: Option<PathBuf>,
    /// Set an option of the TOML file: a name as in run.toml and a value, e.g. loss_options.scale=32. Repeat for more. What
    /// has no flag of its own: encoder, param_groups, val_split_by, pooler_options.{p, eps, sign, learnable, per_channel},
    /// loss_options.{preset, sub_centers, distance, normalize, swap, smooth, reduction, edge, ...}, miner_options,
    /// optimizer_options and loss_optimizer_options (weight_decay, momentum, betas, ...), scheduler_options.{num_cycles,
    /// power, scheduler_step, ...}, data_options, callbacks.{min_delta, baseline}, device_options.products. A wrong name is
    /// answered by those that there are.
    #[arg(long, value_name = "NAME=VALUE", help_heading = RUN)]
    pub(crate) set: Vec<String>,
    /// Where the loss and the class centres are computed: cuda (an NVIDIA GPU; the program must be built with
    /// `--features cuda`), cpu, or auto, which takes a GPU where there is one. The encoder is on the CPU.
    #[arg(long, help_heading = RUN)]
    pub(crate) device: Option<String>,
    /// What a GPU multiplies: f32, or f16 at a third of the work, with gradients within about 1e-3.
    #[arg(long, help_heading = RUN)]
    pub(crate) precision: Option<String>,
    /// Seed of everything random, the built-in data included.
    #[arg(long, allow_negative_numbers = true, value_parser = seed, help_heading = RUN)]
    pub(crate) seed: Option<u64>,
    /// Replace the encoder's last pooling layer: GeM, Avg or Max.
    #[arg(long, help_heading = ENCODER)]
    pub(crate) pooler: Option<String>,
    /// Length of the embeddings.
    #[arg(long, help_heading = ENCODER)]
    pub(crate) output_dim: Option<usize>,
    /// Keep that model as it is and train a new head on it.
    #[arg(long, help_heading = ENCODER)]
    pub(crate) freeze: bool,
    /// TripletMarginLoss, ArcFaceLoss, CosFaceLoss, SphereFaceLoss or SubCenterArcFaceLoss.
    #[arg(long, help_heading = LOSS)]
    pub(crate) loss: Option<String>,
    /// The loss's margin: "28.6deg" or "0.5rad" for ArcFace, a number for the others.
    #[arg(long, allow_hyphen_values = true, help_heading = LOSS)]
    pub(crate) margin: Option<String>,
    /// Factor of the logits, for losses with class centres.
    #[arg(long, allow_negative_numbers = true, help_heading = LOSS)]
    pub(crate) scale: Option<f64>,
    /// TripletMarginMiner or BatchHardMiner.
    #[arg(long, help_heading = LOSS)]
    pub(crate) miner: Option<String>,
    /// Past embeddings that triplets take positives and negatives from.
    #[arg(long, help_heading = LOSS)]
    pub(crate) memory_size: Option<usize>,
    /// plain, or unit_sphere: centres of length 1, whose learning rate is in radians per step.
    #[arg(long, help_heading = LOSS)]
    pub(crate) centers: Option<String>,
    /// Adadelta, Adagrad, Adam, AdamW, SparseAdam, Adamax, ASGD, LBFGS, NAdam, RAdam, RMSprop, Rprop or SGD.
    #[arg(long, help_heading = OPTIMIZERS)]
    pub(crate) optimizer: Option<String>,
    /// The model's learning rate.
    #[arg(long, allow_negative_numbers = true, help_heading = OPTIMIZERS)]
    pub(crate) learning_rate: Option<f64>,
    /// Optimizer of the class centres; default: the model's.
    #[arg(long, help_heading = OPTIMIZERS)]
    pub(crate) loss_optimizer: Option<String>,
    /// The class centres' learning rate.
    #[arg(long, allow_negative_numbers = true, help_heading = OPTIMIZERS)]
    pub(crate) loss_learning_rate: Option<f64>,
    /// constant, constant_with_warmup, linear, cosine, cosine_with_restarts or polynomial.
    #[arg(long, help_heading = OPTIMIZERS)]
    pub(crate) scheduler: Option<String>,
    /// Length of the warm-up: steps, or a share of the run if below 1.
    #[arg(long, allow_negative_numbers = true, help_heading = OPTIMIZERS)]
    pub(crate) num_warmup_steps: Option<f64>,
    /// Factor on the rate from each layer to the one below it, e.g. 0.98.
    #[arg(long, allow_negative_numbers = true, help_heading = OPTIMIZERS)]
    pub(crate) layer_wise_lr_decay: Option<f64>,
    /// Scale the gradient down to this norm where it is longer.
    #[arg(long, allow_negative_numbers = true, help_heading = OPTIMIZERS)]
    pub(crate) max_grad_norm: Option<f64>,
    /// Batches whose mean gradient makes one step.
    #[arg(long, help_heading = OPTIMIZERS)]
    pub(crate) gradient_accumulation_steps: Option<usize>,
    /// Passes over the data.
    #[arg(long, help_heading = BATCHES)]
    pub(crate) epochs: Option<usize>,
    /// Items in a batch, or auto: the largest power of two up to 128 that fits the memory.
    #[arg(long, help_heading = BATCHES)]
    pub(crate) batch_size: Option<String>,
    /// auto, random or class.
    #[arg(long, help_heading = BATCHES)]
    pub(crate) sampler: Option<String>,
    /// Items of each class in a batch drawn by class.
    #[arg(long, help_heading = BATCHES)]
    pub(crate) num_items_per_class: Option<usize>,
    /// Share of the training items that is held out and measured after every epoch.
    #[arg(long, allow_negative_numbers = true, help_heading = MEASURING)]
    pub(crate) val_split: Option<f64>,
    /// What the best model and early stopping look at: recall_at_K, ir_recall_at_K, precision_at_K, ndcg_at_K, r_precision,
    /// map_at_r, map, mrr, ndcg, nmi, ami or loss. Default: recall_at_1.
    #[arg(long, help_heading = MEASURING)]
    pub(crate) monitor: Option<String>,
    /// Measure retrieval after every so many epochs.
    #[arg(long, help_heading = MEASURING)]
    pub(crate) evaluate_every: Option<usize>,
    /// Stop once the monitored figure has not improved for so many measured epochs.
    #[arg(long, help_heading = MEASURING)]
    pub(crate) patience: Option<usize>,
    /// End with the weights of the best epoch instead of the last.
    #[arg(long, help_heading = MEASURING)]
    pub(crate) best_model: bool,
    /// Keep the checkpoints of so many epochs, in checkpoints/.
    #[arg(long, help_heading = MEASURING)]
    pub(crate) last_k_epochs: Option<usize>,
    /// Write a checkpoint after every so many batches too.
    #[arg(long, help_heading = MEASURING)]
    pub(crate) save_steps: Option<usize>,
    /// Write a checkpoint within an epoch once the last one is so many minutes old (10; 0: never).
    #[arg(long, allow_negative_numbers = true, help_heading = MEASURING)]
    pub(crate) save_minutes: Option<f64>,
    /// After how many batches a line is added to steps.jsonl (50; 0: none).
    #[arg(long, help_heading = MEASURING)]
    pub(crate) log_steps: Option<usize>,
    /// WiSE-FT: end with this share of the trained weights and the rest of those before training.
    #[arg(long, allow_negative_numbers = true, help_heading = MEASURING)]
    pub(crate) wise_ft_alpha: Option<f64>,
    /// Write TensorBoard event files into tensorboard/.
    #[arg(long, help_heading = MEASURING)]
    pub(crate) tensorboard: bool,
}

#[derive(Args)]
pub(crate) struct Search {
    /// The run's folder.
    #[arg(long)]
    pub(crate) run: PathBuf,
    /// Folder with data. Default: the run's own.
    #[arg(long)]
    pub(crate) data: Option<PathBuf>,
    /// Row of the querying item among the evaluation items, from 0.
    #[arg(long)]
    pub(crate) query: usize,
    /// Neighbours to show.
    #[arg(long, short, default_value_t = 10)]
    pub(crate) k: usize,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args)]
pub(crate) struct Report {
    /// The folder that `fit` or `compare` wrote.
    pub(crate) run: PathBuf,
    /// Folder with data. Default: the run's own.
    #[arg(long)]
    pub(crate) data: Option<PathBuf>,
    /// How the items are projected.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) projection: Projection,
    /// Items to show in the projection, at most 10000, evenly from all classes.
    #[arg(long, default_value_t = crate::report::ITEMS)]
    pub(crate) items: usize,
    /// The file to write. Default: `report.html` in the run's folder.
    #[arg(long)]
    pub(crate) out: Option<PathBuf>,
}
