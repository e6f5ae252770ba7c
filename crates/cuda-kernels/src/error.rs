use cudarc::driver::DriverError;
use cudarc::driver::sys::CUresult;
use thiserror::Error;

/// What can go wrong between a caller and its GPU. Every message says what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Error {
    /// No CUDA driver library could be loaded.
    #[error("no CUDA driver found ({reason}); install NVIDIA's driver (libcuda), or run on the CPU")]
    NoDriver {
        /// What was tried.
        reason: String,
    },
    /// The driver runs and sees no GPU.
    #[error(
        "the CUDA driver sees no GPU ({reason}); check `nvidia-smi` and CUDA_VISIBLE_DEVICES, or run on the CPU"
    )]
    NoDevice {
        /// The driver's reason.
        reason: String,
    },
    /// The driver is older than what the call needs.
    #[error("the CUDA driver is too old for {needs} ({reason}); install a driver for CUDA 12.0 or later")]
    DriverTooOld {
        /// What needs a newer one.
        needs: String,
        /// The driver's reason, or the missing function.
        reason: String,
    },
    /// The GPU lacks instructions that the kernels use.
    #[error(
        "this GPU has compute capability {}.{}, the kernels need {}.{} or later; run on the CPU",
        capability.0, capability.1, needs.0, needs.1
    )]
    DeviceTooOld {
        /// The GPU's.
        capability: (i32, i32),
        /// The lowest that will do.
        needs: (i32, i32),
    },
    /// A buffer of another length than the sizes say.
    #[error("{what} must have {expected} values, got {got}")]
    Length {
        /// Which buffer.
        what: &'static str,
        /// The length it must have.
        expected: usize,
        /// The length it has.
        got: usize,
    },
    /// A buffer that starts where vector loads cannot.
    #[error(
        "{what} must start at a multiple of {needs} bytes, it starts {past} past one; copy the view into its own slice"
    )]
    Alignment {
        /// Which buffer.
        what: &'static str,
        /// Bytes of which its address must be a multiple.
        needs: usize,
        /// Bytes it lies past one.
        past: usize,
    },
    /// Sizes that the kernels cannot index.
    #[error("{what} of {sizes:?} is beyond what the kernels index; each size must be below 2^31")]
    Size {
        /// Of what.
        what: &'static str,
        /// The sizes.
        sizes: Vec<usize>,
    },
    /// A label that is no class.
    #[error("row {row}: its label is not below the number of classes, {classes}")]
    Label {
        /// The first such row.
        row: usize,
        /// The number of classes.
        classes: usize,
    },
    /// An option out of range.
    #[error("{option} = {value}: {reason}")]
    Option {
        /// The option.
        option: &'static str,
        /// Its value.
        value: String,
        /// The range.
        reason: &'static str,
    },
    /// The GPU's memory is used up.
    #[error("out of GPU memory: {action}; use a smaller batch, or free memory that other programs hold")]
    OutOfMemory {
        /// What was being allocated, with its size.
        action: String,
    },
    /// cuBLAS was asked for by name, and cannot be had.
    #[error(
        "cuBLAS was asked for and is not here ({reason}); put the folder of libcublas.so.13 or .12 on LD_LIBRARY_PATH, \
         or compute by the kernels' own products (Products::Own)"
    )]
    NoCublas {
        /// What was tried.
        reason: String,
    },
    /// cuBLAS reports a failure.
    #[error("{action} cuBLAS failed: {reason}; take Products::Own to compute without it")]
    Cublas {
        /// What was attempted.
        action: &'static str,
        /// The name of its status.
        reason: String,
    },
    /// A kernel did not start or did not finish.
    #[error("kernel {kernel} failed on the GPU: {reason}")]
    Launch {
        /// The kernel.
        kernel: String,
        /// The driver's reason.
        reason: String,
    },
    /// Anything else that the driver reports.
    #[error("the CUDA driver refused {action}: {reason}")]
    Driver {
        /// What was attempted.
        action: String,
        /// The driver's reason.
        reason: String,
    },
}

/// This crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// For `map_err`: what the driver answered to `action` ("allocating 512 MB for the centres").
    pub fn driver(action: &str) -> impl FnOnce(DriverError) -> Self {
        move |DriverError(code)| {
            let (action, reason) = (action.to_owned(), format!("{code:?}"));
            match code {
                CUresult::CUDA_ERROR_STUB_LIBRARY => Self::NoDriver { reason },
                CUresult::CUDA_ERROR_NO_DEVICE => Self::NoDevice { reason },
                CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION
                | CUresult::CUDA_ERROR_SYSTEM_DRIVER_MISMATCH
                | CUresult::CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE => {
                    Self::DriverTooOld { needs: action, reason }
                }
                CUresult::CUDA_ERROR_OUT_OF_MEMORY => Self::OutOfMemory { action },
                _ => Self::Driver { action, reason },
            }
        }
    }

    /// For `map_err`: what the driver answered to the launch of `kernel`, or to the synchronisation after it.
    pub fn launch(kernel: &str) -> impl FnOnce(DriverError) -> Self {
        move |error| match Self::driver(kernel)(error) {
            Self::Driver { action: kernel, reason } => Self::Launch { kernel, reason },
            other => other,
        }
    }

    /// cudarc panics where the library or one of its functions is missing.
    pub(crate) fn panicked(message: &str) -> Self {
        let reason = message.lines().next().unwrap_or_default().to_owned();
        if message.contains("Missing symbol") {
            Self::DriverTooOld { needs: "looking for GPUs".to_owned(), reason }
        } else {
            Self::NoDriver { reason }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_becomes_the_error_that_helps() {
        for (code, expected) in [
            (CUresult::CUDA_ERROR_STUB_LIBRARY, "no CUDA driver found (CUDA_ERROR_STUB_LIBRARY)"),
            (CUresult::CUDA_ERROR_NO_DEVICE, "sees no GPU (CUDA_ERROR_NO_DEVICE)"),
            (CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION, "too old for gem_forward"),
            (CUresult::CUDA_ERROR_OUT_OF_MEMORY, "out of GPU memory: gem_forward"),
            (
                CUresult::CUDA_ERROR_LAUNCH_FAILED,
                "kernel gem_forward failed on the GPU: CUDA_ERROR_LAUNCH_FAILED",
            ),
        ] {
            let message = Error::launch("gem_forward")(DriverError(code)).to_string();
            assert!(message.contains(expected), "{message}");
        }
        let refused = Error::driver("making a stream")(DriverError(CUresult::CUDA_ERROR_NOT_PERMITTED));
        assert_eq!(refused.to_string(), "the CUDA driver refused making a stream: CUDA_ERROR_NOT_PERMITTED");
    }

    #[test]
    fn a_panic_of_the_loader_is_told_apart() {
        let missing = Error::panicked("Unable to dynamically load the \"cuda\" shared library - searched");
        assert!(matches!(missing, Error::NoDriver { .. }));
        let old = Error::panicked("Missing symbol cuMemAllocAsync: undefined");
        assert!(matches!(old, Error::DriverTooOld { .. }));
    }
}
