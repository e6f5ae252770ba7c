//! Pooling on the tape: feature maps `[batch, channels, height, width]` (or any shape from three axes on) to
//! `[batch, channels]`, masked tokens `[batch, tokens, dim]` to `[batch, dim]`.

use embedtune_core::{Grad, Result, Value, Var};
use ndarray::{ArrayD, ArrayView3, ArrayViewMut2, ArrayViewMut3, IxDyn};

use crate::layout::{Pooling, Saved, shape};
use crate::tokens::{Mask, Valid};
use crate::{Gem, PoolerKind, maps, tokens};

/// Pools feature maps. `p` is GeM's power, `[1]` or `[channels]`: needed for GeM, ignored by the others.
///
/// # Errors
/// Fewer than three axes, a missing `p` or one of another shape.
pub fn pool_maps<'t>(x: Var<'t>, kind: PoolerKind, p: Option<Var<'t>>, gem: &Gem) -> Result<Var<'t>> {
    let axes = x.shape();
    let [batch, channels, rest @ ..] = axes.as_slice() else {
        return Err(shape("[batch, channels, height, width] or [batch, channels, length]".to_owned(), &axes));
    };
    if rest.is_empty() {
        return Err(shape("[batch, channels, height, width] or [batch, channels, length]".to_owned(), &axes));
    }
    record(x, [*batch, *channels, rest.iter().product()], None, kind, p, gem)
}

/// Pools tokens `[batch, tokens, dim]` that `mask` (lengths, or a flag for each token) keeps. An item without
/// tokens gives zeros and takes no gradient.
///
/// # Errors
/// Not three axes, a mask that does not fit, a missing `p` or one of another shape.
pub fn pool_tokens<'t, 'm>(
    x: Var<'t>,
    mask: impl Into<Mask<'m>>,
    kind: PoolerKind,
    p: Option<Var<'t>>,
    gem: &Gem,
) -> Result<Var<'t>> {
    let axes = x.shape();
    let &[batch, tokens, dim] = axes.as_slice() else {
        return Err(shape("[batch, tokens, dim]".to_owned(), &axes));
    };
    let valid = Valid::new(mask.into(), batch, tokens)?;
    record(x, [batch, tokens, dim], Some(valid), kind, p, gem)
}

/// What the backward pass keeps: the inputs' values are shared with the tape, not copied.
struct Kept {
    x: Value,
    axes: [usize; 3],
    valid: Option<Valid>,
    kind: PoolerKind,
    p: Vec<f32>,
    gem: Gem,
    learnable: bool,
}

impl Kept {
    fn pooling(&self) -> Pooling<'_> {
        match self.kind {
            PoolerKind::GeM => Pooling::GeM { p: &self.p, options: &self.gem, learnable: self.learnable },
            PoolerKind::Avg => Pooling::Avg,
            PoolerKind::Max => Pooling::Max,
        }
    }

    fn x(&self) -> Result<ArrayView3<'_, f32>> {
        self.x
            .view()
            .into_shape_with_order(self.axes)
            .map_err(|_| shape(format!("{:?}", self.axes), self.x.shape()))
    }

    /// Items and channels.
    fn pooled(&self) -> [usize; 2] {
        let [batch, second, third] = self.axes;
        [batch, if self.valid.is_some() { third } else { second }]
    }

    fn forward(&self, y: ArrayViewMut2<'_, f32>, saved: &mut Saved) -> Result<()> {
        match &self.valid {
            None => maps::forward(self.x()?, self.pooling(), y, saved),
            Some(valid) => tokens::forward(self.x()?, valid, self.pooling(), y, saved),
        }
    }
}

fn record<'t>(
    x: Var<'t>,
    axes: [usize; 3],
    valid: Option<Valid>,
    kind: PoolerKind,
    p: Option<Var<'t>>,
    gem: &Gem,
) -> Result<Var<'t>> {
    let mut inputs = vec![x];
    if kind == PoolerKind::GeM {
        inputs.push(p.ok_or_else(|| shape("GeM's power p, [1] or one for each channel".to_owned(), &[]))?);
    }
    let value = x.value();
    let value = if value.is_standard_layout() {
        value
    } else {
        value.as_standard_layout().into_owned().into_shared()
    };
    let power = inputs.get(1);
    let kept = Kept {
        x: value,
        axes,
        valid,
        kind,
        p: power.map(|p| p.value().iter().copied().collect()).unwrap_or_default(),
        gem: *gem,
        learnable: power.is_some_and(Var::needs_grad),
    };
    let pool = x.tape().pool().clone();
    let [batch, channels] = kept.pooled();
    let mut saved = Saved::default();
    let mut y = array(&[batch, channels], pool.take(batch * channels))?;
    kept.forward(view2(&mut y)?, &mut saved)?;
    let shapes: Vec<Vec<usize>> = inputs.iter().map(Var::shape).collect();
    x.tape().record_many("pool", &inputs, y, move |mut gradient, wanted| {
        let dy = view2(&mut gradient)?;
        let mut d_x = match wanted.first() {
            Some(true) => Some(array(&shapes[0], pool.take(kept.x.len()))?),
            _ => None,
        };
        let mut d_p = (wanted.get(1) == Some(&true)).then(|| pool.take(kept.p.len()));
        let d_x_view = d_x.as_mut().map(|d| view3(d, kept.axes)).transpose()?;
        match &kept.valid {
            None => {
                maps::backward(kept.x()?, kept.pooling(), &saved, dy.view(), d_x_view, d_p.as_deref_mut())?
            }
            Some(valid) => {
                tokens::backward(
                    kept.x()?,
                    valid,
                    kept.pooling(),
                    &saved,
                    dy.view(),
                    d_x_view,
                    d_p.as_deref_mut(),
                )?;
            }
        }
        pool.give(gradient.into_raw_vec_and_offset().0);
        let mut grads = vec![d_x.map(Grad::Dense)];
        if let Some(shape) = shapes.get(1) {
            grads.push(d_p.map(|d| array(shape, d)).transpose()?.map(Grad::Dense));
        }
        Ok(grads)
    })
}

fn array(axes: &[usize], data: Vec<f32>) -> Result<ArrayD<f32>> {
    let length = data.len();
    ArrayD::from_shape_vec(IxDyn(axes), data).map_err(|_| shape(format!("{axes:?}"), &[length]))
}

fn view2(x: &mut ArrayD<f32>) -> Result<ArrayViewMut2<'_, f32>> {
    let got = x.shape().to_vec();
    x.view_mut().into_dimensionality().map_err(|_| shape("[batch, channels]".to_owned(), &got))
}

fn view3(x: &mut ArrayD<f32>, axes: [usize; 3]) -> Result<ArrayViewMut3<'_, f32>> {
    let got = x.shape().to_vec();
    x.view_mut().into_shape_with_order(axes).map_err(|_| shape(format!("{axes:?}"), &got))
}
