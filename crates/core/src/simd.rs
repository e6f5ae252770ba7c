//! Wide instructions chosen at run time.
//!
//! [`dispatch`] runs a closure compiled for the widest instruction set that this machine has (AVX-512, AVX2 with
//! FMA, NEON, or the portable baseline), so that a plain `cargo build --release` is as fast as one with
//! `target-cpu=native`. Mark the closure and every helper that it calls `#[inline(always)]`: code that is not inlined
//! keeps the baseline instructions.
//!
//! The environment variable `EMBEDTUNE_SIMD` set to `portable` or `avx2` keeps this crate's and the losses' kernels
//! from wider instructions, for tests of those paths (the general products of [`linalg`](crate::linalg) choose for
//! themselves). Results of one instruction set have the same bits on processors of any cache and any number of cores; those
//! of two sets may differ by rounding.

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

/// Asks for the cache lines of `values` before they are needed, where the processor has an instruction for that (x86-64).
/// For loops that compute so long on what they have that the processor's own reading ahead pauses.
#[inline(always)]
pub fn prefetch(values: &[f32]) {
    #[cfg(target_arch = "x86_64")]
    for line in values.chunks(16) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: every x86-64 processor has the instruction, and it reads nothing that the program sees.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = values;
}

fn arch() -> Arch {
    static ARCH: OnceLock<Arch> = OnceLock::new();
    *ARCH.get_or_init(|| match std::env::var("EMBEDTUNE_SIMD").as_deref() {
        Ok("portable") => Arch::Scalar,
        #[cfg(target_arch = "x86_64")]
        Ok("avx2") => pulp::x86::V3::try_new().map_or(Arch::Scalar, Arch::V3),
        _ => Arch::new(),
    })
}
