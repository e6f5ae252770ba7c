//! The products by our own kernels: the logits stay in registers, the shares go through memory. What surrounds the products
//! is done beside them, by the blocks of the same launches: while a tile's logits are made the tile before moves, and while
//! its gradients are made the next one becomes unit rows. Three launches a tile, forward and backward together, and three
//! more.

use std::sync::Arc;

use cudarc::driver::{CudaStream, CudaViewMut};

use super::buffers::{Halves, Rows, Work};
use super::jobs::{Gradients, Step, UnitTile, Weighting};
use super::tasks::Tile;
use super::tiles::{TILE, Tiles};
use super::{Batch, Centres, MarginSoftmax};
use crate::check::int;
use crate::kernels::{Arg, Args, Shape};
use crate::scratch::Scratch;
use crate::{Result, Storage, Write};

/// Threads of a product's block: `product_threads` of `product.cuh` for WIDE and, with sub-centres, NARROW.
const PRODUCT_THREADS: u32 = 128;
const SUB_CENTRES_THREADS: u32 = 256;

/// A tile of centres as unit rows, and their norms.
struct Unit {
    rows: Halves,
    norms: Scratch<f32>,
}

/// What the forward pass leaves for the backward pass.
pub(super) struct Own {
    /// The embeddings' unit rows.
    x: Halves,
    /// Tiles take turns: one is multiplied while the other is made.
    units: [Option<Unit>; 2],
    /// Which of them holds the first tile.
    current: usize,
}

/// The unit rows that are multiplied, and those that are made meanwhile.
fn turns(units: &mut [Option<Unit>; 2], current: usize) -> (Option<&Unit>, Option<&mut Unit>) {
    let [first, second] = units;
    if current == 0 { (first.as_ref(), second.as_mut()) } else { (second.as_ref(), first.as_mut()) }
}

impl MarginSoftmax {
    fn unit(&self, stream: &Arc<CudaStream>, tiles: &Tiles) -> Result<Unit> {
        let (rows, what) = (tiles.forward * tiles.subs, "a tile of the centres' unit rows");
        Ok(Unit {
            rows: self.halves(stream, rows * tiles.padded, what)?,
            norms: self.kernels.allocate(stream, rows, what)?,
        })
    }

    /// The name of a kernel that makes logits, and the shape of its launch.
    fn logits(&self, name: &str, grid: [usize; 3]) -> (String, Shape) {
        let (suffix, shared) = (self.options.precision.suffix(), self.options.precision.shared());
        if self.options.sub_centers == 1 {
            return (format!("{name}_{suffix}"), Shape { grid, threads: PRODUCT_THREADS, shared });
        }
        (format!("{name}_subs_{suffix}"), Shape { grid, threads: SUB_CENTRES_THREADS, shared })
    }

