//! The losses on an NVIDIA GPU (feature `cuda`), for embeddings that already lie in its memory.
//!
//! A loss with the options of this crate becomes one of [`kernels`] (`embedtune-cuda-kernels`), which takes device slices
//! and a stream. What the kernels cannot do is refused there and then, with the option's name; values and gradients agree
//! with the CPU's to rounding (tested), not bit by bit.
//!
//! ```no_run
//! use std::sync::Arc;
//!
//! use embedtune_losses::cuda::kernels::Kernels;
//! use embedtune_losses::cuda::kernels::margin::{Batch, Centres, Precision, Products};
//! use embedtune_losses::{MarginOptions, MarginSoftmax, Stats};
//!
//! let context = embedtune_losses::cuda::kernels::context(0)?; // no driver, no GPU: an error that says so
//! let stream = context.new_stream()?;
//! let kernels = Arc::new(Kernels::new(&context)?);
//! let loss = MarginSoftmax::new(1000, 128, MarginOptions::arcface())?;
//! let loss = loss.on_gpu(kernels, Precision::F32, Products::Own)?;
//!
//! let (x, w) = (stream.clone_htod(&vec![0.1f32; 64 * 128])?, stream.clone_htod(&vec![0.2f32; 1000 * 128])?);
//! let y = stream.clone_htod(&[7u32; 64])?;
//! let (mut dx, mut dw) = (stream.alloc_zeros::<f32>(64 * 128)?, stream.alloc_zeros::<f32>(1000 * 128)?);
//! let batch = Batch { embeddings: &x.as_view(), labels: &y.as_view(), weights: None, class_weights: None, upstream: 1.0 };
//! let (w, mut dw, mut dx) = (w.as_view(), dw.as_view_mut(), dx.as_view_mut());
//! let centres = Centres::Gradient(&w, &mut dw, Default::default());
//! let stats = loss.forward_backward(&stream, batch, centres, Some((&mut dx, Default::default())), None)?;
//! println!("loss {}", Stats::from(stats).value);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::sync::Arc;

pub use embedtune_cuda_kernels as kernels;
use embedtune_cuda_kernels::margin::{self, MarginStats, Precision, Products};
use embedtune_cuda_kernels::triplet::{self, TripletStats};
use embedtune_cuda_kernels::{Error as CudaError, Kernels};

use crate::check;
use crate::{
    Distance, Edge, Error, Input, Margin, MarginGradient, MarginSoftmax, Miner, Reduction, Result, Stats,
    TripletKind, TripletMargin,
};

/// An option that the kernels do not have.
fn lacks(option: &'static str, value: impl ToString, reason: &str) -> Error {
    Error::Option { option, value: value.to_string(), reason: reason.to_owned() }
}

impl MarginSoftmax {
    /// This loss on the GPU that `kernels` are for. Beside the arguments it holds about 64 MiB of device memory, or
    /// `logits_budget_bytes` where that is less.
    ///
    /// # Errors
    /// [`Error::Option`] for more than 16 centres a class.
    pub fn on_gpu(
        &self,
        kernels: Arc<Kernels>,
        precision: Precision,
        products: Products,
    ) -> Result<margin::MarginSoftmax> {
        let options = self.options();
        let margin = match options.margin {
            Margin::Arc { angle, edge, gradient } => margin::Margin::Arc {
                radians: angle.as_radians(),
                edge: match edge {
                    Edge::Jump => margin::Edge::Jump,
                    Edge::Continuous => margin::Edge::Continuous,
                    Edge::None => margin::Edge::None,
                },
                straight_through: gradient == MarginGradient::StraightThrough,
            },
            Margin::Cos { cosine } => margin::Margin::Cos { cosine },
            Margin::Sphere { multiplier } => margin::Margin::Sphere { multiplier },
        };
        let plain = margin::MarginOptions::new(margin);
        let tile_bytes = plain.tile_bytes.min(options.logits_budget_bytes);
        let (scale, sub_centers) = (options.scale, options.sub_centers);
        let options = margin::MarginOptions { scale, sub_centers, precision, products, tile_bytes, ..plain };
        let [classes, dim] = self.sizes();
        Ok(margin::MarginSoftmax::new(kernels, classes, dim, options)?)
    }

