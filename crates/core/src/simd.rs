//! Wide instructions chosen at run time.
//!
//! [`dispatch`] runs a closure compiled for the widest instruction set that this machine has (AVX-512, AVX2 with
//! FMA, NEON, or the portable baseline), so that a plain `cargo build --release` is as fast as one with
//! `target-cpu=native`. Mark the closure and every helper that it calls `#[inline(always)]`: code that is not inlined
//! keeps the baseline instructions.

use std::sync::OnceLock;

pub use pulp;
use pulp::{Arch, WithSimd};

/// Runs `f` compiled for the widest instructions available. The choice is made once for the process.
#[inline(always)]
pub fn dispatch<R>(f: impl FnOnce() -> R) -> R {
    arch().dispatch(f)
}

/// Runs `op` with the widest vectors available as explicit types: for kernels whose accumulators must stay in
/// registers, which the compiler does not see to by itself.
#[inline(always)]
pub fn with_simd<Op: WithSimd>(op: Op) -> Op::Output {
    arch().dispatch(op)
}

fn arch() -> Arch {
    static ARCH: OnceLock<Arch> = OnceLock::new();
    *ARCH.get_or_init(Arch::new)
}
