//! [`maps`] and [`tokens`] on row-major slices, for callers without ndarray.
//!
//! ```
//! use embedtune_pooling::{GemOptions, Pooling, Saved, slices};
//!
//! let x: Vec<f32> = (0..2 * 3 * 4).map(|i| i as f32).collect(); // two items, three channels, four positions
//! let options = GemOptions::default().build()?;
//! let gem = Pooling::GeM { p: &[3.0], options: &options, learnable: true };
//! let (mut y, mut saved) = ([0.0; 2 * 3], Saved::default());
//! slices::forward_maps(&x, [2, 3, 4], gem, &mut y, &mut saved)?;
//! let (mut dx, mut d_p) = (vec![0.0; x.len()], [0.0]);
//! slices::backward_maps(&x, [2, 3, 4], gem, &saved, &[1.0; 6], Some(&mut dx), Some(&mut d_p))?;
//! assert!(y[0] > 1.5 && y[0] < 3.0 && d_p[0] > 0.0); // between the average and the maximum of 0, 1, 2, 3
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use embedtune_core::Result;
use ndarray::{ArrayView2, ArrayView3, ArrayViewMut2, ArrayViewMut3};

use crate::layout::shape;
use crate::tokens::Valid;
use crate::{Pooling, Saved, maps, tokens};

/// [`maps::forward`] of `x`, `[batch, channels, length]` row-major, to `y`, `[batch, channels]`.
///
/// # Errors
/// Slices whose lengths are not the product of their shape; as [`maps::forward`].
pub fn forward_maps(
    x: &[f32],
    [batch, channels, length]: [usize; 3],
    pooling: Pooling<'_>,
    y: &mut [f32],
    saved: &mut Saved,
) -> Result<()> {
    let x = cube("the maps", x, [batch, channels, length])?;
    maps::forward(x, pooling, matrix_mut("the pooled values", y, [batch, channels])?, saved)
}

/// [`maps::backward`]: the gradient of `x`, `[batch, channels, length]` row-major, from that of the pooled values,
/// `dy`, `[batch, channels]`.
///
/// # Errors
/// Slices whose lengths are not the product of their shape; as [`maps::backward`].
pub fn backward_maps(
    x: &[f32],
    [batch, channels, length]: [usize; 3],
    pooling: Pooling<'_>,
    saved: &Saved,
    dy: &[f32],
    dx: Option<&mut [f32]>,
    d_p: Option<&mut [f32]>,
) -> Result<()> {
    let dx = dx.map(|dx| cube_mut("the gradient of the maps", dx, [batch, channels, length])).transpose()?;
    let dy = matrix("the gradient of the pooled values", dy, [batch, channels])?;
    maps::backward(cube("the maps", x, [batch, channels, length])?, pooling, saved, dy, dx, d_p)
}

/// [`tokens::forward`] of `x`, `[batch, tokens, dim]` row-major, to `y`, `[batch, dim]`.
///
/// # Errors
/// Slices whose lengths are not the product of their shape; as [`tokens::forward`].
pub fn forward_tokens(
    x: &[f32],
    [batch, tokens, dim]: [usize; 3],
    valid: &Valid,
    pooling: Pooling<'_>,
    y: &mut [f32],
    saved: &mut Saved,
) -> Result<()> {
    let x = cube("the tokens", x, [batch, tokens, dim])?;
    tokens::forward(x, valid, pooling, matrix_mut("the pooled values", y, [batch, dim])?, saved)
}

/// [`tokens::backward`]: the gradient of `x`, `[batch, tokens, dim]` row-major, from that of the pooled values, `dy`,
/// `[batch, dim]`.
///
/// # Errors
/// Slices whose lengths are not the product of their shape; as [`tokens::backward`].
pub fn backward_tokens(
    x: &[f32],
    [batch, tokens, dim]: [usize; 3],
    valid: &Valid,
    pooling: Pooling<'_>,
    saved: &Saved,
    dy: &[f32],
    dx: Option<&mut [f32]>,
    d_p: Option<&mut [f32]>,
) -> Result<()> {
    let dx = dx.map(|dx| cube_mut("the gradient of the tokens", dx, [batch, tokens, dim])).transpose()?;
    let dy = matrix("the gradient of the pooled values", dy, [batch, dim])?;
    tokens::backward(cube("the tokens", x, [batch, tokens, dim])?, valid, pooling, saved, dy, dx, d_p)
}

fn check<const N: usize>(what: &str, length: usize, dims: [usize; N]) -> Result<()> {
    let size = dims.iter().try_fold(1usize, |size, &dim| size.checked_mul(dim));
    if size == Some(length) {
        return Ok(());
    }
    Err(shape(format!("{what}, {dims:?} values in row-major order"), &[length]))
}

fn cube<'a>(what: &str, data: &'a [f32], dims: [usize; 3]) -> Result<ArrayView3<'a, f32>> {
    check(what, data.len(), dims)?;
    ArrayView3::from_shape(dims, data).map_err(|_| shape(format!("{what}, {dims:?} values"), &[data.len()]))
}

fn cube_mut<'a>(what: &str, data: &'a mut [f32], dims: [usize; 3]) -> Result<ArrayViewMut3<'a, f32>> {
    let length = data.len();
    check(what, length, dims)?;
    ArrayViewMut3::from_shape(dims, data).map_err(|_| shape(format!("{what}, {dims:?} values"), &[length]))
}

fn matrix<'a>(what: &str, data: &'a [f32], dims: [usize; 2]) -> Result<ArrayView2<'a, f32>> {
    check(what, data.len(), dims)?;
    ArrayView2::from_shape(dims, data).map_err(|_| shape(format!("{what}, {dims:?} values"), &[data.len()]))
}

fn matrix_mut<'a>(what: &str, data: &'a mut [f32], dims: [usize; 2]) -> Result<ArrayViewMut2<'a, f32>> {
    let length = data.len();
    check(what, length, dims)?;
    ArrayViewMut2::from_shape(dims, data).map_err(|_| shape(format!("{what}, {dims:?} values"), &[length]))
}
