//! Pooling on the tape: feature maps `[batch, channels, height, width]` (or `[batch, channels, length]`) to
//! `[batch, channels]`, masked tokens `[batch, tokens, dim]` to `[batch, dim]`.

use embedtune_core::{Error, Grad, Result, Var};
use ndarray::{Array1, Array2, ArrayD, IxDyn};
use rayon::prelude::*;

use crate::rows::{self, Pooled};
use crate::{Gem, PoolerKind};

fn shape_error(expected: &str, got: &[usize]) -> Error {
    Error::Shape { op: "pooling", expected: expected.to_owned(), got: got.to_vec() }
}

/// The values to pool as rows `[batch * channels, length]` with the length in use of each batch item.
struct Layout {
    batch: usize,
    channels: usize,
    length: usize,
    /// Values in use in each item's rows; `None`: all.
    used: Option<Vec<usize>>,
}

impl Layout {
    fn used(&self, row: usize) -> usize {
        self.used.as_ref().map_or(self.length, |used| used[row / self.channels])
    }
}

/// Pools feature maps. `p` is GeM's power, `[1]` or `[channels]`; it is needed for GeM and for nothing else.
///
/// # Errors
/// Fewer than three axes, a missing `p` or one of another shape.
pub fn pool_maps<'t>(x: Var<'t>, kind: PoolerKind, p: Option<Var<'t>>, gem: &Gem) -> Result<Var<'t>> {
    let shape = x.shape();
    if shape.len() < 3 {
        return Err(shape_error("[batch, channels, height, width] or [batch, channels, length]", &shape));
    }
    let length = shape[2..].iter().product();
    let layout = Layout { batch: shape[0], channels: shape[1], length, used: None };
    pool(x.reshape(&[shape[0] * shape[1], length])?, layout, kind, p, gem)
}

/// Pools tokens `[batch, tokens, dim]`: of item `i` the first `lengths[i]` tokens count, the others are padding. An
/// item without tokens gives zeros and takes no gradient.
///
/// # Errors
/// Not three axes, lengths that do not fit, a missing `p` or one of another shape.
pub fn pool_tokens<'t>(
    x: Var<'t>,
    lengths: &[usize],
    kind: PoolerKind,
    p: Option<Var<'t>>,
    gem: &Gem,
) -> Result<Var<'t>> {
    let shape = x.shape();
    let &[batch, tokens, dim] = shape.as_slice() else {
        return Err(shape_error("[batch, tokens, dim]", &shape));
    };
    if lengths.len() != batch || lengths.iter().any(|&length| length > tokens) {
        return Err(shape_error(&format!("{batch} lengths of at most {tokens}"), lengths));
    }
    let layout = Layout { batch, channels: dim, length: tokens, used: Some(lengths.to_vec()) };
    pool(transpose(x, batch, tokens, dim)?, layout, kind, p, gem)
}

/// `[batch, tokens, dim]` to rows `[batch * dim, tokens]`.
fn transpose(x: Var<'_>, batch: usize, tokens: usize, dim: usize) -> Result<Var<'_>> {
    let swap =
        |from: &ArrayD<f32>| from.view().permuted_axes(IxDyn(&[0, 2, 1])).as_standard_layout().into_owned();
    let owned = x.value().into_owned();
    let rows = swap(&owned)
        .into_shape_with_order(IxDyn(&[batch * dim, tokens]))
        .map_err(|_| shape_error("rows", &[]))?;
    x.tape().record("transpose", [x], rows, move |g, _| {
        let g =
            g.into_shape_with_order(IxDyn(&[batch, dim, tokens])).map_err(|_| shape_error("rows", &[]))?;
        Ok([Some(Grad::Dense(swap(&g)))])
    })
}

fn pool<'t>(x: Var<'t>, layout: Layout, kind: PoolerKind, p: Option<Var<'t>>, gem: &Gem) -> Result<Var<'t>> {
    let value = x.value().as_standard_layout().into_owned().into_shared();
    let (rows, length) = (layout.batch * layout.channels, layout.length);
    let finish = |values: Vec<f32>| {
        Array2::from_shape_vec((layout.batch, layout.channels), values)
            .map_err(|_| shape_error("rows", &[rows]))
    };
    // Chunks of a fixed number of rows; every row is computed alone, so the bits do not depend on the threads.
    let data = value.as_slice().unwrap_or_default();
    let row = |i: usize| &data[i * length..i * length + layout.used(i)];
    if kind != PoolerKind::GeM {
        let best: Vec<usize> = if kind == PoolerKind::Max {
            (0..rows).into_par_iter().map(|i| rows::argmax(row(i))).collect()
        } else {
            Vec::new()
        };
        let pooled = (0..rows)
            .into_par_iter()
            .map(|i| match best.get(i) {
                Some(&at) => row(i).get(at).copied().unwrap_or(0.0),
                None => rows::average(row(i)),
            })
            .collect();
        let out = finish(pooled)?;
        return x.tape().record("pool", [x], out.into_dyn(), move |g, _| {
            let mut dx = Array2::zeros((rows, length));
            for ((i, mut dx), &g) in dx.rows_mut().into_iter().enumerate().zip(&g) {
                let used = layout.used(i);
                match best.get(i) {
                    Some(&at) if at < used => dx[at] = g,
                    Some(_) => {}
                    None => dx.iter_mut().take(used).for_each(|d| *d = g / used as f32),
                }
            }
            Ok([Some(Grad::Dense(dx.into_dyn()))])
        });
    }
    let p = p.ok_or_else(|| shape_error("GeM needs its power p", &[]))?;
    let powers = p.value();
    if powers.shape() != [1] && powers.shape() != [layout.channels] {
        return Err(shape_error(&format!("[1] or [{}] for p", layout.channels), powers.shape()));
    }
    let powers: Vec<f32> = powers.iter().copied().collect();
    let count = powers.len();
    let gem = *gem;
    let pooled: Vec<Pooled> = (0..rows)
        .into_par_iter()
        .map(|i| rows::gem(row(i), powers[i % layout.channels % count], &gem))
        .collect();
    let out = finish(pooled.iter().map(|row| row.value).collect())?;
    let pool = x.tape().pool().clone();
    x.tape().record("gem", [x, p], out.into_dyn(), move |g, [to_x, to_p]| {
        let g: Vec<f32> = g.iter().copied().collect();
        let d_p = to_p.then(|| {
            let mut sums = vec![0.0f64; count];
            for (i, (row, &g)) in pooled.iter().zip(&g).enumerate() {
                sums[i % layout.channels % count] += f64::from(row.d_p) * f64::from(g);
            }
            Grad::Dense(sums.into_iter().map(|v| v as f32).collect::<Array1<f32>>().into_dyn())
        });
        let dx = if to_x && length > 0 {
            let data = value.as_slice().unwrap_or_default();
            let mut dx = pool.zeros(rows * length);
            dx.par_chunks_mut(length).enumerate().for_each(|(i, dx)| {
                let used = layout.used(i);
                let power = powers[i % layout.channels % count];
                rows::gem_backward(
                    &data[i * length..i * length + used],
                    power,
                    &gem,
                    &pooled[i],
                    g[i],
                    &mut dx[..used],
                );
            });
            let dx = ArrayD::from_shape_vec(IxDyn(&[rows, length]), dx)
                .map_err(|_| shape_error("rows", &[rows]))?;
            Some(Grad::Dense(dx))
        } else {
            None
        };
        Ok([dx, d_p])
    })
}
