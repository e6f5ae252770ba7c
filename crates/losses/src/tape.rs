//! Any loss as one operation on embedtune-core's tape (feature `autodiff`).

use embedtune_core::{Error as CoreError, Grad, Value, Var};
use ndarray::{Array2, ArrayD, ArrayView2, Ix2, IxDyn};

use crate::{Error, GradsMut, Input, Loss, Reference, Result, Stats, Workspace};

/// What a loss reads beside the embeddings and the class centres, as in [`Input`]. A slice of labels alone converts.
#[derive(Debug, Clone, Copy)]
pub struct Labels<'a> {
    /// The class of each row, `[batch]`.
    pub labels: &'a [u32],
    /// More positives and negatives; no gradient flows to them.
    pub reference: Option<Reference<'a>>,
    /// A factor on each row's loss, `[batch]`.
    pub sample_weights: Option<&'a [f32]>,
    /// A factor on the loss of each row of a class, `[classes]`.
    pub class_weights: Option<&'a [f32]>,
}

impl<'a> From<&'a [u32]> for Labels<'a> {
    fn from(labels: &'a [u32]) -> Self {
        Self { labels, reference: None, sample_weights: None, class_weights: None }
    }
}

impl<'a> From<&'a Vec<u32>> for Labels<'a> {
    fn from(labels: &'a Vec<u32>) -> Self {
        labels.as_slice().into()
    }
}

/// Records `loss` of the embeddings `x`, `[batch, dim]`, with the class centres ([`Loss::weight_shape`]; `None` for a
/// loss without any). Returns the loss as a scalar, and what is to be seen of the batch.
///
/// Value and gradients are computed here, in one pass; backward only scales the gradients by the upstream one. A
/// gradient that no leaf wants is not computed.
///
/// # Errors
/// As [`Loss::forward_backward`]; [`Error::Shape`] for embeddings or centres that are not matrices; variables of
/// different tapes.
///
/// ```
/// use embedtune_core::{Pool, Tape};
/// use embedtune_losses::{MarginOptions, MarginSoftmax, Workspace, ndarray::array, tape};
///
/// let (pool, mut work) = (Pool::new(), Workspace::default());
/// let loss = MarginSoftmax::new(2, 2, MarginOptions { scale: 8.0, ..MarginOptions::arcface() })?;
/// let on = Tape::new(&pool);
/// let features = on.constant(array![[1.0f32, 0.2, 0.0], [0.1, 0.9, 0.3]].into_dyn());
/// let layer = on.leaf(array![[0.5f32, -0.1], [0.2, 0.4], [0.0, 0.3]].into_dyn());
/// let centres = on.leaf(array![[1.0f32, 0.0], [0.0, 1.0]].into_dyn());
/// let embeddings = features.matmul(layer)?;
/// let (value, stats) = tape::record(&loss, embeddings, Some(centres), &[0, 1][..], &mut work)?;
/// let grads = on.backward(value)?;
/// assert_eq!(grads.dense(layer).unwrap().shape(), [3, 2]);
/// assert_eq!(grads.dense(centres).unwrap().shape(), [2, 2]);
/// assert_eq!(stats.accuracy, Some(1.0));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn record<'t, 'a>(
    loss: &dyn Loss,
    x: Var<'t>,
    centres: Option<Var<'t>>,
    labels: impl Into<Labels<'a>>,
    work: &mut Workspace,
) -> Result<(Var<'t>, Stats)> {
    let Labels { labels, reference, sample_weights, class_weights } = labels.into();
    let (x_value, centre_value) = (x.value(), centres.map(|centres| centres.value()));
    // Views of their own: an `ArrayView` keeps the lifetime that it came with.
    let reference = reference.as_ref().map(|r| Reference { embeddings: r.embeddings.view(), ..*r });
    let input = Input {
        embeddings: matrix("embeddings", &x_value)?,
        labels,
        weights: centre_value.as_ref().map(|value| matrix("class centres", value)).transpose()?,
        reference,
        sample_weights,
        class_weights,
    };
    // The loss writes every element.
    let buffer = |var: Var<'t>, like: ArrayView2<'_, f32>| {
        var.needs_grad()
            .then(|| Array2::from_shape_vec(like.dim(), x.tape().pool().take(like.len())))
            .transpose()
    };
    let shape = |_| Error::Shape { what: "gradient", expected: "[rows, dim]".into(), got: Vec::new() };
    let mut dx = buffer(x, input.embeddings).map_err(shape)?;
    let mut d_centres = match (centres, input.weights) {
        (Some(centres), Some(like)) => buffer(centres, like).map_err(shape)?,
        _ => None,
    };
    let grads = GradsMut {
        embeddings: dx.as_mut().map(|dx| dx.view_mut()),
        weights: d_centres.as_mut().map(|d| d.view_mut()),
        ..GradsMut::default()
    };
    let stats = loss.forward_backward(input, grads, work)?;
    let most = f64::from(f32::MAX);
    let value = ArrayD::from_elem(IxDyn(&[]), stats.value.clamp(-most, most) as f32);
    let inputs: Vec<Var<'t>> = std::iter::once(x).chain(centres).collect();
    let mut gradients = vec![dx];
    gradients.extend(centres.map(|_| d_centres));
    let var = x.tape().record_many(loss.name(), &inputs, value, move |upstream: ArrayD<f32>, _| {
        let upstream = upstream.iter().next().copied().unwrap_or(0.0);
        let scaled = |gradient: Array2<f32>| Grad::Dense(scale(gradient, upstream).into_dyn());
        Ok::<_, CoreError>(gradients.into_iter().map(|gradient| gradient.map(scaled)).collect())
    })?;
    Ok((var, stats))
}

fn matrix<'a>(what: &'static str, value: &'a Value) -> Result<ArrayView2<'a, f32>> {
    value.view().into_dimensionality::<Ix2>().map_err(|_| Error::Shape {
        what,
        expected: "[rows, dim]".into(),
        got: value.shape().to_vec(),
    })
}

fn scale(mut gradient: Array2<f32>, by: f32) -> Array2<f32> {
    if by != 1.0 {
        gradient.par_mapv_inplace(|v| (v * by).clamp(-f32::MAX, f32::MAX));
    }
    gradient
}
