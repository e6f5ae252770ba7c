//! What a call holds on the device, and how it is handed to kernels.

use std::sync::Arc;

use cudarc::driver::{CudaSlice, CudaStream, CudaView};

use super::MarginSoftmax;
use super::tiles::{TILE, Tiles};
use crate::kernels::{Arg, Args, Shape};
use crate::{Error, Result, Storage};

/// Doubles that `margin_target` leaves a row, and that `margin_loss` leaves.
pub(super) const TARGET_FIELDS: usize = 8;
pub(super) const STATS: usize = 5;
/// Threads of a product's block: `product_threads` of `product.cuh` for WIDE and, with sub-centres, NARROW.
const PRODUCT_THREADS: u32 = 128;
const SUB_CENTRES_THREADS: u32 = 256;

/// Buffers of a call.
pub(super) struct Work {
    pub(super) row_scale: CudaSlice<f32>,
    pub(super) targets: CudaSlice<f64>,
    pub(super) tops: CudaSlice<f32>,
    pub(super) sums: CudaSlice<f32>,
    pub(super) lse: CudaSlice<f32>,
    pub(super) losses: CudaSlice<f32>,
    pub(super) sigma: CudaSlice<f32>,
    pub(super) column: CudaSlice<f32>,
    pub(super) stats: CudaSlice<f64>,
    pub(super) bad_row: CudaSlice<i32>,
}

/// Values as f16 and, if asked for, what rounding left.
pub(super) struct Halves {
    pub(super) high: CudaSlice<u16>,
    pub(super) low: Option<CudaSlice<u16>>,
}

/// Rows for cuBLAS, `[rows, width]`: f16, or in each row pieces of `padded` values, so that one product over all of them is
/// the split product: `[high | low | high]` times `[high | high | low]`.
pub(super) struct Pieces {
    pub(super) values: CudaSlice<u16>,
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

impl<'a> Rows<'a> {
    /// With three pointers, high, low and again, at the end of `args`; and the values from row to row.
    fn push(self, args: Args<'a>, stream: &'a CudaStream, padded: usize) -> (Args<'a>, usize) {
        match self {
            Rows::Halves(halves) => (args.halves_mut(halves, stream).arg(Arg::NULL), padded),
            Rows::Pieces(of) => (args.pieces(&mut of.values, stream, &[Some(0), of.low, of.again]), of.width),
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

    pub(super) fn work(&self, stream: &Arc<CudaStream>, n: usize, tiles: &Tiles) -> Result<Work> {
        let (kernels, what) = (&self.kernels, "the batch's rows");
        Ok(Work {
            row_scale: kernels.allocate(stream, n, what)?,
            targets: kernels.allocate(stream, n * TARGET_FIELDS, what)?,
            tops: kernels.allocate(stream, n * tiles.splits, what)?,
            sums: kernels.allocate(stream, n * tiles.splits, what)?,
            lse: kernels.allocate(stream, n, what)?,
            losses: kernels.allocate(stream, n, what)?,
            sigma: kernels.allocate(stream, n, what)?,
            column: kernels.allocate(stream, n, what)?,
            stats: kernels.allocate(stream, STATS, what)?,
            bad_row: stream.clone_htod(&[i32::MAX]).map_err(Error::driver("copying a number"))?,
        })
    }

    pub(super) fn unit_rows<T: Storage>(
        &self,
        stream: &Arc<CudaStream>,
        values: &CudaView<'_, T>,
        factors: Option<&CudaSlice<f32>>,
        out: Rows<'_>,
        norms: Option<&mut CudaSlice<f32>>,
        rows: usize,
        padded: usize,
    ) -> Result<()> {
        let args = Args::default().read(values, stream).optional(factors, stream);
        let (args, width) = out.push(args, stream, padded);
        let args = match norms {
            Some(norms) => args.write(norms, stream),
            None => args.arg(Arg::NULL),
        };
        let name = format!("unit_rows_{}", T::SUFFIX);
        let args = args.int(rows).int(self.dim).int(padded).int(width);
        self.kernels.launch(stream, &name, Shape::warps(rows), args)
    }

    /// The unit rows and norms of the tile `rows` of centres `[classes * subs, dim]`, as the products want them.
    pub(super) fn unit_centres<T: Storage>(
        &self,
        stream: &Arc<CudaStream>,
        rows: &CudaView<'_, T>,
        out: Rows<'_>,
        norms: Option<&mut CudaSlice<f32>>,
        classes: usize,
        padded: usize,
    ) -> Result<()> {
        let subs = self.options.sub_centers;
        // Our own products end where the classes do; cuBLAS's want zeros up to the pitch.
        if subs == 1 && matches!(out, Rows::Halves(_)) {
            return self.unit_rows(stream, rows, None, out, norms, classes, padded);
        }
        let pitch = classes.next_multiple_of(TILE);
        let (args, width) = out.push(Args::default().read(rows, stream), stream, padded);
        let args = match norms {
            Some(norms) => args.write(norms, stream),
            None => args.arg(Arg::NULL),
        };
        let args = args.int(classes).int(self.dim).int(padded).int(subs).int(pitch).int(width);
        self.kernels.launch(stream, &format!("unit_centres_{}", T::SUFFIX), Shape::warps(subs * pitch), args)
    }

    /// The name of a kernel that makes logits, and its arguments with those that sub-centres add.
    pub(super) fn logits<'a>(&self, name: &str, args: Args<'a>, extra: &[usize]) -> (String, Args<'a>) {
        let suffix = self.options.precision.suffix();
        if self.options.sub_centers == 1 {
            return (format!("{name}_{suffix}"), args);
        }
        (format!("{name}_subs_{suffix}"), extra.iter().fold(args, |args, &value| args.int(value)))
    }

    pub(super) fn product(&self, grid: [usize; 3]) -> Shape {
        Shape { grid, threads: PRODUCT_THREADS, shared: self.options.precision.shared() }
    }

    /// As `product`, of the kernels that `logits` names.
    pub(super) fn logits_shape(&self, grid: [usize; 3]) -> Shape {
        let threads = if self.options.sub_centers == 1 { PRODUCT_THREADS } else { SUB_CENTRES_THREADS };
        Shape { threads, ..self.product(grid) }
    }
}
