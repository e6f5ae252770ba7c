//! Options from a file with some of them set in place, and Finetuner's names that are no options here.

use toml::{Table, Value};

use super::{borrowed, foreign};
use crate::run::RunOptions;
use crate::{Error, Result};

/// Options that are tables of others.
const TABLES: [&str; 9] = [
    "pooler_options",
    "loss_options",
    "miner_options",
    "optimizer_options",
    "loss_optimizer_options",
    "scheduler_options",
    "device_options",
    "data_options",
    "callbacks",
];

/// Names that Jina Finetuner's users know and that are something else here: what to write instead.
const ELSEWHERE: [(&str, &str); 16] = [
    (
        "model",
        "no pretrained networks are fetched: the encoder follows from the data (write encoder, or leave it out); to build on \
         such a network, give its embeddings as vectors (.npy)",
    ),
    ("model_options", "write pooler and pooler_options, which stand by themselves here"),
    ("train_data", "the command line names the data: --data FOLDER"),
    ("eval_data", "evaluation items are part of the data folder (`fit --help`)"),
    ("num_workers", "batches are read ahead by a thread of their own and decoded on all cores; leave it out"),
    (
        "num_training_steps",
        "a run is as long as its epochs: write epochs; a schedule may end before: write \
                            scheduler_options.num_training_steps",
    ),
    ("to_onnx", "export a finished run: `embedtune export --run RUN --format onnx --out FILE`"),
    (
        "model_artifact",
        "write init_from (--init-from RUN) to start from an earlier run's model; `embedtune fit --resume RUN` continues a run \
         that was interrupted",
    ),
    ("run_name", "a run is called as its folder is: --out FOLDER"),
    ("experiment_name", "runs are folders: put those of an experiment into one (--out EXPERIMENT/RUN)"),
    ("description", "a run's folder may hold a file of your own; leave it out"),
    ("public", "a run is a folder on this machine; leave it out"),
    (
        "csv_options",
        "a CSV file's form is recognised by its header; write data_options for the score threshold",
    ),
    ("wandb_api_key", "nothing is sent anywhere: metrics.jsonl in the run's folder holds every epoch"),
    ("device_ids", "everything runs on one device; write device"),
    ("cpu", "write device = \"cpu\""),
];

impl RunOptions {
    /// Options from TOML with some of them replaced: pairs of a dotted name and a value, as `loss_options.scale` and
    /// `32`. A value is read as TOML where it is some (`32`, `true`, `[0.9, 0.99]`), as a word otherwise (`CosFaceLoss`,
    /// `28.6deg`).
    ///
    /// # Errors
    /// [`Error::Option`] with the name and the value that is of another type, unknown, or a Finetuner option that is
    /// something else here.
    pub fn from_toml_with(text: &str, set: &[(String, String)]) -> Result<Self> {
        let mut table: Table = match text.parse() {
            Ok(table) => table,
            // With its line; or a number that fits a field and no table, as a seed above 2^63.
            Err(error) => {
                let what = || Error::option("options", "?", error.to_string());
                return Self::from_toml(text).and_then(|_| Err(what()));
            }
        };
        known(&table, "")?;
        let mut options = Self::from_toml(text)?;
        for (name, value) in set {
            replace(&mut table, name, value)?;
            known(&table, value)?;
            // After each, so that the error is about the one that is wrong.
            options = of_table(&table).map_err(|e| Error::option(name.as_str(), value, one_line(&e)))?;
        }
        Ok(options)
    }
}

/// By way of its text: what reads options is compiled for texts, and would be once more for tables.
fn of_table(table: &Table) -> std::result::Result<RunOptions, toml::de::Error> {
    toml::from_str(&table.to_string())
}

/// Refuses Finetuner's names that are no options, with what to write.
pub(in crate::run) fn known(table: &Table, value: &str) -> Result<()> {
    borrowed::check(table)?;
    foreign::callbacks(table)?;
    foreign::data_options(table)?;
    named(table)?;
    let found = ELSEWHERE.iter().find_map(|(name, remedy)| Some((*name, table.get(*name)?, *remedy)));
    let Some((name, found, remedy)) = found else { return Ok(()) };
    let shown = if value.is_empty() { found.to_string() } else { value.to_owned() };
    Err(Error::option(name, shown, remedy))
}

/// Refuses arrays in the place of tables of options: serde would take their values in the order of the fields.
fn named(table: &Table) -> Result<()> {
    let refused = |name: &str, value: &Value| {
        let remedy = format!(
            "{name} is a table of options: give each by its name, as {name}.NAME = VALUE, or {name} = {{ NAME = VALUE }}"
        );
        Err(Error::option(name, value, remedy))
    };
    for name in TABLES {
        if let Some(value @ Value::Array(_)) = table.get(name) {
            return refused(name, value);
        }
    }
    let groups = table.get("param_groups").and_then(Value::as_array);
    match groups.and_then(|groups| groups.iter().find(|group| group.is_array())) {
        None => Ok(()),
        Some(group) => {
            let remedy = "each group is a table: write [[param_groups]], or { params = [\"*.bias*\"], learning_rate = 0.0001 }";
            Err(Error::option("param_groups", group, remedy))
        }
    }
}

fn one_line(error: &toml::de::Error) -> String {
    with_nearest(&error.message().trim().replace('\n', " "))
}

