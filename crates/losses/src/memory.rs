//! Cross-batch memory: the embeddings of past batches as further positives and negatives (Wang et al. 2020).

use ndarray::{Array2, ArrayView2};

use crate::{Error, Input, Reference, Result, check};

/// A queue of the last `capacity` embeddings and their labels.
///
/// [`push`](Self::push) a batch, then give the loss [`reference`](Self::reference): anchors come from the batch,
/// positives and negatives from the queue, which knows which of its rows are the batch's own. Gradients go to the
/// batch alone.
///
/// Its whole state can be saved, the write position and the fill included: a run that resumes goes on with the same
/// queue.
///
/// ```
/// use embedtune_losses::{CrossBatchMemory, Input, Loss, TripletMargin, ndarray::array};
///
/// let mut memory = CrossBatchMemory::new(1024, 2)?;
/// let loss = TripletMargin::builder().build()?;
/// for x in [array![[1.0f32, 0.0], [0.0, 1.0]], array![[1.0, 0.9], [0.9, 1.0]]] {
///     let labels = [0, 1];
///     memory.push(x.view(), &labels)?;
///     let mut input = Input::new(x.view(), &labels);
///     input.reference = Some(memory.reference());
///     println!("{:?}", loss.evaluate(input)?.stats);
/// }
/// # Ok::<(), embedtune_losses::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(try_from = "MemoryState", into = "MemoryState"))]
pub struct CrossBatchMemory {
    capacity: usize,
    next: usize,
    /// `[filled, dim]`, by slot.
    embeddings: Array2<f32>,
    labels: Vec<u32>,
    /// Slot of each row of the batch pushed last; `u32::MAX` for rows that are gone already.
    latest: Vec<u32>,
}

/// Everything that a [`CrossBatchMemory`] remembers between batches.
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(deny_unknown_fields))]
pub struct MemoryState {
    /// Rows that fit.
    pub capacity: usize,
    /// Columns.
    pub dim: usize,
    /// The slot that is written next.
    pub next: usize,
    /// Row-major, `[filled, dim]`, by slot.
    pub embeddings: Vec<f32>,
    /// `[filled]`.
    pub labels: Vec<u32>,
}

impl CrossBatchMemory {
    /// An empty queue for `capacity` embeddings of `dim` columns. pytorch-metric-learning's default capacity is 1024.
    ///
    /// # Errors
    /// [`Error::Option`] for a capacity of 0, or one that `u32` cannot index; for a dimension of 0.
    pub fn new(capacity: usize, dim: usize) -> Result<Self> {
        Self::from_state(MemoryState { capacity, dim, next: 0, embeddings: Vec::new(), labels: Vec::new() })
    }

    /// A queue as it was saved.
    ///
    /// # Errors
    /// [`Error::Option`] or [`Error::Shape`] for a state that no queue can be in, [`Error::NotFinite`] for an embedding
    /// that is not finite.
    pub fn from_state(state: MemoryState) -> Result<Self> {
        let MemoryState { capacity, dim, next, embeddings, labels } = state;
        if capacity == 0 || capacity >= u32::MAX as usize {
            return Err(Error::Option {
                option: "capacity",
                value: capacity.to_string(),
                reason: format!("a memory holds between 1 and {} rows", u32::MAX - 1),
            });
        }
        if dim == 0 {
            return Err(Error::Option {
                option: "dim",
                value: "0".to_owned(),
                reason: "give the embeddings' dimension, at least 1".to_owned(),
            });
        }
        let filled = labels.len();
        // A partly filled queue goes on where it ends.
        let fits = if filled < capacity { next == filled } else { filled == capacity && next < capacity };
        if !fits {
            return Err(Error::Option {
                option: "next",
                value: next.to_string(),
                reason: format!("{filled} of {capacity} slots are filled; the saved state is damaged"),
            });
        }
        let got = vec![embeddings.len()];
        let embeddings = Array2::from_shape_vec((filled, dim), embeddings).map_err(|_| Error::Shape {
            what: "memory",
            expected: format!("{filled} rows x {dim} columns"),
            got,
        })?;
        check::finite("memory", &embeddings.view())?;
        Ok(Self { capacity, next, embeddings, labels, latest: Vec::new() })
    }

    /// What to save.
    pub fn state(&self) -> MemoryState {
        MemoryState {
            capacity: self.capacity,
            dim: self.embeddings.ncols(),
            next: self.next,
            embeddings: self.embeddings.iter().copied().collect(),
            labels: self.labels.clone(),
        }
    }

    /// Number of embeddings held.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether none is held.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Adds a batch, over the oldest rows where the queue is full; of a batch beyond the capacity the last rows stay.
    ///
    /// # Errors
    /// [`Error::Shape`] if a row has no label or not `dim` columns, [`Error::NotFinite`] for a value that is not finite;
    /// the queue stays as it was.
    pub fn push(&mut self, embeddings: ArrayView2<'_, f32>, labels: &[u32]) -> Result<()> {
        check::batch("embeddings", &embeddings, ("labels", labels), self.embeddings.ncols())?;
        self.latest.clear();
        self.latest.resize(labels.len(), u32::MAX);
        let gone = labels.len().saturating_sub(self.capacity);
        let rows = embeddings.rows().into_iter().zip(labels).zip(&mut self.latest).skip(gone);
        for ((row, &label), slot) in rows {
            *slot = self.next as u32;
            if let Some(held) = self.labels.get_mut(self.next) {
                *held = label;
                self.embeddings.row_mut(self.next).assign(&row);
            } else {
                self.embeddings.push_row(row).map_err(|_| Error::Shape {
                    what: "embeddings",
                    expected: format!("{} columns", self.embeddings.ncols()),
                    got: vec![row.len()],
                })?;
                self.labels.push(label);
            }
            self.next = (self.next + 1) % self.capacity;
        }
        Ok(())
    }

    /// [`push`](Self::push) of a row-major slice with one row for each label.
    ///
    /// # Errors
    /// As [`push`](Self::push).
    pub fn push_slice(&mut self, embeddings: &[f32], labels: &[u32]) -> Result<()> {
        let input = Input::from_slices(embeddings, self.embeddings.ncols(), labels)?;
        self.push(input.embeddings, labels)
    }

    /// The queue as the reference of the batch that was pushed last, whose rows are never their own positives. With
    /// another batch a loss refuses it where their sizes differ, and cannot tell where they do not.
    pub fn reference(&self) -> Reference<'_> {
        Reference { same_item: Some(&self.latest), ..self.past() }
    }

    /// The queue as the reference of a batch that is not in it.
    pub fn past(&self) -> Reference<'_> {
        Reference { embeddings: self.embeddings.view(), labels: &self.labels, same_item: None }
    }
}

impl TryFrom<MemoryState> for CrossBatchMemory {
    type Error = Error;

    fn try_from(state: MemoryState) -> Result<Self> {
        Self::from_state(state)
    }
}

impl From<CrossBatchMemory> for MemoryState {
    fn from(memory: CrossBatchMemory) -> Self {
        memory.state()
    }
}
