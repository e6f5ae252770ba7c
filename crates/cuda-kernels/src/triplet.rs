//! Triplet margin loss over all triplets of a batch, exactly, without forming one; and over the hardest.
//!
//! Dissimilarities and gradients come from differences of rows, so near-duplicates keep their digits. `O(n^2 log P)`
//! time for counting, `2 n^2 dim` operations each for dissimilarities and gradient, `8 n^2` bytes of device memory or
//! as few as two rows of it: anchors are done in blocks. The same bits on every run on one kind of GPU with one driver.

use std::sync::Arc;

use cudarc::driver::{CudaSlice, CudaStream, CudaView, CudaViewMut};

use crate::kernels::{Arg, Args, Shape};
use crate::scratch::Scratch;
use crate::{Error, Kernels, Result, check};

/// How far two embeddings are from each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Distance {
    /// `|a - b|`.
    #[default]
    L2,
    /// `|a - b|^2`.
    SquaredL2,
    /// One less the cosine. Needs `normalize`.
    Cosine,
}

/// How the losses of the triplets become one number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Reduction {
    /// Mean over all triplets, after mining.
    Mean,
    /// Mean over the triplets whose loss is above zero.
    #[default]
    MeanNonZero,
    /// Sum.
    Sum,
}

/// Which triplets take part, by `d(a, n)`: its tie with `d(a, p)` counts as hard, with `d(a, p) + margin` as semi-hard.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
#[non_exhaustive]
pub enum Miner {
    /// Every one.
    #[default]
    None,
    /// `d(a, n) <= d(a, p) + margin`.
    All(f64),
    /// `d(a, n) <= d(a, p)`.
    Hard,
    /// `d(a, p) < d(a, n) <= d(a, p) + margin`.
    Semihard(f64),
    /// `d(a, n) > d(a, p) + margin`.
    Easy(f64),
    /// Each anchor with its farthest positive and its nearest negative; ties take the lowest index.
    BatchHard,
}

/// Options of [`TripletMargin`], checked by its constructor.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TripletOptions {
    /// From 0 to 1e15, in units of `distance`. Default 0.05.
    pub margin: f64,
    /// Default [`Distance::L2`].
    pub distance: Distance,
    /// Scale rows to length 1 first. Default true.
    pub normalize: bool,
    /// Measure a negative from the positive where that is nearer: `d(a, n) <- min(d(a, n), d(p, n))` (Balntas et al.
    /// 2016, section 3.2); miners look at `d(a, n)` itself. Needs all dissimilarities at once, and looks at every
    /// triplet. Not with [`Miner::BatchHard`]. Default false.
    pub swap: bool,
    /// `log(1 + exp(v))` in place of `max(v, 0)`. Looks at every triplet. Not with [`Miner::BatchHard`]. Default false.
    pub smooth: bool,
    /// Default [`Reduction::MeanNonZero`].
    pub reduction: Reduction,
    /// Default [`Miner::None`].
    pub miner: Miner,
    /// Device memory for dissimilarities and coefficients. Default 512 MiB: all of a batch of 8,192.
    pub block_bytes: usize,
}

impl Default for TripletOptions {
    fn default() -> Self {
        Self {
            margin: 0.05,
            distance: Distance::L2,
            normalize: true,
            swap: false,
            smooth: false,
            reduction: Reduction::MeanNonZero,
            miner: Miner::None,
            block_bytes: 512 << 20,
        }
    }
}

/// What a step reports.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TripletStats {
    /// The loss.
    pub value: f64,
    /// Triplets, after mining.
    pub triplets: u64,
    /// Those with a loss.
    pub active: u64,
}

/// The loss, on one context.
pub struct TripletMargin {
    kernels: Arc<Kernels>,
    options: TripletOptions,
}

/// What the anchors leave.
struct Anchors {
    losses: Scratch<f64>,
    triplets: Scratch<u64>,
    active: Scratch<u64>,
    /// Of the hardest miner: two columns and two coefficients a row.
    pairs: Scratch<i32>,
    pair_coefficients: Scratch<f32>,
}

const SIDE: usize = 128;
/// Blocks of anchors are multiples of this: half a tile, so that little memory suffices.
const ANCHORS: usize = 64;
const PULL_ROWS: usize = 32;
const PULL_WIDTH: usize = 128;
/// `Pull` of `triplet_distance.cu`.
const PULL_ANCHORS: i32 = 0;
const PULL_COLUMNS: i32 = 1;
const PULL_BOTH: i32 = 2;

