//! Criterion's results as one list.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

/// Bench functions that do only what no implementation avoids.
pub const ROOFLINES: [&str; 6] = ["products", "bare_products", "bare_product", "copy", "read", "roofline"];

struct Measured {
    group: String,
    function: Option<String>,
    value: Option<String>,
    id: String,
    /// Seconds: median, and its 95 % confidence interval.
    seconds: [f64; 3],
    /// Unit and amount of one iteration.
    throughput: Option<(String, f64)>,
}

impl Measured {
    fn rate(&self) -> Option<f64> {
        Some(self.throughput.as_ref()?.1 / self.seconds[0])
    }

    /// Amount in a second, in a unit that two benches share; one over the time where neither has an amount.
    fn comparable(&self, other: &Self) -> Option<(f64, f64)> {
        match (&self.throughput, &other.throughput) {
            (Some(a), Some(b)) if a.0 == b.0 => self.rate().zip(other.rate()),
            (None, None) => Some((1.0 / self.seconds[0], 1.0 / other.seconds[0])),
            _ => None,
        }
    }

    fn is_roofline(&self) -> bool {
        self.function.as_deref().is_some_and(|function| ROOFLINES.contains(&function))
    }
}

/// The latest result of every bench under criterion's folder whose id contains `filter`, ordered by id, as objects:
///
/// | key | is |
/// |---|---|
/// | `id`, `group`, `function`, `value` | the bench's names (`function` and `value` may be null) |
/// | `median_seconds`, `low_seconds`, `high_seconds` | of one iteration, with the median's 95 % confidence interval |
/// | `throughput` | null, or `unit` (`bytes`, `elements`), `amount` of one iteration and `per_second` |
/// | `of_roofline` | by roofline ([`ROOFLINES`]) of the same group and value: this bench's share of its rate |
///
/// # Errors
/// A folder or file that cannot be read, or is not criterion's; the message names it.
pub fn collect(folder: &Path, filter: &str) -> Result<Vec<Value>, String> {
    let mut measured = Vec::new();
    walk(folder, &mut measured)?;
    measured.sort_by(|a, b| a.id.cmp(&b.id));
    let rooflines = |of: &Measured| -> serde_json::Map<String, Value> {
        let same =
            |other: &&Measured| other.is_roofline() && other.group == of.group && other.value == of.value;
        measured
            .iter()
            .filter(same)
            .filter_map(|other| {
                let (rate, most) = of.comparable(other)?;
                Some((other.function.clone()?, json!(rate / most)))
            })
            .collect()
    };
    let selected = measured.iter().filter(|one| one.id.contains(filter));
    Ok(selected
        .map(|one| {
            let throughput =
                one.throughput.as_ref().zip(one.rate()).map(
                    |((unit, amount), rate)| json!({ "unit": unit, "amount": amount, "per_second": rate }),
                );
            json!({
                "id": one.id,
                "group": one.group,
                "function": one.function,
                "value": one.value,
                "median_seconds": one.seconds[0],
                "low_seconds": one.seconds[1],
                "high_seconds": one.seconds[2],
                "throughput": throughput,
                "of_roofline": rooflines(one),
            })
        })
        .collect())
}

/// Criterion keeps the latest result of a bench in a folder `new`, at any depth.
fn walk(folder: &Path, into: &mut Vec<Measured>) -> Result<(), String> {
    let failed = |e: std::io::Error| format!("{}: {e}", folder.display());
    if folder.ends_with("new") && folder.join("benchmark.json").exists() {
        into.push(read(folder)?);
        return Ok(());
    }
    let mut folders: Vec<PathBuf> = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.is_dir() {
            folders.push(path);
        }
    }
    folders.sort();
    folders.iter().try_for_each(|folder| walk(folder, into))
}

fn read(folder: &Path) -> Result<Measured, String> {
    let file = |name: &str| -> Result<Value, String> {
        let path = folder.join(name);
        let text = fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        serde_json::from_str(&text).map_err(|e| format!("{}: {e}", path.display()))
    };
    let (names, estimates) = (file("benchmark.json")?, file("estimates.json")?);
    let text = |key: &str| names[key].as_str().map(str::to_owned);
    let nanoseconds = |pointer: &str| {
        estimates.pointer(pointer).and_then(Value::as_f64).map(|value| value * 1e-9).ok_or_else(|| {
            format!(
                "{}: no number at {pointer}; not written by criterion?",
                folder.join("estimates.json").display()
            )
        })
    };
    let throughput = names["throughput"].as_object().and_then(|object| {
        let (unit, amount) = object.iter().next()?;
        Some((unit.to_lowercase(), amount.as_f64()?))
    });
    let missing = |key: &str| {
        format!("{}: no {key}; not written by criterion?", folder.join("benchmark.json").display())
    };
    Ok(Measured {
        group: text("group_id").ok_or_else(|| missing("group_id"))?,
        function: text("function_id"),
        value: text("value_str"),
        id: text("full_id").ok_or_else(|| missing("full_id"))?,
        seconds: [
            nanoseconds("/median/point_estimate")?,
            nanoseconds("/median/confidence_interval/lower_bound")?,
            nanoseconds("/median/confidence_interval/upper_bound")?,
        ],
        throughput,
    })
}
