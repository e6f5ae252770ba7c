//! Images that stay in their files until a batch needs them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ndarray::{Array4, Axis};
use rayon::prelude::*;

use super::DataOptions;
#[cfg(feature = "images")]
use super::decode;
use crate::{Error, Result};

/// PNG and JPEG files, decoded and resized when they are read.
#[derive(Debug, Clone, PartialEq)]
pub struct ImageFiles {
    paths: Vec<Arc<Path>>,
    /// Channels, height, width of every image once it is read.
    shape: [usize; 3],
    /// Images beside them of kinds that are not read: how many of each ending.
    left_out: BTreeMap<String, usize>,
}

/// Endings of images that are not read.
const OTHERS: [&str; 10] = ["webp", "bmp", "gif", "tif", "tiff", "avif", "heic", "heif", "jxl", "ppm"];

/// The ending of an image of a kind that is not read here.
pub(super) fn other_image(path: &Path) -> Option<String> {
    let ending = path.extension()?.to_str()?.to_lowercase();
    OTHERS.contains(&ending.as_str()).then_some(ending)
}

/// Endings of the files that are read.
const ENDINGS: [&str; 3] = ["png", "jpg", "jpeg"];

/// Whether a file's name says that it is an image of a kind that is read here.
pub(super) fn is_image(path: &Path) -> bool {
    let ending = path.extension().and_then(|ending| ending.to_str());
    ending.is_some_and(|ending| ENDINGS.iter().any(|known| ending.eq_ignore_ascii_case(known)))
}

impl ImageFiles {
    /// Files to be read as `options` say. Looks at each file's header.
    ///
    /// # Errors
    /// [`Error::Data`] naming the first file that is no image; a build without the feature `images`.
    pub fn new(paths: Vec<PathBuf>, options: &DataOptions) -> Result<Self> {
        options.check()?;
        let checked: Vec<Result<()>> = paths.par_iter().map(|path| decode::check(path)).collect();
        checked.into_iter().collect::<Result<()>>()?;
        let shape = [options.channels(), options.image_size, options.image_size];
        Ok(Self { paths: paths.into_iter().map(Arc::from).collect(), shape, left_out: BTreeMap::new() })
    }

    /// Decodes every image once and keeps none: a broken one is found before training, not in the middle of it.
    ///
    /// # Errors
    /// [`Error::Data`] naming the first file that cannot be read.
    pub fn verify(&self) -> Result<()> {
        let read: Vec<Result<()>> =
            self.paths.par_iter().map(|path| decode::read(path, self.shape).map(drop)).collect();
        read.into_iter().collect()
    }

    /// Number of files.
    pub fn len(&self) -> usize {
        self.paths.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.paths.is_empty()
    }

    /// The same with images beside them that are left out.
    pub(super) fn beside(self, left_out: BTreeMap<String, usize>) -> Self {
        Self { left_out, ..self }
    }

    /// Images in the same folders that are not read, as of WebP: how many of each ending.
    pub fn left_out(&self) -> &BTreeMap<String, usize> {
        &self.left_out
    }

    /// Channels, height, width.
    pub fn shape(&self) -> [usize; 3] {
        self.shape
    }

    /// The files.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.paths.iter().map(AsRef::as_ref)
    }

    /// The files in `rows` that exist, in that order.
    #[must_use]
    pub fn select(&self, rows: &[usize]) -> Self {
        let paths = rows.iter().filter_map(|&row| self.paths.get(row).cloned()).collect();
        Self { paths, shape: self.shape, left_out: self.left_out.clone() }
    }

    /// CRC-32 of each file's bytes, read in parallel; 0 for a file that cannot be read, which training reports.
    pub(crate) fn checksums(&self) -> Vec<u32> {
        let sum = |path: &Arc<Path>| {
            let mut crc = flate2::Crc::new();
            crc.update(&std::fs::read(path).unwrap_or_default());
            crc.sum()
        };
        self.paths.par_iter().map(sum).collect()
    }

    /// Reads the images in `rows`, in parallel: `[rows, channels, height, width]`.
    ///
    /// # Errors
    /// [`Error::Data`] naming the first file (in the order of `rows`) that cannot be read; a row past the end.
    pub fn read(&self, rows: &[usize]) -> Result<Array4<u8>> {
        let [channels, height, width] = self.shape;
        let mut images = Array4::zeros((rows.len(), channels, height, width));
        let results: Vec<Result<()>> = images
            .axis_iter_mut(Axis(0))
            .into_par_iter()
            .zip(rows)
            .map(|(mut to, &row)| {
                let missing =
                    || Error::Unsuitable(format!("item {row} was asked for; there are {}", self.len()));
                let pixels = decode::read(self.paths.get(row).ok_or_else(missing)?, self.shape)?;
                // Files hold a pixel's channels together; encoders want each channel's pixels together.
                for ((c, y, x), to) in to.indexed_iter_mut() {
                    *to = pixels[(y * width + x) * channels + c];
                }
                Ok(())
            })
            .collect();
        results.into_iter().collect::<Result<()>>()?;
        Ok(images)
    }
}

#[cfg(not(feature = "images"))]
mod decode {
    use std::path::Path;

    use crate::{Error, Result};

    fn absent(path: &Path) -> Error {
        Error::data(path, "this build reads no PNG or JPEG; build it with the feature `images`")
    }

    pub(super) fn check(path: &Path) -> Result<()> {
        Err(absent(path))
    }

    pub(super) fn read(path: &Path, _shape: [usize; 3]) -> Result<Vec<u8>> {
        Err(absent(path))
    }
}