/// What serde says of an unknown name, with the known one that looks most like it behind it.
pub(in crate::run) fn with_nearest(message: &str) -> String {
    let nearest = || {
        let (_, rest) =
            message.split_once("unknown field `").or_else(|| message.split_once("unknown variant `"))?;
        let (unknown, rest) = rest.split_once('`')?;
        // Every second piece stands between quotes.
        let known = rest.split('`').skip(1).step_by(2);
        let alike = known
            .map(|name| (strsim::damerau_levenshtein(&unknown.to_lowercase(), &name.to_lowercase()), name));
        let (apart, name) = alike.min()?;
        (apart <= unknown.chars().count() / 3).then(|| name.to_owned())
    };
    match nearest() {
        Some(name) => format!("{}; did you mean {name}?", message.trim_end()),
        None => message.to_owned(),
    }
}

fn replace(table: &mut Table, name: &str, value: &str) -> Result<()> {
    let wrong = |remedy: &str| Error::option(name, value, remedy);
    let mut parts: Vec<&str> = name.split('.').map(str::trim).collect();
    let last = parts.pop().unwrap_or_default();
    if last.is_empty() || parts.iter().any(|part| part.is_empty()) {
        return Err(wrong("write a name as in run.toml, e.g. loss_options.scale=32"));
    }
    let parsed = format!("value = {value}").parse::<Table>().ok().filter(|one| one.len() == 1);
    let parsed = parsed.and_then(|mut one| one.remove("value"));
    let mut at = table;
    for part in parts {
        let inner = at.entry(part).or_insert_with(|| Value::Table(Table::new()));
        at = inner.as_table_mut().ok_or_else(|| wrong(&format!("{part} is no table of options")))?;
    }
    at.insert(last.to_owned(), parsed.unwrap_or_else(|| Value::String(value.to_owned())));
    Ok(())
}

#[cfg(test)]
mod tests {
    use embedtune_losses::{LossKind, MarginValue};

    use super::*;

    #[test]
    fn a_name_that_is_nearly_one_is_answered_by_it() {
        for (set, expected) in [
            (("epoch", "3"), "did you mean epochs?"),
            (("loss", "arcfaceloss"), "did you mean ArcFaceLoss?"),
            (("learning_rat", "1"), "did you mean learning_rate?"),
            (("scheduler", "\"cosin\""), "did you mean cosine?"),
            (("callbacks.patienc", "1"), "did you mean patience?"),
        ] {
            let set = [(set.0.to_owned(), set.1.to_owned())];
            let said = RunOptions::from_toml_with("", &set).unwrap_err().to_string();
            assert!(said.contains(expected), "{said}");
        }
        assert!(RunOptions::from_toml("epoch = 3").unwrap_err().to_string().contains("did you mean epochs?"));
        let far = RunOptions::from_toml("zzz = 3").unwrap_err().to_string();
        assert!(far.contains("unknown field `zzz`") && !far.contains("did you mean"), "{far}");
    }

    fn with(text: &str, set: &[(&str, &str)]) -> Result<RunOptions> {
        let set: Vec<_> = set.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        RunOptions::from_toml_with(text, &set)
    }

    #[test]
    fn values_are_set_by_dotted_names() {
        let text = "epochs = 9\n[loss_options]\nmargin = 0.2\n";
        let set = [
            ("loss", "CosFaceLoss"),
            ("loss_options.scale", "32"),
            ("optimizer_options.betas", "[0.8, 0.9]"),
            ("data_options.grayscale", "true"),
            ("epochs", "2"),
        ];
        let options = with(text, &set).unwrap();
        assert_eq!((options.loss, options.epochs), (LossKind::CosFaceLoss, 2));
        assert_eq!(options.loss_options.scale, Some(32.0));
        assert_eq!(options.loss_options.margin, Some(MarginValue::Number(0.2)));
        assert_eq!(options.optimizer_options.betas, Some((0.8, 0.9)));
        assert!(options.data_options.grayscale);
        let angle = with("loss = \"ArcFaceLoss\"", &[("loss_options.margin", "28.6deg")]).unwrap();
        assert!(matches!(angle.loss_options.margin, Some(MarginValue::Angle(_))));
        assert_eq!(with(text, &[]).unwrap(), RunOptions::from_toml(text).unwrap());
    }

    #[test]
    fn the_wrong_one_is_named() {
        for (set, expected) in [
            (("loss_options.scael", "32"), "loss_options.scael = 32: unknown field `scael`"),
            (("epochs", "three"), "epochs = three: invalid type: string \"three\""),
            (("epochs", "-1"), "epochs = -1: "),
            (("epochs.more", "1"), "epochs.more = 1: epochs is no table of options"),
            (("loss", "Foo"), "loss = Foo: unknown variant `Foo`"),
            (("", "1"), " = 1: write a name as in run.toml"),
            (("loss_options.", "1"), "write a name as in run.toml"),
            (("to_onnx", "true"), "to_onnx = true: export a finished run"),
            (("model_artifact", "x"), "model_artifact = x: write init_from (--init-from RUN)"),
            (("callbacks", "[2]"), "callbacks = [2]: callbacks is a table of options"),
            (("callbacks", "[\"WandBLogger\"]"), "callbacks = [WandBLogger]: nothing is sent"),
            (("loss_options", "[0.2, 3]"), "loss_options = [0.2, 3]: loss_options is a table of options"),
            (("param_groups", "[[[\"*.bias\"]]]"), "each group is a table"),
            (("loss", "CLIPLoss"), "loss = CLIPLoss: it learns from pairs of image and text"),
        ] {
            let message = with("epochs = 3", &[("batch_size", "64"), set]).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}\nlacks: {expected}");
        }
        assert!(with("epochs = ", &[]).unwrap_err().to_string().contains("line 1"));
    }
}
