//! `summary.json`: a comparison for other programs to read.

use std::path::Path;

use serde::Serialize;
use serde_json::{Map, Value};

use crate::run::{Comparison, Quality};
use crate::{Error, Result, io};

#[derive(Serialize)]
struct Row {
    #[serde(flatten)]
    quality: Quality,
    seconds: f64,
    gem_p: Option<f64>,
}

impl Comparison {
    /// An object for each variant by name: `recall_at_1`, `map_at_r`,
    /// `one_nn_accuracy`, `items`, `classes`, `seconds`, `gem_p`. Equal runs differ in `seconds` alone.
    ///
    /// # Errors
    /// A figure that JSON cannot hold.
    pub fn to_json(&self) -> Result<String> {
        let wrong = |e: serde_json::Error| Error::Unsuitable(format!("summary.json: {e}"));
        let mut variants = Map::new();
        for variant in &self.variants {
            let row = Row { quality: variant.quality, seconds: variant.seconds, gem_p: variant.gem_p };
            variants.insert(variant.name.clone(), serde_json::to_value(row).map_err(wrong)?);
        }
        let mut text = serde_json::to_string_pretty(&Value::Object(variants)).map_err(wrong)?;
        text.push('\n');
        Ok(text)
    }
}

/// Writes [`Comparison::to_json`], all or nothing.
pub(in crate::run) fn write(path: &Path, comparison: &Comparison) -> Result<()> {
    io::write_atomically(path, comparison.to_json()?.as_bytes())
}
