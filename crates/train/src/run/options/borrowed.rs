//! Names that users of pytorch-metric-learning, Finetuner and PyTorch write as values or inside tables of options, and that
//! are none here: what is nearest.

use toml::{Table, Value};

use crate::{Error, Result};

/// Names, and what to write instead of any of them.
type Names = (&'static [&'static str], &'static str);

/// Losses of pytorch-metric-learning and Finetuner.
const LOSSES: [Names; 11] = [
    (
        &["CLIPLoss"],
        "it learns from pairs of image and text, for which there is no encoder here; write TripletMarginLoss",
    ),
    (
        &["CosineSimilarityLoss"],
        "it learns from scores; here pairs whose score is data_options.score_threshold or more make classes: write \
         TripletMarginLoss",
    ),
    (
        &["MarginMSELoss"],
        "it learns from a teacher's scores, which are not read here; write TripletMarginLoss",
    ),
    (
        &["NormalizedSoftmaxLoss"],
        "write CosFaceLoss with loss_options.margin = 0 and loss_options.scale = 1 / temperature, which is the same",
    ),
    (&["LargeMarginSoftmaxLoss"], "write SphereFaceLoss, which is the same with centres of length 1"),
    (&["SoftTripleLoss"], "write SubCenterArcFaceLoss, which has several centres a class too"),
    (
        &["ProxyAnchorLoss", "ProxyNCALoss", "InstanceLoss", "P2SGradLoss"],
        "write ArcFaceLoss or CosFaceLoss, which compare items with class centres too",
    ),
    (
        &["CrossBatchMemory"],
        "it is no loss of its own here: write TripletMarginLoss and memory_size, the past embeddings to compare with",
    ),
    (
        &["VICRegLoss", "SelfSupervisedLoss", "NTXentLoss"],
        "it learns from views of unlabelled items, which are not made here; with labels write TripletMarginLoss",
    ),
    (
        &[
            "AngularLoss",
            "CentroidTripletLoss",
            "CircleLoss",
            "ContrastiveLoss",
            "DynamicSoftMarginLoss",
            "FastAPLoss",
            "GeneralizedLiftedStructureLoss",
            "HistogramLoss",
            "IntraPairVarianceLoss",
            "LiftedStructureLoss",
            "ManifoldLoss",
            "MarginLoss",
            "MultiSimilarityLoss",
            "NCALoss",
            "NPairsLoss",
            "PNPLoss",
            "RankedListLoss",
            "SignalToNoiseRatioContrastiveLoss",
            "SmoothAPLoss",
            "SupConLoss",
            "ThresholdConsistentMarginLoss",
            "TupletMarginLoss",
        ],
        "write TripletMarginLoss, which compares items with each other too, over all triplets of a batch",
    ),
    (&["CrossEntropyLoss"], "write CosFaceLoss with loss_options.margin = 0: a softmax over cosines"),
];

/// Miners of pytorch-metric-learning.
const MINERS: [Names; 4] = [
    (
        &["MultiSimilarityMiner", "PairMarginMiner", "HDCMiner", "UniformHistogramMiner"],
        "it selects pairs, and the losses here take triplets; write TripletMarginMiner with miner_options.type_of_triplets = \
         \"hard\" or \"semihard\"",
    ),
    (
        &["BatchEasyHardMiner"],
        "write BatchHardMiner, or TripletMarginMiner with miner_options.type_of_triplets = \"semihard\"",
    ),
    (
        &["DistanceWeightedMiner", "AngularMiner", "MaximumLossMiner"],
        "write TripletMarginMiner with miner_options.type_of_triplets = \"semihard\", which keeps informative triplets too",
    ),
    (&["EmbeddingsAlreadyPackagedAsTriplets"], "triplets follow from the labels of a batch; leave it out"),
];

/// The encoders there are; everything else that is written is the name of a pretrained network.
const ENCODERS: [&str; 4] = ["auto", "cnn", "mlp", "text"];
const PRETRAINED: &str = "no pretrained networks are fetched: write auto, or cnn for images, mlp for vectors, text for text; \
                          to build on a pretrained network, give its embeddings as vectors (.npy), on which mlp trains a head";

const DEVICES: [Names; 1] =
    [(&["cuda:0", "gpu", "cuda:1", "0"], "write cuda, which is the first NVIDIA GPU, or auto or cpu")];

const COMPUTED: &str = "it says how PyTorch computes, not what; leave it out";