    /// What [`Loss::forward_backward`](crate::Loss::forward_backward) would refuse of `input`, its class centres apart;
    /// for whoever computes this loss on a GPU. Returns the factor of each row's loss: sample weight times class weight.
    ///
    /// # Errors
    /// Shapes that do not fit, labels out of range (with the row), values that are not finite, a reference; a factor that is
    /// no number of `f32`, which the kernels hold it in: too large, or so small that it would be 0 or lose digits.
    pub fn check_rows(&self, input: &Input<'_>) -> Result<Vec<f32>> {
        let [classes, dim] = self.sizes();
        check::matrix("embeddings", &input.embeddings, Some(input.labels.len()), dim)?;
        check::labels(input.labels, classes)?;
        check::no_reference(input)?;
        let narrow = |(row, factor): (usize, f64)| {
            let narrow = factor as f32;
            // Infinity, and below 1e-38 zero or what has lost digits, are further away than a rounding.
            if (f64::from(narrow) - factor).abs() <= factor * f64::from(f32::EPSILON) {
                return Ok(narrow);
            }
            let reason = "sample weight times class weight has to be a number of f32 on the GPU, 0 or from 1.2e-38 to \
                          3.4e38; divide the weights by the largest of them, use 0 to leave a row out, or compute on the \
                          CPU";
            Err(lacks("sample_weights", format!("{factor:e} with the class's weight in row {row}"), reason))
        };
        check::factors(input)?.into_iter().enumerate().map(narrow).collect()
    }
}

impl TripletMargin {
    /// This loss on the GPU that `kernels` are for.
    ///
    /// # Errors
    /// [`Error::Option`] for `swap` or `smooth` with [`Miner::BatchHard`], and for a miner whose distances (those of unit
    /// vectors) are not the loss's. With `swap` a batch must fit 512 MiB, at 8 bytes a pair: 8,192 rows.
    pub fn on_gpu(&self, kernels: Arc<Kernels>) -> Result<triplet::TripletMargin> {
        let options = self.options();
        let miner = match options.miner {
            Miner::All => triplet::Miner::None,
            Miner::BatchHard => triplet::Miner::BatchHard,
            Miner::TripletMargin { margin, kind } => match kind {
                TripletKind::All => triplet::Miner::All(margin),
                TripletKind::Hard => triplet::Miner::Hard,
                TripletKind::Semihard => triplet::Miner::Semihard(margin),
                TripletKind::Easy => triplet::Miner::Easy(margin),
            },
        };
        // Miners compare L2 distances of unit vectors. Whether one is above another the other distances of unit vectors
        // say as well, by how much only this one.
        let order_alone =
            matches!(miner, triplet::Miner::None | triplet::Miner::Hard | triplet::Miner::BatchHard);
        if miner != triplet::Miner::None
            && !(options.normalize && (order_alone || options.distance == Distance::L2))
        {
            let reason = "on the GPU this miner needs distance = l2 and normalize = true; write them, or compute \
                          this loss on the CPU";
            return Err(lacks("miner", "given", reason));
        }
        let options = triplet::TripletOptions {
            margin: options.margin,
            distance: match options.distance {
                Distance::L2 => triplet::Distance::L2,
                Distance::SquaredL2 => triplet::Distance::SquaredL2,
                Distance::Cosine => triplet::Distance::Cosine,
            },
            normalize: options.normalize,
            swap: options.swap,
            smooth: options.smooth,
            reduction: match options.reduction {
                Reduction::Mean => triplet::Reduction::Mean,
                Reduction::MeanNonZero => triplet::Reduction::MeanNonZero,
                Reduction::Sum => triplet::Reduction::Sum,
            },
            miner,
            ..triplet::TripletOptions::default()
        };
        Ok(triplet::TripletMargin::new(kernels, options)?)
    }

    /// What the GPU kernels would have to refuse of `input`, and what
    /// [`Loss::forward_backward`](crate::Loss::forward_backward) would.
    ///
    /// # Errors
    /// Shapes that do not fit, values that are not finite; a reference or weights, which the kernels do not take.
    pub fn check_rows(&self, input: &Input<'_>) -> Result<()> {
        let dim = input.embeddings.ncols();
        check::matrix("embeddings", &input.embeddings, Some(input.labels.len()), dim)?;
        let cpu = "the GPU kernels take none with this loss; leave it out, or compute on the CPU";
        if let Some(reference) = input.reference {
            return Err(lacks("reference", format!("{} rows", reference.labels.len()), cpu));
        }
        if input.sample_weights.is_some() {
            return Err(lacks("sample_weights", "given", cpu));
        }
        if input.class_weights.is_some() {
            return Err(lacks("class_weights", "given", cpu));
        }
        Ok(())
    }
}

impl From<MarginStats> for Stats {
    fn from(stats: MarginStats) -> Self {
        Self {
            value: stats.value,
            active_fraction: stats.active_fraction,
            zero_signal: stats.active_fraction == 0.0,
            accuracy: Some(stats.accuracy),
            ..Self::default()
        }
    }
}

impl From<TripletStats> for Stats {
    fn from(stats: TripletStats) -> Self {
        Self {
            value: stats.value,
            active_fraction: stats.active as f64 / stats.triplets.max(1) as f64,
            triplets: stats.triplets,
            active_triplets: stats.active,
            zero_signal: stats.active == 0,
            ..Self::default()
        }
    }
}

impl From<CudaError> for Error {
    fn from(error: CudaError) -> Self {
        match error {
            CudaError::Option { option, value, reason } => lacks(option, value, reason),
            other => Self::Cuda(other),
        }
    }
}
