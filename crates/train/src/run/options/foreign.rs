//! Jina Finetuner's names inside `callbacks` and `data_options`, and what to write instead.

use toml::{Table, Value};

use crate::{Error, Result};

/// Finetuner's callbacks, which are classes there and options here.
const CALLBACKS: [(&str, &str); 9] = [
    (
        "EvaluationCallback",
        "the evaluation items are measured after every epoch anyway; write callbacks.evaluate_every, or `embedtune evaluate` \
         for other measures",
    ),
    ("BestModelCheckpoint", "write callbacks.best_model = true and callbacks.monitor"),
    (
        "EarlyStopping",
        "write callbacks.patience (2 there), callbacks.min_delta, callbacks.baseline and callbacks.monitor",
    ),
    (
        "TrainingCheckpoint",
        "a checkpoint is written after every epoch anyway; write callbacks.last_k_epochs to keep several",
    ),
    ("WiSEFTCallback", "write callbacks.wise_ft_alpha (0.4 there)"),
    ("WandBLogger", LOGGED),
    ("MLFlowCallback", LOGGED),
    ("MLFlowLogger", LOGGED),
    ("ProgressBarCallback", "progress is shown anyway; --progress chooses how"),
];

/// For callbacks that send figures to a server.
const LOGGED: &str = "nothing is sent anywhere: metrics.jsonl in the run's folder holds every epoch, and \
                      callbacks.tensorboard = true writes event files that such servers import";

/// Their arguments, where they are not options of the same name here.
const ARGUMENTS: [(&str, &str); 24] = [
    ("alpha", "write wise_ft_alpha"),
    ("mode", "whether a figure is to rise or to fall follows from monitor; leave it out"),
    ("query_data", "evaluation items are part of the data folder (`fit --help`); leave it out"),
    ("index_data", "a gallery is part of the data folder (`fit --help`); leave it out"),
    ("model", "it is the run's own; leave it out"),
    ("index_model", "queries and gallery have one encoder; leave it out"),
    ("batch_size", "what is measured is embedded in blocks of its own; leave it out"),
    ("exclude_self", "items that search each other never find themselves; leave it out"),
    (
        "limit",
        "write monitor with the number of neighbours, e.g. precision_at_20 (recall_at_20 there is ir_recall_at_20)",
    ),
    ("distance", "runs are measured by cosine; `embedtune evaluate --distance` has others"),
    ("num_workers", "batches are read ahead by a thread of their own; leave it out"),
    ("gather_examples", "report.html shows queries with what they find; leave it out"),
    ("num_example_queries", "report.html shows queries with what they find; leave it out"),
    ("query_sample_size", "all queries are measured, exactly; leave it out"),
    ("caption", "a run is called as its folder is: --out FOLDER"),
    ("metrics_logger_step", LOGGED),
    ("wandb_args", LOGGED),
    ("log_zero_shot", "epoch 0 in metrics.jsonl is the state before training; leave it out"),
    ("token", LOGGED),
    ("save_dir", "checkpoints are in the run's folder: --out FOLDER"),
    ("verbose", "write -q on the command line for less; leave it out"),
    ("hide_components", "progress is shown anyway; --progress chooses how"),
    ("save_best_only", "write best_model = true"),
    ("restore_best_weights", "write best_model = true"),
];

/// Finetuner's CSV options.
const CSV: [(&str, &str); 8] = [
    ("size", "a file is read whole; shorten it, or use `compare --train-items`"),
    ("sampling_rate", "a file is read whole; draw the lines beforehand"),
    ("dialect", "CSV files are separated by commas; save the file so"),
    ("encoding", "files are read as UTF-8; save the file so"),
    ("is_labeled", "the header tells: a column text and one label, or two columns of texts"),
    ("convert_to_blob", "images lie in folders, one for each class; leave it out"),
    ("create_point_clouds", "there is no encoder for meshes; give vectors"),
    ("point_cloud_size", "there is no encoder for meshes; give vectors"),
];

/// Refuses Finetuner's callbacks by name, alone, in a list or as tables, and their arguments.
pub(in crate::run) fn callbacks(table: &Table) -> Result<()> {
    let Some(given) = table.get("callbacks") else { return Ok(()) };
    let find = |known: &[(&str, &'static str)], name: &str| {
        known.iter().find(|(known, _)| *known == name).map(|(_, remedy)| *remedy)
    };
    match given {
        // callbacks = ["EarlyStopping"], or with their arguments as they are written in Python.
        Value::Array(list) => {
            for value in list {
                let name = value.as_str().map(|text| text.split('(').next().unwrap_or(text).trim());
                if let Some((name, remedy)) = name.and_then(|name| Some((name, find(&CALLBACKS, name)?))) {
                    return Err(Error::option("callbacks", format!("[{name}]"), remedy));
                }
            }
        }
        Value::String(text) => {
            let name = text.split('(').next().unwrap_or(text).trim();
            if let Some(remedy) = find(&CALLBACKS, name) {
                return Err(Error::option("callbacks", name, remedy));
            }
        }
        Value::Table(options) => {
            for (name, value) in options {
                let remedy = find(&CALLBACKS, name).or_else(|| find(&ARGUMENTS, name));
                if let Some(remedy) = remedy {
                    return Err(Error::option(format!("callbacks.{name}"), value, remedy));
                }
            }
        }
        _ => {}
    }
    Ok(())
}

/// Refuses Finetuner's CSV options.
pub(in crate::run) fn data_options(table: &Table) -> Result<()> {
    let Some(options) = table.get("data_options").and_then(Value::as_table) else { return Ok(()) };
    match CSV.iter().find_map(|(name, remedy)| Some((name, options.get(*name)?, remedy))) {
        None => Ok(()),
        Some((name, value, remedy)) => Err(Error::option(format!("data_options.{name}"), value, *remedy)),
    }
}

#[cfg(test)]
mod tests {
    use crate::run::RunOptions;

    #[test]
    fn names_from_there_are_refused_with_what_is_here() {
        for (text, expected) in [
            (
                "callbacks = [\"EarlyStopping(monitor='val_loss')\"]",
                "callbacks = [EarlyStopping]: write callbacks.patience",
            ),
            ("callbacks = \"WandBLogger\"", "callbacks = WandBLogger: nothing is sent anywhere"),
            ("[callbacks.BestModelCheckpoint]\nmonitor = \"loss\"", "callbacks.BestModelCheckpoint = "),
            ("[callbacks]\nMLFlowCallback = true", "callbacks.MLFlowCallback = true: nothing is sent"),
            ("[callbacks]\nalpha = 0.4", "callbacks.alpha = 0.4: write wise_ft_alpha"),
            ("[callbacks]\nmode = \"auto\"", "callbacks.mode = \"auto\": whether a figure is to rise"),
            (
                "[data_options]\ndialect = \"excel\"",
                "data_options.dialect = \"excel\": CSV files are separated",
            ),
            ("[data_options]\nis_labeled = true", "data_options.is_labeled = true: the header tells"),
            ("[callbacks]\nother = 1", "unknown field `other`"),
        ] {
            let message = RunOptions::from_toml(text).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}\nlacks: {expected}");
        }
    }
}
