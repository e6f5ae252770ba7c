//! What is known before a launch.

use cudarc::driver::{CudaStream, DevicePtr};

use crate::{Error, Result};

/// Bytes that vector loads take at once.
pub(crate) const ALIGNMENT: usize = 16;

/// A buffer of exactly `expected` values.
pub(crate) fn length(what: &'static str, got: usize, expected: usize) -> Result<()> {
    if got == expected { Ok(()) } else { Err(Error::Length { what, expected, got }) }
}

/// A product of sizes that the kernels can index: each at most `i32::MAX`, the product in `isize`.
pub(crate) fn size(what: &'static str, sizes: &[usize]) -> Result<usize> {
    let fits = sizes.iter().all(|&size| size <= i32::MAX as usize);
    let product = sizes.iter().try_fold(size_of::<f64>(), |product, &size| product.checked_mul(size));
    match product {
        Some(bytes) if fits && bytes <= isize::MAX as usize => Ok(bytes / size_of::<f64>()),
        _ => Err(Error::Size { what, sizes: sizes.to_vec() }),
    }
}

/// A buffer that starts at a multiple of [`ALIGNMENT`]: a view may start anywhere in its slice.
pub(crate) fn aligned<T>(what: &'static str, buffer: &impl DevicePtr<T>, stream: &CudaStream) -> Result<()> {
    let (pointer, _read) = buffer.device_ptr(stream);
    let past = pointer as usize % ALIGNMENT;
    if past == 0 { Ok(()) } else { Err(Error::Alignment { what, needs: ALIGNMENT, past }) }
}

/// A size that [`size`] let pass, as kernels take it.
pub(crate) fn int(size: usize) -> i32 {
    i32::try_from(size).unwrap_or(i32::MAX)
}
