//! The products by cuBLAS, a tile of classes at a time: what a product leaves in memory is small enough for the
//! second-level cache, where our kernels read it. An f32-accurate product of two rows is one, three times as long, of rows
//! in pieces; where that would need the shares twice it is three, the smallest terms first.

use std::sync::Arc;

use cudarc::driver::{CudaSlice, CudaStream, CudaView};

use super::backward::{Pass, Tile, TileProducts};
use super::buffers::{Halves, Pieces, Rows, Side, Work};
use super::tiles::{TILE, Tiles};
use super::{Batch, MarginSoftmax};
use crate::cublas::{Factor, Layout, Session, Sizes};
use crate::kernels::{Args, Shape};
use crate::{Result, Storage};

const THREADS: usize = 256;
/// `COLUMNS` of `margin_tile.cu`.
const COLUMNS: usize = 8;

/// Rows of pieces that lie along the dimension that is summed over.
fn along(rows: &Pieces) -> Factor<'_> {
    Factor { values: &rows.values, layout: Layout::Along, start: 0, pitch: rows.width, stride: 0 }
}

impl MarginSoftmax {
    /// As `bulk`, with cuBLAS.
    pub(super) fn cublas_bulk<W: Storage>(
        &self,
        stream: &Arc<CudaStream>,
        session: &Session<'_>,
        tiles: &Tiles,
        batch: &Batch<'_>,
        w: &CudaView<'_, W>,
        work: &mut Work,
    ) -> Result<Pieces> {
        let (kernels, n, padded, subs) = (&self.kernels, batch.labels.len(), tiles.padded, tiles.subs);
        let mut x = self.pieces(stream, n, padded, Side::First, "the embeddings' unit rows")?;
        self.unit_rows(stream, batch.embeddings, None, Rows::Pieces(&mut x), None, n, padded)?;
        let rows = tiles.forward * subs;
        let mut unit = self.pieces(stream, rows, padded, Side::Second, "a tile of the centres' unit rows")?;
        let mut logits = kernels.allocate(stream, n * rows, "a tile of the classes' logits")?;
        for first in (0..self.classes).step_by(tiles.forward) {
            let classes = tiles.forward.min(self.classes - first);
            let pitch = classes.next_multiple_of(TILE);
            let width = subs * self.dim;
            let rows = w.slice(first * width..(first + classes) * width);
            self.unit_centres(stream, &rows, Rows::Pieces(&mut unit), None, classes, padded)?;
            let sizes = Sizes { rows: n, columns: subs * pitch, shared: x.width, products: 1 };
            session.multiply(stream, [along(&x), along(&unit)], &mut logits, sizes, false)?;
            let args = Args::default()
                .read(&logits, stream)
                .read(batch.labels, stream)
                .read(&work.row_scale, stream)
                .write(&mut work.tops, stream)
                .write(&mut work.sums, stream)
                .int(classes)
                .int(first)
                .flag(first == 0)
                .int(subs)
                .int(pitch);
            let shape = Shape::blocks([n, 1, 1], THREADS as u32);
            kernels.launch(stream, "margin_tile_lse", shape, args)?;
        }
        Ok(x)
    }
}

pub(super) struct CublasProducts<'a> {
    session: &'a Session<'a>,
    x: Pieces,
    unit: Pieces,
    logits: CudaSlice<f32>,
    shares: Halves,
    weighted: Option<Pieces>,
}

impl<'a> CublasProducts<'a> {
    /// As `OwnProducts::new`.
    pub(super) fn new(
        of: &Pass<'_>,
        session: &'a Session<'a>,
        x: Pieces,
        batch: &Batch<'_>,
        moves: bool,
    ) -> Result<Self> {
        let (loss, stream, n, padded) = (of.loss, of.stream, of.n, of.tiles.padded);
        let tile = of.tiles.backward * of.tiles.subs;
        let unit = loss.pieces(stream, tile, padded, Side::Second, "a tile of the centres' unit rows")?;
        let logits = loss.kernels.allocate(stream, n * tile, "a tile of the classes' logits")?;
        let shares = loss.halves(stream, tile * n, "a tile of the classes' shares")?;
        let mut weighted = None;
        if moves {
            let mut rows = loss.pieces(stream, n, padded, Side::Apart, "the embeddings' weighted rows")?;
            let (values, factors) = (batch.embeddings, Some(&of.work.column));
            loss.unit_rows(stream, values, factors, Rows::Pieces(&mut rows), None, n, padded)?;
            weighted = Some(rows);
        }
        Ok(Self { session, x, unit, logits, shares, weighted })
    }
}