    /// The tile `next` to the spare rows, if both are there: beside the products, or in a launch of its own.
    fn next_unit<'x, W: Storage>(
        &self,
        held: &mut Args<'x>,
        stream: &'x CudaStream,
        centres: &'x Centres<'_, '_, W>,
        spare: Option<&'x mut Unit>,
        next: Option<&Tile>,
        padded: usize,
    ) -> [UnitTile; 2] {
        let none = UnitTile::default();
        let (Some(Unit { rows, norms }), Some(&next)) = (spare, next) else { return [none; 2] };
        let out = Rows::Halves(rows);
        let next = self.unit_tile(held, stream, centres, next, out, Some(norms), padded);
        if next.fits_beside() { [next, none] } else { [none, next] }
    }

    /// Each row against its own centre, and against all other classes in registers. With `again` the first tile's unit rows
    /// are there once more at the end.
    pub(super) fn own_forward<W: Storage>(
        &self,
        stream: &Arc<CudaStream>,
        tiles: &Tiles,
        batch: &Batch<'_>,
        centres: &Centres<'_, '_, W>,
        work: &mut Work,
        again: bool,
    ) -> Result<Own> {
        let (n, padded) = (batch.labels.len(), tiles.padded);
        let mut x = self.halves(stream, n * padded, "the embeddings' unit rows")?;
        let all: Vec<Tile> = Tile::all(self.classes, tiles.forward).collect();
        let mut first = self.unit(stream, tiles)?;
        let second = if all.len() > 1 { Some(self.unit(stream, tiles)?) } else { None };
        {
            let (mut held, Unit { rows, norms }) = (Args::default(), &mut first);
            let out = Rows::Halves(rows);
            let tile = self.unit_tile(&mut held, stream, centres, all[0], out, Some(norms), padded);
            self.prepare(stream, batch, centres, work, Rows::Halves(&mut x), tile, padded)?;
        }
        let (mut units, mut current) = ([Some(first), second], 0);
        for (at, &tile) in all.iter().enumerate() {
            let (unit, spare) = turns(&mut units, current);
            let Some(Unit { rows: unit, .. }) = unit else { break };
            let mut held = Args::default();
            let next = all.get(at + 1).or(if again { all.first() } else { None });
            let [beside, apart] = self.next_unit(&mut held, stream, centres, spare, next, padded);
            let args = Args::default()
                .halves(&x, stream)
                .halves(unit, stream)
                .read(batch.labels, stream)
                .read(&work.row_scale, stream)
                .write(&mut work.tops, stream)
                .write(&mut work.sums, stream)
                .int(n)
                .int(tile.classes)
                .int(tile.first)
                .int(padded)
                .flag(at == 0)
                .arg(Arg::Unit(beside));
            let args = if tiles.subs == 1 { args } else { args.int(tiles.subs).int(tile.pitch) };
            let (name, shape) = self.logits("margin_lse", [n.div_ceil(TILE), tiles.splits, 1]);
            self.kernels.launch(stream, &name, shape, args)?;
            self.launch_unit(stream, apart)?;
            if all.len() > 1 {
                current = 1 - current;
            }
        }
        Ok(Own { x, units, current })
    }

    /// Both gradients, a tile of classes at a time.
    pub(super) fn own_backward<W: Storage>(
        &self,
        stream: &Arc<CudaStream>,
        tiles: &Tiles,
        batch: &Batch<'_>,
        mut centres: Centres<'_, '_, W>,
        work: &Work,
        own: Own,
        mut gradient: Option<(&mut CudaViewMut<'_, f32>, Write)>,
    ) -> Result<()> {
        let (n, padded, subs, kernels) = (batch.labels.len(), tiles.padded, tiles.subs, &self.kernels);
        let Own { x, mut units, mut current } = own;
        let (moves, largest) = (centres.move_at_all(), tiles.backward * subs);
        let mut shares = self.halves(stream, largest * n, "a tile of the classes' shares")?;
        let mut weighted = match moves {
            true => Some(self.halves(stream, n * padded, "the embeddings' weighted rows")?),
            false => None,
        };
        let mut raw_centres: Scratch<f32> = kernels.allocate(
            stream,
            if moves { largest * padded } else { 1 },
            "a tile of the centres' gradient",
        )?;
        let parts = if gradient.is_some() { tiles.parts } else { 0 };
        let mut raw: Scratch<f32> =
            kernels.allocate(stream, parts * n * padded, "the embeddings' gradient")?;
        let all: Vec<Tile> = Tile::all(self.classes, tiles.backward).collect();
        for (at, &tile) in all.iter().enumerate() {
            let (unit, spare) = turns(&mut units, current);
            let Some(unit) = unit else { break };
            // The shares; beside them the tile before moves, or what must be done before any does.
            {
                let mut held = Args::default();
                let (mut rows, mut step) = (Weighting::default(), Step::default());
                if at == 0 {
                    let out = weighted.as_mut().map(Rows::Halves);
                    let dx = gradient.as_mut().map(|(dx, write)| (&mut **dx, *write));
                    rows = self.weighting(&mut held, stream, batch, &centres, work, out, dx, padded);
                } else if let Some(spare) = &spare {
                    let (scratch, before) = ([&raw_centres, &spare.norms], all[at - 1]);
                    step = self.step(&mut held, stream, batch, &mut centres, work, scratch, before, padded);
                }
                let beside = rows.fits_beside() && step.fits_beside();
                if !beside {
                    if at == 0 {
                        self.launch_weighting(stream, rows)?;
                    }
                    self.finish(stream, Default::default(), step)?;
                    (rows, step) = (Weighting::default(), Step::default());
                }
                let args = Args::default()
                    .halves(&x, stream)
                    .halves(&unit.rows, stream)
                    .read(batch.labels, stream)
                    .read(&work.row_scale, stream)
                    .read(&work.lse, stream)
                    .halves_mut(&mut shares, stream)
                    .int(n)
                    .int(tile.classes)
                    .int(tile.first)
                    .int(padded)
                    .int(tile.pitch)
                    .int(subs)
                    .arg(Arg::Weighting(rows))
                    .arg(Arg::Step(step));
                let (name, shape) = self.logits("margin_shares", [n.div_ceil(TILE), tile.pitch / TILE, 1]);
                kernels.launch(stream, &name, shape, args)?;
            }
            // Their products; beside them the next tile becomes unit rows.
            let mut held = Args::default();
            let [beside, apart] = self.next_unit(&mut held, stream, &centres, spare, all.get(at + 1), padded);
            // To the products a tile is its centres; with several a class, rows between the classes are zero.
            let pitch = subs * tile.pitch;
            let share = tiles.share(pitch);
            let of = Gradients {
                embeddings: if parts > 0 { held.at_mut(&mut raw, stream) } else { 0 },
                centres: if moves { held.at_mut(&mut raw_centres, stream) } else { 0 },
                n: int(n),
                classes: int(if subs == 1 { tile.classes } else { pitch }),
                padded: int(padded),
                pitch: int(pitch),
                parts: int(parts),
                share: int(share),
                add: i32::from(at > 0),
                unused: 0,
            };
            let across = padded.div_ceil(TILE);
            let blocks = across * (n.div_ceil(TILE) * parts + if moves { pitch / TILE } else { 0 });
            let args = Args::default().halves(&shares, stream).halves(&unit.rows, stream);
            let args = match &weighted {
                Some(weighted) => args.halves(weighted, stream),
                None => args.arg(Arg::NULL).arg(Arg::NULL),
            };
            let args = args.arg(Arg::Gradients(of)).arg(Arg::Unit(beside));
            let name = format!("margin_gradients_{}", self.options.precision.suffix());
            let shared = self.options.precision.shared();
            let shape = Shape { grid: [blocks, 1, 1], threads: PRODUCT_THREADS, shared };
            kernels.launch(stream, &name, shape, args)?;
            self.launch_unit(stream, apart)?;
            drop(held);
            if at + 1 < all.len() {
                current = 1 - current;
            }
        }
        let mut held = Args::default();
        let step = match (&units[current], all.last()) {
            (Some(unit), Some(&last)) => {
                let scratch = [&raw_centres, &unit.norms];
                self.step(&mut held, stream, batch, &mut centres, work, scratch, last, padded)
            }
            _ => Step::default(),
        };
        let bulk = match gradient {
            Some((dx, _)) => self.bulk(&mut held, stream, batch, work, &raw, dx, tiles),
            None => Default::default(),
        };
        self.finish(stream, bulk, step)
    }
}
