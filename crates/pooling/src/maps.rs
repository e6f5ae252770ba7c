//! Pooling of feature maps `[batch, channels, length]` (`length` is height times width) to `[batch, channels]`.

use embedtune_core::Result;
use ndarray::{ArrayView2, ArrayView3, ArrayViewMut2, ArrayViewMut3};
use rayon::prelude::*;

use crate::layout::{Layout, Pooling, Saved, row_major, rows_per_block, shape};
use crate::rows::Scratch;

/// Writes the pooled values of `x`, `[batch, channels, length]`, to `y`, `[batch, channels]`, and what
/// [`backward`] needs to `saved`.
///
/// Of a map without values (`length` 0) the result is 0. NaN or infinity in a map makes its GeM NaN and reaches its
/// average; NaN reaches its maximum: look at `y`, which is small, not at `x`.
///
/// # Errors
/// Shapes that do not fit, `y` with gaps, a power that is not finite.
pub fn forward(
    x: ArrayView3<'_, f32>,
    pooling: Pooling<'_>,
    mut y: ArrayViewMut2<'_, f32>,
    saved: &mut Saved,
) -> Result<()> {
    let (batch, channels, length) = x.dim();
    pooling.check(channels)?;
    let got = y.shape().to_vec();
    if y.dim() != (batch, channels) {
        return Err(shape(format!("[{batch}, {channels}] for the pooled values"), &got));
    }
    let y = row_major(y.as_slice_mut(), "the pooled values", &got)?;
    let x = x.as_standard_layout();
    let data = row_major(x.as_slice(), "the maps", x.shape())?;
    saved.begin(Layout::Maps, [batch, channels, length], &pooling);
    let block = rows_per_block(length);
    let blocks = y.par_chunks_mut(block).zip(saved.rows.par_chunks_mut(block)).enumerate();
    blocks.for_each_init(Scratch::default, |scratch, (at, (y, saved))| {
        let first = at * block;
        let data = &data[first * length..(first + saved.len()) * length];
        pooling.rows(data, length, first, scratch, saved);
        y.iter_mut().zip(saved).for_each(|(y, saved)| *y = saved.value);
    });
    Ok(())
}

/// Writes the gradient of `x` to `dx` (of `x`'s shape) and that of the powers to `d_p` (as long as they), given
/// that of the pooled values, `dy`, `[batch, channels]`. `x`, `pooling` and `saved` are the forward pass's.
///
/// # Errors
/// Shapes that do not fit, `dx` with gaps, `d_p` for a pooling that was not `learnable`, `saved` of another
/// pooling, input or layout.
pub fn backward(
    x: ArrayView3<'_, f32>,
    pooling: Pooling<'_>,
    saved: &Saved,
    dy: ArrayView2<'_, f32>,
    dx: Option<ArrayViewMut3<'_, f32>>,
    d_p: Option<&mut [f32]>,
) -> Result<()> {
    let (batch, channels, length) = x.dim();
    pooling.check(channels)?;
    pooling.check_d_p(d_p.as_deref())?;
    saved.check(Layout::Maps, [batch, channels, length], &pooling)?;
    if dy.dim() != (batch, channels) {
        return Err(shape(
            format!("[{batch}, {channels}] for the gradient of the pooled values"),
            dy.shape(),
        ));
    }
    let dy = dy.as_standard_layout();
    let upstream = row_major(dy.as_slice(), "the gradient of the pooled values", dy.shape())?;
    if let Some(d_p) = d_p {
        saved.sum_d_p(upstream, channels, d_p);
    }
    let Some(mut dx) = dx else { return Ok(()) };
    let got = dx.shape().to_vec();
    if dx.dim() != x.dim() {
        return Err(shape(format!("{:?} for the gradient of the maps", x.shape()), &got));
    }
    if length == 0 {
        return Ok(());
    }
    let dx = row_major(dx.as_slice_mut(), "the gradient of the maps", &got)?;
    let x = x.as_standard_layout();
    let data = row_major(x.as_slice(), "the maps", x.shape())?;
    let block = rows_per_block(length);
    dx.par_chunks_mut(block * length).enumerate().for_each(|(at, dx)| {
        let first = at * block;
        let rows = first..first + dx.len() / length;
        let x = &data[first * length..first * length + dx.len()];
        pooling.rows_backward(x, length, first, &saved.rows[rows.clone()], &upstream[rows], dx);
    });
    Ok(())
}
