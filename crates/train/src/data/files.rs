//! Images that stay in their files until a batch needs them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ndarray::Array4;
use rayon::prelude::*;

use super::DataOptions;
#[cfg(feature = "images")]
use super::decode;
use super::decoded::{self, Decoded};
use crate::{Error, Result};

/// PNG and JPEG files, decoded and resized when they are read, or once for all ([`decode_once`](Self::decode_once)).
#[derive(Debug, Clone)]
pub struct ImageFiles {
    files: Vec<ImageFile>,
    /// Channels, height, width of every image once it is read.
    shape: [usize; 3],
    /// Images beside them of kinds that are not read: how many of each ending.
    left_out: BTreeMap<String, usize>,
    /// The images in their size, those of a choice and others.
    decoded: Option<Arc<Decoded>>,
}

#[derive(Debug, Clone)]
struct ImageFile {
    path: Arc<Path>,
    /// Its place among the decoded.
    place: usize,
    seen: Option<Seen>,
}

/// What a file held when it was decoded for all.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen {
    pub(super) bytes: u64,
    pub(super) crc32: u32,
    /// Bytes of its pixels in their own size.
    pub(super) pixels: usize,
}

impl PartialEq for ImageFiles {
    /// Whether both are the same files, to be read in the same way.
    fn eq(&self, other: &Self) -> bool {
        self.paths().eq(other.paths()) && (self.shape, &self.left_out) == (other.shape, &other.left_out)
    }
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
        Ok(Self::unseen(paths, options))
    }

    /// Files that nobody has looked at.
    pub(super) fn unseen(paths: Vec<PathBuf>, options: &DataOptions) -> Self {
        let shape = [options.channels(), options.image_size, options.image_size];
        let file = |(place, path): (usize, PathBuf)| ImageFile { path: path.into(), place, seen: None };
        let files = paths.into_iter().enumerate().map(file).collect();
        Self { files, shape, left_out: BTreeMap::new(), decoded: None }
    }

    /// Reads and decodes every image, in parallel: a broken one is found now, not in the middle of training. What they are in
    /// the size asked for is kept in a temporary file without a name, so that an image of any size costs its decoding once,
    /// not in every epoch, and training sees what was there now. Where no disk has room for it (the folders of `TMPDIR` and
    /// `/var/tmp`, at most half of what is then free), images are decoded each time.
    ///
    /// # Errors
    /// [`Error::Data`] naming the first file that cannot be read.
    pub fn decode_once(self) -> Result<Self> {
        self.decode_into(&decoded::places())
    }

    fn decode_into(mut self, places: &[PathBuf]) -> Result<Self> {
        let shape = self.shape;
        // Of a choice the places are its own.
        (0..).zip(&mut self.files).for_each(|(place, file)| file.place = place);
        let room = Decoded::room(places, self.len(), shape.iter().product());
        let full = AtomicBool::new(false);
        let seen = self.files.par_iter().map(|file| {
            let (pixels, seen) = decode::read_whole(&file.path, shape)?;
            if room.as_ref().is_some_and(|room| room.write(file.place, &pixels).is_err()) {
                full.store(true, Ordering::Relaxed);
            }
            Ok(seen)
        });
        let seen: Vec<Result<Seen>> = seen.collect();
        for (file, seen) in self.files.iter_mut().zip(seen) {
            file.seen = Some(seen?);
        }
        self.decoded = room.filter(|_| !full.into_inner()).map(Arc::new);
        Ok(self)
    }

    /// Bytes of the largest image in its own size, which each thread takes while images are decoded each time they are read;
    /// `None` where they are decoded once, or nobody has looked at them.
    pub fn decoded_again(&self) -> Option<usize> {
        if self.decoded.is_some() {
            return None;
        }
        self.files.iter().filter_map(|file| file.seen).map(|seen| seen.pixels).max()
    }

    /// Number of files.
    pub fn len(&self) -> usize {
        self.files.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
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
        self.files.iter().map(|file| file.path.as_ref())
    }

    /// The files in `rows` that exist, in that order.
    #[must_use]
    pub fn select(&self, rows: &[usize]) -> Self {
        let files = rows.iter().filter_map(|&row| self.files.get(row).cloned()).collect();
        Self { files, left_out: self.left_out.clone(), decoded: self.decoded.clone(), ..*self }
    }

    /// What is known of the files' contents: their lengths in bytes and CRC-32.
    pub(crate) fn seen(&self) -> impl Iterator<Item = (&Path, (u64, u32))> {
        self.files.iter().filter_map(|file| file.seen.map(|seen| (&*file.path, (seen.bytes, seen.crc32))))
    }

    /// CRC-32 of each file's bytes, those not known read in parallel; 0 for a file that cannot be read, which training
    /// reports.
    pub(crate) fn checksums(&self) -> Vec<u32> {
        let sum = |file: &ImageFile| {
            let read = || {
                let mut crc = flate2::Crc::new();
                crc.update(&std::fs::read(&file.path).unwrap_or_default());
                crc.sum()
            };
            file.seen.map_or_else(read, |seen| seen.crc32)
        };
        self.files.par_iter().map(sum).collect()
    }

    /// Reads the images in `rows`, in parallel: `[rows, channels, height, width]`.
    ///
    /// # Errors
    /// [`Error::Data`] naming the first file (in the order of `rows`) that cannot be read; a row past the end.
    pub fn read(&self, rows: &[usize]) -> Result<Array4<u8>> {
        let [channels, height, width] = self.shape;
        let mut images = Array4::zeros((rows.len(), channels, height, width));
        let each = channels * height * width;
        let to = images.as_slice_mut().unwrap_or_default();
        let results: Vec<Result<()>> =
            to.par_chunks_mut(each.max(1)).zip(rows).map(|(to, &row)| self.read_one(row, to)).collect();
        results.into_iter().collect::<Result<()>>()?;
        Ok(images)
    }

    fn read_one(&self, row: usize, to: &mut [u8]) -> Result<()> {
        let missing = || Error::Unsuitable(format!("item {row} was asked for; there are {}", self.len()));
        let file = self.files.get(row).ok_or_else(missing)?;
        if let Some(decoded) = &self.decoded {
            return decoded.read(file.place, to).map_err(Error::io(&file.path, "reading, once decoded,"));
        }
        let pixels = decode::read(&file.path, self.shape)?;
        to.iter_mut().zip(pixels).for_each(|(to, pixel)| *to = pixel);
        Ok(())
    }
}

