//! The seam between a loss and whatever trains with it.

use embedtune_core::Pool;
use ndarray::{Array2, ArrayView2, ArrayViewMut1, ArrayViewMut2};

use crate::{Error, Result};

/// A metric-learning loss: value and gradients in one call.
///
/// Object safe, so that a trainer can hold any of them; the concrete types have typed methods beside it.
pub trait Loss: Send + Sync {
    /// The loss's name as in configuration files, e.g. `ArcFaceLoss`.
    fn name(&self) -> &'static str;

    /// Shape `[classes * sub_centres, dim]` of the class centres, or `None` for a loss without any.
    fn weight_shape(&self) -> Option<[usize; 2]>;

    /// What `sampler = "auto"` means for this loss.
    fn sampling(&self) -> Sampling;

    /// Bytes of scratch that [`forward_backward`](Self::forward_backward) needs at most for a batch of `batch`
    /// rows, `reference` rows of reference embeddings (0 without) and `dim` columns, beyond the arrays in its
    /// arguments. The matrix products' own packing, 3 to 4 MiB a thread that is kept for the next product, is not counted.
    /// Scratch grows with the threads: ask where the loss will run, that is in the same rayon pool. Sizes beyond any memory
    /// saturate.
    fn workspace_bytes(&self, batch: usize, reference: usize, dim: usize) -> usize;

    /// Computes the value and writes the gradients that `grads` asks for.
    ///
    /// # Errors
    /// Shapes that do not fit, labels out of range (with the row), values that are not finite.
    fn forward_backward(&self, input: Input<'_>, grads: GradsMut<'_>, work: &mut Workspace) -> Result<Stats>;

    /// Value and gradients in arrays of their own (standard layout).
    ///
    /// # Errors
    /// As [`forward_backward`](Self::forward_backward).
    fn evaluate(&self, input: Input<'_>) -> Result<Output> {
        let mut d_embeddings = Array2::zeros(input.embeddings.dim());
        let mut d_weights = input.weights.map(|weights| Array2::zeros(weights.dim()));
        let grads = GradsMut {
            embeddings: Some(d_embeddings.view_mut()),
            weights: d_weights.as_mut().map(|d| d.view_mut()),
            ..GradsMut::default()
        };
        let stats = self.forward_backward(input, grads, &mut Workspace::default())?;
        Ok(Output { stats, d_embeddings, d_weights })
    }
}

/// Which batches a loss needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Sampling {
    /// Any batch will do.
    Random,
    /// Several items of each of several classes, always: `sampler` is ignored.
    ClassRequired,
}

/// What a loss reads. Rows are items; all arrays may have any strides.
#[derive(Debug, Clone, Copy)]
pub struct Input<'a> {
    /// Embeddings, `[batch, dim]`, as the encoder made them (the loss normalises).
    pub embeddings: ArrayView2<'a, f32>,
    /// The class of each row, `[batch]`.
    pub labels: &'a [u32],
    /// Class centres, [`Loss::weight_shape`], for losses that have them; refused by the others.
    pub weights: Option<ArrayView2<'a, f32>>,
    /// More positives and negatives (a memory bank); refused by losses with centres. Anchors always come from the batch; with a reference,
    /// positives and negatives come from the reference alone.
    pub reference: Option<Reference<'a>>,
    /// A factor on each row's loss, `[batch]`, 0 or above. Any finite weight will do: a gradient beyond `f32` is its
    /// largest number. Rows are computed together: beside a weight 1e20 times as large a row may lose digits of its gradient.
    pub sample_weights: Option<&'a [f32]>,
    /// A factor on the loss of each row (anchor) of a class, `[classes]`, 0 or above.
    pub class_weights: Option<&'a [f32]>,
}

impl<'a> Input<'a> {
    /// Embeddings `[batch, dim]` and their labels, nothing else.
    pub fn new(embeddings: ArrayView2<'a, f32>, labels: &'a [u32]) -> Self {
        Self { embeddings, labels, weights: None, reference: None, sample_weights: None, class_weights: None }
    }

    /// From row-major slices: `embeddings` holds `labels.len()` rows of `dim` values.
    ///
    /// # Errors
    /// [`Error::Shape`] if the length is not `labels.len() * dim`.
    pub fn from_slices(embeddings: &'a [f32], dim: usize, labels: &'a [u32]) -> Result<Self> {
        Ok(Self::new(rows("embeddings", embeddings, labels.len(), dim, ", one row for each label")?, labels))
    }

    /// Adds the class centres, `[classes * sub_centres, dim]`.
    #[must_use]
    pub fn with_weights(mut self, weights: ArrayView2<'a, f32>) -> Self {
        self.weights = Some(weights);
        self
    }

