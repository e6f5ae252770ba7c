use std::any::Any;
use std::env::consts::{DLL_PREFIX, DLL_SUFFIX};
use std::error::Error as _;
use std::ptr::from_mut;
use std::sync::{Arc, OnceLock};

use cudarc::driver::sys::CUmemPool_attribute;
use cudarc::driver::{CudaContext, result};

use crate::{Error, Result};

/// A GPU that the driver offers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Its number, from 0: what `CudaContext::new` takes.
    pub ordinal: usize,
    /// Its name.
    pub name: String,
}

/// Whether there is a driver and at least one GPU. As [`devices`], without the reason.
pub fn is_available() -> bool {
    devices().is_ok()
}

/// The GPUs of this machine, at least one. The driver is asked once for the process; later calls repeat its answer.
///
/// # Errors
/// [`Error::NoDriver`], [`Error::NoDevice`], [`Error::DriverTooOld`], or [`Error::Driver`] for anything else.
pub fn devices() -> Result<&'static [Device]> {
    static FOUND: OnceLock<Result<Vec<Device>>> = OnceLock::new();
    match FOUND.get_or_init(probe) {
        Ok(devices) => Ok(devices),
        Err(error) => Err(error.clone()),
    }
}

/// The GPU of this number, as [`devices`] counts them. Where there is no driver, `CudaContext::new` panics; this says
/// what is missing.
///
/// The memory pool that the device currently has keeps up to 256 MiB of what is freed from now on, for whoever in this process
/// allocates from it next, so that calls do not map their memory anew: the pool is the device's, not this context's. One that
/// keeps more already stays as it is. A program that wants another bound sets the pool's
/// `CU_MEMPOOL_ATTR_RELEASE_THRESHOLD` afterwards, or gives [`Kernels`](crate::Kernels) a context of its own making instead
/// of calling this.
///
/// # Errors
/// Those of [`devices`]; [`Error::Option`] for a number beyond the last GPU; what the driver says of it.
pub fn context(ordinal: usize) -> Result<Arc<CudaContext>> {
    if ordinal >= devices()?.len() {
        let reason = "there are fewer GPUs; 0 is the first, and `devices` lists them";
        return Err(Error::Option { option: "ordinal", value: ordinal.to_string(), reason });
    }
    let context = CudaContext::new(ordinal).map_err(Error::driver("opening the GPU"))?;
    keep_memory(&context);
    Ok(context)
}

/// Bytes that the GPU's memory pool keeps of what was freed when the host waits for the device.
const KEPT: u64 = 256 << 20;

/// Has the pool keep up to [`KEPT`] bytes, unless it keeps more already: as the driver sets it up it gives all back whenever
/// the host waits, and each call would have its memory mapped anew. Where that is refused, calls are slower, no more.
#[expect(unsafe_code, reason = "calls of the driver that cudarc does not wrap")]
fn keep_memory(context: &Arc<CudaContext>) {
    if !context.has_async_alloc() {
        return;
    }
    let attribute = CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
    let (mut keeps, mut kept) = (0u64, KEPT);
    // SAFETY: the device is the context's, the pool the device's; the attribute is a u64.
    unsafe {
        let Ok(pool) = result::device::get_mem_pool(context.cu_device()) else { return };
        let found = result::mem_pool::get_attribute(pool, attribute, from_mut(&mut keeps).cast());
        if found.is_ok() && keeps < KEPT {
            let _slower = result::mem_pool::set_attribute(pool, attribute, from_mut(&mut kept).cast());
        }
    }
}

/// The names under which drivers install their library; each is among those that cudarc tries.
fn driver_libraries() -> [String; 3] {
    [
        format!("{DLL_PREFIX}cuda{DLL_SUFFIX}.1"),
        format!("{DLL_PREFIX}cuda{DLL_SUFFIX}"),
        format!("{DLL_PREFIX}nvcuda{DLL_SUFFIX}"),
    ]
}

fn probe() -> Result<Vec<Device>> {
    // cudarc panics where it finds no library, which would end a program built with `panic = "abort"`.
    find(&driver_libraries())?;
    // A library of that name that is no driver still makes it panic.
    std::panic::catch_unwind(ask).unwrap_or_else(|payload| Err(Error::panicked(message(payload.as_ref()))))
}

/// Whether one of `names` can be loaded.
fn find(names: &[String]) -> Result<()> {
    let mut tried = Vec::with_capacity(names.len());
    for name in names {
        // SAFETY: loading runs the library's initialisers. Under these names, on the system's search path, stands
        // NVIDIA's driver, which any program may load, and which cudarc is about to load in the same way.
        #[expect(unsafe_code, reason = "the only way to learn whether a shared library is there")]
        let library = unsafe { libloading::Library::new(name) };
        match library {
            Ok(_) => return Ok(()),
            // The loader's own reason names the file; without one the name must do.
            Err(error) => tried.push(error.source().map_or_else(|| name.clone(), ToString::to_string)),
        }
    }
    Err(Error::NoDriver { reason: tried.join("; ") })
}

fn ask() -> Result<Vec<Device>> {
    let action = "looking for GPUs";
    let count = CudaContext::device_count().map_err(Error::driver(action))?;
    let devices: Vec<Device> = (0..count)
        .map(|ordinal| {
            let device = result::device::get(ordinal).map_err(Error::driver(action))?;
            let name = result::device::get_name(device).map_err(Error::driver(action))?;
            Ok(Device { ordinal: ordinal as usize, name })
        })
        .collect::<Result<_>>()?;
    if devices.is_empty() {
        return Err(Error::NoDevice { reason: "0 devices".to_owned() });
    }
    Ok(devices)
}

fn message(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("the driver library panicked")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_probe_answers_once_and_never_panics() {
        let first = devices();
        assert_eq!(first, devices());
        assert_eq!(is_available(), first.is_ok());
        match first {
            Ok(devices) => {
                assert!(!devices.is_empty() && devices.iter().enumerate().all(|(i, d)| d.ordinal == i));
            }
            Err(error) => {
                assert_eq!(context(0).map(drop), Err(error.clone()));
                println!("no GPU here: {error}");
                assert!(std::env::var_os("EMBEDTUNE_REQUIRE_GPU").is_none(), "a GPU was required: {error}");
                assert!(matches!(
                    error,
                    Error::NoDriver { .. } | Error::NoDevice { .. } | Error::DriverTooOld { .. }
                ));
            }
        }
    }

    #[test]
    fn a_panic_is_read_whatever_it_carries() {
        assert_eq!(message(&"text"), "text");
        assert_eq!(message(&"owned".to_owned()), "owned");
        assert_eq!(message(&7), "the driver library panicked");
    }

    #[test]
    fn a_missing_library_is_named() {
        let error = find(&["libembedtune_no_such_driver.so".to_owned()]).unwrap_err();
        assert!(matches!(error, Error::NoDriver { .. }));
        let message = error.to_string();
        for part in ["no CUDA driver found", "libembedtune_no_such_driver.so", "install NVIDIA's driver"] {
            assert!(message.contains(part), "{message}");
        }
    }
}
