use std::sync::Arc;

use cudarc::driver::{CudaStream, CudaView, CudaViewMut};

use super::Products;
use super::buffers::{Pieces, STATS, TARGET_FIELDS, Work};
use super::cublas::With;
use super::options::MarginOptions;
use super::own::Own;
use super::products::{Key, Turn};
use super::tiles::Tiles;
use crate::cublas::Session;
use crate::optimizer::{Adam, Sgd};
use crate::scratch::Scratch;
use crate::{Error, Kernels, Result, Storage, Write, check};

/// A margin-softmax loss over `classes` classes of `dim` dimensions, on one context. Class `c` owns the centres
/// `c * sub_centers ..`.
pub struct MarginSoftmax {
    pub(super) kernels: Arc<Kernels>,
    pub(super) classes: usize,
    pub(super) dim: usize,
    pub(super) options: MarginOptions,
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
    /// Factors of the losses of each class's samples, `[classes]`.
    pub class_weights: Option<&'a CudaView<'a, f32>>,
    /// The gradient of whatever the loss goes into; 1 for the loss itself.
    pub upstream: f64,
}

/// The class centres, `[classes * sub_centers, dim]`, and what becomes of them.
#[non_exhaustive]
pub enum Centres<'a, 'b, W> {
    /// They stay, and need no gradient.
    Frozen(&'a CudaView<'b, W>),
    /// Their gradient is written, of their shape.
    Gradient(&'a CudaView<'b, W>, &'a mut CudaViewMut<'b, f32>, Write),
    /// They move, tile by tile, with a momentum buffer of their shape if there is momentum. f32 only.
    Sgd(&'a mut CudaViewMut<'b, f32>, Option<&'a mut CudaViewMut<'b, f32>>, Sgd),
    /// They move, with the first and second moments and, for AMSGrad, the largest second moments so far, of their shape.
    /// f32 only.
    Adam(
        &'a mut CudaViewMut<'b, f32>,
        [&'a mut CudaViewMut<'b, f32>; 2],
        Option<&'a mut CudaViewMut<'b, f32>>,
        Adam,
    ),
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
    /// Whose products they come from: [`Products::Own`] or [`Products::Cublas`].
    pub products: Products,
}

/// A step that the device has been given: see [`MarginSoftmax::enqueue`].
#[must_use = "whether the step went well is known once it has been waited for"]
pub struct Pending {
    /// Nothing of an empty batch.
    stats: Option<Scratch<f64>>,
    stream: Arc<CudaStream>,
    kernels: Arc<Kernels>,
    n: usize,
    classes: usize,
    turn: Turn,
    key: Key,
}

impl Pending {
    /// Waits for the device, and reads what the step reports.
    ///
    /// # Errors
    /// [`Error::Label`]; what the driver says of the work so far.
    pub fn wait(self) -> Result<MarginStats> {
        let Self { stats, stream, kernels, n, classes, turn, key } = self;
        let Some(stats) = stats else {
            let products = turn.products;
            return Ok(MarginStats { value: 0.0, accuracy: 0.0, active_fraction: 0.0, products });
        };
        let stats = stream.clone_dtoh(&stats).map_err(Error::launch("margin softmax"))?;
        stream.synchronize().map_err(Error::launch("margin softmax"))?;
        kernels.choices.end(key, &turn)?;
        // A number above any row where no label is bad.
        let bad = stats[4] as usize;
        if bad < n {
            return Err(Error::Label { row: bad, classes });
        }
        let share = |count: f64| count / n as f64;
        Ok(MarginStats {
            value: stats[0],
            accuracy: share(stats[2]),
            active_fraction: share(stats[3]),
            products: turn.products,
        })
    }
}

/// What the forward pass leaves, by whoever made its products.
enum Prepared<'a> {
    Own(Box<Own>),
    Cublas(Pieces, Session<'a>),
}

impl MarginSoftmax {
    /// Checks the options.
    ///
    /// # Errors
    /// [`Error::Option`], [`Error::Size`].
    pub fn new(kernels: Arc<Kernels>, classes: usize, dim: usize, options: MarginOptions) -> Result<Self> {
        options.check()?;
        check::size("class centres [classes x sub_centers, dim]", &[classes, options.sub_centers, dim])?;
        check::size("class centres [classes x sub_centers]", &[classes * options.sub_centers])?;
        if classes == 0 || dim == 0 {
            return Err(Error::Size { what: "class centres [classes, dim]", sizes: vec![classes, dim] });
        }
        Ok(Self { kernels, classes, dim, options })
    }

