//! Named tensors and counters: what a checkpoint holds of each part.

use std::collections::BTreeMap;

use ndarray::ArrayD;

/// The state of one part (a model, a head, an optimizer), flat and named, ready for a safetensors file.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct State {
    /// Tensors by name.
    pub tensors: BTreeMap<String, ArrayD<f32>>,
    /// Whole numbers by name (step counts, positions): exact at any size, unlike an `f32`.
    pub counters: BTreeMap<String, u64>,
}

impl State {
    /// This state with `prefix.` before every name.
    #[must_use]
    pub fn prefixed(self, prefix: &str) -> Self {
        Self {
            tensors: self.tensors.into_iter().map(|(k, v)| (format!("{prefix}.{k}"), v)).collect(),
            counters: self.counters.into_iter().map(|(k, v)| (format!("{prefix}.{k}"), v)).collect(),
        }
    }

    /// The part under `prefix.`, with the prefix removed.
    #[must_use]
    pub fn part(&self, prefix: &str) -> Self {
        let strip = |key: &String| key.strip_prefix(prefix)?.strip_prefix('.').map(str::to_owned);
        Self {
            tensors: self.tensors.iter().filter_map(|(k, v)| Some((strip(k)?, v.clone()))).collect(),
            counters: self.counters.iter().filter_map(|(k, &v)| Some((strip(k)?, v))).collect(),
        }
    }

    /// Adds all of `other`.
    pub fn merge(&mut self, other: Self) {
        self.tensors.extend(other.tensors);
        self.counters.extend(other.counters);
    }
}
