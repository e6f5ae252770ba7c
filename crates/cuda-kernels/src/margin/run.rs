use std::sync::Arc;

use cudarc::driver::{CudaStream, CudaView, CudaViewMut};

use super::buffers::{STATS, TARGET_FIELDS};
use super::options::MarginOptions;
use super::tiles::Tiles;
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

    pub(super) fn tiles(&self, batch: usize) -> Tiles {
        Tiles::new(batch, self.dim, self.classes, &self.options)
    }

    /// Device memory that a call holds beside its arguments.
    pub fn workspace_bytes(&self, batch: usize) -> usize {
        let tiles = self.tiles(batch);
        let half = 2 * self.options.precision.parts();
        let rows = batch * (half * tiles.padded * 2 + 8 * TARGET_FIELDS + 4 * 5 + 8 * tiles.splits + 8);
        let forward = tiles.forward * tiles.subs * (half * tiles.padded + 4);
        let backward = tiles.backward * tiles.subs * (half * (tiles.padded + batch) + 4 * tiles.padded + 4);
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
        self.check(n, &batch, &centres, gradient.as_ref().map(|(dx, _)| dx.len()), per_sample.as_deref())?;
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
