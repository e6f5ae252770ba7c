//! A loss head on an NVIDIA GPU.

mod gpu;
mod learnt;

use embedtune_cuda_kernels::margin::{self, Batch, Centres, Precision, Products};
use embedtune_cuda_kernels::{Write, triplet};
use embedtune_losses::{CentreInit, Input, Loss, MarginSoftmax, Stats, TripletMargin};
use ndarray::{ArrayViewMut2, CowArray, Ix2};

pub use gpu::Gpu;
use gpu::{Buffer, copy_rows, fill_rows};
pub use learnt::CudaOptimizer;
use learnt::Learnt;

use super::{
    CENTRES, GRADIENT, LossHead, OPTIMIZER, Parts, Update, draw_centres, matches_loss, no_centres, parts,
};
use crate::{Error, Result, State};

/// A loss whose centres and their optimizer stay in a GPU's memory. A step takes the batch's embeddings up and their
/// gradient down; the centres move tile by tile inside the loss, so that their gradient never exists as a whole (but where
/// batches are accumulated). Products are as accurate as f32's, unless [`CudaOptions`] ask for f16.
///
/// It computes what [`HostHead`](super::HostHead) does, to rounding, and writes the same state: either loads the other's.
pub struct CudaHead {
    gpu: Gpu,
    loss: CudaLoss,
    computes: Computes,
    learnt: Option<Learnt>,
    x: Buffer<f32>,
    dx: Buffer<f32>,
    labels: Buffer<u32>,
    factors: Buffer<f32>,
}

/// A loss that the kernels may compute.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum CudaLoss {
    /// ArcFace, CosFace, SphereFace, sub-centre ArcFace.
    Margin(MarginSoftmax),
    /// Triplet margin.
    Triplet(TripletMargin),
}

impl From<MarginSoftmax> for CudaLoss {
    fn from(loss: MarginSoftmax) -> Self {
        Self::Margin(loss)
    }
}

impl From<TripletMargin> for CudaLoss {
    fn from(loss: TripletMargin) -> Self {
        Self::Triplet(loss)
    }
}

impl CudaLoss {
    fn as_loss(&self) -> &dyn Loss {
        match self {
            Self::Margin(loss) => loss,
            Self::Triplet(loss) => loss,
        }
    }
}

enum Computes {
    Margin(margin::MarginSoftmax),
    Triplet(triplet::TripletMargin),
}

/// How a GPU computes a margin loss. The default is as accurate as the CPU, and gives the same bits on every run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CudaOptions {
    /// What the tensor cores multiply. Default [`Precision::F32`].
    pub precision: Precision,
    /// Whose products. Default [`Products::Own`].
    pub products: Products,
}

impl Default for CudaOptions {
    fn default() -> Self {
        Self { precision: Precision::F32, products: Products::Own }
    }
}

/// A loss that a GPU computes, checked, before its centres are drawn.
pub struct CudaPlan {
    gpu: Gpu,
    loss: CudaLoss,
    computes: Computes,
    optimizer: Option<CudaOptimizer>,
    /// Of the centres.
    shape: Option<[usize; 2]>,
}

impl CudaPlan {
    /// # Errors
    /// [`Error::Unsupported`] with the option that the kernels do not have, options other than the default for a triplet
    /// loss among them; [`Error::Device`] where cuBLAS is asked for and is not there; those of
    /// [`HostHead::new`](super::HostHead::new).
    pub fn new(
        gpu: &Gpu,
        loss: impl Into<CudaLoss>,
        optimizer: Option<CudaOptimizer>,
        options: CudaOptions,
    ) -> Result<Self> {
        let (gpu, loss) = (gpu.clone(), loss.into());
        let unsupported = |e| match e {
            embedtune_losses::Error::Option { option, value, reason } => {
                Error::Unsupported(format!("{} with {option} = {value}: {reason}", loss.as_loss().name()))
            }
            other => other.into(),
        };
        let computes = match &loss {
            CudaLoss::Margin(loss) => {
                if options.products == Products::Cublas {
                    gpu.kernels.cublas()?;
                }
                let on_gpu = loss.on_gpu(gpu.kernels.clone(), options.precision, options.products);
                Computes::Margin(on_gpu.map_err(unsupported)?)
            }
            CudaLoss::Triplet(_) if options != CudaOptions::default() => {
                let reason = "triplet losses are computed in f32 by the kernels' own products; leave precision and \
                              products out";
                return Err(Error::Unsupported(reason.to_owned()));
            }
            CudaLoss::Triplet(loss) => {
                Computes::Triplet(loss.on_gpu(gpu.kernels.clone()).map_err(unsupported)?)
            }
        };
        let shape = matches_loss(loss.as_loss(), optimizer.as_ref().map(CudaOptimizer::kind))?;
        Ok(Self { gpu, loss, computes, optimizer, shape })
    }

