//! Pooling of masked tokens `[batch, tokens, dim]` to `[batch, dim]`.
//!
//! A token that the mask leaves out changes nothing, whatever it holds (NaN too), and its gradient is 0. An item
//! without any token gives zeros and takes no gradient.

use embedtune_core::{Error, Result};
use ndarray::{ArrayView2, ArrayView3, ArrayViewMut2, ArrayViewMut3};
use rayon::prelude::*;

use crate::layout::{Layout, Pooling, Saved, row_major, rows_per_block, shape};
use crate::rows::Scratch;

/// Which tokens count.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum Mask<'a> {
    /// The first so many of each item, `[batch]`.
    Lengths(&'a [usize]),
    /// True for each token that counts, `[batch * tokens]`, row-major.
    Tokens(&'a [bool]),
}

impl<'a> From<&'a [usize]> for Mask<'a> {
    fn from(lengths: &'a [usize]) -> Self {
        Self::Lengths(lengths)
    }
}

impl<'a> From<&'a Vec<usize>> for Mask<'a> {
    fn from(lengths: &'a Vec<usize>) -> Self {
        Self::Lengths(lengths)
    }
}

impl<'a, const N: usize> From<&'a [usize; N]> for Mask<'a> {
    fn from(lengths: &'a [usize; N]) -> Self {
        Self::Lengths(lengths)
    }
}

impl<'a> From<&'a [bool]> for Mask<'a> {
    fn from(tokens: &'a [bool]) -> Self {
        Self::Tokens(tokens)
    }
}

/// A [`Mask`] checked against a shape: the tokens that count, item after item.
#[derive(Debug, Clone, Default)]
pub struct Valid {
    /// Where each item's tokens start in `tokens`, and the end.
    starts: Vec<usize>,
    tokens: Vec<usize>,
    width: usize,
}

impl Valid {
    /// The tokens of `mask` in `[batch, tokens]`.
    ///
    /// # Errors
    /// A mask of another shape; a length beyond `tokens`, with its row; more tokens than memory can list.
    pub fn new(mask: Mask<'_>, batch: usize, tokens: usize) -> Result<Self> {
        let mut valid = Self { starts: vec![0], tokens: Vec::new(), width: tokens };
        match mask {
            Mask::Lengths(lengths) => {
                if lengths.len() != batch {
                    return Err(shape(format!("{batch} lengths, one for each item"), &[lengths.len()]));
                }
                if let Some((row, &length)) = lengths.iter().enumerate().find(|(_, length)| **length > tokens)
                {
                    return Err(Error::Parameter {
                        op: "pooling",
                        name: "length",
                        value: format!("{length} in row {row}"),
                        expected: format!("an item has at most {tokens} tokens"),
                    });
                }
                let total = lengths.iter().try_fold(0usize, |sum, &length| sum.checked_add(length));
                valid.reserve(batch, total)?;
                for &length in lengths {
                    valid.tokens.extend(0..length);
                    valid.starts.push(valid.tokens.len());
                }
            }
            Mask::Tokens(mask) => {
                if batch.checked_mul(tokens) != Some(mask.len()) {
                    return Err(shape(
                        format!("{batch} x {tokens} flags, one for each token"),
                        &[mask.len()],
                    ));
                }
                valid.reserve(batch, Some(0))?;
                for row in 0..batch {
                    let mask = &mask[row * tokens..(row + 1) * tokens];
                    valid
                        .tokens
                        .extend(mask.iter().enumerate().filter(|(_, counts)| **counts).map(|(at, _)| at));
                    valid.starts.push(valid.tokens.len());
                }
            }
        }
        Ok(valid)
    }

    /// Room for `batch` items of `tokens` tokens together; an error where there is none.
    fn reserve(&mut self, batch: usize, tokens: Option<usize>) -> Result<()> {
        let room = tokens.is_some_and(|tokens| self.tokens.try_reserve(tokens).is_ok());
        if room && self.starts.try_reserve(batch).is_ok() {
            return Ok(());
        }
        let value = tokens.map_or_else(|| "more than usize::MAX".to_owned(), |tokens| tokens.to_string());
        Err(Error::Parameter {
            op: "pooling",
            name: "tokens",
            value: format!("{value} in {batch} items"),
            expected: "a mask that memory can list; pool fewer items at once".to_owned(),
        })
    }

    fn item(&self, item: usize) -> &[usize] {
        &self.tokens[self.starts[item]..self.starts[item + 1]]
    }

    fn check(&self, batch: usize, tokens: usize) -> Result<()> {
        if self.starts.len() == batch + 1 && self.width == tokens {
            return Ok(());
        }
        Err(shape(
            format!("a mask for [{batch}, {tokens}]"),
            &[self.starts.len().saturating_sub(1), self.width],
        ))
    }
}

/// The item's valid tokens as rows `[dim, valid]`.
fn gather(x: &[f32], dim: usize, valid: &[usize], rows: &mut Vec<f32>) {
    rows.clear();
    rows.resize(dim * valid.len(), 0.0);
    for (at, &token) in valid.iter().enumerate() {
        for (channel, &v) in x[token * dim..(token + 1) * dim].iter().enumerate() {
            rows[channel * valid.len() + at] = v;
        }
    }
}

