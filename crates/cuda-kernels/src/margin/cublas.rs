//! The products by cuBLAS, a tile of classes at a time: what a product leaves in memory is small enough for the
//! second-level cache, where our kernels read it. An f32-accurate product of two rows is one, three times as long, of rows
//! in pieces; where that would need the shares twice it is three, the smallest terms first.

use std::sync::Arc;

use cudarc::driver::{CudaStream, CudaViewMut};

use super::buffers::{Halves, Pieces, Rows, Side, Work};
use super::jobs::UnitTile;
use super::tasks::Tile;
use super::tiles::Tiles;
use super::{Batch, Centres, MarginSoftmax};
use crate::cublas::{Factor, Layout, Session, Sizes};
use crate::kernels::{Args, Shape};
use crate::scratch::Scratch;
use crate::{Result, Storage, Write};

const THREADS: usize = 256;
/// `COLUMNS` of `margin_tile.cu`.
const COLUMNS: usize = 8;

/// Rows of pieces that lie along the dimension that is summed over.
fn along(rows: &Pieces) -> Factor<'_> {
    Factor { values: &rows.values, layout: Layout::Along, start: 0, pitch: rows.width, stride: 0 }
}

/// The products that make one of shares and rows in pieces: low times high, high times low, high times high. As which half
/// of the shares, and where in a row.
fn terms<'a>(shares: &'a Halves, rows: &Pieces) -> impl Iterator<Item = (&'a Scratch<u16>, usize)> {
    let small = shares.low.as_ref().zip(rows.low);
    let first = small.map(|(low, _)| (low, 0));
    let second = small.map(|(_, start)| (&shares.high, start));
    first.into_iter().chain(second).chain([(&shares.high, 0)])
}

/// A backward pass, or a forward one, with cuBLAS.
pub(super) struct With<'a> {
    pub(super) loss: &'a MarginSoftmax,
    pub(super) stream: &'a Arc<CudaStream>,
    pub(super) session: &'a Session<'a>,
    pub(super) tiles: &'a Tiles,
    pub(super) batch: &'a Batch<'a>,
}

