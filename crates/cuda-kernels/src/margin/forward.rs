//! The loss: tiles of classes into a running log-sum-exp, the targets apart.

use std::sync::Arc;

use cudarc::driver::{CudaStream, CudaView};

use super::buffers::{Halves, Rows, Work};
use super::options::MarginArgument;
use super::tiles::{TILE, Tiles};
use super::{Batch, MarginSoftmax};
use crate::kernels::{Arg, Args, Shape};
use crate::{Result, Storage};

impl MarginSoftmax {
    /// Each row against its own centre.
    pub(super) fn targets<W: Storage>(
        &self,
        stream: &Arc<CudaStream>,
        n: usize,
        batch: &Batch<'_>,
        w: &CudaView<'_, W>,
        work: &mut Work,
    ) -> Result<()> {
        let args = Args::default()
            .read(batch.embeddings, stream)
            .read(w, stream)
            .read(batch.labels, stream)
            .arg(Arg::Margin(MarginArgument::from(&self.options)))
            .write(&mut work.targets, stream)
            .write(&mut work.row_scale, stream)
            .write(&mut work.bad_row, stream);
        let args = args.int(n).int(self.dim).int(self.classes).int(self.options.sub_centers);
        self.kernels.launch(stream, &format!("margin_target_{}", W::SUFFIX), Shape::warps(n), args)
    }

    /// Each row against all other classes, in registers. Returns the embeddings' unit rows.
    pub(super) fn bulk<W: Storage>(
        &self,
        stream: &Arc<CudaStream>,
        n: usize,
        tiles: &Tiles,
        batch: &Batch<'_>,
        w: &CudaView<'_, W>,
        work: &mut Work,
    ) -> Result<Halves> {
        let padded = tiles.padded;
        let mut x = self.halves(stream, n * padded, "the embeddings' unit rows")?;
        self.unit_rows(stream, batch.embeddings, None, Rows::Halves(&mut x), None, n, padded)?;
        let rows = tiles.forward * tiles.subs;
        let mut unit = self.halves(stream, rows * padded, "a tile of the centres' unit rows")?;
        for first in (0..self.classes).step_by(tiles.forward) {
            let classes = tiles.forward.min(self.classes - first);
            let width = tiles.subs * self.dim;
            let rows = w.slice(first * width..(first + classes) * width);
            self.unit_centres(stream, &rows, Rows::Halves(&mut unit), None, classes, padded)?;
            let args = Args::default()
                .halves(&x, stream)
                .halves(&unit, stream)
                .read(batch.labels, stream)
                .read(&work.row_scale, stream)
                .write(&mut work.tops, stream)
                .write(&mut work.sums, stream)
                .int(n)
                .int(classes)
                .int(first)
                .int(padded)
                .flag(first == 0);
            let subs = [tiles.subs, classes.next_multiple_of(TILE)];
            let (name, args) = self.logits("margin_lse", args, &subs);
            let shape = self.logits_shape([n.div_ceil(TILE), tiles.splits, 1]);
            self.kernels.launch(stream, &name, shape, args)?;
        }
        Ok(x)
    }

    /// The losses, from the two.
    pub(super) fn losses(
        &self,
        stream: &Arc<CudaStream>,
        n: usize,
        splits: usize,
        batch: &Batch<'_>,
        work: &mut Work,
    ) -> Result<()> {
        let args = Args::default()
            .read(&work.tops, stream)
            .read(&work.sums, stream)
            .read(&work.targets, stream)
            .optional(batch.weights, stream)
            .read(batch.labels, stream)
            .optional(batch.class_weights, stream)
            .write(&mut work.lse, stream)
            .write(&mut work.losses, stream)
            .write(&mut work.sigma, stream)
            .write(&mut work.column, stream)
            .write(&mut work.stats, stream)
            .read(&work.bad_row, stream)
            .int(n)
            .int(self.classes)
            .int(splits)
            .arg(Arg::Double(self.options.scale))
            .flag(self.options.sphere())
            .arg(Arg::Double(batch.upstream));
        self.kernels.launch(stream, "margin_loss", Shape::blocks([1, 1, 1], 1024), args)
    }
}
