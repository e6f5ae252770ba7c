//! Galleries and queries laid out for the products.

use std::borrow::Cow;
use std::ops::Range;

use embedtune_core::simd;
use rayon::prelude::*;

use crate::frame::{Frame, fitting, read_rows};
use crate::product::PANEL;
use crate::rows::Rows;
use crate::{Error, Result};

/// Queries that one task handles: their scores with one panel after the other.
pub(crate) const QUERY_BLOCK: usize = 96;
/// Bytes of gallery that are laid out at once where it is not kept.
const SEGMENT_BYTES: usize = 16 << 20;
/// Bytes of queries that are laid out at once.
const QUERY_BYTES: usize = 24 << 20;
/// Rows that are turned into columns together: their values fill a cache line each.
const TURNED: usize = 16;

/// Where a gallery's panels, `[panel][dim][PANEL]`, come from.
pub(crate) enum Gallery<'a> {
    /// Laid out when they are needed, a segment at a time.
    Streamed(&'a dyn Rows),
    /// All laid out.
    Kept(&'a [f32]),
}

/// Consecutive items that are laid out together.
pub(crate) struct Segment<'a> {
    pub(crate) items: Range<usize>,
    pub(crate) panels: Cow<'a, [f32]>,
}

impl<'a> Gallery<'a> {
    /// The ranges of items of the segments.
    pub(crate) fn segments(&self, frame: &Frame) -> Vec<Range<usize>> {
        let rows = match self {
            Self::Streamed(_) => whole_panels(SEGMENT_BYTES, frame.dim),
            Self::Kept(_) => frame.len.max(1),
        };
        (0..frame.len).step_by(rows).map(|first| first..frame.len.min(first + rows)).collect()
    }

    /// Lays a segment out.
    pub(crate) fn segment(&self, frame: &Frame, items: Range<usize>) -> Result<Segment<'a>> {
        let panels = match *self {
            Self::Kept(all) => Cow::Borrowed(all),
            Self::Streamed(rows) => {
                Cow::Owned(lay_out(frame, items.clone(), |first, to| rows.read(first, to))?)
            }
        };
        Ok(Segment { items, panels })
    }

    /// One item as the products see it; `row` has room for what is read of it.
    pub(crate) fn mapped(&self, frame: &Frame, item: usize, row: &mut [f32], to: &mut [f32]) -> Result<()> {
        match *self {
            Self::Streamed(rows) => {
                rows.read(item, row)?;
                frame.map(row, to);
            }
            Self::Kept(all) => {
                let panel = all.chunks_exact(frame.dim * PANEL).nth(item / PANEL).unwrap_or_default();
                for (to, line) in to.iter_mut().zip(panel.chunks_exact(PANEL)) {
                    *to = line[item % PANEL];
                }
            }
        }
        Ok(())
    }
}

/// Rows of whole panels that so many bytes hold: one panel at least, however long its rows.
pub(crate) fn whole_panels(bytes: usize, dim: usize) -> usize {
    (fitting(bytes, dim) / PANEL).max(1) * PANEL
}

/// Panels of the items at `positions`, which `read` copies: `(first position, rows to fill)`.
pub(crate) fn lay_out(
    frame: &Frame,
    positions: Range<usize>,
    read: impl Fn(usize, &mut [f32]) -> Result<()> + Sync,
) -> Result<Vec<f32>> {
    let dim = frame.dim;
    let mut panels = vec![0.0f32; positions.len().div_ceil(PANEL) * dim * PANEL];
    // A task has whole panels. What it reads at once are some of them, or a power of two of a panel's rows.
    let fit = read_rows(dim);
    let block = (fit / PANEL).max(1) * PANEL;
    let at_once = if fit < PANEL { 1 << fit.ilog2() } else { block };
    let turned = at_once.min(TURNED);
    panels.par_chunks_mut(block.saturating_mul(dim)).enumerate().try_for_each_init(
        || (Vec::new(), Vec::new()),
        |(buffer, mapped), (block_index, panels)| {
            mapped.resize(turned * dim, 0.0f32);
            let start = positions.start + block_index * block;
            let end = positions.end.min(start + block);
            for first in (start..end).step_by(at_once) {
                buffer.resize(at_once.min(end - first) * dim, 0.0);
                read(first, buffer)?;
                for (group, rows) in buffer.chunks(turned * dim).enumerate() {
                    let at = first - start + group * turned;
                    let panel = &mut panels[at / PANEL * PANEL * dim..][..PANEL * dim];
                    simd::dispatch(
                        #[inline(always)]
                        || turn(frame, rows, mapped, &mut panel[at % PANEL..]),
                    );
                }
            }
            Ok::<(), Error>(())
        },
    )?;
    Ok(panels)
}

