//! Labelled items: images, vectors, sequences of token vectors, or text.

mod ahead;
#[cfg(feature = "images")]
mod decode;
mod decoded;
mod exact;
mod files;
mod folders;
mod glyphs;
pub mod idx;
mod load;
mod npy;
mod options;
#[cfg(feature = "images")]
mod orientation;
mod pairs;
pub mod parquet;
mod places;
#[cfg(feature = "images")]
mod resize;
mod sequences;
mod stored;
mod stream;
pub mod tensors;
pub mod text;
pub mod vectors;

pub use files::ImageFiles;
pub use glyphs::Glyphs;
pub use options::DataOptions;
pub use places::Places;
pub use sequences::Sequences;
pub use stored::VectorFile;
pub use stream::Stream;

use std::collections::BTreeMap;

use ndarray::{Array2, Array4, Axis};

/// The items of a data set, one kind for all.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Items {
    /// `[items, channels, height, width]`, 0 to 255.
    Images(Array4<u8>),
    /// Image files, read when a batch needs them.
    Files(ImageFiles),
    /// `[items, dim]`.
    Vectors(Array2<f32>),
    /// Vectors in a file, read when a batch needs them.
    VectorFile(VectorFile),
    /// Token vectors with masks.
    Sequences(Sequences),
    /// One text each.
    Text(Vec<String>),
}

/// Items with their classes.
#[derive(Debug, Clone, PartialEq)]
pub struct Dataset {
    /// The items.
    pub items: Items,
    /// The class of each item: an index into `classes`.
    pub labels: Vec<u32>,
    /// The classes' names.
    pub classes: Vec<String>,
    /// Where the items were read, for messages.
    pub places: Places,
}

/// What to train on and what to measure on.
#[derive(Debug, Clone, PartialEq)]
pub struct Split {
    /// Training items.
    pub train: Dataset,
    /// Items that query.
    pub queries: Dataset,
    /// Items that are searched; `None`: the queries among themselves, each item excluding itself. A gallery and
    /// its queries share one class list.
    pub gallery: Option<Dataset>,
}

impl Items {
    /// Number of items.
    pub fn len(&self) -> usize {
        match self {
            Self::Images(images) => images.shape()[0],
            Self::Files(files) => files.len(),
            Self::Vectors(vectors) => vectors.nrows(),
            Self::VectorFile(file) => file.len(),
            Self::Sequences(sequences) => sequences.lengths().len(),
            Self::Text(texts) => texts.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The kind, in one word.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Images(_) | Self::Files(_) => "images",
            Self::Vectors(_) | Self::VectorFile(_) => "vectors",
            Self::Sequences(_) => "sequences",
            Self::Text(_) => "text",
        }
    }

    /// Kind and shape of one item, in words.
    pub fn describe(&self) -> String {
        match self {
            Self::Images(images) => format!("images of {:?}", &images.shape()[1..]),
            Self::Files(files) => format!("images of {:?}", files.shape()),
            Self::Vectors(vectors) => format!("vectors of length {}", vectors.ncols()),
            Self::VectorFile(file) => format!("vectors of length {}", file.dim()),
            Self::Sequences(sequences) => format!("sequences of vectors of length {}", sequences.dim()),
            Self::Text(_) => "text".to_owned(),
        }
    }

    /// The items in `rows` that exist, in that order.
    #[must_use]
    pub fn select(&self, rows: &[usize]) -> Self {
        let rows: Vec<usize> = rows.iter().copied().filter(|&row| row < self.len()).collect();
        match self {
            Self::Images(images) => Self::Images(images.select(Axis(0), &rows)),
            Self::Files(files) => Self::Files(files.select(&rows)),
            Self::Vectors(vectors) => Self::Vectors(vectors.select(Axis(0), &rows)),
            Self::VectorFile(file) => Self::VectorFile(file.select(&rows)),
            Self::Sequences(sequences) => Self::Sequences(sequences.select(&rows)),
            Self::Text(texts) => Self::Text(rows.iter().map(|&row| texts[row].clone()).collect()),
        }
    }
}

impl Dataset {
    /// Items that were made or read by other code: where they come from is not known.
    pub fn new(items: Items, labels: Vec<u32>, classes: Vec<String>) -> Self {
        Self { items, labels, classes, places: Places::default() }
    }

    /// The items in `rows` that exist, in that order, with the whole class list.
    #[must_use]
    pub fn select(&self, rows: &[usize]) -> Self {
        Self {
            items: self.items.select(rows),
            labels: rows.iter().filter_map(|&row| self.labels.get(row).copied()).collect(),
            classes: self.classes.clone(),
            places: self.places.select(rows),
        }
    }

    /// The rows of at most `items` items, as evenly from all classes as these allow: the first of each class, then
    /// the second of each, and so on. In ascending order.
    pub fn balanced(&self, items: usize) -> Vec<usize> {
        let mut seen: BTreeMap<u32, usize> = BTreeMap::new();
        let mut order: Vec<(usize, u32, usize)> = Vec::with_capacity(self.labels.len());
        for (row, &label) in self.labels.iter().enumerate() {
            let rank = seen.entry(label).or_default();
            order.push((*rank, label, row));
            *rank += 1;
        }
        order.sort_unstable();
        let mut rows: Vec<usize> = order.into_iter().take(items).map(|(_, _, row)| row).collect();
        rows.sort_unstable();
        rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_balanced_choice_takes_from_every_class() {
        let labels = vec![7, 7, 7, 7, 2, 2, 0];
        let vectors = Array2::zeros((7, 1));
        let data = Dataset {
            items: Items::Vectors(vectors),
            labels,
            classes: Vec::new(),
            places: Places::default(),
        };
        assert_eq!(data.balanced(3), [0, 4, 6]);
        assert_eq!(data.balanced(5), [0, 1, 4, 5, 6]);
        assert_eq!(data.balanced(6), [0, 1, 2, 4, 5, 6]);
        assert_eq!(data.balanced(100).len(), 7);
        assert!(data.balanced(0).is_empty());
        let far = Dataset { labels: vec![u32::MAX, 0, u32::MAX], ..data };
        assert_eq!(far.balanced(2), [0, 1]);
    }
}