/// A step that the device has been given: see [`TripletMargin::enqueue`].
#[must_use = "whether the step went well is known once it has been waited for"]
pub struct PendingTriplets {
    /// Nothing of an empty batch.
    totals: Option<Scratch<f64>>,
    stream: Arc<CudaStream>,
}

impl PendingTriplets {
    /// Waits for the device, and reads what the step reports.
    ///
    /// # Errors
    /// What the driver says of the work so far.
    pub fn wait(self) -> Result<TripletStats> {
        let Some(totals) = self.totals else {
            return Ok(TripletStats { value: 0.0, triplets: 0, active: 0 });
        };
        let totals = self.stream.clone_dtoh(&totals).map_err(Error::launch("triplet margin"))?;
        self.stream.synchronize().map_err(Error::launch("triplet margin"))?;
        Ok(TripletStats { value: totals[0], triplets: totals[1] as u64, active: totals[2] as u64 })
    }
}

impl TripletMargin {
    /// Checks the options.
    ///
    /// # Errors
    /// [`Error::Option`].
    pub fn new(kernels: Arc<Kernels>, options: TripletOptions) -> Result<Self> {
        let mut margins = vec![options.margin];
        match options.miner {
            Miner::All(m) | Miner::Semihard(m) | Miner::Easy(m) => margins.push(m),
            Miner::None | Miner::Hard | Miner::BatchHard => {}
        }
        if let Some(margin) = margins.iter().find(|margin| !(0.0..=1e15).contains(*margin)) {
            let reason = "must be between 0 and 1e15; 0.05 to 0.5 is usual for unit vectors";
            return Err(Error::Option { option: "margin", value: margin.to_string(), reason });
        }
        margins.into_iter().try_for_each(|margin| check::single("margin", margin))?;
        if options.distance == Distance::Cosine && !options.normalize {
            let reason = "a cosine is that of unit vectors; set normalize = true or choose another distance";
            return Err(Error::Option { option: "normalize", value: "false".to_owned(), reason });
        }
        if options.miner == Miner::BatchHard && (options.swap || options.smooth) {
            let option = if options.swap { "swap" } else { "smooth" };
            let reason = "not with the hardest triplets alone; leave it out, or choose another miner";
            return Err(Error::Option { option, value: "true".to_owned(), reason });
        }
        Ok(Self { kernels, options })
    }

    /// Anchors of a block.
    fn block(&self, n: usize) -> usize {
        let matrices = if self.options.miner == Miner::BatchHard { 1 } else { 2 };
        let rows = self.options.block_bytes / (matrices * size_of::<f32>() * n.max(1));
        if rows >= n { n } else { (rows / ANCHORS * ANCHORS).max(ANCHORS).min(n) }
    }

    /// Device memory that a call holds beside its arguments.
    pub fn workspace_bytes(&self, batch: usize, dim: usize) -> usize {
        let matrices = if self.options.miner == Miner::BatchHard { 1 } else { 2 };
        4 * (matrices * self.block(batch) * batch + batch * dim + batch) + batch * (3 * 8 + 16) + 32
    }

    /// The loss of embeddings `[n, dim]` with labels `[n]`, and `upstream` times its gradient (`[n, dim]`, overwritten).
    /// Waits for the device once, at the end.
    ///
    /// # Errors
    /// Buffers of wrong lengths, before anything is launched; what the driver says.
    pub fn forward_backward(
        &self,
        stream: &Arc<CudaStream>,
        embeddings: &CudaView<'_, f32>,
        labels: &CudaView<'_, u32>,
        dim: usize,
        upstream: f64,
        gradient: Option<&mut CudaViewMut<'_, f32>>,
    ) -> Result<TripletStats> {
        self.enqueue(stream, embeddings, labels, dim, upstream, gradient)?.wait()
    }