#[cfg(not(feature = "images"))]
mod decode {
    use std::path::Path;

    use super::Seen;
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

    pub(super) fn read_whole(path: &Path, _shape: [usize; 3]) -> Result<(Vec<u8>, Seen)> {
        Err(absent(path))
    }
}

#[cfg(all(test, feature = "images"))]
mod tests {
    use super::*;

    fn png(path: &Path, side: u32, shade: u8) {
        let file = std::fs::File::create(path).unwrap();
        let mut encoder = png::Encoder::new(file, side, side);
        encoder.set_color(png::ColorType::Rgb);
        let pixels: Vec<u8> = (0..side * side * 3).map(|i| (i as u8).wrapping_mul(shade)).collect();
        encoder.write_header().unwrap().write_image_data(&pixels).unwrap();
    }

    #[test]
    fn what_is_decoded_once_is_what_is_decoded_each_time() {
        let folder = tempfile::tempdir().unwrap();
        let paths: Vec<PathBuf> = (0..9).map(|i| folder.path().join(format!("{i}.png"))).collect();
        paths.iter().zip(1..).for_each(|(path, i)| png(path, 8 + u32::from(i), i));
        for grayscale in [false, true] {
            let options = DataOptions { image_size: 12, grayscale, ..DataOptions::default() };
            let each_time = ImageFiles::new(paths.clone(), &options).unwrap();
            let again = each_time.clone().decode_into(&[]).unwrap();
            let once = each_time.clone().decode_once().unwrap();
            if once.decoded_again().is_some() {
                println!("SKIPPED: no folder for temporary files is on a disk with room");
                return;
            }
            // The largest is 17 x 17.
            assert_eq!(
                [&each_time, &again, &once].map(ImageFiles::decoded_again),
                [None, Some(17 * 17 * 3), None]
            );
            assert_eq!(each_time, once);
            assert_eq!(each_time.checksums(), once.checksums());
            let seen: Vec<_> = once.seen().collect();
            let length = std::fs::metadata(&paths[4]).unwrap().len();
            assert_eq!(seen[4], (&*paths[4], (length, each_time.checksums()[4])));
            let rows = [7, 0, 0, 8];
            let expected = each_time.read(&rows).unwrap();
            assert_eq!(expected.dim(), (4, if grayscale { 1 } else { 3 }, 12, 12));
            for files in [&again, &once] {
                assert_eq!(files.read(&rows).unwrap(), expected);
                assert_eq!(files.select(&[3, 8, 7, 0]).read(&[2, 3, 3, 1]).unwrap(), expected);
            }
            assert!(once.read(&[9]).unwrap_err().to_string().contains("item 9"));
        }
    }

    #[test]
    fn a_file_that_changes_after_it_was_decoded_does_not_change_training() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.png");
        png(&path, 10, 3);
        let options = DataOptions { image_size: 10, ..DataOptions::default() };
        let files = ImageFiles::new(vec![path.clone()], &options).unwrap();
        let once = files.clone().decode_once().unwrap();
        if once.decoded_again().is_some() {
            println!("SKIPPED: no folder for temporary files is on a disk with room");
            return;
        }
        let before = once.read(&[0]).unwrap();
        std::fs::write(&path, "gone").unwrap();
        assert_eq!(once.read(&[0]).unwrap(), before);
        assert!(files.read(&[0]).unwrap_err().to_string().contains("x.png"));
        let broken = files.decode_once().unwrap_err().to_string();
        assert!(broken.contains("x.png") && broken.contains("PNG or JPEG"), "{broken}");
    }
}
