//! Builds emulated kernels with the C++ compiler when the tests run, once for each state of the sources.

use std::path::{Path, PathBuf};

use embedtune_cuda_kernels::emulator;
pub(crate) use embedtune_cuda_kernels::emulator::{Kind, compiler, source as crate_path};

/// Whether everything is to run under the address and undefined-behaviour sanitizers.
pub(crate) fn sanitized() -> bool {
    std::env::var_os("EMBEDTUNE_SANITIZE").is_some()
}

fn folder() -> &'static Path {
    Path::new(env!("CARGO_TARGET_TMPDIR"))
}

/// Builds `sources` (`.cu` as kernels) with the emulator, and returns the product's path.
pub(crate) fn build(name: &str, kind: Kind, sources: &[PathBuf], flags: &[&str]) -> PathBuf {
    emulator::build(folder(), name, kind, sources, flags).unwrap()
}

fn flags() -> &'static [&'static str] {
    if sanitized() { &["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"] } else { &[] }
}

/// The stand-in driver library with every kernel in it.
pub(crate) fn driver() -> PathBuf {
    emulator::driver_with(folder(), flags()).unwrap()
}

/// The stand-in for cuBLAS.
pub(crate) fn cublas() -> PathBuf {
    emulator::cublas_with(folder(), flags()).unwrap()
}