    /// Bytes of device memory: of the centres, their optimizer's state and, if batches are accumulated, their gradient;
    /// and of a step of `batch` embeddings of `dim` values. Not counted: the kernels' code, and what cuBLAS takes for
    /// itself.
    pub fn bytes(&self, batch: usize, dim: usize, accumulates: bool) -> [usize; 2] {
        const F32: usize = size_of::<f32>();
        let centres = self.shape.map_or(0, |[rows, dim]| rows.saturating_mul(dim).saturating_mul(F32));
        let buffers = self.optimizer.as_ref().map_or(0, |optimizer| optimizer.buffers().len());
        let held = centres.saturating_mul(1 + buffers + usize::from(accumulates));
        let scratch = match &self.computes {
            Computes::Margin(loss) => loss.workspace_bytes(batch),
            Computes::Triplet(loss) => loss.workspace_bytes(batch, dim),
        };
        // Embeddings and their gradient, labels and weights.
        let rows = batch.saturating_mul(2 * dim + 2).saturating_mul(F32);
        [held, scratch.saturating_add(rows)]
    }

    /// The GPU.
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// The head, with its centres drawn as [`draw_centres`] draws them: as those of a [`HostHead`](super::HostHead).
    ///
    /// # Errors
    /// [`Error::Device`] where the centres do not fit the GPU's memory.
    pub fn head(self, init: CentreInit, seed: u64) -> Result<CudaHead> {
        let Self { gpu, loss, computes, optimizer, shape } = self;
        let learnt = match (shape, optimizer) {
            (Some(shape), Some(optimizer)) => {
                Some(Learnt::new(&gpu, &draw_centres(init, shape, seed)?.into_dyn(), optimizer)?)
            }
            _ => None,
        };
        Ok(CudaHead {
            gpu,
            loss,
            computes,
            learnt,
            x: Buffer::new("the embeddings"),
            dx: Buffer::new("the embeddings' gradient"),
            labels: Buffer::new("the labels"),
            factors: Buffer::new("the rows' weights"),
        })
    }
}

impl CudaHead {
    /// A head with the default [`CudaOptions`], as [`CudaPlan::new`] and [`CudaPlan::head`] make one.
    ///
    /// # Errors
    /// Those of the two.
    pub fn new(
        gpu: &Gpu,
        loss: impl Into<CudaLoss>,
        optimizer: Option<CudaOptimizer>,
        init: CentreInit,
        seed: u64,
    ) -> Result<Self> {
        CudaPlan::new(gpu, loss, optimizer, CudaOptions::default())?.head(init, seed)
    }

    /// The GPU.
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }
}

impl LossHead for CudaHead {
    fn loss(&self) -> &dyn Loss {
        self.loss.as_loss()
    }

