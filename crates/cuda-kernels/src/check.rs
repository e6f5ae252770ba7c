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

/// Whether a buffer starts at a multiple of so many bytes.
pub(crate) fn is_multiple_of<T>(bytes: usize, buffer: &impl DevicePtr<T>, stream: &CudaStream) -> bool {
    let (pointer, _read) = buffer.device_ptr(stream);
    (pointer as usize).is_multiple_of(bytes)
}

/// A size that [`size`] let pass, as kernels take it.
pub(crate) fn int(size: usize) -> i32 {
    i32::try_from(size).unwrap_or(i32::MAX)
}

/// An option that the kernels take in f32: a number there as well, and not 0 unless it is.
pub(crate) fn single(option: &'static str, value: f64) -> Result<()> {
    let narrow = value as f32;
    if narrow.is_finite() && (narrow == 0.0) == (value == 0.0) {
        return Ok(());
    }
    let reason = "the kernels take it in f32: give 0, or a number whose size is from 1e-45 to 3.4e38";
    Err(Error::Option { option, value: format!("{value:e}"), reason })
}

/// A learning rate: finite in f32, where one too small for it moves nothing, as the end of a schedule may.
pub(crate) fn rate(value: f64) -> Result<()> {
    if (value as f32).is_finite() {
        return Ok(());
    }
    let reason = "the kernels take it in f32: give a number, at most 3.4e38; 1e-3 to 0.1 is usual";
    Err(Error::Option { option: "rate", value: format!("{value:e}"), reason })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_f32_cannot_hold_is_refused() {
        for value in [0.0, -0.0, 1e-45, -1e-45, 3.4e38, 0.05] {
            assert_eq!(single("eps", value), Ok(()), "{value}");
        }
        for value in [1e-46, -1e-300, 3.5e38, f64::NAN, f64::INFINITY] {
            let message = single("eps", value).unwrap_err().to_string();
            assert!(message.starts_with(&format!("eps = {value:e}: ")), "{message}");
        }
        assert_eq!(rate(1e-300), Ok(()));
        assert!(rate(1e39).is_err() && rate(f64::NAN).is_err());
    }
}