    /// [`forward_backward`](Self::forward_backward) without waiting: the host may go on, and give the device more, before
    /// [`PendingTriplets::wait`] tells what came of it.
    ///
    /// # Errors
    /// As [`forward_backward`](Self::forward_backward), but for what shows only when the device has come so far.
    pub fn enqueue(
        &self,
        stream: &Arc<CudaStream>,
        embeddings: &CudaView<'_, f32>,
        labels: &CudaView<'_, u32>,
        dim: usize,
        upstream: f64,
        mut gradient: Option<&mut CudaViewMut<'_, f32>>,
    ) -> Result<PendingTriplets> {
        let n = labels.len();
        let values = check::size("embeddings [batch, dim]", &[n, dim])?;
        check::length("the embeddings", embeddings.len(), values)?;
        if let Some(out) = &gradient {
            check::length("the embeddings' gradient", out.len(), values)?;
        }
        if n == 0 || dim == 0 {
            return Ok(PendingTriplets { totals: None, stream: stream.clone() });
        }
        if self.options.swap && self.block(n) < n {
            let reason =
                "with swap it must hold 8 bytes for each pair of the batch; give more, or a smaller batch";
            let (option, value) = ("block_bytes", self.options.block_bytes.to_string());
            return Err(Error::Option { option, value, reason });
        }
        let kernels = &self.kernels;
        let unit = if self.options.normalize {
            let mut unit: CudaSlice<f32> = kernels.allocate_kept(stream, values, "unit rows")?;
            let mut norms: Scratch<f32> = kernels.allocate(stream, n, "norms")?;
            let args = Args::default()
                .read(embeddings, stream)
                .write(&mut unit, stream)
                .write(&mut norms, stream)
                .int(n)
                .int(dim);
            kernels.launch(stream, "triplet_unit_rows", Shape::warps(n), args)?;
            Some((unit, norms))
        } else {
            None
        };
        let own = unit.as_ref().map(|(unit, _)| unit.as_view());
        let rows = own.as_ref().unwrap_or(embeddings);
        let what = "what each anchor leaves";
        let mut anchors = Anchors {
            losses: kernels.allocate(stream, n, what)?,
            triplets: kernels.allocate(stream, n, what)?,
            active: kernels.allocate(stream, n, what)?,
            pairs: kernels.allocate(stream, 2 * n, what)?,
            pair_coefficients: kernels.allocate(stream, 2 * n, what)?,
        };
        self.anchors(stream, rows, labels, dim, gradient.as_deref_mut(), &mut anchors)?;

        let mut totals: Scratch<f64> = kernels.allocate(stream, 3, "the totals")?;
        let mut factor: Scratch<f32> = kernels.allocate(stream, 1, "the totals")?;
        let reduction = match self.options.reduction {
            Reduction::Mean => 0,
            Reduction::MeanNonZero => 1,
            Reduction::Sum => 2,
        };
        let args = Args::default()
            .read(&anchors.losses, stream)
            .read(&anchors.triplets, stream)
            .read(&anchors.active, stream)
            .write(&mut totals, stream)
            .write(&mut factor, stream)
            .int(n)
            .arg(Arg::Int(reduction))
            .arg(Arg::Double(upstream));
        kernels.launch(stream, "triplet_reduce", Shape::blocks([1, 1, 1], 256), args)?;
        if let Some(out) = gradient {
            let norms = unit.as_ref().map(|(_, norms)| norms);
            let args = Args::default()
                .read(rows, stream)
                .optional(norms, stream)
                .read(&factor, stream)
                .write(out, stream)
                .int(n)
                .int(dim);
            kernels.launch(stream, "triplet_unit_rows_backward", Shape::warps(n), args)?;
        }
        Ok(PendingTriplets { totals: Some(totals), stream: stream.clone() })
    }

