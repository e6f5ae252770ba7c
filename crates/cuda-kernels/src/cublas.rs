//! cuBLAS, loaded when it is first wanted: nothing of it is needed to build, and a machine without it runs the products of
//! our own kernels. One function of it is called, `cublasGemmStridedBatchedEx`, whose arguments are the same in CUDA 12
//! and 13.

use std::ffi::{c_int, c_void};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use cudarc::driver::sys::CUstream;
use cudarc::driver::{CudaContext, CudaStream, DevicePtr, DevicePtrMut};
use libloading::Library;

use crate::scratch::Scratch;
use crate::{Error, Kernels, Result, check};

/// The names under which NVIDIA installs it, and the major version that each holds. The newest first; one that does not
/// start with the driver that is there gives way to the next.
#[cfg(windows)]
const NAMES: [(&str, c_int); 2] = [("cublas64_13.dll", 13), ("cublas64_12.dll", 12)];
#[cfg(not(windows))]
const NAMES: [(&str, c_int); 2] = [("libcublas.so.13", 13), ("libcublas.so.12", 12)];

type Raw = *mut c_void;

// cublas_api.h and library_types.h.
const ALLOC_FAILED: c_int = 3;
const PLAIN: c_int = 0;
const TRANSPOSED: c_int = 1;
const F32: c_int = 0;
const F16: c_int = 2;
const COMPUTE_32F: c_int = 68;
const DEFAULT_ALGORITHM: c_int = -1;
/// Partial sums are added in f32, not rounded to f16 in between.
const NO_REDUCED_PRECISION: c_int = 16;
const MAJOR_VERSION: c_int = 0;

/// Its functions, as its header declares them.
#[derive(Clone, Copy)]
struct Functions {
    create: unsafe extern "C" fn(*mut Raw) -> c_int,
    destroy: unsafe extern "C" fn(Raw) -> c_int,
    set_stream: unsafe extern "C" fn(Raw, CUstream) -> c_int,
    set_workspace: unsafe extern "C" fn(Raw, *mut c_void, usize) -> c_int,
    set_math_mode: unsafe extern "C" fn(Raw, c_int) -> c_int,
    multiply: Multiply,
}

type Multiply = unsafe extern "C" fn(
    Raw,
    c_int,
    c_int,
    c_int,
    c_int,
    c_int,
    *const f32,
    *const c_void,
    c_int,
    c_int,
    i64,
    *const c_void,
    c_int,
    c_int,
    i64,
    *const f32,
    *mut c_void,
    c_int,
    c_int,
    i64,
    c_int,
    c_int,
    c_int,
) -> c_int;

/// A library of `NAMES`, loaded once for the process and kept: CUDA's libraries do not survive being unloaded. Or why
/// there is none.
fn library(at: usize) -> &'static Result<Functions, String> {
    static LIBRARIES: [OnceLock<Result<Functions, String>>; NAMES.len()] =
        [const { OnceLock::new() }; NAMES.len()];
    let (name, major) = NAMES[at];
    LIBRARIES[at].get_or_init(|| load(name, major))
}

