//! The emulator finds the faults that it is there to find.

use std::ffi::{CStr, CString, c_char, c_void};
use std::process::Command;

use libloading::Library;

use crate::build::{Kind, build, crate_path};
use crate::device::SCHEDULES;
use crate::random::Random;

type Launch =
    unsafe extern "C" fn(*const c_char, *const u32, *const u32, u32, *mut *mut c_void) -> *const c_char;

struct Faults(Library);

impl Faults {
    fn new() -> Self {
        let sources = [crate_path("tests/emulated/faults/faults.cu")];
        let library = build("libfaults.so", Kind::Library, &sources, &[]);
        // SAFETY: just built; its initialisers only register kernels.
        Self(unsafe { Library::new(library) }.unwrap())
    }

    /// Runs a kernel of 256 threads with 1 KiB of shared memory.
    fn run(&self, kernel: &str, schedule: u32) -> Result<[f32; 2], String> {
        let input: Vec<f32> = Random(5).normals(256);
        let mut out = [0.0f32; 2];
        let (mut from, mut to) = (input.as_ptr(), out.as_mut_ptr());
        let mut arguments = [(&raw mut from).cast::<c_void>(), (&raw mut to).cast::<c_void>()];
        let name = CString::new(kernel).unwrap();
        let (grid, block) = ([1u32, 1, 1], [256u32, 1, 1]);
        // SAFETY: as `emulator.h` declares them; the buffers outlive the call, which is over when it returns.
        unsafe {
            let set = self.0.get::<unsafe extern "C" fn(u32)>(b"emulator_schedule\0").unwrap();
            let launch = self.0.get::<Launch>(b"emulator_launch\0").unwrap();
            set(schedule);
            let wrong = launch(name.as_ptr(), grid.as_ptr(), block.as_ptr(), 1024, arguments.as_mut_ptr());
            if wrong.is_null() { Ok(out) } else { Err(CStr::from_ptr(wrong).to_string_lossy().into_owned()) }
        }
    }

    /// Different results under the schedules.
    fn distinct(&self, kernel: &str) -> usize {
        let results = SCHEDULES.map(|(_, schedule)| self.run(kernel, schedule).unwrap()[0].to_bits());
        results.iter().collect::<std::collections::HashSet<_>>().len()
    }
}

// One test: the emulator runs one kernel at a time, and a library has one emulator.
#[test]
fn planted_faults_are_found() {
    let faults = Faults::new();
    assert_eq!(faults.distinct("sound"), 1);
    let sum: f32 = Random(5).normals(256).iter().sum();
    assert!((faults.run("sound", 0).unwrap()[0] - sum).abs() < 1e-3);

    assert!(faults.distinct("missing_barrier") > 1, "a missing barrier changes no bits");
    assert!(faults.distinct("race") > 1, "a race changes no bits");

    let unwritten = faults.run("unwritten", 1).unwrap();
    assert!(unwritten[0].is_nan() && unwritten[1].is_nan(), "shared memory is not poisoned: {unwritten:?}");

    assert_eq!(faults.run("waited", 1).unwrap()[0], Random(5).normals(2)[1]);
    assert!(faults.run("not_waited", 1).unwrap()[0].is_nan(), "a copy lands before it is waited for");

    for (_, schedule) in SCHEDULES {
        for (kernel, expected) in [
            ("left_early", "deadlock in block (0, 0, 0): of 256 threads 128 wait at a barrier"),
            ("half_a_warp", "in a warp collective"),
            ("two_barriers", "waits at the barrier in line"),
            ("no_such", "no kernel no_such"),
        ] {
            let message = faults.run(kernel, schedule).unwrap_err();
            assert!(message.contains(expected), "{kernel}: {message}");
        }
    }
    // And goes on after each.
    assert_eq!(faults.distinct("sound"), 1);
}

#[test]
fn accesses_out_of_bounds_are_found_by_the_address_sanitizer() {
    let sources = ["faults.cu", "main.cpp"].map(|file| crate_path("tests/emulated/faults").join(file));
    let program = build("faults", Kind::Program, &sources, &["-fsanitize=address"]);
    let run = |kernel: &str| {
        let mut command = Command::new(&program);
        command.arg(kernel).env("ASAN_OPTIONS", "detect_leaks=0").env_remove("LD_PRELOAD");
        let output = command.output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (fine, text) = run("waited");
    assert!(fine, "{text}");
    for (kernel, expected) in [
        ("past_global_write", "heap-buffer-overflow"),
        ("past_global_read", "heap-buffer-overflow"),
        ("past_shared", "use-after-poison"),
    ] {
        let (fine, text) = run(kernel);
        assert!(!fine && text.contains(expected) && text.contains("faults.cu"), "{kernel}: {text}");
    }
}
