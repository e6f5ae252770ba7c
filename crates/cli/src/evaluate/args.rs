//! The options of `evaluate`.

use std::path::PathBuf;

use clap::{ArgGroup, Args, ValueEnum};
use embedtune_train::retrieval::Metric;

#[derive(Args)]
#[command(group = ArgGroup::new("measured").required(true).args(["run", "vectors"]))]
pub(crate) struct Evaluate {
    /// The run's folder.
    #[arg(long)]
    pub(crate) run: Option<PathBuf>,
    /// Folder with data. Default: the run's own.
    #[arg(long, conflicts_with = "vectors")]
    pub(crate) data: Option<PathBuf>,
    /// Measure vectors instead of a run: `.npy`, `[items, dim]`, of float32, float16 or float64, or `.safetensors` with a
    /// tensor vectors (or embeddings). The file may be larger than memory.
    #[arg(long, value_name = "FILE", requires = "labels")]
    pub(crate) vectors: Option<PathBuf>,
    /// Their classes: `.npy`, `[items]`, of whole numbers, or `.safetensors` with a tensor labels.
    #[arg(long, value_name = "FILE", requires = "vectors")]
    pub(crate) labels: Option<PathBuf>,
    /// Vectors that they search. Default: each other.
    #[arg(long, value_name = "FILE", requires_all = ["vectors", "gallery_labels"])]
    pub(crate) gallery: Option<PathBuf>,
    /// The classes of the gallery.
    #[arg(long, value_name = "FILE", requires = "gallery")]
    pub(crate) gallery_labels: Option<PathBuf>,
    /// What to show, comma-separated. Default: all but nmi and ami, which need a clustering.
    #[arg(long, value_enum, value_delimiter = ',', value_name = "NAME,...")]
    pub(crate) metrics: Vec<Shown>,
    /// The k of hit@k, recall@k, precision@k and nDCG@k beside 1, comma-separated.
    #[arg(long, short, value_delimiter = ',', value_name = "K,...", default_values_t = [5, 10])]
    pub(crate) k: Vec<usize>,
    /// What nearest means.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) distance: Distance,
    /// Show the figures of each class as well.
    #[arg(long)]
    pub(crate) per_class: bool,
    /// Tell pairs of one class from pairs of two by a threshold: ROC, equal error rate, and the threshold for each
    /// --far. Where all pairs are of one kind there is none: the other figures are shown, and the command ends with 1.
    #[arg(long)]
    pub(crate) calibrate: bool,
    /// False accept rates for --calibrate, comma-separated.
    #[arg(long, value_delimiter = ',', value_name = "RATE,...", default_values_t = [0.1, 0.01, 0.001, 0.0001],
          requires = "calibrate")]
    pub(crate) far: Vec<f64>,
    /// Show 95% confidence intervals from so many resamples of the queries.
    #[arg(long, value_name = "N")]
    pub(crate) bootstrap: Option<usize>,
    /// Seed of the resamples and of the clustering.
    #[arg(long, default_value_t = 0, allow_negative_numbers = true, value_parser = crate::args::seed)]
    pub(crate) seed: u64,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// A figure, or one for each k.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Shown {
    /// A relevant item among the first k; metric-learning papers call its mean Recall@k
    Hit,
    /// Share of the relevant items among the first k: what search engines call recall@k
    Recall,
    /// Share of the first k that is relevant
    Precision,
    /// Discounted cumulative gain, over the first k and over all
    Ndcg,
    /// Precision at the number of relevant items
    #[value(name = "r-precision", alias = "r_precision")]
    RPrecision,
    /// Mean average precision at R
    #[value(name = "map-at-r", alias = "map_at_r")]
    MapAtR,
    /// Mean average precision over the whole ranking
    Map,
    /// Mean reciprocal rank
    Mrr,
    /// Normalised mutual information of k-means and the classes, of the best of ten starts (fewer of large data)
    Nmi,
    /// The same adjusted for chance
    Ami,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum Distance {
    /// Cosine similarity
    #[default]
    Cosine,
    /// Dot product
    Dot,
    /// Euclidean distance
    L2,
}

impl From<Distance> for Metric {
    fn from(distance: Distance) -> Self {
        match distance {
            Distance::Cosine => Self::Cosine,
            Distance::Dot => Self::Dot,
            Distance::L2 => Self::L2,
        }
    }
}

impl Evaluate {
    /// Whether a figure is asked for.
    pub(super) fn shows(&self, shown: Shown) -> bool {
        let clusters = matches!(shown, Shown::Nmi | Shown::Ami);
        self.metrics.contains(&shown) || self.metrics.is_empty() && !clusters
    }
}