#[expect(unsafe_code, reason = "the only way to find and to call a shared library's functions")]
fn load(name: &str, major: c_int) -> Result<Functions, String> {
    // SAFETY: loading runs the library's initialisers. Under this name, on the system's search path, stands NVIDIA's
    // library, which any program may load.
    let library = unsafe { Library::new(name) }.map_err(|error| {
        std::error::Error::source(&error).map_or_else(|| name.to_owned(), ToString::to_string)
    })?;
    // Never dropped, so that the pointers below stay good.
    let library: &'static Library = Box::leak(Box::new(library));
    fn find<F: Copy>(library: &'static Library, name: &str) -> Result<F, String> {
        // SAFETY: each is called with the types that the header gives it, which are the fields' of `Functions`.
        let found = unsafe { library.get::<F>(name.as_bytes()) };
        found.map(|symbol| *symbol).map_err(|_| format!("the library has no {name}"))
    }
    type Property = unsafe extern "C" fn(c_int, *mut c_int) -> c_int;
    let property: Property = find(library, "cublasGetProperty")?;
    let mut found = 0;
    // SAFETY: writes one number.
    let status = unsafe { property(MAJOR_VERSION, &raw mut found) };
    if status != 0 || found != major {
        return Err(format!("{name} says that it is version {found} ({})", status_name(status)));
    }
    Ok(Functions {
        create: find(library, "cublasCreate_v2")?,
        destroy: find(library, "cublasDestroy_v2")?,
        set_stream: find(library, "cublasSetStream_v2")?,
        set_workspace: find(library, "cublasSetWorkspace_v2")?,
        set_math_mode: find(library, "cublasSetMathMode")?,
        multiply: find(library, "cublasGemmStridedBatchedEx")?,
    })
}

/// cuBLAS for one context.
struct Handle {
    raw: Raw,
    functions: Functions,
    context: Arc<CudaContext>,
}

// SAFETY: a handle belongs to no thread; it stands behind a lock, as cuBLAS asks where several use one.
#[expect(unsafe_code, reason = "the library's handle is a pointer")]
unsafe impl Send for Handle {}

impl Handle {
    /// # Errors
    /// [`Error::NoCublas`] with what was tried; [`Error::OutOfMemory`].
    #[expect(unsafe_code, reason = "calls of the library")]
    fn new(context: &Arc<CudaContext>) -> Result<Self> {
        context.bind_to_thread().map_err(Error::driver("opening cuBLAS"))?;
        let mut tried = Vec::with_capacity(NAMES.len());
        for (at, (name, _)) in NAMES.iter().enumerate() {
            let functions = match library(at) {
                Ok(functions) => *functions,
                Err(reason) => {
                    tried.push(reason.clone());
                    continue;
                }
            };
            let mut raw = std::ptr::null_mut();
            // SAFETY: writes one pointer; the context is this thread's.
            match unsafe { (functions.create)(&raw mut raw) } {
                0 => {
                    let handle = Self { raw, functions, context: context.clone() };
                    // SAFETY: the handle was just made.
                    let status = unsafe { (functions.set_math_mode)(raw, NO_REDUCED_PRECISION) };
                    return if status == 0 {
                        Ok(handle)
                    } else {
                        Err(refused("setting the mode of", status))
                    };
                }
                ALLOC_FAILED => return Err(refused("opening", ALLOC_FAILED)),
                status => tried.push(format!("{name} does not start: {}", status_name(status))),
            }
        }
        Err(Error::NoCublas { reason: tried.join("; ") })
    }
}

impl Drop for Handle {
    #[expect(unsafe_code, reason = "a call of the library")]
    fn drop(&mut self) {
        if self.context.bind_to_thread().is_ok() {
            // SAFETY: made by `create`, and not used afterwards.
            unsafe { (self.functions.destroy)(self.raw) };
        }
    }
}

/// cuBLAS as `Kernels` keeps it: opened at the first call that wants it, and then one call at a time.
#[derive(Default)]
pub(crate) struct Cublas(Mutex<Option<Handle>>);

/// cuBLAS for the length of a call, on the call's stream and with memory of its own. While it is held, no other call of
/// the same `Kernels` uses cuBLAS; what is already queued goes on.
pub(crate) struct Session<'a> {
    handle: MutexGuard<'a, Option<Handle>>,
    /// Without memory of the caller's it would take a pool's, and its bits could depend on who else does.
    _workspace: Scratch<u8>,
}

