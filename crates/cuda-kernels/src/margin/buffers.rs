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
/// Threads of a product's block.
const PRODUCT_THREADS: u32 = 256;

/// Buffers of a call.
pub(super) struct Work {
    pub(super) x: Halves,
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

    pub(super) fn work(&self, stream: &Arc<CudaStream>, n: usize, tiles: &Tiles) -> Result<Work> {
        let (kernels, what) = (&self.kernels, "the batch's rows");
        Ok(Work {
            x: self.halves(stream, n * tiles.padded, "the embeddings' unit rows")?,
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
        out: &mut Halves,
        norms: Option<&mut CudaSlice<f32>>,
        rows: usize,
        padded: usize,
    ) -> Result<()> {
        let args = Args::default().read(values, stream).optional(factors, stream).halves_mut(out, stream);
        let args = match norms {
            Some(norms) => args.write(norms, stream),
            None => args.arg(Arg::NULL),
        };
        let name = format!("unit_rows_{}", T::SUFFIX);
        self.kernels.launch(stream, &name, Shape::warps(rows), args.int(rows).int(self.dim).int(padded))
    }

    /// The unit rows and norms of the tile `rows` of centres `[classes * subs, dim]`, as the products want them.
    pub(super) fn unit_centres<T: Storage>(
        &self,
        stream: &Arc<CudaStream>,
        rows: &CudaView<'_, T>,
        out: &mut Halves,
        norms: Option<&mut CudaSlice<f32>>,
        classes: usize,
        padded: usize,
    ) -> Result<()> {
        let subs = self.options.sub_centers;
        if subs == 1 {
            return self.unit_rows(stream, rows, None, out, norms, classes, padded);
        }
        let pitch = classes.next_multiple_of(TILE);
        let args = Args::default().read(rows, stream).halves_mut(out, stream);
        let args = match norms {
            Some(norms) => args.write(norms, stream),
            None => args.arg(Arg::NULL),
        };
        let args = args.int(classes).int(self.dim).int(padded).int(subs).int(pitch);
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
}
