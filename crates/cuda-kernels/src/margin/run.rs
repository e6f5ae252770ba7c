use std::sync::Arc;

use cudarc::driver::{CudaSlice, CudaStream, CudaView, CudaViewMut};

use super::options::{Adam, MarginArgument, MarginOptions, Sgd};
use super::tiles::{TILE, Tiles};
use crate::kernels::{Arg, Args, Shape};
use crate::{Error, Kernels, Result, Storage, Write, check};

/// Doubles that `margin_target` leaves a row, and that `margin_loss` leaves.
const TARGET_FIELDS: usize = 8;
const STATS: usize = 5;
/// Threads of a product's block.
const PRODUCT_THREADS: u32 = 256;

/// A margin-softmax loss over `classes` centres of `dim` dimensions, on one context. One centre a class.
pub struct MarginSoftmax {
    kernels: Arc<Kernels>,
    classes: usize,
    dim: usize,
    options: MarginOptions,
}

/// What the loss is taken of.
#[derive(Clone, Copy)]
pub struct Batch<'a> {
    /// Embeddings, `[batch, dim]`.
    pub embeddings: &'a CudaView<'a, f32>,
    /// Labels, `[batch]`, below the number of classes.
    pub labels: &'a CudaView<'a, u32>,
    /// Factors of the samples' losses, `[batch]`; the divisor stays the batch.
    pub weights: Option<&'a CudaView<'a, f32>>,
    /// The gradient of whatever the loss goes into; 1 for the loss itself.
    pub upstream: f64,
}

/// The class centres, `[classes, dim]`, and what becomes of them.
pub enum Centres<'a, 'b, W> {
    /// They stay, and need no gradient.
    Frozen(&'a CudaView<'b, W>),
    /// Their gradient is written, `[classes, dim]`.
    Gradient(&'a CudaView<'b, W>, &'a mut CudaViewMut<'b, f32>, Write),
    /// They move, tile by tile, with a momentum buffer of their shape if there is momentum. f32 only.
    Sgd(&'a mut CudaViewMut<'b, f32>, Option<&'a mut CudaViewMut<'b, f32>>, Sgd),
    /// They move, with the first and second moments, of their shape. f32 only.
    Adam(&'a mut CudaViewMut<'b, f32>, [&'a mut CudaViewMut<'b, f32>; 2], Adam),
}

/// What a step reports.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MarginStats {
    /// Mean of the weighted losses.
    pub value: f64,
    /// Share of rows whose own class leads.
    pub accuracy: f64,
    /// Share of rows with a gradient.
    pub active_fraction: f64,
}

/// Buffers of a call.
struct Work {
    x: Halves,
    row_scale: CudaSlice<f32>,
    targets: CudaSlice<f64>,
    tops: CudaSlice<f32>,
    sums: CudaSlice<f32>,
    lse: CudaSlice<f32>,
    losses: CudaSlice<f32>,
    sigma: CudaSlice<f32>,
    column: CudaSlice<f32>,
    stats: CudaSlice<f64>,
    bad_row: CudaSlice<i32>,
}

/// Values as f16 and, if asked for, what rounding left.
struct Halves {
    high: CudaSlice<u16>,
    low: Option<CudaSlice<u16>>,
}

impl<'a> Args<'a> {
    fn halves(self, halves: &'a Halves, stream: &'a CudaStream) -> Self {
        self.read(&halves.high, stream).optional(halves.low.as_ref(), stream)
    }

    fn halves_mut(self, halves: &'a mut Halves, stream: &'a CudaStream) -> Self {
        let args = self.write(&mut halves.high, stream);
        match &mut halves.low {
            Some(low) => args.write(low, stream),
            None => args.arg(Arg::NULL),
        }
    }
}

impl MarginSoftmax {
    /// Checks the options.
    ///
    /// # Errors
    /// [`Error::Option`], [`Error::Size`].
    pub fn new(kernels: Arc<Kernels>, classes: usize, dim: usize, options: MarginOptions) -> Result<Self> {
        options.check()?;
        check::size("class centres [classes, dim]", &[classes, dim])?;
        if classes == 0 || dim == 0 {
            return Err(Error::Size { what: "class centres [classes, dim]", sizes: vec![classes, dim] });
        }
        Ok(Self { kernels, classes, dim, options })
    }

