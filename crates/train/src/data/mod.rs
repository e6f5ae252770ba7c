//! Labelled items: images, vectors or text.

mod exact;
mod glyphs;
pub mod idx;
mod load;
mod npy;
pub mod text;
pub mod vectors;

pub use glyphs::Glyphs;

use ndarray::{Array2, Array4, Axis};

/// The items of a data set, one kind for all.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Items {
    /// `[items, channels, height, width]`, 0 to 255.
    Images(Array4<u8>),
    /// `[items, dim]`.
    Vectors(Array2<f32>),
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
            Self::Vectors(vectors) => vectors.nrows(),
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
            Self::Images(_) => "images",
            Self::Vectors(_) => "vectors",
            Self::Text(_) => "text",
        }
    }

    /// Kind and shape of one item, in words.
    pub fn describe(&self) -> String {
        match self {
            Self::Images(images) => format!("images of {:?}", &images.shape()[1..]),
            Self::Vectors(vectors) => format!("vectors of length {}", vectors.ncols()),
            Self::Text(_) => "text".to_owned(),
        }
    }

    /// The items in `rows` that exist, in that order.
    #[must_use]
    pub fn select(&self, rows: &[usize]) -> Self {
        let rows: Vec<usize> = rows.iter().copied().filter(|&row| row < self.len()).collect();
        match self {
            Self::Images(images) => Self::Images(images.select(Axis(0), &rows)),
            Self::Vectors(vectors) => Self::Vectors(vectors.select(Axis(0), &rows)),
            Self::Text(texts) => Self::Text(rows.iter().map(|&row| texts[row].clone()).collect()),
        }
    }
}

impl Dataset {
    /// The items in `rows` that exist, in that order, with the whole class list.
    #[must_use]
    pub fn select(&self, rows: &[usize]) -> Self {
        Self {
            items: self.items.select(rows),
            labels: rows.iter().filter_map(|&row| self.labels.get(row).copied()).collect(),
            classes: self.classes.clone(),
        }
    }
}