    fn step(
        &mut self,
        input: Input<'_>,
        dx: Option<ArrayViewMut2<'_, f32>>,
        update: Update,
    ) -> Result<Stats> {
        no_centres(&input)?;
        let factors = match &self.loss {
            CudaLoss::Margin(loss) => Some(loss.check_rows(&input)?),
            CudaLoss::Triplet(loss) => loss.check_rows(&input).map(|()| None)?,
        };
        if let Some(out) = dx.as_ref().filter(|dx| dx.dim() != input.embeddings.dim()) {
            return Err(Error::Loss(embedtune_losses::Error::Shape {
                what: "the embeddings' gradient",
                expected: format!("{:?}", input.embeddings.shape()),
                got: out.shape().to_vec(),
            }));
        }
        let (gpu, len) = (&self.gpu, input.embeddings.len());
        let x = fill_rows(&mut self.x, gpu, input.embeddings)?.slice(..len);
        let labels = self.labels.fill(gpu, input.labels)?.slice(..input.labels.len());
        let out = self.dx.at_least(gpu, if dx.is_some() { len } else { 0 })?;
        let stats = {
            let mut view = out.slice_mut(..if dx.is_some() { len } else { 0 });
            let view = dx.is_some().then_some(&mut view);
            match (&self.computes, &mut self.learnt) {
                (Computes::Triplet(loss), _) => {
                    let dim = input.embeddings.ncols();
                    loss.forward_backward(&gpu.stream, &x, &labels, dim, 1.0, view)?.into()
                }
                (Computes::Margin(loss), Some(learnt)) => {
                    let plain = input.sample_weights.is_none() && input.class_weights.is_none();
                    let factors = match factors.filter(|_| !plain) {
                        Some(values) => Some(self.factors.fill(gpu, &values)?.slice(..values.len())),
                        None => None,
                    };
                    let batch = Batch {
                        embeddings: &x,
                        labels: &labels,
                        weights: factors.as_ref(),
                        class_weights: None,
                        upstream: 1.0,
                    };
                    let call = |centres: Centres<'_, '_, f32>| -> Result<Stats> {
                        let gradient = view.map(|dx| (dx, Write::Overwrite));
                        Ok(loss.forward_backward(&gpu.stream, batch, centres, gradient, None)?.into())
                    };
                    margin_step(gpu, learnt, update, call)?
                }
                (Computes::Margin(_), None) => {
                    return Err(Error::Unsuitable("a margin loss has lost its class centres".to_owned()));
                }
            }
        };
        if let Some(dx) = dx {
            copy_rows(gpu, out, dx)?;
        }
        Ok(stats)
    }

    fn grad_norm(&self) -> Result<f64> {
        self.learnt.as_ref().map_or(Ok(0.0), |learnt| learnt.grad_norm(&self.gpu))
    }

    fn apply(&mut self, factor: f32) -> Result<()> {
        self.learnt.as_mut().map_or(Ok(()), |learnt| learnt.apply(&self.gpu, factor))
    }

    fn weights(&self) -> Result<Option<CowArray<'_, f32, Ix2>>> {
        let Some(learnt) = &self.learnt else { return Ok(None) };
        let centres = self.gpu.download(&learnt.centres, &learnt.shape)?;
        let matrix = centres.into_dimensionality::<Ix2>();
        Ok(Some(matrix.map_err(|e| Error::Unsuitable(e.to_string()))?.into()))
    }

    fn learning_rate(&self) -> Option<f64> {
        self.learnt.as_ref().map(Learnt::learning_rate)
    }

    fn set_learning_rate(&mut self, learning_rate: f64) -> Result<()> {
        self.learnt.as_mut().map_or(Ok(()), |learnt| learnt.set_learning_rate(learning_rate))
    }

    fn state(&self) -> Result<State> {
        self.learnt.as_ref().map_or(Ok(State::default()), |learnt| learnt.state(&self.gpu))
    }

    fn load_state(&mut self, state: &State) -> Result<()> {
        let shape = self.learnt.as_ref().map(|learnt| learnt.shape);
        let tensors = parts(state, self.loss.as_loss().name(), shape.as_ref().map(|shape| &shape[..]))?;
        match (&mut self.learnt, tensors) {
            (Some(learnt), Some(tensors)) => learnt.load(&self.gpu, &tensors, &state.part(OPTIMIZER)),
            _ => Ok(()),
        }
    }
}

/// One call of the loss, and what becomes of the centres.
fn margin_step(
    gpu: &Gpu,
    learnt: &mut Learnt,
    update: Update,
    call: impl FnOnce(Centres<'_, '_, f32>) -> Result<Stats>,
) -> Result<Stats> {
    match update {
        Update::None => call(Centres::Frozen(&learnt.centres.as_view())),
        Update::Apply if !learnt.pending => learnt.fused(gpu, call, |stats| stats.value.is_finite()),
        Update::Apply | Update::Accumulate => {
            let write = if learnt.pending { Write::Add } else { Write::Overwrite };
            let (centres, gradient) = learnt.accumulator(gpu)?;
            let (centres, mut gradient) = (centres.as_view(), gradient.as_view_mut());
            // Where the call fails the sum may be spoilt; where the loss is no number it is.
            let stats = call(Centres::Gradient(&centres, &mut gradient, write));
            learnt.pending = stats.as_ref().is_ok_and(|stats| stats.value.is_finite());
            let stats = stats?;
            if update == Update::Apply {
                learnt.apply(gpu, 1.0)?;
            }
            Ok(stats)
        }
    }
}