    /// Adds the class centres from a row-major slice.
    ///
    /// # Errors
    /// [`Error::Shape`] if its length is not a multiple of the embeddings' dimension.
    pub fn with_weight_slice(self, weights: &'a [f32]) -> Result<Self> {
        let dim = self.embeddings.ncols();
        Ok(self.with_weights(whole_rows("class centres", weights, dim)?))
    }
}

/// As many rows of `dim` values as `data` holds.
pub(crate) fn whole_rows<'a>(what: &'static str, data: &'a [f32], dim: usize) -> Result<ArrayView2<'a, f32>> {
    rows(what, data, data.len().checked_div(dim).unwrap_or(0), dim, ", as the loss's or the embeddings' rows")
}

fn rows<'a>(
    what: &'static str,
    data: &'a [f32],
    count: usize,
    dim: usize,
    remedy: &'static str,
) -> Result<ArrayView2<'a, f32>> {
    ArrayView2::from_shape((count, dim), data).ok().filter(|_| count * dim == data.len()).ok_or_else(|| {
        Error::Shape {
            what,
            expected: format!(
                "[{}]: {count} rows of {dim} values, row-major{remedy}",
                count.saturating_mul(dim)
            ),
            got: vec![data.len()],
        }
    })
}

/// Reference embeddings: a queue of past batches, or a gallery.
#[derive(Debug, Clone, Copy)]
pub struct Reference<'a> {
    /// `[reference, dim]`.
    pub embeddings: ArrayView2<'a, f32>,
    /// `[reference]`.
    pub labels: &'a [u32],
    /// For each row of the batch, the reference row that is the same item (never its own positive), if any;
    /// `u32::MAX` for a row without one.
    pub same_item: Option<&'a [u32]>,
}

impl<'a> Reference<'a> {
    /// From row-major slices: `embeddings` holds `labels.len()` rows of `dim` values, none of which is an item of the
    /// batch; otherwise set [`same_item`](Self::same_item).
    ///
    /// # Errors
    /// [`Error::Shape`] if the length is not `labels.len() * dim`.
    ///
    /// ```
    /// use embedtune_losses::{Input, Loss, Reference, TripletMargin};
    ///
    /// let (x, gallery) = ([0.9f32, 0.1, 0.2, 1.0], [1.0f32, 0.3, 0.0, 0.8, 0.5, 0.5]);
    /// let mut input = Input::from_slices(&x, 2, &[0, 1])?;
    /// input.reference = Some(Reference::from_slices(&gallery, 2, &[0, 1, 1])?);
    /// let (stats, dx, _) = TripletMargin::builder().margin(0.5).build()?.evaluate(input)?.into_vecs();
    /// assert_eq!((stats.triplets, dx.len()), (4, 4)); // anchors are the batch's, the rest are the gallery's
    /// # Ok::<(), embedtune_losses::Error>(())
    /// ```
    pub fn from_slices(embeddings: &'a [f32], dim: usize, labels: &'a [u32]) -> Result<Self> {
        let embeddings =
            rows("reference embeddings", embeddings, labels.len(), dim, ", one row for each label")?;
        Ok(Self { embeddings, labels, same_item: None })
    }
}

/// How a gradient is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Write {
    /// Replace what is there.
    #[default]
    Overwrite,
    /// Add to what is there (gradient accumulation).
    Add,
}

impl Write {
    /// Writes or adds a row of values; what leaves the range of `f32` becomes its largest.
    #[inline(always)]
    pub(crate) fn put(self, to: &mut ArrayViewMut1<'_, f32>, values: impl Iterator<Item = f32>) {
        let within = |v: f32| v.clamp(-f32::MAX, f32::MAX);
        match (to.as_slice_mut(), self) {
            (Some(to), Self::Overwrite) => to.iter_mut().zip(values).for_each(|(to, v)| *to = within(v)),
            (Some(to), Self::Add) => to.iter_mut().zip(values).for_each(|(to, v)| *to = within(*to + v)),
            (None, Self::Overwrite) => to.iter_mut().zip(values).for_each(|(to, v)| *to = within(v)),
            (None, Self::Add) => to.iter_mut().zip(values).for_each(|(to, v)| *to = within(*to + v)),
        }
    }
}

/// Where gradients go. Absent outputs are not computed.
#[derive(Debug)]
pub struct GradsMut<'a> {
    /// Gradient of the embeddings, `[batch, dim]`.
    pub embeddings: Option<ArrayViewMut2<'a, f32>>,
    /// Gradient of the class centres, [`Loss::weight_shape`].
    pub weights: Option<ArrayViewMut2<'a, f32>>,
    /// Replace or add.
    pub write: Write,
    /// The gradient of whatever is being minimised with respect to this loss's value: a factor on all gradients
    /// (not on the value).
    pub upstream: f32,
    /// Receives each row's loss before weights and reduction, `[batch]`: for margin-softmax losses the row's loss, for
    /// triplet losses the sum over the row's triplets as anchor. Always overwritten. Sample and class weights count in the
    /// value and the gradients alone.
    pub per_sample: Option<&'a mut [f32]>,
}