    fn tiles(&self, batch: usize, products: Products) -> Tiles {
        match products {
            Products::Cublas => Tiles::cublas(batch, self.dim, self.classes, &self.options),
            Products::Own | Products::Faster => Tiles::new(batch, self.dim, self.classes, &self.options),
        }
    }

    /// Classes of a tile, forward and backward, with whose products ([`Products::Faster`] stands for our own).
    pub fn tile_classes(&self, batch: usize, products: Products) -> [usize; 2] {
        let tiles = self.tiles(batch, products);
        [tiles.forward, tiles.backward]
    }

    /// Device memory that a call holds beside its arguments; [`Products::Faster`] holds the more of the two. Not counted:
    /// what cuBLAS takes for itself when it is opened.
    pub fn workspace_bytes(&self, batch: usize) -> usize {
        let own = || self.bytes(batch, Products::Own);
        let cublas = || self.bytes(batch, Products::Cublas);
        match self.options.products {
            Products::Own => own(),
            Products::Cublas => cublas(),
            Products::Faster => own().max(cublas()),
        }
    }

    fn bytes(&self, batch: usize, products: Products) -> usize {
        let tiles = self.tiles(batch, products);
        let precision = self.options.precision;
        let half = 2 * precision.parts();
        let (forward, backward) = (tiles.forward * tiles.subs, tiles.backward * tiles.subs);
        let raw = 4 * tiles.parts * batch * tiles.padded;
        let stats = 8 * STATS;
        match products {
            Products::Cublas => {
                let factor = 2 * precision.pieces() * tiles.padded + 4 + 4 * batch;
                let shares = half * batch + 4 * tiles.padded;
                let phases = (forward * factor).max(backward * (factor + shares) + raw);
                let rows = self.rows(batch, &tiles, 2 * precision.pieces());
                rows + phases + Tiles::workspace(&self.options) + stats
            }
            Products::Own | Products::Faster => {
                // Two tiles take turns, unless there is but one.
                let turns = if self.classes > tiles.forward { 2 } else { 1 };
                let unit = turns * forward * (half * tiles.padded + 4);
                self.rows(batch, &tiles, half)
                    + unit
                    + backward * (half * batch + 4 * tiles.padded)
                    + raw
                    + stats
            }
        }
    }

    /// What is held of each row: its factors in the products, of which the first takes so many bytes a value, and what is
    /// known of it.
    fn rows(&self, batch: usize, tiles: &Tiles, first: usize) -> usize {
        let half = 2 * self.options.precision.parts();
        batch * ((first + half) * tiles.padded + 8 * TARGET_FIELDS + 4 * 5 + 8 * tiles.splits + 8)
    }