impl Cublas {
    fn lock(&self, context: &Arc<CudaContext>) -> Result<MutexGuard<'_, Option<Handle>>> {
        let mut handle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if handle.is_none() {
            *handle = Some(Handle::new(context)?);
        }
        Ok(handle)
    }

    /// Whether it starts.
    ///
    /// # Errors
    /// [`Error::NoCublas`], [`Error::OutOfMemory`].
    pub(crate) fn open(&self, context: &Arc<CudaContext>) -> Result<()> {
        self.lock(context).map(drop)
    }

    /// # Errors
    /// Those of [`Cublas::open`]; [`Error::Cublas`]; no memory for `workspace` bytes.
    #[expect(unsafe_code, reason = "calls of the library")]
    pub(crate) fn session(
        &self,
        kernels: &Kernels,
        stream: &Arc<CudaStream>,
        workspace: usize,
    ) -> Result<Session<'_>> {
        let handle = self.lock(kernels.context())?;
        let mut memory: Scratch<u8> = kernels.allocate(stream, workspace, "cuBLAS's workspace")?;
        if let Some(of) = handle.as_ref() {
            of.context.bind_to_thread().map_err(Error::driver("using cuBLAS"))?;
            // SAFETY: the handle and the stream are of this context; the stream outlives every call of the session,
            // each of which borrows it.
            let status = unsafe { (of.functions.set_stream)(of.raw, stream.cu_stream()) };
            accepted("giving a stream to", status)?;
            let (pointer, _write) = memory.device_ptr_mut(stream);
            // After the stream, which takes the workspace away.
            // SAFETY: the session keeps the memory; the next one sets its own before it calls anything.
            let status = unsafe { (of.functions.set_workspace)(of.raw, pointer as *mut c_void, workspace) };
            accepted("giving memory to", status)?;
        }
        Ok(Session { handle, _workspace: memory })
    }
}

/// How a factor lies, as in `product.cuh`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layout {
    /// `[own, shared]`: the dimension that is summed over is contiguous.
    Along,
    /// `[shared, own]`.
    Across,
}

/// One of a product's two factors, in f16: from `start` on, `pitch` values from row to row, `stride` from one product's
/// to the next's.
#[derive(Clone, Copy)]
pub(crate) struct Factor<'a> {
    pub(crate) values: &'a Scratch<u16>,
    pub(crate) layout: Layout,
    pub(crate) start: usize,
    pub(crate) pitch: usize,
    pub(crate) stride: usize,
}

impl Factor<'_> {
    /// `own` values of the result's dimension, `shared` of the other; what it would need, if it is not that long.
    fn fits(&self, own: usize, shared: usize, products: usize) -> Result<()> {
        let (rows, columns) = match self.layout {
            Layout::Along => (own, shared),
            Layout::Across => (shared, own),
        };
        let needs = self.start + (products - 1) * self.stride + (rows - 1) * self.pitch + columns;
        if needs > self.values.len() || columns > self.pitch {
            return Err(Error::Length {
                what: "a product's factor",
                expected: needs,
                got: self.values.len(),
            });
        }
        Ok(())
    }
}

/// Sizes of `products` products of `[rows, shared]` and `[shared, columns]`, all above 0.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sizes {
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    pub(crate) shared: usize,
    pub(crate) products: usize,
}