impl Default for GradsMut<'_> {
    fn default() -> Self {
        Self { embeddings: None, weights: None, write: Write::Overwrite, upstream: 1.0, per_sample: None }
    }
}

impl<'a> GradsMut<'a> {
    /// Both gradients into row-major slices of `dim` columns; `None` for what is not wanted. Gradients are replaced;
    /// set [`write`](Self::write) to add to what is there.
    ///
    /// # Errors
    /// [`Error::Shape`] for a length that is not a multiple of `dim`.
    ///
    /// ```
    /// use embedtune_losses::{GradsMut, Input, Loss, MarginOptions, MarginSoftmax, Workspace};
    ///
    /// let (x, w, labels) = ([0.9f32, 0.1, 0.2, 1.0], [1.0f32, 0.0, 0.0, 1.0], [0, 1]);
    /// let (mut dx, mut dw) = ([0.0f32; 4], [0.0f32; 4]);
    /// let loss = MarginSoftmax::new(2, 2, MarginOptions::cosface())?;
    /// let input = Input::from_slices(&x, 2, &labels)?.with_weight_slice(&w)?;
    /// let grads = GradsMut::from_slices(Some(&mut dx), Some(&mut dw), 2)?;
    /// let stats = loss.forward_backward(input, grads, &mut Workspace::default())?;
    /// assert!(stats.value > 0.0 && dx.iter().chain(&dw).all(|g| g.is_finite()));
    /// # Ok::<(), embedtune_losses::Error>(())
    /// ```
    pub fn from_slices(
        embeddings: Option<&'a mut [f32]>,
        weights: Option<&'a mut [f32]>,
        dim: usize,
    ) -> Result<Self> {
        let embeddings = embeddings.map(|d| rows_mut("gradient of the embeddings", d, dim)).transpose()?;
        let weights = weights.map(|d| rows_mut("gradient of the class centres", d, dim)).transpose()?;
        Ok(Self { embeddings, weights, ..Self::default() })
    }
}

fn rows_mut<'a>(what: &'static str, data: &'a mut [f32], dim: usize) -> Result<ArrayViewMut2<'a, f32>> {
    let length = data.len();
    let count = length.checked_div(dim).unwrap_or(0);
    ArrayViewMut2::from_shape((count, dim), data).ok().filter(|_| count * dim == length).ok_or_else(|| {
        Error::Shape { what, expected: format!("rows of {dim} columns, row-major"), got: vec![length] }
    })
}

/// The caller's scratch memory, kept between steps so that a step allocates nothing new.
#[derive(Debug, Default, Clone)]
pub struct Workspace {
    pool: Pool,
    /// The most rows of reference that a call had.
    reference: usize,
}

impl Workspace {
    /// Scratch that takes its buffers from `pool`.
    pub fn new(pool: &Pool) -> Self {
        Self { pool: pool.clone(), reference: 0 }
    }

    /// The buffers for a call with so many rows of reference. A pool keeps buffers by their lengths: those of a memory that
    /// has grown since would never be asked for again.
    pub(crate) fn beside(&mut self, reference: usize) -> &Pool {
        if reference > self.reference {
            self.reference = reference;
            self.pool.clear();
        }
        &self.pool
    }

    /// The buffers.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }
}

/// What a practitioner must see of one batch.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
#[non_exhaustive]
pub struct Stats {
    /// The loss.
    pub value: f64,
    /// Share of the terms (triplets, or rows) that carry a gradient.
    pub active_fraction: f64,
    /// Triplets considered (after mining); 0 for losses without triplets.
    pub triplets: u64,
    /// Triplets with a loss above zero.
    pub active_triplets: u64,
    /// Nothing in this batch moves the model: no valid triplet, or none with a loss.
    pub zero_signal: bool,
    /// Share of rows whose own centre is the nearest (before the margin); margin-softmax losses only.
    pub accuracy: Option<f64>,
}

/// What [`Loss::evaluate`] returns; arrays in standard (row-major, contiguous) layout.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Output {
    /// The value and what goes with it.
    pub stats: Stats,
    /// Gradient of the embeddings, `[batch, dim]`.
    pub d_embeddings: Array2<f32>,
    /// Gradient of the class centres, for losses that have them.
    pub d_weights: Option<Array2<f32>>,
}

impl Output {
    /// The statistics and the gradients as row-major vectors, without a copy.
    pub fn into_vecs(self) -> (Stats, Vec<f32>, Option<Vec<f32>>) {
        let flat = |gradient: Array2<f32>| gradient.into_raw_vec_and_offset().0;
        (self.stats, flat(self.d_embeddings), self.d_weights.map(flat))
    }
}