    fn tiles(&self, batch: usize) -> Tiles {
        Tiles::new(batch, self.dim, self.classes, self.options.precision, self.options.tile_bytes)
    }

    /// Device memory that a call holds beside its arguments.
    pub fn workspace_bytes(&self, batch: usize) -> usize {
        let tiles = self.tiles(batch);
        let half = 2 * self.options.precision.parts();
        let rows = batch * (half * tiles.padded * 2 + 8 * TARGET_FIELDS + 4 * 5 + 8 * tiles.splits + 8);
        let forward = tiles.forward * (half * tiles.padded + 4);
        let backward = tiles.backward * (half * (tiles.padded + batch) + 4 * tiles.padded + 4);
        rows + forward.max(backward + 4 * tiles.parts * batch * tiles.padded) + 8 * STATS + 4
    }

    /// The loss, the embeddings' gradient (`[batch, dim]`, if asked for), each row's loss (`[batch]`, if asked for),
    /// and what [`Centres`] says. Waits for the device once, at the end.
    ///
    /// Where the loss is not finite, or a label is no class, no centre has moved; a written gradient is then unusable.
    ///
    /// # Errors
    /// Buffers of wrong lengths or alignment, before anything is launched; [`Error::Label`]; what the driver says.
    pub fn forward_backward<W: Storage>(
        &self,
        stream: &Arc<CudaStream>,
        batch: Batch<'_>,
        centres: Centres<'_, '_, W>,
        gradient: Option<(&mut CudaViewMut<'_, f32>, Write)>,
        per_sample: Option<&mut CudaViewMut<'_, f32>>,
    ) -> Result<MarginStats> {
        let n = batch.labels.len();
        self.check(
            stream,
            n,
            &batch,
            &centres,
            gradient.as_ref().map(|(dx, _)| dx.len()),
            per_sample.as_deref(),
        )?;
        if n == 0 {
            return Ok(MarginStats { value: 0.0, accuracy: 0.0, active_fraction: 0.0 });
        }
        let tiles = self.tiles(n);
        let mut work = self.work(stream, n, &tiles)?;
        match &centres {
            Centres::Frozen(w) | Centres::Gradient(w, ..) => {
                self.forward(stream, n, &tiles, &batch, *w, &mut work)?
            }
            Centres::Sgd(w, ..) | Centres::Adam(w, ..) => {
                self.forward(stream, n, &tiles, &batch, &w.as_view(), &mut work)?;
            }
        }
        if gradient.is_some() || !matches!(centres, Centres::Frozen(_)) {
            self.backward(stream, n, &tiles, &batch, centres, gradient, &work)?;
        }
        if let Some(out) = per_sample {
            stream.memcpy_dtod(&work.losses.slice(..n), out).map_err(Error::driver("copying the losses"))?;
        }
        let stats = stream.clone_dtoh(&work.stats).map_err(Error::launch("margin softmax"))?;
        stream.synchronize().map_err(Error::launch("margin softmax"))?;
        let bad = stats[4] as usize;
        if bad < n {
            return Err(Error::Label { row: bad, classes: self.classes });
        }
        let share = |count: f64| count / n as f64;
        Ok(MarginStats { value: stats[0], accuracy: share(stats[2]), active_fraction: share(stats[3]) })
    }

    fn check<W: Storage>(
        &self,
        stream: &Arc<CudaStream>,
        n: usize,
        batch: &Batch<'_>,
        centres: &Centres<'_, '_, W>,
        gradient: Option<usize>,
        per_sample: Option<&CudaViewMut<'_, f32>>,
    ) -> Result<()> {
        let values = check::size("embeddings [batch, dim]", &[n, self.dim])?;
        let all = self.classes * self.dim;
        check::length("the embeddings", batch.embeddings.len(), values)?;
        if let Some(weights) = batch.weights {
            check::length("the sample weights", weights.len(), n)?;
        }
        if let Some(got) = gradient {
            check::length("the embeddings' gradient", got, values)?;
        }
        if let Some(out) = per_sample {
            check::length("the losses of the samples", out.len(), n)?;
        }
        let name = "the class centres";
        match centres {
            Centres::Frozen(w) => check::length(name, w.len(), all),
            Centres::Gradient(w, dw, _) => {
                check::length(name, w.len(), all)?;
                check::length("the centres' gradient", dw.len(), all)
            }
            Centres::Sgd(w, buffer, options) => {
                check::length(name, w.len(), all)?;
                match buffer {
                    Some(buffer) => check::length("the momentum buffer", buffer.len(), all),
                    None if options.momentum == 0.0 => Ok(()),
                    None => Err(Error::Option {
                        option: "momentum",
                        value: options.momentum.to_string(),
                        reason: "needs a momentum buffer of the centres' shape",
                    }),
                }
            }
            Centres::Adam(w, moments, options) => {
                check::length(name, w.len(), all)?;
                for moment in moments {
                    check::length("a moment of the centres", moment.len(), all)?;
                }
                if options.step == 0 {
                    let (option, value) = ("step", "0".to_owned());
                    return Err(Error::Option { option, value, reason: "steps count from 1" });
                }
                Ok(())
            }
        }?;
        // The bulk reads the library's own buffers; nothing of the caller's is read by vectors.
        let _ = stream;
        Ok(())
    }

    fn halves(&self, stream: &Arc<CudaStream>, len: usize, what: &str) -> Result<Halves> {
        let high = self.kernels.allocate(stream, len, what)?;
        let low = match self.options.precision.parts() {
            1 => None,
            _ => Some(self.kernels.allocate(stream, len, what)?),
        };
        Ok(Halves { high, low })
    }

    fn work(&self, stream: &Arc<CudaStream>, n: usize, tiles: &Tiles) -> Result<Work> {
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

    fn unit_rows<T: Storage>(
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

    fn product(&self, grid: [usize; 3]) -> Shape {
        Shape { grid, threads: PRODUCT_THREADS, shared: self.options.precision.shared() }
    }

    fn forward<W: Storage>(
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
        kernels.launch(stream, &name, Shape::warps(n), args.int(n).int(self.dim).int(self.classes))?;

        let mut unit = self.halves(stream, tiles.forward * padded, "a tile of the centres' unit rows")?;
        for first in (0..self.classes).step_by(tiles.forward) {
            let classes = tiles.forward.min(self.classes - first);
            let rows = w.slice(first * self.dim..(first + classes) * self.dim);
            self.unit_rows(stream, &rows, None, &mut unit, None, classes, padded)?;
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
            let name = format!("margin_lse_{}", self.options.precision.suffix());
            kernels.launch(stream, &name, self.product([n.div_ceil(TILE), tiles.splits, 1]), args)?;
        }

        let args = Args::default()
            .read(&work.tops, stream)
            .read(&work.sums, stream)
            .read(&work.targets, stream)
            .optional(batch.weights, stream)
            .write(&mut work.lse, stream)
            .write(&mut work.losses, stream)
            .write(&mut work.sigma, stream)
            .write(&mut work.column, stream)
            .write(&mut work.stats, stream)
            .read(&work.bad_row, stream)
            .int(n)
            .int(tiles.splits)
            .arg(Arg::Double(self.options.scale))
            .flag(self.options.sphere())
            .arg(Arg::Double(batch.upstream));
        kernels.launch(stream, "margin_loss", Shape::blocks([1, 1, 1], 1024), args)
    }

    fn backward<W: Storage>(
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
        let mut unit = self.halves(stream, tiles.backward * padded, "a tile of the centres' unit rows")?;
        let mut shares = self.halves(stream, tiles.backward * n, "a tile of the classes' shares")?;
        let mut norms: CudaSlice<f32> = kernels.allocate(stream, tiles.backward, "the centres' norms")?;
        let mut raw_centres: CudaSlice<f32> = kernels.allocate(
            stream,
            if moves { tiles.backward * padded } else { 1 },
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
            let range = first * self.dim..(first + classes) * self.dim;
            match &centres {
                Centres::Frozen(w) | Centres::Gradient(w, ..) => {
                    let rows = w.slice(range.clone());
                    self.unit_rows(stream, &rows, None, &mut unit, Some(&mut norms), classes, padded)?;
                }
                Centres::Sgd(w, ..) | Centres::Adam(w, ..) => {
                    let rows = w.slice(range.clone());
                    self.unit_rows(stream, &rows, None, &mut unit, Some(&mut norms), classes, padded)?;
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
            kernels.launch(stream, &format!("margin_shares_{suffix}"), shape, args)?;
            if gradient.is_some() {
                let args = Args::default()
                    .halves(&shares, stream)
                    .halves(&unit, stream)
                    .write(&mut raw, stream)
                    .int(n)
                    .int(classes)
                    .int(padded)
                    .int(pitch)
                    .int(tiles.share(pitch))
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
                    .int(classes)
                    .int(padded)
                    .int(pitch);
                let shape = self.product([padded.div_ceil(TILE), pitch / TILE, 1]);
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
                    .int(classes)
                    .flag(self.options.sphere())
                    .arg(Arg::Double(self.options.scale));
                self.move_centres(stream, &mut centres, range, classes, args)?;
            }
        }
        if let Some(dx) = gradient {
            self.bulk_gradient(stream, n, tiles, batch, work, &raw, dx)?;
        }
        Ok(())
    }

    /// The labels in order: the rows, and the labels themselves.
    fn sorted(
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

    fn target_gradient<W: Storage>(
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
            .arg(Arg::Double(self.options.scale))
            .flag(self.options.sphere())
            .flag(write == Write::Add);
        let name = format!("margin_target_gradient_{suffix}");
        self.kernels.launch(stream, &name, Shape::warps(n), args)
    }

    fn bulk_gradient(
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

    fn move_centres<W: Storage>(
        &self,
        stream: &Arc<CudaStream>,
        centres: &mut Centres<'_, '_, W>,
        range: std::ops::Range<usize>,
        classes: usize,
        args: Args<'_>,
    ) -> Result<()> {
        let (kernels, shape) = (&self.kernels, Shape::warps(classes));
        match centres {
            Centres::Frozen(_) => Ok(()),
            Centres::Gradient(w, dw, write) => {
                let (w, mut dw) = (w.slice(range.clone()), dw.slice_mut(range));
                let args = args.read(&w, stream).write(&mut dw, stream).flag(*write == Write::Add);
                kernels.launch(stream, &format!("centre_gradient_{}", W::SUFFIX), shape, args)
            }
            Centres::Sgd(w, buffer, options) => {
                let mut w = w.slice_mut(range.clone());
                let mut buffer = match buffer {
                    Some(buffer) if options.momentum > 0.0 => Some(buffer.slice_mut(range)),
                    _ => None,
                };
                let first = options.first_step;
                let args = args.write(&mut w, stream);
                let args = match &mut buffer {
                    Some(buffer) => args.write(buffer, stream),
                    None => args.arg(Arg::NULL),
                };
                let args = args
                    .arg(Arg::Float(options.rate as f32))
                    .arg(Arg::Float(options.weight_decay as f32))
                    .arg(Arg::Float(options.momentum as f32))
                    .arg(Arg::Float(if first { 0.0 } else { options.momentum as f32 }))
                    .arg(Arg::Float(if first { 1.0 } else { (1.0 - options.dampening) as f32 }))
                    .flag(options.nesterov);
                kernels.launch(stream, "centre_sgd", shape, args)
            }
            Centres::Adam(w, [first, second], options) => {
                let mut w = w.slice_mut(range.clone());
                let (mut first, mut second) = (first.slice_mut(range.clone()), second.slice_mut(range));
                let (b1, b2) = options.betas;
                // Corrections in f64: 1 - b2^t loses half its digits in f32 at the first steps.
                let t = options.step as f64;
                let (shrink, decay) = match options.decoupled {
                    true => (1.0 - options.rate * options.weight_decay, 0.0),
                    false => (1.0, options.weight_decay),
                };
                let numbers = [
                    options.rate / (1.0 - b1.powf(t)),
                    (1.0 - b2.powf(t)).sqrt(),
                    options.eps,
                    shrink,
                    decay,
                    1.0 - b1,
                    b2,
                    1.0 - b2,
                ];
                let args = args.write(&mut w, stream).write(&mut first, stream).write(&mut second, stream);
                let args = numbers.iter().fold(args, |args, &v| args.arg(Arg::Float(v as f32)));
                kernels.launch(stream, "centre_adam", shape, args)
            }
        }
    }
}