/// Names inside a table of options.
const INSIDE: [(&str, &[Names]); 6] = [
    (
        "loss_options",
        &[
            (&["num_classes"], "the data say how many classes there are; leave it out"),
            (&["embedding_size"], "write output_dim, or leave it out"),
            (&["smooth_loss"], "write smooth"),
            (&["triplets_per_anchor"], "all triplets of a batch are computed, exactly; leave it out"),
            (&["reducer"], "write reduction: mean_non_zero, mean or sum"),
            (&["normalize_embeddings"], "write normalize"),
            (&["temperature"], "write scale, which is 1 / temperature"),
            (&["s"], "write scale"),
            (&["m", "m1", "m2", "m3"], "write margin; the loss says where it goes"),
            (&["weight_init_func"], "how centres start, the preset says: write preset"),
            (&["weight_regularizer"], "write loss_optimizer_options.weight_decay"),
            (&["embedding_regularizer"], "there is none; leave it out"),
        ],
    ),
    ("miner_options", &[(&["distance"], "a miner measures as the loss does: write loss_options.distance")]),
    ("optimizer_options", OPTIMIZER),
    ("loss_optimizer_options", OPTIMIZER),
    (
        "scheduler_options",
        &[
            (&["last_epoch"], "a resumed run knows where it stands; leave it out"),
            (&["name", "scheduler_type"], "write scheduler"),
        ],
    ),
    ("pooler_options", &[(&["trainable"], "p is learnt with the other parameters; leave it out")]),
];

const OPTIMIZER: &[Names] = &[
    (&["maximize"], "a loss is minimised; leave it out"),
    (&["foreach", "fused", "capturable", "differentiable"], COMPUTED),
    (&["params"], "write param_groups, for parameters with a rate or weight decay of their own"),
];

fn find(names: &[Names], wanted: &str) -> Option<&'static str> {
    let fits = |(known, _): &&Names| known.iter().any(|name| name.eq_ignore_ascii_case(wanted));
    names.iter().find(fits).map(|(_, remedy)| *remedy)
}

/// Refuses values and names of other libraries, with what is nearest here.
pub(in crate::run) fn check(table: &Table) -> Result<()> {
    let given = |field: &str| table.get(field).and_then(Value::as_str);
    for (field, names) in [("loss", &LOSSES[..]), ("miner", &MINERS), ("device", &DEVICES)] {
        if let Some((value, remedy)) = given(field).and_then(|value| Some((value, find(names, value)?))) {
            return Err(Error::option(field, value, remedy));
        }
    }
    if let Some(encoder) = given("encoder").filter(|name| !ENCODERS.contains(name)) {
        return Err(Error::option("encoder", encoder, PRETRAINED));
    }
    for (field, names) in INSIDE {
        let Some(options) = table.get(field).and_then(Value::as_table) else { continue };
        for (name, value) in options {
            // Theirs are written as ours are: a name in another case is a slip, for which there is another message.
            let known = names.iter().find(|(known, _)| known.contains(&name.as_str()));
            if let Some((_, remedy)) = known {
                return Err(Error::option(format!("{field}.{name}"), value, *remedy));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::run::RunOptions;

    #[test]
    fn what_is_nearest_is_said() {
        for (text, expected) in [
            ("loss = 'SupConLoss'", "loss = SupConLoss: write TripletMarginLoss"),
            ("loss = 'proxyanchorloss'", "loss = proxyanchorloss: write ArcFaceLoss or CosFaceLoss"),
            ("loss = 'NormalizedSoftmaxLoss'", "write CosFaceLoss with loss_options.margin = 0"),
            ("loss = 'CrossBatchMemory'", "write TripletMarginLoss and memory_size"),
            ("miner = 'MultiSimilarityMiner'", "miner = MultiSimilarityMiner: it selects pairs"),
            ("encoder = 'resnet50'", "encoder = resnet50: no pretrained networks are fetched"),
            ("device = 'cuda:0'", "device = cuda:0: write cuda"),
            ("[loss_options]\nnum_classes = 10", "loss_options.num_classes = 10: the data say"),
            ("[loss_options]\nsmooth_loss = true", "loss_options.smooth_loss = true: write smooth"),
            ("[miner_options]\ndistance = 'l2'", "write loss_options.distance"),
            (
                "[optimizer_options]\nfused = true",
                "optimizer_options.fused = true: it says how PyTorch computes",
            ),
            (
                "[loss_optimizer_options]\nmaximize = true",
                "loss_optimizer_options.maximize = true: a loss is",
            ),
            ("[scheduler_options]\nlast_epoch = -1", "scheduler_options.last_epoch = -1: a resumed run"),
            ("loss = 'Other'", "unknown variant `Other`"),
        ] {
            let message = RunOptions::from_toml(text).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}\nlacks: {expected}");
        }
    }
}
