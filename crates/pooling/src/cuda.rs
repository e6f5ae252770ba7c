//! Pooling on an NVIDIA GPU (feature `cuda`), of values that already lie in its memory, in f32, f16 or bf16.
//!
//! Options of this crate become those of [`kernels`] (`embedtune-cuda-kernels`), whose `pooling::forward` and `backward` take
//! device slices and a stream. Values and gradients agree with the CPU's to rounding (tested), not bit by bit.
//!
//! ```no_run
//! use embedtune_pooling::GemOptions;
//! use embedtune_pooling::cuda::kernels::pooling::{Layout, backward, forward};
//! use embedtune_pooling::cuda::kernels::{Kernels, context};
//!
//! let context = context(0)?; // no driver, no GPU: an error that says so
//! let (stream, kernels) = (context.new_stream()?, Kernels::new(&context)?);
//! let (x, p) = (stream.clone_htod(&vec![0.5f32; 8 * 16 * 49])?, stream.clone_htod(&[3.0f32])?);
//! let (x, p) = (x.as_view(), p.as_view());
//! let gem = GemOptions::default().build()?.on_gpu(&p, true);
//! let maps = Layout::Maps { batch: 8, channels: 16, length: 49 };
//! let (mut y, mut dx, mut d_p) =
//!     (stream.alloc_zeros::<f32>(128)?, stream.alloc_zeros::<f32>(8 * 16 * 49)?, stream.alloc_zeros::<f32>(1)?);
//! let saved = forward(&kernels, &stream, &x, maps, gem, &mut y.as_view_mut())?;
//! let (dy, mut dx, mut d_p) = (y.as_view(), dx.as_view_mut(), d_p.as_view_mut());
//! backward(&kernels, &stream, &x, maps, gem, &saved, &dy, Some(&mut dx), Some(&mut d_p))?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub use embedtune_cuda_kernels as kernels;
use embedtune_cuda_kernels::cudarc::driver::CudaView;
use embedtune_cuda_kernels::pooling::{Pooling, Sign as CudaSign};

use crate::{Gem, PoolerKind, Sign};

impl Gem {
    /// GeM with these options and the powers `p` (one for all channels or one for each, below 0.1 as 0.1).
    pub fn on_gpu<'a>(&self, p: &'a CudaView<'a, f32>, learnable: bool) -> Pooling<'a> {
        let sign = match self.sign {
            Sign::Clamp => CudaSign::Clamp,
            Sign::Shift => CudaSign::Shift,
            Sign::Signed => CudaSign::Signed,
        };
        Pooling::Gem { p, eps: self.eps, sign, learnable }
    }
}

impl PoolerKind {
    /// This pooling with GeM's options and powers, which the others do not look at.
    pub fn on_gpu<'a>(self, gem: &Gem, p: &'a CudaView<'a, f32>, learnable: bool) -> Pooling<'a> {
        match self {
            Self::GeM => gem.on_gpu(p, learnable),
            Self::Avg => Pooling::Average,
            Self::Max => Pooling::Maximum,
        }
    }
}