    /// Every anchor, block by block; `gradient` gets the unscaled sum of differences.
    fn anchors(
        &self,
        stream: &Arc<CudaStream>,
        rows: &CudaView<'_, f32>,
        labels: &CudaView<'_, u32>,
        dim: usize,
        mut gradient: Option<&mut CudaViewMut<'_, f32>>,
        anchors: &mut Anchors,
    ) -> Result<()> {
        let (n, block, kernels) = (labels.len(), self.block(labels.len()), &self.kernels);
        let hardest = self.options.miner == Miner::BatchHard;
        let mut distances: Scratch<f32> = kernels.allocate(stream, block * n, "dissimilarities")?;
        let mut coefficients: Option<Scratch<f32>> = match gradient {
            Some(_) if !hardest => Some(kernels.allocate(stream, block * n, "coefficients")?),
            _ => None,
        };
        if let (Some(out), false) = (&mut gradient, hardest) {
            stream.memset_zeros(*out).map_err(Error::driver("clearing the gradient"))?;
        }
        for first in (0..n).step_by(block) {
            let count = block.min(n - first);
            let args = Args::default()
                .read(rows, stream)
                .write(&mut distances, stream)
                .int(first)
                .int(count)
                .int(n)
                .int(dim)
                .arg(Arg::Int(self.distance()));
            let tiles = n.div_ceil(SIDE);
            // Of the whole batch the upper triangle: the rest is its mirror.
            let blocks = if count == n { tiles * (tiles + 1) / 2 } else { tiles * count.div_ceil(SIDE) };
            let shape = Shape::blocks([blocks, 1, 1], 256);
            kernels.launch(stream, "triplet_distance", shape, args)?;
            if hardest {
                self.hardest(stream, &distances, labels, first, count, anchors)?;
                continue;
            }
            self.count(stream, &distances, labels, first, count, coefficients.as_mut(), anchors)?;
            if let (Some(out), Some(coefficients)) = (&mut gradient, &coefficients) {
                let pulls: &[i32] = if count == n { &[PULL_BOTH] } else { &[PULL_ANCHORS, PULL_COLUMNS] };
                for &pull in pulls {
                    let args = Args::default()
                        .read(rows, stream)
                        .read(coefficients, stream)
                        .write(*out, stream)
                        .int(first)
                        .int(count)
                        .int(n)
                        .int(dim)
                        .arg(Arg::Int(pull));
                    let pulled = if pull == PULL_ANCHORS { count } else { n };
                    let grid = [dim.div_ceil(PULL_WIDTH), pulled.div_ceil(PULL_ROWS), 1];
                    kernels.launch(stream, "triplet_pull", Shape::blocks(grid, 256), args)?;
                }
            }
        }
        if let (Some(out), true) = (gradient, hardest) {
            let args = Args::default()
                .read(rows, stream)
                .read(&anchors.pairs, stream)
                .read(&anchors.pair_coefficients, stream)
                .write(out, stream)
                .int(n)
                .int(dim);
            kernels.launch(stream, "triplet_hardest_pull", Shape::warps(n), args)?;
        }
        Ok(())
    }

    fn distance(&self) -> i32 {
        match self.options.distance {
            Distance::L2 => 0,
            Distance::SquaredL2 => 1,
            Distance::Cosine => 2,
        }
    }

    fn count(
        &self,
        stream: &Arc<CudaStream>,
        distances: &Scratch<f32>,
        labels: &CudaView<'_, u32>,
        first: usize,
        count: usize,
        coefficients: Option<&mut Scratch<f32>>,
        anchors: &mut Anchors,
    ) -> Result<()> {
        let (mining, margin) = match self.options.miner {
            Miner::None | Miner::BatchHard => (0, 0.0),
            Miner::All(margin) => (1, margin),
            Miner::Hard => (2, 0.0),
            Miner::Semihard(margin) => (3, margin),
            Miner::Easy(margin) => (4, margin),
        };
        let args = Args::default().read(distances, stream).read(labels, stream);
        let args = match coefficients {
            Some(coefficients) => args.write(coefficients, stream),
            None => args.arg(Arg::NULL),
        };
        let args = args
            .write(&mut anchors.losses, stream)
            .write(&mut anchors.triplets, stream)
            .write(&mut anchors.active, stream)
            .int(first)
            .int(labels.len())
            .arg(Arg::Float(self.options.margin as f32))
            .arg(Arg::Int(self.distance()))
            .arg(Arg::Int(mining))
            .arg(Arg::Float(margin as f32));
        let shape = Shape::blocks([count, 1, 1], 256);
        if self.options.swap || self.options.smooth {
            let args = args.flag(self.options.swap).flag(self.options.smooth);
            return self.kernels.launch(stream, "triplet_pairs", shape, args);
        }
        self.kernels.launch(stream, "triplet_count", shape, args)
    }

    fn hardest(
        &self,
        stream: &Arc<CudaStream>,
        distances: &Scratch<f32>,
        labels: &CudaView<'_, u32>,
        first: usize,
        count: usize,
        anchors: &mut Anchors,
    ) -> Result<()> {
        let args = Args::default()
            .read(distances, stream)
            .read(labels, stream)
            .write(&mut anchors.pairs, stream)
            .write(&mut anchors.pair_coefficients, stream)
            .write(&mut anchors.losses, stream)
            .write(&mut anchors.triplets, stream)
            .write(&mut anchors.active, stream)
            .int(first)
            .int(labels.len())
            .arg(Arg::Float(self.options.margin as f32))
            .arg(Arg::Int(self.distance()));
        self.kernels.launch(stream, "triplet_hardest", Shape::blocks([count, 1, 1], 256), args)
    }
}
