//! The loss: tiles of classes into a running log-sum-exp, the targets apart.

use std::sync::Arc;

use cudarc::driver::{CudaStream, CudaView};

use super::buffers::Work;
use super::options::MarginArgument;
use super::tiles::{TILE, Tiles};
use super::{Batch, MarginSoftmax};
use crate::kernels::{Arg, Args, Shape};
use crate::{Result, Storage};

impl MarginSoftmax {
    pub(super) fn forward<W: Storage>(
        &self,
        stream: &Arc<CudaStream>,
        n: usize,
        tiles: &Tiles,
        batch: &Batch<'_>,
        w: &CudaView<'_, W>,
        work: &mut Work,
    ) -> Result<()> {
        let (kernels, padded) = (&self.kernels, tiles.padded);
        self.unit_rows(stream, batch.embeddings, None, &mut work.x, None, n, padded)?;
        let args = Args::default()
            .read(batch.embeddings, stream)
            .read(w, stream)
            .read(batch.labels, stream)
            .arg(Arg::Margin(MarginArgument::from(&self.options)))
            .write(&mut work.targets, stream)
            .write(&mut work.row_scale, stream)
            .write(&mut work.bad_row, stream);
        let name = format!("margin_target_{}", W::SUFFIX);
        kernels.launch(
            stream,
            &name,
            Shape::warps(n),
            args.int(n).int(self.dim).int(self.classes).int(tiles.subs),
        )?;

        let rows = tiles.forward * tiles.subs;
        let mut unit = self.halves(stream, rows * padded, "a tile of the centres' unit rows")?;
        for first in (0..self.classes).step_by(tiles.forward) {
            let classes = tiles.forward.min(self.classes - first);
            let width = tiles.subs * self.dim;
            let rows = w.slice(first * width..(first + classes) * width);
            self.unit_centres(stream, &rows, &mut unit, None, classes, padded)?;
            let args = Args::default()
                .halves(&work.x, stream)
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
            kernels.launch(stream, &name, self.product([n.div_ceil(TILE), tiles.splits, 1]), args)?;
        }

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
            .int(tiles.splits)
            .arg(Arg::Double(self.options.scale))
            .flag(self.options.sphere())
            .arg(Arg::Double(batch.upstream));
        kernels.launch(stream, "margin_loss", Shape::blocks([1, 1, 1], 1024), args)
    }
}