/// Writes up to as many rows as `mapped` has room for, [`TURNED`] at most, as columns of a panel.
#[inline(always)]
fn turn(frame: &Frame, rows: &[f32], mapped: &mut [f32], panel: &mut [f32]) {
    let dim = frame.dim;
    // Columns beyond the last row are those of an earlier group: cleared, so that nothing depends on them.
    mapped.fill(0.0);
    for (row, to) in rows.chunks_exact(frame.dim).zip(mapped.chunks_exact_mut(dim)) {
        frame.map(row, to);
    }
    for (k, line) in panel.chunks_mut(PANEL).take(dim).enumerate() {
        for (to, row) in line.iter_mut().zip(mapped.chunks_exact(dim)) {
            *to = row[k];
        }
    }
}

/// Queries as the products see them, `[count][dim]`, and the factor of each beyond the gallery's scale.
pub(crate) struct Queries {
    pub(crate) vectors: Vec<f32>,
    pub(crate) factors: Vec<f64>,
}

impl Queries {
    /// How many of `dim` values are laid out at once: whole blocks if possible.
    pub(crate) fn at_once(dim: usize) -> usize {
        let fit = fitting(QUERY_BYTES, dim);
        if fit < QUERY_BLOCK { fit.max(1) } else { fit / QUERY_BLOCK * QUERY_BLOCK }
    }

    /// The queries at `rows` of checked vectors.
    pub(crate) fn new(frame: &Frame, queries: &dyn Rows, rows: &[u32]) -> Result<Self> {
        let (dim, read) = (frame.dim, read_rows(frame.dim).min(QUERY_BLOCK));
        let mut vectors = vec![0.0f32; rows.len() * dim];
        let mut factors = vec![1.0f64; rows.len()];
        vectors
            .par_chunks_mut(QUERY_BLOCK.saturating_mul(dim))
            .zip(factors.par_chunks_mut(QUERY_BLOCK))
            .zip(rows.par_chunks(QUERY_BLOCK))
            .try_for_each_init(Vec::new, |buffer, ((vectors, factors), rows)| {
                let parts = vectors.chunks_mut(read * dim).zip(factors.chunks_mut(read));
                for (rows, (vectors, factors)) in rows.chunks(read).zip(parts) {
                    buffer.resize(rows.len() * dim, 0.0f32);
                    gather(queries, rows, dim, buffer)?;
                    let rows = buffer.chunks_exact(dim);
                    for ((row, to), factor) in rows.zip(vectors.chunks_exact_mut(dim)).zip(factors) {
                        *factor = frame.map_query(row, to);
                    }
                }
                Ok::<(), Error>(())
            })?;
        Ok(Self { vectors, factors })
    }
}

/// Copies the items at `rows`, in as few reads as they lie side by side.
pub(crate) fn gather(items: &dyn Rows, rows: &[u32], dim: usize, to: &mut [f32]) -> Result<()> {
    let mut at = 0;
    for run in rows.chunk_by(|a, b| a.checked_add(1) == Some(*b)) {
        items.read(run[0] as usize, &mut to[at * dim..(at + run.len()) * dim])?;
        at += run.len();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The README's memory: what is laid out and read is counted in bytes, not in rows.
    #[test]
    fn bounds_hold_at_ordinary_dimensions_and_something_fits_at_any() {
        for dim in [1, 64, 100, 128, 768, 1024, 4096, 5000, 16_384, 65_536] {
            let bytes = |rows: usize| rows * dim * 4;
            assert!(bytes(whole_panels(SEGMENT_BYTES, dim)) <= SEGMENT_BYTES, "{dim}");
            assert!(bytes(Queries::at_once(dim)) <= QUERY_BYTES, "{dim}");
            assert!(bytes(read_rows(dim)) <= 1 << 20, "{dim}");
        }
        for dim in [65_537, 300_000, 4_194_305, 6_291_457, usize::MAX] {
            assert_eq!((whole_panels(SEGMENT_BYTES, dim), read_rows(dim).min(4) > 0), (PANEL, true), "{dim}");
            assert!(Queries::at_once(dim) >= 1, "{dim}");
        }
    }
}
