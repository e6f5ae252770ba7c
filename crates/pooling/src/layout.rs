//! What the two layouts, feature maps and tokens, share.

use embedtune_core::simd::with_simd;
use embedtune_core::{Error, Result};
use pulp::{Simd, WithSimd};

use crate::Gem;
use crate::rows::{self, Maps, Pooled, Scratch};

/// Values that one task pools at least: a size that does not depend on the number of threads.
const BLOCK: usize = 16 * 1024;

/// A pooling and its parameters.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum Pooling<'a> {
    /// Generalised mean.
    GeM {
        /// The power: one for all channels, or one for each.
        p: &'a [f32],
        /// `eps` and what is done with negative values.
        options: &'a Gem,
        /// Whether the backward pass will ask for the gradient of `p`. Without it a whole power needs no
        /// logarithm.
        learnable: bool,
    },
    /// Average.
    Avg,
    /// Maximum; the first of equals takes the gradient.
    Max,
}

/// What a forward pass leaves for the backward pass: a few numbers a row. Keep it between steps.
#[derive(Debug, Clone, Default)]
pub struct Saved {
    pub(crate) rows: Vec<Pooled>,
    /// What made them, and its input.
    by: Option<(Kind, Layout, [usize; 3])>,
}

/// How an input lies: of one shape, the two have different rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layout {
    /// `[batch, channels, length]`.
    Maps,
    /// `[batch, tokens, dim]`.
    Tokens,
}

impl std::fmt::Display for Layout {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Maps => "maps",
            Self::Tokens => "tokens",
        })
    }
}

/// What a backward pass has to share with the forward pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Average,
    Maximum,
    GeM { learnable: bool },
}

impl Saved {
    pub(crate) fn begin(&mut self, layout: Layout, input: [usize; 3], pooling: &Pooling<'_>) {
        let [batch, middle, last] = input;
        let channels = match layout {
            Layout::Maps => middle,
            Layout::Tokens => last,
        };
        self.rows.resize(batch * channels, Pooled::EMPTY);
        self.by = Some((pooling.kind(), layout, input));
    }

    pub(crate) fn check(&self, layout: Layout, input: [usize; 3], pooling: &Pooling<'_>) -> Result<()> {
        let now = pooling.kind();
        let Some((by, made_from, from)) = self.by else {
            return Err(shape(format!("the saved values of the forward pass of {input:?}"), &[0]));
        };
        // A forward pass that also prepared for the gradient of p will do where that is not asked for.
        let serves =
            by == now || (by, now) == (Kind::GeM { learnable: true }, Kind::GeM { learnable: false });
        if !serves || made_from != layout {
            return Err(Error::Parameter {
                op: "pooling",
                name: "saved",
                value: format!("values of {by:?} of {made_from}"),
                expected: format!("{now:?} of {layout} needs those of its own forward pass"),
            });
        }
        if from == input {
            return Ok(());
        }
        Err(shape(format!("the saved values of the forward pass of {input:?}, the same input"), &from))
    }

    /// `d_p = sum over rows of upstream * d value / d p`, in `f64` and in row order.
    pub(crate) fn sum_d_p(&self, upstream: &[f32], channels: usize, d_p: &mut [f32]) {
        let count = d_p.len().max(1);
        let mut sums = vec![0.0f64; count];
        for (i, (row, &g)) in self.rows.iter().zip(upstream).enumerate() {
            sums[i % channels % count] += f64::from(row.d_p) * f64::from(g);
        }
        for (to, sum) in d_p.iter_mut().zip(sums) {
            *to = rows::narrow(sum);
        }
    }
}

