//! Between 16-bit storage and the f32 that embeddings have in the losses.

use std::sync::Arc;

use cudarc::driver::{CudaStream, CudaView, CudaViewMut};

use crate::kernels::{Arg, Args, Shape};
use crate::{Kernels, Result, Storage, check};

/// Writes `from`'s values as f32 to `to`, exactly. Does not wait for the device.
///
/// # Errors
/// Buffers of different lengths; what the driver says.
pub fn widen<T: Storage>(
    kernels: &Kernels,
    stream: &Arc<CudaStream>,
    from: &CudaView<'_, T>,
    to: &mut CudaViewMut<'_, f32>,
) -> Result<()> {
    check::length("the widened values", to.len(), from.len())?;
    let len = from.len();
    convert(kernels, stream, &format!("widen_{}", T::SUFFIX), len, |args| {
        args.read(from, stream).write(to, stream)
    })
}

/// Writes `from`'s values, rounded to nearest even, to `to`. Does not wait for the device.
///
/// # Errors
/// Buffers of different lengths; what the driver says.
pub fn narrow<T: Storage>(
    kernels: &Kernels,
    stream: &Arc<CudaStream>,
    from: &CudaView<'_, f32>,
    to: &mut CudaViewMut<'_, T>,
) -> Result<()> {
    check::length("the narrowed values", to.len(), from.len())?;
    let len = from.len();
    convert(kernels, stream, &format!("narrow_{}", T::SUFFIX), len, |args| {
        args.read(from, stream).write(to, stream)
    })
}

fn convert<'a>(
    kernels: &Kernels,
    stream: &Arc<CudaStream>,
    name: &str,
    len: usize,
    buffers: impl FnOnce(Args<'a>) -> Args<'a>,
) -> Result<()> {
    if len == 0 {
        return Ok(());
    }
    let args = buffers(Args::default()).arg(Arg::Long(len as i64));
    kernels.launch(stream, name, Shape::blocks([len.div_ceil(256), 1, 1], 256), args)
}
