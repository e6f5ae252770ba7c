//! The tasks around the products: what is handed to the kernels, beside the products or in launches of their own.

use std::sync::Arc;

use cudarc::driver::{CudaStream, CudaViewMut};

use super::buffers::{At, Rows, Work};
use super::jobs::{ADAM, Bulk, GRADIENT, SGD, Step, UnitTile, Weighting};
use super::options::MarginArgument;
use super::tiles::{TILE, Tiles};
use super::{Batch, Centres, MarginSoftmax};
use crate::check::int;
use crate::kernels::{Arg, Args, Shape};
use crate::scratch::Scratch;
use crate::{Result, Storage, Write};

/// A tile of classes: `[first, first + classes)`, in scratch `pitch` rows of each sub-centre.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tile {
    pub(super) first: usize,
    pub(super) classes: usize,
    pub(super) pitch: usize,
}

impl Tile {
    /// The tiles of `of` classes, `at_once` each.
    pub(super) fn all(of: usize, at_once: usize) -> impl Iterator<Item = Self> {
        (0..of).step_by(at_once.max(1)).map(move |first| {
            let classes = at_once.min(of - first);
            Self { first, classes, pitch: classes.next_multiple_of(TILE) }
        })
    }
}

impl<W: Storage> Centres<'_, '_, W> {
    pub(super) fn move_at_all(&self) -> bool {
        !matches!(self, Centres::Frozen(_))
    }

    /// Where the centre `start` dimensions behind the first lies, and how.
    fn at<'x>(&'x self, held: &mut Args<'x>, stream: &'x CudaStream, start: usize) -> (u64, i32) {
        match self {
            Centres::Frozen(w) | Centres::Gradient(w, ..) => {
                (held.at(*w, stream) + (start * size_of::<W>()) as u64, W::CODE)
            }
            Centres::Sgd(w, ..) | Centres::Adam(w, ..) => {
                (held.at(&**w, stream) + (start * size_of::<f32>()) as u64, f32::CODE)
            }
        }
    }

    /// [`Step`]'s pointers and numbers, for the centres from `start` dimensions on.
    fn step<'x>(&'x mut self, held: &mut Args<'x>, stream: &'x CudaStream, start: usize) -> Step {
        let behind = |at: u64, size: usize| at + (start * size) as u64;
        let mut numbers = [0.0; 8];
        match self {
            Centres::Frozen(_) => Step::default(),
            Centres::Gradient(w, dw, write) => Step {
                kind: GRADIENT,
                storage: W::CODE,
                w: behind(held.at(*w, stream), size_of::<W>()),
                first: behind(held.at_mut(&mut **dw, stream), 4),
                flag: i32::from(*write == Write::Add),
                ..Step::default()
            },
            Centres::Sgd(w, buffer, options) => {
                numbers[..5].copy_from_slice(&options.numbers());
                let buffer = buffer.as_mut().filter(|_| options.momentum > 0.0);
                Step {
                    kind: SGD,
                    w: behind(held.at_mut(&mut **w, stream), 4),
                    first: buffer.map_or(0, |buffer| behind(held.at_mut(&mut **buffer, stream), 4)),
                    numbers,
                    flag: i32::from(options.nesterov),
                    ..Step::default()
                }
            }
            Centres::Adam(w, [first, second], largest, options) => Step {
                kind: ADAM,
                w: behind(held.at_mut(&mut **w, stream), 4),
                first: behind(held.at_mut(&mut **first, stream), 4),
                second: behind(held.at_mut(&mut **second, stream), 4),
                tops: largest.as_mut().map_or(0, |largest| behind(held.at_mut(&mut **largest, stream), 4)),
                numbers: options.numbers(),
                ..Step::default()
            },
        }
    }
}

