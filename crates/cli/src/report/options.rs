//! The options of each run: what it took, and what was given.

use std::fmt::Write;

use embedtune_train::losses::MarginValue;
use embedtune_train::run::Resolved;
use serde_json::Value;

use super::Run;
use crate::markup::escape;

/// A table of what each run took, with its options as given below.
pub(super) fn html(runs: &[Run]) -> String {
    let mut html = String::new();
    for run in runs {
        let open = if runs.len() == 1 { " open" } else { "" };
        // Writing to a String cannot fail.
        let _ = write!(
            html,
            "<details{open}><summary>{}</summary>{}<pre tabindex=\"0\">{}</pre></details>",
            run.loss(),
            run.file.resolved.as_ref().map_or(String::new(), |resolved| taken(run, resolved)),
            escape(run.options.trim_end())
        );
    }
    html
}

fn taken(run: &Run, resolved: &Resolved) -> String {
    let value = |of: serde_json::Result<Value>| of.unwrap_or_default();
    let given = value(serde_json::to_value(&run.file.options));
    let mut rows = Vec::new();
    flatten("", &value(serde_json::to_value(resolved)), &mut rows);
    let mut html = String::from(
        "<div class=\"scroll\"><table class=\"taken\"><thead><tr><th scope=\"col\">Option</th>\
         <th scope=\"col\">Value</th><th scope=\"col\"></th></tr></thead><tbody>",
    );
    for (name, value) in rows {
        let shown = match resolved.loss_options.margin {
            Some(MarginValue::Angle(angle)) if name == "loss_options.margin" => {
                format!("{}° ({} rad)", short(angle.as_degrees()), short(angle.as_radians()))
            }
            _ => words(&value),
        };
        let _ = write!(
            html,
            "<tr><th scope=\"row\"><code>{}</code></th><td>{}</td><td>{}</td></tr>",
            escape(&name),
            escape(&shown),
            whence(&name, &given, &value)
        );
    }
    html + "</tbody></table></div>"
}

/// Where a value comes from. `given` are the run's options.
fn whence(name: &str, given: &Value, value: &Value) -> &'static str {
    let name = if name == "loss_learning_rate" { "loss_optimizer_options.learning_rate" } else { name };
    let asked = name.split('.').try_fold(given, |table, part| table.get(part));
    match asked {
        Some(asked) if asked == value => "given",
        // `auto`, or a sampler that the loss cannot do with.
        Some(asked) if !asked.is_null() => "chosen",
        _ if name == "loss_options.scale" && given["loss_options"].get("preset").is_none() => {
            "chosen for the classes"
        }
        _ => "default",
    }
}

/// The leaves of a tree of tables, by the names on the way.
fn flatten(under: &str, value: &Value, rows: &mut Vec<(String, Value)>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let name = if under.is_empty() { name.clone() } else { format!("{under}.{name}") };
                flatten(&name, value, rows);
            }
        }
        value => rows.push((under.to_owned(), value.clone())),
    }
}

fn words(value: &Value) -> String {
    match value {
        Value::String(word) => word.clone(),
        other => other.to_string(),
    }
}

fn short(value: f64) -> f64 {
    (value * 1e4).round() / 1e4
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn values_say_where_they_come_from() {
        let given = json!({"sampler": "random", "encoder": "auto", "loss_optimizer": null,
            "loss_options": {"margin": 0.3}, "loss_optimizer_options": {"learning_rate": 0.01}});
        for (name, value, expected) in [
            ("loss_options.margin", json!(0.3), "given"),
            ("loss_learning_rate", json!(0.01), "given"),
            ("encoder", json!("cnn"), "chosen"),
            ("sampler", json!("class"), "chosen"),
            ("loss_options.scale", json!(16.0), "chosen for the classes"),
            ("loss_optimizer", json!("Adam"), "default"),
            ("loss_options.edge", json!("jump"), "default"),
        ] {
            assert_eq!(whence(name, &given, &value), expected, "{name}");
        }
        let named = json!({"loss_options": {"preset": "paper"}});
        assert_eq!(whence("loss_options.scale", &named, &json!(64.0)), "default");
        let mut rows = Vec::new();
        flatten("", &json!({"a": {"b": 1, "c": "x"}, "d": true}), &mut rows);
        assert_eq!(
            rows.iter().map(|(name, value)| format!("{name}={}", words(value))).collect::<Vec<_>>(),
            ["a.b=1", "a.c=x", "d=true"]
        );
    }
}