impl Session<'_> {
    /// `out` `[products, rows, columns]` = `a` times `b`, or that added to what is there. In f32 sums.
    #[expect(unsafe_code, reason = "a call of the library")]
    pub(crate) fn multiply(
        &self,
        stream: &CudaStream,
        [a, b]: [Factor<'_>; 2],
        out: &mut Scratch<f32>,
        of: Sizes,
        add: bool,
    ) -> Result<()> {
        let Some(handle) = self.handle.as_ref() else {
            return Err(Error::NoCublas { reason: "it was not opened".to_owned() });
        };
        a.fits(of.rows, of.shared, of.products)?;
        b.fits(of.columns, of.shared, of.products)?;
        let values = of.products * of.rows * of.columns;
        if values > out.len() {
            return Err(Error::Length { what: "a product's result", expected: values, got: out.len() });
        }
        let (alpha, beta) = (1.0f32, f32::from(u8::from(add)));
        let [pa, pb] = [a, b].map(|factor| factor.values.device_ptr(stream));
        let (pointer, _write) = out.device_ptr_mut(stream);
        let at = |base: u64, start: usize| (base + (start * size_of::<u16>()) as u64) as *const c_void;
        // cuBLAS counts down columns: to it a row-major matrix is its transpose, and the product of transposes the
        // transposed product with the factors exchanged.
        let first = if b.layout == Layout::Along { TRANSPOSED } else { PLAIN };
        let second = if a.layout == Layout::Along { PLAIN } else { TRANSPOSED };
        // SAFETY: pointers of live slices on this stream, whose lengths were checked against the sizes just above.
        let status = unsafe {
            (handle.functions.multiply)(
                handle.raw,
                first,
                second,
                check::int(of.columns),
                check::int(of.rows),
                check::int(of.shared),
                &raw const alpha,
                at(pb.0, b.start),
                F16,
                check::int(b.pitch),
                b.stride as i64,
                at(pa.0, a.start),
                F16,
                check::int(a.pitch),
                a.stride as i64,
                &raw const beta,
                pointer as *mut c_void,
                F32,
                check::int(of.columns),
                (of.rows * of.columns) as i64,
                check::int(of.products),
                COMPUTE_32F,
                DEFAULT_ALGORITHM,
            )
        };
        accepted("a product of", status)
    }
}

fn accepted(action: &'static str, status: c_int) -> Result<()> {
    if status == 0 { Ok(()) } else { Err(refused(action, status)) }
}

fn refused(action: &'static str, status: c_int) -> Error {
    if status == ALLOC_FAILED {
        return Error::OutOfMemory { action: format!("{action} cuBLAS, which takes memory of its own") };
    }
    Error::Cublas { action, reason: status_name(status) }
}

/// The name of a `cublasStatus_t`.
fn status_name(status: c_int) -> String {
    let name = match status {
        0 => "CUBLAS_STATUS_SUCCESS",
        1 => "CUBLAS_STATUS_NOT_INITIALIZED",
        ALLOC_FAILED => "CUBLAS_STATUS_ALLOC_FAILED",
        7 => "CUBLAS_STATUS_INVALID_VALUE",
        8 => "CUBLAS_STATUS_ARCH_MISMATCH",
        11 => "CUBLAS_STATUS_MAPPING_ERROR",
        13 => "CUBLAS_STATUS_EXECUTION_FAILED",
        14 => "CUBLAS_STATUS_INTERNAL_ERROR",
        15 => "CUBLAS_STATUS_NOT_SUPPORTED",
        16 => "CUBLAS_STATUS_LICENSE_ERROR",
        _ => return format!("cuBLAS status {status}"),
    };
    name.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_library_is_named() {
        let reason = load("libembedtune_no_such_cublas.so", 13).err().unwrap();
        assert!(reason.contains("libembedtune_no_such_cublas.so"), "{reason}");
    }

    #[test]
    fn a_library_that_is_not_cublas_is_told_apart() {
        #[cfg(target_os = "linux")]
        assert_eq!(load("libc.so.6", 13).err().unwrap(), "the library has no cublasGetProperty");
    }

    #[test]
    fn every_status_becomes_the_error_that_helps() {
        assert!(accepted("a product of", 0).is_ok());
        let memory = refused("opening", ALLOC_FAILED).to_string();
        assert!(memory.starts_with("out of GPU memory: opening cuBLAS"), "{memory}");
        for (status, name) in [(8, "CUBLAS_STATUS_ARCH_MISMATCH"), (99, "cuBLAS status 99")] {
            let message = refused("a product of", status).to_string();
            assert!(message.starts_with("a product of cuBLAS failed") && message.contains(name), "{message}");
        }
    }
}