impl Pooling<'_> {
    fn kind(&self) -> Kind {
        match *self {
            Self::GeM { learnable, .. } => Kind::GeM { learnable },
            Self::Avg => Kind::Average,
            Self::Max => Kind::Maximum,
        }
    }

    /// Checks the powers against the number of channels.
    pub(crate) fn check(&self, channels: usize) -> Result<()> {
        let Self::GeM { p, .. } = self else { return Ok(()) };
        if p.is_empty() || (p.len() != 1 && p.len() != channels) {
            return Err(shape(format!("one power, or one for each of the {channels} channels"), &[p.len()]));
        }
        // One between 0 and the least power is taken as that: an optimizer may have left it there. Others are slips.
        if let Some((at, bad)) = p.iter().enumerate().find(|(_, v)| !(v.is_finite() && **v > 0.0)) {
            return Err(Error::Parameter {
                op: "gem",
                name: "p",
                value: format!("{bad} at position {at}"),
                expected: format!(
                    "a finite power above 0: 1 is the average, 3 is usual; call keep_powers after each step of an \
                     optimizer, which keeps them at {} or above",
                    crate::MIN_P
                ),
            });
        }
        Ok(())
    }

    /// Checks where the gradient of the powers is to go.
    pub(crate) fn check_d_p(&self, d_p: Option<&[f32]>) -> Result<()> {
        let Some(d_p) = d_p else { return Ok(()) };
        match self {
            Self::GeM { p, learnable: true, .. } if p.len() == d_p.len() => Ok(()),
            Self::GeM { p, learnable: true, .. } => {
                Err(shape(format!("{} values for the gradient of p", p.len()), &[d_p.len()]))
            }
            _ => Err(shape("no gradient of p: this pooling learns none".to_owned(), &[d_p.len()])),
        }
    }

    /// Pools rows of `length` values, the first of which has number `first`; a row's number gives its channel.
    pub(crate) fn rows(
        &self,
        x: &[f32],
        length: usize,
        first: usize,
        scratch: &mut Scratch,
        pooled: &mut [Pooled],
    ) {
        with_simd(Forward { pooling: self, x, length, first, scratch, pooled });
    }

    /// Gradients of the values of the rows that [`rows`](Self::rows) pooled.
    pub(crate) fn rows_backward(
        &self,
        x: &[f32],
        length: usize,
        first: usize,
        pooled: &[Pooled],
        upstream: &[f32],
        dx: &mut [f32],
    ) {
        if let Self::GeM { p, options, .. } = *self {
            with_simd(Backward { maps: Maps { x, length, first, p, options }, pooled, upstream, dx });
            return;
        }
        for ((dx, pooled), &upstream) in dx.chunks_exact_mut(length.max(1)).zip(pooled).zip(upstream) {
            if let Self::Avg = self {
                dx.fill(upstream / length as f32);
            } else {
                dx.fill(0.0);
                pooled.give(upstream, dx);
            }
        }
    }
}

/// [`Pooling::rows`] for one instruction set.
struct Forward<'a> {
    pooling: &'a Pooling<'a>,
    x: &'a [f32],
    length: usize,
    first: usize,
    scratch: &'a mut Scratch,
    pooled: &'a mut [Pooled],
}

impl WithSimd for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { pooling, x, length, first, scratch, pooled } = self;
        if let Pooling::GeM { p, options, learnable } = *pooling {
            rows::gem_rows(simd, Maps { x, length, first, p, options }, learnable, scratch, pooled);
            return;
        }
        for (i, to) in pooled.iter_mut().enumerate() {
            let x = &x[i * length..(i + 1) * length];
            *to = if let Pooling::Avg = pooling { Pooled::average(x) } else { Pooled::maximum(simd, x) };
        }
    }
}

/// GeM's [`Pooling::rows_backward`] for one instruction set.
struct Backward<'a> {
    maps: Maps<'a>,
    pooled: &'a [Pooled],
    upstream: &'a [f32],
    dx: &'a mut [f32],
}

impl WithSimd for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { maps, pooled, upstream, dx } = self;
        rows::gem_backward_rows(simd, maps, pooled, upstream, dx);
    }
}

/// Rows of `length` values that one task takes.
pub(crate) fn rows_per_block(length: usize) -> usize {
    (BLOCK / length.max(1)).max(1)
}

pub(crate) fn shape(expected: String, got: &[usize]) -> Error {
    Error::Shape { op: "pooling", expected, got: got.to_vec() }
}

pub(crate) fn row_major<T>(slice: Option<T>, what: &str, got: &[usize]) -> Result<T> {
    slice.ok_or_else(|| shape(format!("{what} in row-major order, without gaps"), got))
}
