//! A stand-in for the driver on machines without a GPU (feature `emulator`): every kernel's source, compiled as ordinary
//! C++ and run on the CPU, behind a library with the driver's name. Tests of code that computes on a GPU can run against
//! it; nothing can be learnt from it about speed. Needs a C++17 compiler when it is built, on Linux or another Unix.
//!
//! A process uses it that is started with the library's folder in `LD_LIBRARY_PATH`:
//!
//! ```no_run
//! use std::path::Path;
//! use std::process::Command;
//!
//! let library = embedtune_cuda_kernels::emulator::driver(Path::new("target/tmp"))?;
//! let folder = library.parent().unwrap();
//! Command::new("my-tests").env("LD_LIBRARY_PATH", folder).status()?;
//! # Ok::<(), std::io::Error>(())
//! ```

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{Error, Result};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::{env, fs};

/// What [`build`] makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// A shared library.
    Library,
    /// A program.
    Program,
}

/// A file or folder of this crate's sources.
pub fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// The C++ compiler: `CXX`, or `g++`.
pub fn compiler() -> String {
    env::var("CXX").unwrap_or_else(|_| "g++".to_owned())
}

/// Builds the driver's stand-in into a folder of its own below `folder`, and returns the library's path. Once it is there
/// for the present sources, nothing is built.
///
/// # Errors
/// No compiler, or what it says; files that cannot be written.
pub fn driver(folder: &Path) -> Result<PathBuf> {
    driver_with(folder, &[])
}

/// [`driver`] with flags for the compiler, such as `-fsanitize=address`.
///
/// # Errors
/// As [`driver`].
pub fn driver_with(folder: &Path, flags: &[&str]) -> Result<PathBuf> {
    let mut sources = sources_in("kernels", "cu")?;
    sources.push(source("emulator/driver.cpp"));
    let library = build(folder, "libcuda.so.1", Kind::Library, &sources, flags)?;
    // Loaders also try the name without a version, and would find an installed driver first.
    #[cfg(unix)]
    {
        let plain = library.with_file_name("libcuda.so");
        if !plain.exists() {
            // Another process may have been as fast.
            let _ = std::os::unix::fs::symlink("libcuda.so.1", plain);
        }
    }
    Ok(library)
}

/// Makes the `n`-th allocation of device memory from now on fail (from 0), none with `None`: to test what becomes of it.
/// False, and nothing else, where this process computes on another driver than the stand-in.
pub fn fail_allocation(n: Option<u32>) -> bool {
    fail(b"emulated_fail_allocation\0", n)
}

/// The same for the `n`-th launch of a kernel, which then computes nothing.
pub fn fail_launch(n: Option<u32>) -> bool {
    fail(b"emulated_fail_launch\0", n)
}

fn fail(symbol: &[u8], n: Option<u32>) -> bool {
    // SAFETY: the driver's library, or its stand-in: what computing has loaded, or what it will load.
    #[expect(unsafe_code, reason = "the stand-in is loaded under the driver's name")]
    let Ok(library) = (unsafe { libloading::Library::new("libcuda.so.1") }) else { return false };
    // SAFETY: as `driver.cpp` declares it; the driver itself has no such function.
    #[expect(unsafe_code, reason = "a function of the stand-in")]
    let Ok(fail) = (unsafe { library.get::<unsafe extern "C" fn(std::ffi::c_long)>(symbol) }) else {
        return false;
    };
    // SAFETY: it takes any number.
    #[expect(unsafe_code, reason = "a function of the stand-in")]
    unsafe {
        fail(n.map_or(-1, std::ffi::c_long::from))
    };
    true
}

/// Builds cuBLAS's stand-in into a folder of its own below `folder`, and returns the library's path: for processes that
/// have it in `LD_LIBRARY_PATH` beside the driver's.
///
/// # Errors
/// As [`driver`].
pub fn cublas_with(folder: &Path, flags: &[&str]) -> Result<PathBuf> {
    build(folder, "libcublas.so.12", Kind::Library, &[source("emulator/cublas.cpp")], flags)
}