impl With<'_> {
    fn unit<W: Storage>(
        &self,
        centres: &Centres<'_, '_, W>,
        tile: Tile,
        out: &mut Pieces,
        norms: Option<&mut Scratch<f32>>,
    ) -> Result<()> {
        let (mut held, out) = (Args::default(), Rows::Pieces(out));
        let (loss, stream, padded) = (self.loss, self.stream, self.tiles.padded);
        let tile = loss.unit_tile(&mut held, stream, centres, tile, out, norms, padded);
        loss.launch_unit(stream, tile)
    }

    /// A tile's logits, `[n, subs * pitch]`.
    fn logits(&self, x: &Pieces, unit: &Pieces, logits: &mut Scratch<f32>, tile: Tile) -> Result<()> {
        let columns = self.tiles.subs * tile.pitch;
        let sizes = Sizes { rows: self.batch.labels.len(), columns, shared: x.width, products: 1 };
        self.session.multiply(self.stream, [along(x), along(unit)], logits, sizes, false)
    }

    /// Each row against its own centre, and against all other classes. Returns the embeddings' unit rows.
    pub(super) fn forward<W: Storage>(
        &self,
        centres: &Centres<'_, '_, W>,
        work: &mut Work,
    ) -> Result<Pieces> {
        let With { loss, stream, tiles, batch, .. } = *self;
        let (kernels, n, padded, subs) = (&loss.kernels, batch.labels.len(), tiles.padded, tiles.subs);
        let mut x = loss.pieces(stream, n, padded, Side::First, "the embeddings' unit rows")?;
        loss.prepare(stream, batch, centres, work, Rows::Pieces(&mut x), UnitTile::default(), padded)?;
        let rows = tiles.forward * subs;
        let mut unit = loss.pieces(stream, rows, padded, Side::Second, "a tile of the centres' unit rows")?;
        let mut logits = kernels.allocate(stream, n * rows, "a tile of the classes' logits")?;
        for tile in Tile::all(loss.classes, tiles.forward) {
            self.unit(centres, tile, &mut unit, None)?;
            self.logits(&x, &unit, &mut logits, tile)?;
            let args = Args::default()
                .read(&logits, stream)
                .read(batch.labels, stream)
                .read(&work.row_scale, stream)
                .write(&mut work.tops, stream)
                .write(&mut work.sums, stream)
                .int(tile.classes)
                .int(tile.first)
                .flag(tile.first == 0)
                .int(subs)
                .int(tile.pitch);
            let shape = Shape::blocks([n, 1, 1], THREADS as u32);
            kernels.launch(stream, "margin_tile_lse", shape, args)?;
        }
        Ok(x)
    }

    /// Both gradients.
    pub(super) fn backward<W: Storage>(
        &self,
        mut centres: Centres<'_, '_, W>,
        work: &Work,
        x: &Pieces,
        mut gradient: Option<(&mut CudaViewMut<'_, f32>, Write)>,
    ) -> Result<()> {
        let With { loss, stream, tiles, batch, .. } = *self;
        let (kernels, n, padded, subs) = (&loss.kernels, batch.labels.len(), tiles.padded, tiles.subs);
        let (moves, largest) = (centres.move_at_all(), tiles.backward * subs);
        let mut unit =
            loss.pieces(stream, largest, padded, Side::Second, "a tile of the centres' unit rows")?;
        let mut norms = kernels.allocate(stream, largest, "the centres' norms")?;
        let mut logits = kernels.allocate(stream, n * largest, "a tile of the classes' logits")?;
        let mut shares = loss.halves(stream, largest * n, "a tile of the classes' shares")?;
        let mut weighted = match moves {
            true => Some(loss.pieces(stream, n, padded, Side::Apart, "the embeddings' weighted rows")?),
            false => None,
        };
        let raw_len = if moves { largest * padded } else { 1 };
        let mut raw_centres = kernels.allocate(stream, raw_len, "a tile of the centres' gradient")?;
        let parts = if gradient.is_some() { tiles.parts } else { 0 };
        let mut raw = kernels.allocate(stream, parts * n * padded, "the embeddings' gradient")?;
        {
            // It wants the centres as they were, so it comes before any of them moves.
            let (mut held, out) = (Args::default(), weighted.as_mut().map(Rows::Pieces));
            let dx = gradient.as_mut().map(|(dx, write)| (&mut **dx, *write));
            let rows = loss.weighting(&mut held, stream, batch, &centres, work, out, dx, padded);
            loss.launch_weighting(stream, rows)?;
        }
        for tile in Tile::all(loss.classes, tiles.backward) {
            self.unit(&centres, tile, &mut unit, Some(&mut norms))?;
            self.logits(x, &unit, &mut logits, tile)?;
            self.shares(work, &logits, &mut shares, tile)?;
            if gradient.is_some() {
                self.embeddings(&shares, &unit, &mut raw, tile)?;
            }
            if let Some(weighted) = &weighted {
                self.centres(&shares, weighted, &mut raw_centres, tile)?;
                let (mut held, scratch) = (Args::default(), [&raw_centres, &norms]);
                let step = loss.step(&mut held, stream, batch, &mut centres, work, scratch, tile, padded);
                loss.finish(stream, Default::default(), step)?;
            }
        }
        if let Some((dx, _)) = gradient {
            let mut held = Args::default();
            let bulk = loss.bulk(&mut held, stream, batch, work, &raw, dx, tiles);
            loss.finish(stream, bulk, Default::default())?;
        }
        Ok(())
    }

    fn shares(&self, work: &Work, logits: &Scratch<f32>, shares: &mut Halves, tile: Tile) -> Result<()> {
        let (loss, stream, n) = (self.loss, self.stream, self.batch.labels.len());
        let args = Args::default()
            .read(logits, stream)
            .read(self.batch.labels, stream)
            .read(&work.row_scale, stream)
            .read(&work.lse, stream)
            .halves_mut(shares, stream)
            .int(tile.classes)
            .int(tile.first)
            .int(self.tiles.subs)
            .int(tile.pitch);
        let shape = Shape::blocks([n, tile.pitch.div_ceil(THREADS * COLUMNS), 1], THREADS as u32);
        let name = format!("margin_tile_shares_{}", loss.options.precision.suffix());
        loss.kernels.launch(stream, &name, shape, args)
    }

    /// The shares times the centres, `[parts, n, padded]`, added to what is there but for the first tile.
    fn embeddings(&self, shares: &Halves, unit: &Pieces, raw: &mut Scratch<f32>, tile: Tile) -> Result<()> {
        let (tiles, width, n) = (self.tiles, unit.width, self.batch.labels.len());
        let row = tiles.subs * tile.pitch;
        // A few products at once, each over some of the classes, fill the device where one has few tiles.
        let share = row / tiles.parts;
        let sizes = Sizes { rows: n, columns: tiles.padded, shared: share, products: tiles.parts };
        for (at, (values, start)) in terms(shares, unit).enumerate() {
            let q = Factor { values, layout: Layout::Along, start: 0, pitch: row, stride: share };
            let (values, layout) = (&unit.values, Layout::Across);
            let w = Factor { values, layout, start, pitch: width, stride: share * width };
            self.session.multiply(self.stream, [q, w], raw, sizes, tile.first > 0 || at > 0)?;
        }
        Ok(())
    }

    /// The shares' transpose times the weighted embeddings, `[subs * pitch, padded]`.
    fn centres(&self, shares: &Halves, weighted: &Pieces, raw: &mut Scratch<f32>, tile: Tile) -> Result<()> {
        let row = self.tiles.subs * tile.pitch;
        let shared = self.batch.labels.len();
        let sizes = Sizes { rows: row, columns: self.tiles.padded, shared, products: 1 };
        for (at, (values, start)) in terms(shares, weighted).enumerate() {
            let q = Factor { values, layout: Layout::Across, start: 0, pitch: row, stride: 0 };
            let (values, layout) = (&weighted.values, Layout::Across);
            let x = Factor { values, layout, start, pitch: weighted.width, stride: 0 };
            self.session.multiply(self.stream, [q, x], raw, sizes, at > 0)?;
        }
        Ok(())
    }
}