    /// The loss, the embeddings' gradient (`[batch, dim]`, if asked for), each row's loss (`[batch]`, if asked for),
    /// and what [`Centres`] says. Waits for the device once, at the end.
    ///
    /// Whose products it takes says [`MarginOptions::products`]; [`MarginStats::products`] tells which it took.
    ///
    /// Where the loss is not finite, or a label is no class, no centre has moved; a written gradient is then unusable.
    ///
    /// # Errors
    /// Buffers of wrong lengths or alignment, before anything is launched; [`Error::Label`]; what the driver says, and
    /// what cuBLAS says: [`Error::NoCublas`], [`Error::Cublas`]. After an error from the device centres that were to move
    /// may have moved in part.
    pub fn forward_backward<W: Storage>(
        &self,
        stream: &Arc<CudaStream>,
        batch: Batch<'_>,
        centres: Centres<'_, '_, W>,
        gradient: Option<(&mut CudaViewMut<'_, f32>, Write)>,
        per_sample: Option<&mut CudaViewMut<'_, f32>>,
    ) -> Result<MarginStats> {
        self.enqueue(stream, batch, centres, gradient, per_sample)?.wait()
    }

    /// [`forward_backward`](Self::forward_backward) without waiting: the host may go on, and give the device more, before
    /// [`Pending::wait`] tells what came of it. The buffers may be used on the same stream meanwhile. The time of a call counts
    /// for [`Products::Faster`] once it has been waited for: until then the two keep taking turns.
    ///
    /// # Errors
    /// As [`forward_backward`](Self::forward_backward), but for [`Error::Label`] and what shows only when the device
    /// has come so far.
    pub fn enqueue<W: Storage>(
        &self,
        stream: &Arc<CudaStream>,
        batch: Batch<'_>,
        centres: Centres<'_, '_, W>,
        gradient: Option<(&mut CudaViewMut<'_, f32>, Write)>,
        per_sample: Option<&mut CudaViewMut<'_, f32>>,
    ) -> Result<Pending> {
        let n = batch.labels.len();
        self.check(n, &batch, &centres, gradient.as_ref().map(|(dx, _)| dx.len()), per_sample.as_deref())?;
        let moves = !matches!(centres, Centres::Frozen(_));
        let key = Key {
            sizes: [n, self.dim, self.classes, self.options.sub_centers, self.options.tile_bytes],
            precision: self.options.precision,
            outputs: [moves, gradient.is_some()],
        };
        let pending = |stats, turn| Pending {
            stats,
            stream: stream.clone(),
            kernels: self.kernels.clone(),
            n,
            classes: self.classes,
            turn,
            key,
        };
        if n == 0 {
            return Ok(pending(None, Turn::forced(Products::Own)));
        }
        let mut turn = match self.options.products {
            Products::Faster => self.kernels.choices.begin(key, stream)?,
            products => Turn::forced(products),
        };
        let backward = gradient.is_some() || moves;
        let begun = self.forward(stream, &batch, &centres, turn.products, backward);
        let (tiles, work, prepared) = match begun {
            // Nothing has moved yet.
            Err(Error::NoCublas { .. } | Error::Cublas { .. })
                if self.options.products == Products::Faster =>
            {
                self.kernels.choices.settle(key, Products::Own);
                turn = Turn::forced(Products::Own);
                self.forward(stream, &batch, &centres, turn.products, backward)?
            }
            begun => begun?,
        };
        if backward {
            match prepared {
                Prepared::Own(own) => {
                    self.own_backward(stream, &tiles, &batch, centres, &work, *own, gradient)?;
                }
                Prepared::Cublas(x, session) => {
                    let with = With { loss: self, stream, session: &session, tiles: &tiles, batch: &batch };
                    with.backward(centres, &work, &x, gradient)?;
                }
            }
        }
        if let Some(out) = per_sample {
            stream.memcpy_dtod(&work.losses, out).map_err(Error::driver("copying the losses"))?;
        }
        turn.stop(stream)?;
        Ok(pending(Some(work.stats), turn))
    }

    /// The losses, and what the backward pass goes on with.
    fn forward<W: Storage>(
        &self,
        stream: &Arc<CudaStream>,
        batch: &Batch<'_>,
        centres: &Centres<'_, '_, W>,
        products: Products,
        backward: bool,
    ) -> Result<(Tiles, Work, Prepared<'_>)> {
        let (n, tiles) = (batch.labels.len(), self.tiles(batch.labels.len(), products));
        let session = match products {
            Products::Cublas => {
                let bytes = Tiles::workspace(&self.options);
                Some(self.kernels.cublas.session(&self.kernels, stream, bytes)?)
            }
            Products::Own | Products::Faster => None,
        };
        let mut work = self.work(stream, n, tiles.splits, centres.move_at_all())?;
        let prepared = match session {
            None => {
                let own = self.own_forward(stream, &tiles, batch, centres, &mut work, backward)?;
                Prepared::Own(Box::new(own))
            }
            Some(session) => {
                let with = With { loss: self, stream, session: &session, tiles: &tiles, batch };
                let x = with.forward(centres, &mut work)?;
                Prepared::Cublas(x, session)
            }
        };
        self.losses(stream, tiles.splits, batch, &mut work)?;
        Ok((tiles, work, prepared))
    }

    fn check<W: Storage>(
        &self,
        n: usize,
        batch: &Batch<'_>,
        centres: &Centres<'_, '_, W>,
        gradient: Option<usize>,
        per_sample: Option<&CudaViewMut<'_, f32>>,
    ) -> Result<()> {
        let values = check::size("embeddings [batch, dim]", &[n, self.dim])?;
        let all = self.classes * self.options.sub_centers * self.dim;
        check::length("the embeddings", batch.embeddings.len(), values)?;
        if let Some(weights) = batch.weights {
            check::length("the sample weights", weights.len(), n)?;
        }
        if let Some(weights) = batch.class_weights {
            check::length("the class weights", weights.len(), self.classes)?;
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
                options.check(buffer.as_ref().map(|buffer| buffer.len()), all)
            }
            Centres::Adam(w, moments, largest, options) => {
                check::length(name, w.len(), all)?;
                let largest = largest.as_ref().map_or(all, |largest| largest.len());
                options.check(&[moments[0].len(), moments[1].len(), largest], all)
            }
        }
    }
}