/// Builds `sources` (`.cu` as kernels) with the emulator, below `folder`, and returns the product's path. Once it is there
/// for the present sources, nothing is built.
///
/// # Errors
/// As [`driver`].
pub fn build(folder: &Path, name: &str, kind: Kind, sources: &[PathBuf], flags: &[&str]) -> Result<PathBuf> {
    // Tests of one process do not build the same twice.
    static BUILDING: Mutex<()> = Mutex::new(());
    let _building = BUILDING.lock().unwrap_or_else(PoisonError::into_inner);
    let all: Vec<PathBuf> = ["scheduler.cpp", "fibers.cpp", "copies.cpp"]
        .iter()
        .map(|file| source("emulator").join(file))
        .chain(sources.iter().cloned())
        .collect();
    let mut hasher = DefaultHasher::new();
    (name, flags, compiler()).hash(&mut hasher);
    let headers = [sources_in("emulator", "h")?, sources_in("kernels", "cuh")?].concat();
    for file in all.iter().chain(&headers) {
        (file, read(file)?).hash(&mut hasher);
    }
    let made = folder.join(format!("emulated-{:016x}", hasher.finish()));
    let product = made.join(name);
    if product.exists() {
        return Ok(product);
    }
    let scratch = folder.join(format!("emulated-{:016x}-{}", hasher.finish(), std::process::id()));
    fs::create_dir_all(&scratch)?;
    let objects: Vec<PathBuf> = (0..all.len()).map(|i| scratch.join(format!("{i}.o"))).collect();
    let queue = Mutex::new(all.iter().zip(&objects));
    let compile = || {
        loop {
            let next = queue.lock().unwrap_or_else(PoisonError::into_inner).next();
            let Some((source, object)) = next else { return Ok(()) };
            compile(source, object, flags)?;
        }
    };
    std::thread::scope(|scope| {
        let threads = [scope.spawn(compile), scope.spawn(compile)];
        threads.into_iter().try_for_each(|thread| {
            thread.join().unwrap_or_else(|_| Err(Error::other("a thread that compiles panicked")))
        })
    })?;
    let mut command = Command::new(compiler());
    if kind == Kind::Library {
        command.arg("-shared");
    }
    run(command.args(flags).args(&objects).arg("-o").arg(scratch.join(name)))?;
    for object in objects {
        fs::remove_file(object)?;
    }
    // Another process may have been as fast.
    if fs::rename(&scratch, &made).is_err() {
        fs::remove_dir_all(&scratch)?;
    }
    Ok(product)
}

fn compile(source_file: &Path, object: &Path, flags: &[&str]) -> Result<()> {
    let mut command = Command::new(compiler());
    command.args(["-std=c++17", "-O2", "-g1", "-fPIC", "-fno-strict-aliasing", "-ffp-contract=off"]);
    command.args(["-Wall", "-Werror", "-Wno-unknown-pragmas"]).args(flags);
    command.arg("-I").arg(source("emulator")).arg("-I").arg(source("kernels"));
    if source_file.extension().is_some_and(|extension| extension == "cu") {
        command.args(["-x", "c++", "-include"]).arg(source("emulator/cuda.h"));
    }
    run(command.arg("-c").arg(source_file).arg("-o").arg(object))
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output().map_err(|error| {
        Error::other(format!(
            "the emulator runs CUDA kernels on the CPU and needs a C++17 compiler: {} does not start ({error}); \
             install g++ or set CXX",
            compiler()
        ))
    })?;
    if output.status.success() {
        return Ok(());
    }
    Err(Error::other(format!("{command:?}\n{}", String::from_utf8_lossy(&output.stderr))))
}

fn sources_in(folder: &str, extension: &str) -> Result<Vec<PathBuf>> {
    let path = source(folder);
    let mut files = Vec::new();
    for entry in fs::read_dir(&path).map_err(|e| Error::other(format!("{}: {e}", path.display())))? {
        let file = entry?.path();
        if file.extension().is_some_and(|found| found == extension) {
            files.push(file);
        }
    }
    files.sort();
    Ok(files)
}

fn read(file: &Path) -> Result<Vec<u8>> {
    fs::read(file).map_err(|e| Error::other(format!("{}: {e}", file.display())))
}
