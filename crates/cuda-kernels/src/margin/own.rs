//! The products of a backward pass by our own kernels: the logits stay in registers, the shares go through memory.

use cudarc::driver::{CudaSlice, CudaView};

use super::Batch;
use super::backward::{Pass, Tile, TileProducts};
use super::buffers::{Halves, Rows};
use super::tiles::TILE;
use crate::kernels::Args;
use crate::{Result, Storage};

pub(super) struct OwnProducts {
    x: Halves,
    unit: Halves,
    shares: Halves,
    weighted: Option<Halves>,
}

impl OwnProducts {
    /// `x`: the embeddings' unit rows; `moves`: whether the centres' product is wanted.
    pub(super) fn new(of: &Pass<'_>, x: Halves, batch: &Batch<'_>, moves: bool) -> Result<Self> {
        let (loss, stream, tiles, n) = (of.loss, of.stream, &of.tiles, of.n);
        let tile = tiles.backward * tiles.subs;
        let unit = loss.halves(stream, tile * tiles.padded, "a tile of the centres' unit rows")?;
        let shares = loss.halves(stream, tile * n, "a tile of the classes' shares")?;
        let mut weighted = None;
        if moves {
            let mut rows = loss.halves(stream, n * tiles.padded, "the embeddings' weighted rows")?;
            let (values, factors) = (batch.embeddings, Some(&of.work.column));
            loss.unit_rows(stream, values, factors, Rows::Halves(&mut rows), None, n, tiles.padded)?;
            weighted = Some(rows);
        }
        Ok(Self { x, unit, shares, weighted })
    }
}

/// To the products a tile is its centres; with several a class, rows between the classes are zero.
fn centres(of: &Pass<'_>, tile: Tile) -> (usize, usize) {
    let subs = of.tiles.subs;
    if subs == 1 { (tile.classes, tile.pitch) } else { (subs * tile.pitch, subs * tile.pitch) }
}

impl TileProducts for OwnProducts {
    fn unit<W: Storage>(
        &mut self,
        of: &Pass<'_>,
        rows: &CudaView<'_, W>,
        norms: &mut CudaSlice<f32>,
        tile: Tile,
    ) -> Result<()> {
        let out = Rows::Halves(&mut self.unit);
        of.loss.unit_centres(of.stream, rows, out, Some(norms), tile.classes, of.tiles.padded)
    }

    fn shares(&mut self, of: &Pass<'_>, tile: Tile) -> Result<()> {
        let (stream, work) = (of.stream, of.work);
        let args = Args::default()
            .halves(&self.x, stream)
            .halves(&self.unit, stream)
            .read(of.labels, stream)
            .read(&work.row_scale, stream)
            .read(&work.lse, stream)
            .halves_mut(&mut self.shares, stream)
            .int(of.n)
            .int(tile.classes)
            .int(tile.first)
            .int(of.tiles.padded)
            .int(tile.pitch);
        let shape = of.loss.logits_shape([of.n.div_ceil(TILE), tile.pitch / TILE, 1]);
        let (name, args) = of.loss.logits("margin_shares", args, &[of.tiles.subs]);
        of.loss.kernels.launch(stream, &name, shape, args)
    }

    fn embeddings(&mut self, of: &Pass<'_>, tile: Tile, raw: &mut CudaSlice<f32>, add: bool) -> Result<()> {
        let (loss, tiles, (rows, row)) = (of.loss, &of.tiles, centres(of, tile));
        let args = Args::default()
            .halves(&self.shares, of.stream)
            .halves(&self.unit, of.stream)
            .write(raw, of.stream)
            .int(of.n)
            .int(rows)
            .int(tiles.padded)
            .int(row)
            .int(tiles.share(row))
            .flag(add);
        let shape = loss.product([tiles.padded.div_ceil(TILE), of.n.div_ceil(TILE), tiles.parts]);
        let name = format!("margin_raw_embeddings_{}", loss.options.precision.suffix());
        loss.kernels.launch(of.stream, &name, shape, args)
    }

    fn centres(&mut self, of: &Pass<'_>, tile: Tile, raw: &mut CudaSlice<f32>) -> Result<()> {
        let Some(weighted) = &self.weighted else { return Ok(()) };
        let (loss, padded, (rows, row)) = (of.loss, of.tiles.padded, centres(of, tile));
        let args = Args::default()
            .halves(&self.shares, of.stream)
            .halves(weighted, of.stream)
            .write(raw, of.stream)
            .int(of.n)
            .int(rows)
            .int(padded)
            .int(row);
        let shape = loss.product([padded.div_ceil(TILE), row / TILE, 1]);
        let name = format!("margin_raw_centres_{}", loss.options.precision.suffix());
        loss.kernels.launch(of.stream, &name, shape, args)
    }
}