/// The products that make one of shares and rows in pieces: low times high, high times low, high times high. As which half
/// of the shares, and where in a row.
fn terms<'a>(shares: &'a Halves, rows: &Pieces) -> impl Iterator<Item = (&'a CudaSlice<u16>, usize)> {
    let small = shares.low.as_ref().zip(rows.low);
    let first = small.map(|(low, _)| (low, 0));
    let second = small.map(|(_, start)| (&shares.high, start));
    first.into_iter().chain(second).chain([(&shares.high, 0)])
}

impl TileProducts for CublasProducts<'_> {
    fn unit<W: Storage>(
        &mut self,
        of: &Pass<'_>,
        rows: &CudaView<'_, W>,
        norms: &mut CudaSlice<f32>,
        tile: Tile,
    ) -> Result<()> {
        let out = Rows::Pieces(&mut self.unit);
        of.loss.unit_centres(of.stream, rows, out, Some(norms), tile.classes, of.tiles.padded)
    }

    fn shares(&mut self, of: &Pass<'_>, tile: Tile) -> Result<()> {
        let (loss, stream, subs) = (of.loss, of.stream, of.tiles.subs);
        let sizes = Sizes { rows: of.n, columns: subs * tile.pitch, shared: self.x.width, products: 1 };
        let factors = [along(&self.x), along(&self.unit)];
        self.session.multiply(stream, factors, &mut self.logits, sizes, false)?;
        let args = Args::default()
            .read(&self.logits, stream)
            .read(of.labels, stream)
            .read(&of.work.row_scale, stream)
            .read(&of.work.lse, stream)
            .halves_mut(&mut self.shares, stream)
            .int(tile.classes)
            .int(tile.first)
            .int(subs)
            .int(tile.pitch);
        let shape = Shape::blocks([of.n, tile.pitch.div_ceil(THREADS * COLUMNS), 1], THREADS as u32);
        let name = format!("margin_tile_shares_{}", loss.options.precision.suffix());
        loss.kernels.launch(stream, &name, shape, args)
    }

    fn embeddings(&mut self, of: &Pass<'_>, tile: Tile, raw: &mut CudaSlice<f32>, add: bool) -> Result<()> {
        let (tiles, width) = (&of.tiles, self.unit.width);
        let row = tiles.subs * tile.pitch;
        // A few products at once, each over some of the classes, fill the device where one has few tiles.
        let share = row / tiles.parts;
        let sizes = Sizes { rows: of.n, columns: tiles.padded, shared: share, products: tiles.parts };
        for (at, (values, start)) in terms(&self.shares, &self.unit).enumerate() {
            let q = Factor { values, layout: Layout::Along, start: 0, pitch: row, stride: share };
            let (values, layout) = (&self.unit.values, Layout::Across);
            let w = Factor { values, layout, start, pitch: width, stride: share * width };
            self.session.multiply(of.stream, [q, w], raw, sizes, add || at > 0)?;
        }
        Ok(())
    }

    fn centres(&mut self, of: &Pass<'_>, tile: Tile, raw: &mut CudaSlice<f32>) -> Result<()> {
        let Some(weighted) = &self.weighted else { return Ok(()) };
        let row = of.tiles.subs * tile.pitch;
        let sizes = Sizes { rows: row, columns: of.tiles.padded, shared: of.n, products: 1 };
        for (at, (values, start)) in terms(&self.shares, weighted).enumerate() {
            let q = Factor { values, layout: Layout::Across, start: 0, pitch: row, stride: 0 };
            let (values, layout) = (&weighted.values, Layout::Across);
            let x = Factor { values, layout, start, pitch: weighted.width, stride: 0 };
            self.session.multiply(of.stream, [q, x], raw, sizes, at > 0)?;
        }
        Ok(())
    }
}
