//! Both gradients, a tile of classes at a time.

use std::sync::Arc;

use cudarc::driver::{CudaSlice, CudaStream, CudaView, CudaViewMut};

use super::buffers::Work;
use super::tiles::{TILE, Tiles};
use super::{Batch, Centres, MarginSoftmax};
use crate::kernels::{Arg, Args, Shape};
use crate::{Result, Storage, Write};

impl MarginSoftmax {
    pub(super) fn backward<W: Storage>(
        &self,
        stream: &Arc<CudaStream>,
        n: usize,
        tiles: &Tiles,
        batch: &Batch<'_>,
        mut centres: Centres<'_, '_, W>,
        gradient: Option<(&mut CudaViewMut<'_, f32>, Write)>,
        work: &Work,
    ) -> Result<()> {
        let (kernels, padded, suffix) = (&self.kernels, tiles.padded, self.options.precision.suffix());
        let moves = !matches!(centres, Centres::Frozen(_));
        let (subs, width) = (tiles.subs, tiles.subs * self.dim);
        let tile = tiles.backward * subs;
        let mut unit = self.halves(stream, tile * padded, "a tile of the centres' unit rows")?;
        let mut shares = self.halves(stream, tile * n, "a tile of the classes' shares")?;
        let mut norms: CudaSlice<f32> = kernels.allocate(stream, tile, "the centres' norms")?;
        let mut raw_centres: CudaSlice<f32> = kernels.allocate(
            stream,
            if moves { tile * padded } else { 1 },
            "a tile of the centres' gradient",
        )?;
        let parts = if gradient.is_some() { tiles.parts } else { 0 };
        let mut raw: CudaSlice<f32> =
            kernels.allocate(stream, parts * n * padded, "the embeddings' gradient")?;
        let sorted = if moves { Some(self.sorted(stream, n, batch.labels)?) } else { None };
        let mut weighted = None;
        if moves {
            let mut rows = self.halves(stream, n * padded, "the embeddings' weighted rows")?;
            self.unit_rows(stream, batch.embeddings, Some(&work.column), &mut rows, None, n, padded)?;
            weighted = Some(rows);
        }
        // The embeddings' own part needs the centres as they were: it is written before the last tile moves, from the
        // bulk of all tiles. So the centres' tiles move only after their shares have been used, and the targets' part
        // of the embeddings' gradient is made first.
        let gradient = match gradient {
            Some((dx, write)) => {
                self.target_gradient(stream, n, batch, &centres, work, dx, write)?;
                Some(dx)
            }
            None => None,
        };
        for first in (0..self.classes).step_by(tiles.backward) {
            let classes = tiles.backward.min(self.classes - first);
            let range = first * width..(first + classes) * width;
            match &centres {
                Centres::Frozen(w) | Centres::Gradient(w, ..) => {
                    let rows = w.slice(range.clone());
                    self.unit_centres(stream, &rows, &mut unit, Some(&mut norms), classes, padded)?;
                }
                Centres::Sgd(w, ..) | Centres::Adam(w, ..) => {
                    let rows = w.slice(range.clone());
                    self.unit_centres(stream, &rows, &mut unit, Some(&mut norms), classes, padded)?;
                }
            }
            let pitch = classes.next_multiple_of(TILE);
            let args = Args::default()
                .halves(&work.x, stream)
                .halves(&unit, stream)
                .read(batch.labels, stream)
                .read(&work.row_scale, stream)
                .read(&work.lse, stream)
                .halves_mut(&mut shares, stream)
                .int(n)
                .int(classes)
                .int(first)
                .int(padded)
                .int(pitch);
            let shape = self.product([n.div_ceil(TILE), pitch / TILE, 1]);
            let (name, args) = self.logits("margin_shares", args, &[subs]);
            kernels.launch(stream, &name, shape, args)?;
            // To the products a tile is its centres; with several a class, rows between the classes are zero.
            let (rows, row) = if subs == 1 { (classes, pitch) } else { (subs * pitch, subs * pitch) };
            if gradient.is_some() {
                let args = Args::default()
                    .halves(&shares, stream)
                    .halves(&unit, stream)
                    .write(&mut raw, stream)
                    .int(n)
                    .int(rows)
                    .int(padded)
                    .int(row)
                    .int(tiles.share(row))
                    .flag(first > 0);
                let shape = self.product([padded.div_ceil(TILE), n.div_ceil(TILE), tiles.parts]);
                kernels.launch(stream, &format!("margin_raw_embeddings_{suffix}"), shape, args)?;
            }
            if let (Some(weighted), Some(sorted)) = (&weighted, &sorted) {
                let args = Args::default()
                    .halves(&shares, stream)
                    .halves(weighted, stream)
                    .write(&mut raw_centres, stream)
                    .int(n)
                    .int(rows)
                    .int(padded)
                    .int(row);
                let shape = self.product([padded.div_ceil(TILE), row / TILE, 1]);
                kernels.launch(stream, &format!("margin_raw_centres_{suffix}"), shape, args)?;
                let args = Args::default()
                    .read(&raw_centres, stream)
                    .read(&norms, stream)
                    .read(batch.embeddings, stream)
                    .read(&work.targets, stream)
                    .read(&work.sigma, stream)
                    .read(&work.stats, stream)
                    .read(&sorted.0, stream)
                    .read(&sorted.1, stream)
                    .int(n)
                    .int(self.dim)
                    .int(padded)
                    .int(first)
                    .int(classes * subs)
                    .int(subs)
                    .int(pitch)
                    .flag(self.options.sphere())
                    .arg(Arg::Double(self.options.scale));
                self.move_centres(stream, &mut centres, range, classes * subs, args)?;
            }
        }
        if let Some(dx) = gradient {
            self.bulk_gradient(stream, n, tiles, batch, work, &raw, dx)?;
        }
        Ok(())
    }

    /// The labels in order: the rows, and the labels themselves.
    pub(super) fn sorted(
        &self,
        stream: &Arc<CudaStream>,
        n: usize,
        labels: &CudaView<'_, u32>,
    ) -> Result<(CudaSlice<i32>, CudaSlice<u32>)> {
        let mut order = self.kernels.allocate(stream, n, "the order of the labels")?;
        let mut sorted = self.kernels.allocate(stream, n, "the order of the labels")?;
        let args =
            Args::default().read(labels, stream).write(&mut order, stream).write(&mut sorted, stream).int(n);
        let shape = Shape::blocks([n.div_ceil(256), 1, 1], 256);
        self.kernels.launch(stream, "label_order", shape, args)?;
        Ok((order, sorted))
    }

    pub(super) fn target_gradient<W: Storage>(
        &self,
        stream: &Arc<CudaStream>,
        n: usize,
        batch: &Batch<'_>,
        centres: &Centres<'_, '_, W>,
        work: &Work,
        dx: &mut CudaViewMut<'_, f32>,
        write: Write,
    ) -> Result<()> {
        let args = Args::default().read(batch.embeddings, stream);
        let (args, suffix) = match centres {
            Centres::Frozen(w) | Centres::Gradient(w, ..) => (args.read(*w, stream), W::SUFFIX),
            Centres::Sgd(w, ..) | Centres::Adam(w, ..) => (args.read(&**w, stream), f32::SUFFIX),
        };
        let args = args
            .read(batch.labels, stream)
            .read(&work.targets, stream)
            .read(&work.sigma, stream)
            .write(dx, stream)
            .int(n)
            .int(self.dim)
            .int(self.classes)
            .int(self.options.sub_centers)
            .arg(Arg::Double(self.options.scale))
            .flag(self.options.sphere())
            .flag(write == Write::Add);
        let name = format!("margin_target_gradient_{suffix}");
        self.kernels.launch(stream, &name, Shape::warps(n), args)
    }

    pub(super) fn bulk_gradient(
        &self,
        stream: &Arc<CudaStream>,
        n: usize,
        tiles: &Tiles,
        batch: &Batch<'_>,
        work: &Work,
        raw: &CudaSlice<f32>,
        dx: &mut CudaViewMut<'_, f32>,
    ) -> Result<()> {
        let args = Args::default()
            .read(batch.embeddings, stream)
            .read(&work.targets, stream)
            .read(&work.sigma, stream)
            .read(raw, stream)
            .write(dx, stream)
            .int(n)
            .int(self.dim)
            .int(tiles.padded)
            .int(tiles.parts)
            .arg(Arg::Double(self.options.scale))
            .flag(self.options.sphere());
        self.kernels.launch(stream, "margin_bulk_gradient", Shape::warps(n), args)
    }
}
