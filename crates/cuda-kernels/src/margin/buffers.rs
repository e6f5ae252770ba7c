//! What a call holds on the device, and how it is handed to kernels.

use std::sync::Arc;

use cudarc::driver::CudaStream;

use super::MarginSoftmax;
use crate::Result;
use crate::kernels::{Arg, Args};
use crate::scratch::Scratch;

/// Doubles that `margin_prepare` leaves a row, and that `margin_loss` leaves.
pub(super) const TARGET_FIELDS: usize = 8;
pub(super) const STATS: usize = 5;
/// Buffers of a call.
pub(super) struct Work {
    pub(super) row_scale: Scratch<f32>,
    pub(super) targets: Scratch<f64>,
    pub(super) tops: Scratch<f32>,
    pub(super) sums: Scratch<f32>,
    pub(super) lse: Scratch<f32>,
    pub(super) losses: Scratch<f32>,
    pub(super) sigma: Scratch<f32>,
    pub(super) column: Scratch<f32>,
    pub(super) stats: Scratch<f64>,
    /// The rows in the order of their labels, and these labels; where centres move.
    pub(super) order: Option<(Scratch<i32>, Scratch<u32>)>,
}

/// Values as f16 and, if asked for, what rounding left.
pub(super) struct Halves {
    pub(super) high: Scratch<u16>,
    pub(super) low: Option<Scratch<u16>>,
}

/// Rows for cuBLAS, `[rows, width]`: f16, or in each row pieces of `padded` values, so that one product over all of them is
/// the split product: `[high | low | high]` times `[high | high | low]`.
pub(super) struct Pieces {
    pub(super) values: Scratch<u16>,
    pub(super) width: usize,
    /// Where in a row the low halves start, and the high ones once more.
    pub(super) low: Option<usize>,
    again: Option<usize>,
}

/// Which of a product's factors rows are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    /// `[high | low | high]`.
    First,
    /// `[high | high | low]`.
    Second,
    /// `[high | low]`, for a product each.
    Apart,
}

/// Where unit rows are written.
pub(super) enum Rows<'a> {
    Halves(&'a mut Halves),
    Pieces(&'a mut Pieces),
}

/// Addresses of [`Rows`]: high, low and again, and the values from row to row.
#[derive(Clone, Copy, Default)]
pub(super) struct At {
    pub(super) high: u64,
    pub(super) low: u64,
    pub(super) again: u64,
    pub(super) width: usize,
}

impl<'a> Rows<'a> {
    pub(super) fn at(self, held: &mut Args<'a>, stream: &'a CudaStream, padded: usize) -> At {
        match self {
            Rows::Halves(halves) => At {
                high: held.at_mut(&mut halves.high, stream),
                low: halves.low.as_mut().map_or(0, |low| held.at_mut(low, stream)),
                again: 0,
                width: padded,
            },
            Rows::Pieces(of) => {
                let start = held.at_mut(&mut of.values, stream);
                let piece = |at: Option<usize>| at.map_or(0, |at| start + (at * size_of::<u16>()) as u64);
                At { high: start, low: piece(of.low), again: piece(of.again), width: of.width }
            }
        }
    }
}

impl<'a> Args<'a> {
    pub(super) fn halves(self, halves: &'a Halves, stream: &'a CudaStream) -> Self {
        self.read(&halves.high, stream).optional(halves.low.as_ref(), stream)
    }

    pub(super) fn halves_mut(self, halves: &'a mut Halves, stream: &'a CudaStream) -> Self {
        let args = self.write(&mut halves.high, stream);
        match &mut halves.low {
            Some(low) => args.write(low, stream),
            None => args.arg(Arg::NULL),
        }
    }
}

impl MarginSoftmax {
    pub(super) fn halves(&self, stream: &Arc<CudaStream>, len: usize, what: &str) -> Result<Halves> {
        let high = self.kernels.allocate(stream, len, what)?;
        let low = match self.options.precision.parts() {
            1 => None,
            _ => Some(self.kernels.allocate(stream, len, what)?),
        };
        Ok(Halves { high, low })
    }

    pub(super) fn pieces(
        &self,
        stream: &Arc<CudaStream>,
        rows: usize,
        padded: usize,
        side: Side,
        what: &str,
    ) -> Result<Pieces> {
        let (pieces, low, again) = match (self.options.precision.parts(), side) {
            (1, _) => (1, None, None),
            (_, Side::First) => (3, Some(padded), Some(2 * padded)),
            (_, Side::Second) => (3, Some(2 * padded), Some(padded)),
            (_, Side::Apart) => (2, Some(padded), None),
        };
        let values = self.kernels.allocate(stream, rows * pieces * padded, what)?;
        Ok(Pieces { values, width: pieces * padded, low, again })
    }

    pub(super) fn work(
        &self,
        stream: &Arc<CudaStream>,
        n: usize,
        splits: usize,
        moves: bool,
    ) -> Result<Work> {
        let (kernels, what) = (&self.kernels, "the batch's rows");
        let order = match moves {
            true => Some((kernels.allocate(stream, n, what)?, kernels.allocate(stream, n, what)?)),
            false => None,
        };
        Ok(Work {
            row_scale: kernels.allocate(stream, n, what)?,
            targets: kernels.allocate(stream, n * TARGET_FIELDS, what)?,
            tops: kernels.allocate(stream, n * splits, what)?,
            sums: kernels.allocate(stream, n * splits, what)?,
            lse: kernels.allocate(stream, n, what)?,
            losses: kernels.allocate(stream, n, what)?,
            sigma: kernels.allocate(stream, n, what)?,
            column: kernels.allocate(stream, n, what)?,
            stats: kernels.allocate(stream, STATS, what)?,
            order,
        })
    }
}
