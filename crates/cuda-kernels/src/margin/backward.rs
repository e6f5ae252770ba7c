//! Both gradients, a tile of classes at a time.

use std::sync::Arc;

use cudarc::driver::{CudaSlice, CudaStream, CudaView, CudaViewMut};

use super::buffers::Work;
use super::tiles::{TILE, Tiles};
use super::{Batch, Centres, MarginSoftmax};
use crate::kernels::{Arg, Args, Shape};
use crate::{Result, Storage, Write};

/// A tile of classes: `[first, first + classes)`, in scratch `pitch` rows of each sub-centre.
#[derive(Clone, Copy)]
pub(super) struct Tile {
    pub(super) first: usize,
    pub(super) classes: usize,
    pub(super) pitch: usize,
}

/// The products of a backward pass over `n` rows, a tile of classes at a time, and the memory that they need.
pub(super) trait TileProducts {
    /// The tile's unit rows, from its centres `[classes * subs, dim]`, and their norms.
    fn unit<W: Storage>(
        &mut self,
        of: &Pass<'_>,
        rows: &CudaView<'_, W>,
        norms: &mut CudaSlice<f32>,
        tile: Tile,
    ) -> Result<()>;
    /// The tile's shares.
    fn shares(&mut self, of: &Pass<'_>, tile: Tile) -> Result<()>;
    /// The shares times the centres, `[parts, n, padded]`, added to what is there if `add`.
    fn embeddings(&mut self, of: &Pass<'_>, tile: Tile, raw: &mut CudaSlice<f32>, add: bool) -> Result<()>;
    /// The shares' transpose times the weighted embeddings, `[subs * pitch, padded]`.
    fn centres(&mut self, of: &Pass<'_>, tile: Tile, raw: &mut CudaSlice<f32>) -> Result<()>;
}

/// What the products of a backward pass read.
pub(super) struct Pass<'a> {
    pub(super) loss: &'a MarginSoftmax,
    pub(super) stream: &'a Arc<CudaStream>,
    pub(super) n: usize,
    pub(super) tiles: Tiles,
    pub(super) labels: &'a CudaView<'a, u32>,
    pub(super) work: &'a Work,
}

impl MarginSoftmax {
    pub(super) fn backward<W: Storage>(
        &self,
        pass: &Pass<'_>,
        batch: &Batch<'_>,
        mut centres: Centres<'_, '_, W>,
        gradient: Option<(&mut CudaViewMut<'_, f32>, Write)>,
        products: &mut impl TileProducts,
    ) -> Result<()> {
        let Pass { stream, n, tiles, work, .. } = *pass;
        let (kernels, padded) = (&self.kernels, tiles.padded);
        let moves = !matches!(centres, Centres::Frozen(_));
        let (subs, width) = (tiles.subs, tiles.subs * self.dim);
        let tile = tiles.backward * subs;
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
            let tile = Tile { first, classes, pitch: classes.next_multiple_of(TILE) };
            match &centres {
                Centres::Frozen(w) | Centres::Gradient(w, ..) => {
                    products.unit(pass, &w.slice(range.clone()), &mut norms, tile)?;
                }
                Centres::Sgd(w, ..) | Centres::Adam(w, ..) => {
                    products.unit(pass, &w.slice(range.clone()), &mut norms, tile)?;
                }
            }
            products.shares(pass, tile)?;
            if gradient.is_some() {
                products.embeddings(pass, tile, &mut raw, first > 0)?;
            }
            if let Some(sorted) = &sorted {
                products.centres(pass, tile, &mut raw_centres)?;
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
                    .int(tile.pitch)
                    .flag(self.options.sphere())
                    .arg(Arg::Double(self.options.scale));
                self.move_centres(stream, &mut centres, range, classes * subs, args)?;
            }
        }
        if let Some(dx) = gradient {
            self.bulk_gradient(stream, n, &tiles, batch, work, &raw, dx)?;
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