/// The reverse of [`gather`]; zeros for the other tokens.
fn scatter(rows: &[f32], dim: usize, valid: &[usize], x: &mut [f32]) {
    x.fill(0.0);
    for (at, &token) in valid.iter().enumerate() {
        for (channel, v) in x[token * dim..(token + 1) * dim].iter_mut().enumerate() {
            *v = rows[channel * valid.len() + at];
        }
    }
}

/// Writes the pooled values of `x`, `[batch, tokens, dim]`, to `y`, `[batch, dim]`, and what [`backward`] needs to
/// `saved`. Values that are not finite: as in [`maps::forward`](crate::maps::forward).
///
/// # Errors
/// Shapes that do not fit, `y` with gaps, a power that is not finite.
pub fn forward(
    x: ArrayView3<'_, f32>,
    valid: &Valid,
    pooling: Pooling<'_>,
    mut y: ArrayViewMut2<'_, f32>,
    saved: &mut Saved,
) -> Result<()> {
    let (batch, tokens, dim) = x.dim();
    pooling.check(dim)?;
    valid.check(batch, tokens)?;
    let got = y.shape().to_vec();
    if y.dim() != (batch, dim) {
        return Err(shape(format!("[{batch}, {dim}] for the pooled values"), &got));
    }
    let y = row_major(y.as_slice_mut(), "the pooled values", &got)?;
    let x = x.as_standard_layout();
    let data = row_major(x.as_slice(), "the tokens", x.shape())?;
    saved.begin(Layout::Tokens, [batch, tokens, dim], &pooling);
    if dim == 0 {
        return Ok(());
    }
    let block = rows_per_block(tokens * dim);
    y.par_chunks_mut(block * dim).zip(saved.rows.par_chunks_mut(block * dim)).enumerate().for_each_init(
        <(Vec<f32>, Scratch)>::default,
        |(rows, scratch), (at, (y, saved))| {
            for (i, (y, saved)) in y.chunks_exact_mut(dim).zip(saved.chunks_exact_mut(dim)).enumerate() {
                let item = at * block + i;
                let kept = valid.item(item);
                gather(&data[item * tokens * dim..(item + 1) * tokens * dim], dim, kept, rows);
                pooling.rows(rows, kept.len(), item * dim, scratch, saved);
                y.iter_mut().zip(saved).for_each(|(y, saved)| *y = saved.value);
            }
        },
    );
    Ok(())
}

/// Writes the gradient of `x` to `dx` (of `x`'s shape) and that of the powers to `d_p` (as long as they), given
/// that of the pooled values, `dy`, `[batch, dim]`. The other arguments are the forward pass's.
///
/// # Errors
/// Shapes that do not fit, `dx` with gaps, `d_p` for a pooling that was not `learnable`, `saved` of another
/// pooling, input or layout.
pub fn backward(
    x: ArrayView3<'_, f32>,
    valid: &Valid,
    pooling: Pooling<'_>,
    saved: &Saved,
    dy: ArrayView2<'_, f32>,
    dx: Option<ArrayViewMut3<'_, f32>>,
    d_p: Option<&mut [f32]>,
) -> Result<()> {
    let (batch, tokens, dim) = x.dim();
    pooling.check(dim)?;
    pooling.check_d_p(d_p.as_deref())?;
    valid.check(batch, tokens)?;
    saved.check(Layout::Tokens, [batch, tokens, dim], &pooling)?;
    if dy.dim() != (batch, dim) {
        return Err(shape(format!("[{batch}, {dim}] for the gradient of the pooled values"), dy.shape()));
    }
    let dy = dy.as_standard_layout();
    let upstream = row_major(dy.as_slice(), "the gradient of the pooled values", dy.shape())?;
    if let Some(d_p) = d_p {
        saved.sum_d_p(upstream, dim, d_p);
    }
    let Some(mut dx) = dx else { return Ok(()) };
    let got = dx.shape().to_vec();
    if dx.dim() != x.dim() {
        return Err(shape(format!("{:?} for the gradient of the tokens", x.shape()), &got));
    }
    let size = tokens * dim;
    if size == 0 {
        return Ok(());
    }
    let dx = row_major(dx.as_slice_mut(), "the gradient of the tokens", &got)?;
    let x = x.as_standard_layout();
    let data = row_major(x.as_slice(), "the tokens", x.shape())?;
    let block = rows_per_block(size);
    dx.par_chunks_mut(block * size).enumerate().for_each_init(
        <(Vec<f32>, Vec<f32>)>::default,
        |(rows, d_rows), (at, dx)| {
            for (i, dx) in dx.chunks_exact_mut(size).enumerate() {
                let item = at * block + i;
                let kept = valid.item(item);
                gather(&data[item * size..(item + 1) * size], dim, kept, rows);
                d_rows.resize(rows.len(), 0.0);
                let of_item = item * dim..(item + 1) * dim;
                let (saved, upstream) = (&saved.rows[of_item.clone()], &upstream[of_item]);
                pooling.rows_backward(rows, kept.len(), item * dim, saved, upstream, d_rows);
                scatter(d_rows, dim, kept, dx);
            }
        },
    );
    Ok(())
}
