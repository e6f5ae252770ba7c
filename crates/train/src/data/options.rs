//! How data are read.

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Longest side that images may be resized to.
const MOST_PIXELS: usize = 1024;

/// `data_options`: how data are read. What does not concern a kind of data has no effect on it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DataOptions {
    /// Image folders: side in pixels that every image is resized to, whatever its own proportions. Default 64.
    pub image_size: usize,
    /// Image folders: one channel of brightness instead of red, green and blue. Default false.
    pub grayscale: bool,
    /// Image folders and vectors in `.npy` and safetensors files: keep all items in memory, images decoded
    /// (`items * channels * image_size^2` bytes; vectors `items * dim * 4`), instead of reading each from disk when its
    /// batch needs it. Default false.
    pub in_memory: bool,
    /// Image folders without a folder of test images, and all items in one file: share of each class that is measured on
    /// instead of trained on (at least two items of a class of four or more, none of a smaller one). Default 0.2.
    pub test_share: f64,
    /// CSV pairs with scores: pairs with this score or a higher one belong together. Default 0.5.
    pub score_threshold: f64,
}

impl Default for DataOptions {
    fn default() -> Self {
        Self { image_size: 64, grayscale: false, in_memory: false, test_share: 0.2, score_threshold: 0.5 }
    }
}

impl DataOptions {
    /// Checks the ranges.
    ///
    /// # Errors
    /// [`Error::Option`] naming the field.
    pub fn check(&self) -> Result<()> {
        let wrong = |field: &str, value: String, remedy: &str| {
            Err(Error::option(format!("data_options.{field}"), value, remedy))
        };
        if !(4..=MOST_PIXELS).contains(&self.image_size) {
            return wrong("image_size", self.image_size.to_string(), "write 4 to 1024 pixels, e.g. 64");
        }
        if !(self.test_share > 0.0 && self.test_share < 1.0) {
            return wrong(
                "test_share",
                self.test_share.to_string(),
                "write a share above 0 and below 1, e.g. 0.2",
            );
        }
        if !self.score_threshold.is_finite() {
            return wrong("score_threshold", self.score_threshold.to_string(), "write a number, e.g. 0.5");
        }
        Ok(())
    }

    /// Channels of an image.
    pub(super) fn channels(&self) -> usize {
        if self.grayscale { 1 } else { 3 }
    }
}
