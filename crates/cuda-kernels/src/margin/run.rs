use std::sync::Arc;

use cudarc::driver::{CudaStream, CudaView, CudaViewMut};

use super::Products;
use super::backward::Pass;
use super::buffers::{Halves, Pieces, STATS, TARGET_FIELDS, Work};
use super::cublas::CublasProducts;
use super::options::MarginOptions;
use super::own::OwnProducts;
use super::products::{Key, Turn};
use super::tiles::Tiles;
use crate::cublas::Session;
use crate::optimizer::{Adam, Sgd};
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

/// The embeddings' unit rows as the products want them, and with whom these are made.
enum Prepared<'a> {
    Own(Halves),
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
        // The rows of either product's factors, and what cuBLAS has beside them: a tile's logits, and its workspace.
        let (first, logits, workspace) = match products {
            Products::Cublas => (2 * precision.pieces(), 4 * batch, Tiles::workspace(&self.options)),
            Products::Own | Products::Faster => (half, 0, 0),
        };
        let row = (first + half) * tiles.padded + 8 * TARGET_FIELDS + 4 * 5 + 8 * tiles.splits + 8;
        let forward = tiles.forward * tiles.subs * (first * tiles.padded + logits + 4);
        let backward = tiles.backward
            * tiles.subs
            * (first * tiles.padded + logits + half * batch + 4 * tiles.padded + 4);
        let phases = forward.max(backward + 4 * tiles.parts * batch * tiles.padded);
        batch * row + phases + workspace + 8 * STATS + 4
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
        let n = batch.labels.len();
        self.check(n, &batch, &centres, gradient.as_ref().map(|(dx, _)| dx.len()), per_sample.as_deref())?;
        if n == 0 {
            let products = Products::Own;
            return Ok(MarginStats { value: 0.0, accuracy: 0.0, active_fraction: 0.0, products });
        }
        let moves = !matches!(centres, Centres::Frozen(_));
        let key = Key {
            sizes: [n, self.dim, self.classes, self.options.sub_centers, self.options.tile_bytes],
            precision: self.options.precision,
            outputs: [moves, gradient.is_some()],
        };
        let mut turn = match self.options.products {
            Products::Faster => self.kernels.choices.begin(key, stream)?,
            products => Turn::forced(products),
        };
        let begun = self.forward(stream, &batch, &centres, turn.products);
        let (tiles, work, prepared) = match begun {
            // Nothing has moved yet.
            Err(Error::NoCublas { .. } | Error::Cublas { .. })
                if self.options.products == Products::Faster =>
            {
                self.kernels.choices.settle(key, Products::Own);
                turn = Turn::forced(Products::Own);
                self.forward(stream, &batch, &centres, turn.products)?
            }
            begun => begun?,
        };
        if gradient.is_some() || moves {
            let pass = Pass { loss: self, stream, n, tiles, labels: batch.labels, work: &work };
            match prepared {
                Prepared::Own(x) => {
                    let mut products = OwnProducts::new(&pass, x, &batch, moves)?;
                    self.backward(&pass, &batch, centres, gradient, &mut products)?;
                }
                Prepared::Cublas(x, session) => {
                    let mut products = CublasProducts::new(&pass, &session, x, &batch, moves)?;
                    self.backward(&pass, &batch, centres, gradient, &mut products)?;
                }
            }
        }
        if let Some(out) = per_sample {
            stream.memcpy_dtod(&work.losses.slice(..n), out).map_err(Error::driver("copying the losses"))?;
        }
        let stats = stream.clone_dtoh(&work.stats).map_err(Error::launch("margin softmax"))?;
        stream.synchronize().map_err(Error::launch("margin softmax"))?;
        self.kernels.choices.end(key, &turn, stream)?;
        let bad = stats[4] as usize;
        if bad < n {
            return Err(Error::Label { row: bad, classes: self.classes });
        }
        let share = |count: f64| count / n as f64;
        Ok(MarginStats {
            value: stats[0],
            accuracy: share(stats[2]),
            active_fraction: share(stats[3]),
            products: turn.products,
        })
    }

    /// The losses, and what the backward pass goes on with.
    fn forward<W: Storage>(
        &self,
        stream: &Arc<CudaStream>,
        batch: &Batch<'_>,
        centres: &Centres<'_, '_, W>,
        products: Products,
    ) -> Result<(Tiles, Work, Prepared<'_>)> {
        match centres {
            Centres::Frozen(w) | Centres::Gradient(w, ..) => self.forward_over(stream, batch, w, products),
            Centres::Sgd(w, ..) | Centres::Adam(w, ..) => {
                self.forward_over(stream, batch, &w.as_view(), products)
            }
        }
    }

    fn forward_over<W: Storage>(
        &self,
        stream: &Arc<CudaStream>,
        batch: &Batch<'_>,
        w: &CudaView<'_, W>,
        products: Products,
    ) -> Result<(Tiles, Work, Prepared<'_>)> {
        let (n, tiles) = (batch.labels.len(), self.tiles(batch.labels.len(), products));
        let session = match products {
            Products::Cublas => {
                let bytes = Tiles::workspace(&self.options);
                Some(self.kernels.cublas.session(&self.kernels, stream, bytes)?)
            }
            Products::Own | Products::Faster => None,
        };
        let mut work = self.work(stream, n, &tiles)?;
        self.targets(stream, n, batch, w, &mut work)?;
        let prepared = match session {
            None => Prepared::Own(self.bulk(stream, n, &tiles, batch, w, &mut work)?),
            Some(session) => {
                let x = self.cublas_bulk(stream, &session, &tiles, batch, w, &mut work)?;
                Prepared::Cublas(x, session)
            }
        };
        self.losses(stream, n, tiles.splits, batch, &mut work)?;
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
