//! Labelled items: images, vectors or text.

use ndarray::{Array2, Array4};

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