impl MarginSoftmax {
    /// The tile's centres to unit rows `out`. `rows`: how many of them are written.
    pub(super) fn unit_tile<'x, W: Storage>(
        &self,
        held: &mut Args<'x>,
        stream: &'x CudaStream,
        centres: &'x Centres<'_, '_, W>,
        tile: Tile,
        out: Rows<'x>,
        norms: Option<&'x mut Scratch<f32>>,
        padded: usize,
    ) -> UnitTile {
        let subs = self.options.sub_centers;
        // Our own products end where the classes do; cuBLAS's, and those of sub-centres, want zeros up to the pitch.
        let whole = subs > 1 || matches!(out, Rows::Pieces(_));
        let (values, storage) = centres.at(held, stream, tile.first * subs * self.dim);
        let At { high, low, again, width } = out.at(held, stream, padded);
        UnitTile {
            values,
            high,
            low,
            again,
            norms: norms.map_or(0, |norms| held.at_mut(norms, stream)),
            storage,
            rows: int(if whole { subs * tile.pitch } else { tile.classes }),
            classes: int(tile.classes),
            dim: int(self.dim),
            padded: int(padded),
            subs: int(subs),
            pitch: int(tile.pitch),
            width: int(width),
        }
    }

    /// Nothing for a tile without rows.
    pub(super) fn launch_unit(&self, stream: &Arc<CudaStream>, tile: UnitTile) -> Result<()> {
        if tile.rows == 0 {
            return Ok(());
        }
        let shape = Shape::warps(tile.rows.max(0) as usize);
        self.kernels.launch(stream, "centres_unit", shape, Args::default().arg(Arg::Unit(tile)))
    }

    /// Each row against its own centre, its unit row to `x`, the order of the labels, and the first tile of centres.
    pub(super) fn prepare<W: Storage>(
        &self,
        stream: &Arc<CudaStream>,
        batch: &Batch<'_>,
        centres: &Centres<'_, '_, W>,
        work: &mut Work,
        x: Rows<'_>,
        first: UnitTile,
        padded: usize,
    ) -> Result<()> {
        let n = batch.labels.len();
        let mut held = Args::default();
        let (w, storage) = centres.at(&mut held, stream, 0);
        let At { high, low, again, width } = x.at(&mut held, stream, padded);
        let mut args = Args::default()
            .read(batch.embeddings, stream)
            .arg(Arg::Pointer(w))
            .read(batch.labels, stream)
            .arg(Arg::Margin(MarginArgument::from(&self.options)))
            .write(&mut work.targets, stream)
            .write(&mut work.row_scale, stream)
            .arg(Arg::Pointer(high))
            .arg(Arg::Pointer(low))
            .arg(Arg::Pointer(again));
        args = match &mut work.order {
            Some((order, sorted)) => args.write(order, stream).write(sorted, stream),
            None => args.arg(Arg::NULL).arg(Arg::NULL),
        };
        let args = args
            .arg(Arg::Unit(first))
            .int(n)
            .int(self.dim)
            .int(padded)
            .int(width)
            .int(self.classes)
            .int(self.options.sub_centers)
            .arg(Arg::Int(storage));
        let blocks = n.div_ceil(8) + (first.rows.max(0) as usize).div_ceil(8);
        self.kernels.launch(stream, "margin_prepare", Shape::blocks([blocks, 1, 1], 256), args)
    }

    /// The losses, from the splits of the bulk and the targets.
    pub(super) fn losses(
        &self,
        stream: &Arc<CudaStream>,
        splits: usize,
        batch: &Batch<'_>,
        work: &mut Work,
    ) -> Result<()> {
        let n = batch.labels.len();
        // Threads that share a row: the powers of 2 for which all rows still have some.
        let lanes = (LOSS_THREADS / n.next_power_of_two()).clamp(1, 32);
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
            .int(n)
            .int(self.classes)
            .int(splits)
            .int(lanes)
            .arg(Arg::Double(self.options.scale))
            .flag(self.options.sphere())
            .arg(Arg::Double(batch.upstream));
        self.kernels.launch(stream, "margin_loss", Shape::blocks([1, 1, 1], LOSS_THREADS as u32), args)
    }

    /// The rows as the centres' product wants them (`weighted`), and the target's part of the embeddings' gradient.
    pub(super) fn weighting<'x, W: Storage>(
        &self,
        held: &mut Args<'x>,
        stream: &'x CudaStream,
        batch: &'x Batch<'_>,
        centres: &'x Centres<'_, '_, W>,
        work: &'x Work,
        weighted: Option<Rows<'x>>,
        gradient: Option<(&'x mut CudaViewMut<'_, f32>, Write)>,
        padded: usize,
    ) -> Weighting {
        let (w, storage) = centres.at(held, stream, 0);
        let rows = weighted.map_or_else(At::default, |rows| rows.at(held, stream, padded));
        let accumulate = gradient.as_ref().is_some_and(|(_, write)| *write == Write::Add);
        Weighting {
            x: held.at(batch.embeddings, stream),
            w,
            labels: held.at(batch.labels, stream),
            targets: held.at(&work.targets, stream),
            sigma: held.at(&work.sigma, stream),
            column: held.at(&work.column, stream),
            high: rows.high,
            low: rows.low,
            dx: gradient.map_or(0, |(dx, _)| held.at_mut(dx, stream)),
            scale: self.options.scale,
            storage,
            n: int(batch.labels.len()),
            dim: int(self.dim),
            padded: int(padded),
            width: int(rows.width),
            classes: int(self.classes),
            subs: int(self.options.sub_centers),
            sphere: i32::from(self.options.sphere()),
            accumulate: i32::from(accumulate),
            unused: 0,
        }
    }

    pub(super) fn launch_weighting(&self, stream: &Arc<CudaStream>, rows: Weighting) -> Result<()> {
        let shape = Shape::warps(rows.n.max(0) as usize);
        self.kernels.launch(stream, "margin_weigh", shape, Args::default().arg(Arg::Weighting(rows)))
    }

    /// What becomes of a tile of centres, of the product `raw` and the norms in scratch.
    pub(super) fn step<'x, W: Storage>(
        &self,
        held: &mut Args<'x>,
        stream: &'x CudaStream,
        batch: &'x Batch<'_>,
        centres: &'x mut Centres<'_, '_, W>,
        work: &'x Work,
        [raw, norms]: [&'x Scratch<f32>; 2],
        tile: Tile,
        padded: usize,
    ) -> Step {
        let subs = self.options.sub_centers;
        let Some((order, sorted)) = &work.order else { return Step::default() };
        Step {
            raw: held.at(raw, stream),
            norms: held.at(norms, stream),
            x: held.at(batch.embeddings, stream),
            targets: held.at(&work.targets, stream),
            sigma: held.at(&work.sigma, stream),
            stats: held.at(&work.stats, stream),
            order: held.at(order, stream),
            sorted: held.at(sorted, stream),
            scale: self.options.scale,
            centres: int(tile.classes * subs),
            n: int(batch.labels.len()),
            dim: int(self.dim),
            padded: int(padded),
            first_class: int(tile.first),
            subs: int(subs),
            pitch: int(tile.pitch),
            sphere: i32::from(self.options.sphere()),
            ..centres.step(held, stream, tile.first * subs * self.dim)
        }
    }

    /// The bulk's part of the embeddings' gradient, from the product `raw` over all classes.
    pub(super) fn bulk<'x>(
        &self,
        held: &mut Args<'x>,
        stream: &'x CudaStream,
        batch: &'x Batch<'_>,
        work: &'x Work,
        raw: &'x Scratch<f32>,
        dx: &'x mut CudaViewMut<'_, f32>,
        tiles: &Tiles,
    ) -> Bulk {
        Bulk {
            x: held.at(batch.embeddings, stream),
            targets: held.at(&work.targets, stream),
            sigma: held.at(&work.sigma, stream),
            raw: held.at(raw, stream),
            dx: held.at_mut(dx, stream),
            scale: self.options.scale,
            n: int(batch.labels.len()),
            dim: int(self.dim),
            padded: int(tiles.padded),
            parts: int(tiles.parts),
            sphere: i32::from(self.options.sphere()),
            unused: 0,
        }
    }

    /// Either of the two may be empty.
    pub(super) fn finish(&self, stream: &Arc<CudaStream>, bulk: Bulk, step: Step) -> Result<()> {
        let blocks = |rows: i32| (rows.max(0) as usize).div_ceil(8);
        let blocks = blocks(bulk.n) + blocks(step.centres);
        if blocks == 0 {
            return Ok(());
        }
        let args = Args::default().arg(Arg::Bulk(bulk)).arg(Arg::Step(step));
        self.kernels.launch(stream, "margin_finish", Shape::blocks([blocks, 1, 1], 256), args)
    }
}

/// Threads of the one block that makes the losses: `LOSS_THREADS` of `margin_loss.cu`.
const LOSS_THREADS: usize = 1024;
