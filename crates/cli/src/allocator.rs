//! How the C library's allocator keeps freed memory.
//!
//! By itself glibc gives each thread an arena of its own, in which freed memory stays where another thread does not find
//! it, and raises the size from which arrays go back to the system with every one that is freed. What a run takes at its
//! peak then depends on which thread happened to take what: up to a quarter more or less from run to run. With one arena
//! and fixed sizes it varies by a few per cent, and a forecast can be held to.
#![allow(unsafe_code)]

/// Arrays of so many bytes and more are the system's again when they are dropped. Training's buffers are kept from step to
/// step and are not among them; smaller ones (a matrix product's panels) would cost page faults in every step.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const RETURNED: i32 = 512 << 10;
/// Free bytes at the arena's end that go back to the system.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const TRIMMED: i32 = 2 << 20;

/// Fixes the allocator's ways, once, before there is a second thread. Who has set them (`MALLOC_ARENA_MAX`,
/// `GLIBC_TUNABLES`, ...) keeps them; where the C library is another nothing happens.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub(crate) fn settle() {
    use std::ffi::c_int;

    unsafe extern "C" {
        fn mallopt(parameter: c_int, value: c_int) -> c_int;
    }
    // Of <malloc.h>.
    const M_TRIM_THRESHOLD: c_int = -1;
    const M_MMAP_THRESHOLD: c_int = -3;
    const M_ARENA_MAX: c_int = -8;

    let own = |name: &std::ffi::OsStr| {
        let name = name.as_encoded_bytes();
        name == b"GLIBC_TUNABLES" || name.starts_with(b"MALLOC_")
    };
    if std::env::vars_os().any(|(name, _)| own(&name)) {
        return;
    }
    let set = |parameter, value| {
        // SAFETY: glibc's `int mallopt(int, int)` takes any two numbers and returns 0 for those it does not know; it
        // takes the arena's lock itself, and no other thread is there yet.
        unsafe { mallopt(parameter, value) != 0 }
    };
    let returned = set(M_MMAP_THRESHOLD, RETURNED);
    if [returned, set(M_ARENA_MAX, 1), set(M_TRIM_THRESHOLD, TRIMMED)].into_iter().all(|done| done) {
        embedtune_train::run::assume_returned_from(RETURNED as usize);
    }
}

/// Nothing to settle: the allocator is another.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub(crate) fn settle() {}
