//! Runs the unmodified kernels and host code on the CPU: the kernels as emulated threads, under several schedules, and
//! the host code against a stand-in driver library that launches them. See `emulator/`.
//!
//! The tests on the device are ignored here and run in a second process, in which the stand-in is found under the
//! driver's name. On a machine with a GPU, `cargo test -p embedtune-cuda-kernels -- --ignored` runs the same tests on it.
#![cfg(unix)]

mod build;
mod cublas;
mod device;
mod errors;
mod failures;
mod faults;
mod gpu_check;
#[path = "../../examples/gpu_times.rs"]
#[expect(dead_code, reason = "its `main` is the example's")]
mod gpu_times;
mod margin;
mod margin_reference;
mod optimizer;
mod pooling;
mod pooling_reference;
mod random;
mod triplet;

use std::path::PathBuf;
use std::process::{Command, Output};

/// This test program again, with the stand-in driver where the loader looks first.
fn with_the_driver(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    with_libraries(&[build::driver()], arguments, environment)
}

/// The same with the stand-in for cuBLAS beside it.
fn with_cublas(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    with_libraries(&[build::driver(), build::cublas()], arguments, environment)
}

fn with_libraries(libraries: &[PathBuf], arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    let mut command = Command::new(std::env::current_exe().unwrap());
    let folders = std::env::join_paths(libraries.iter().map(|library| library.parent().unwrap())).unwrap();
    command.args(arguments).env("LD_LIBRARY_PATH", folders);
    if build::sanitized() {
        let asan = Command::new(build::compiler()).arg("-print-file-name=libasan.so").output().unwrap();
        command.env("LD_PRELOAD", String::from_utf8(asan.stdout).unwrap().trim());
        command.env("ASAN_OPTIONS", "detect_leaks=0:detect_stack_use_after_return=0");
    }
    command.envs(environment.iter().copied()).output().unwrap()
}

/// Runs the ignored tests whose names start with `module`.
fn on_the_emulated_device(module: &str) {
    all_passed(with_the_driver(
        &["--ignored", "--test-threads=1", module],
        &[("EMBEDTUNE_REQUIRE_GPU", "1")],
    ));
}

fn all_passed(output: Output) {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}\n{err}");
    assert!(!out.contains(" 0 passed"), "nothing ran: {out}");
}

#[test]
fn margin_softmax_on_the_emulated_device() {
    on_the_emulated_device("margin::");
}

#[test]
fn margin_softmax_with_cublas_on_the_emulated_device() {
    let environment = [("EMBEDTUNE_REQUIRE_GPU", "1"), ("EMBEDTUNE_TEST_PRODUCTS", "cublas")];
    all_passed(with_cublas(&["--ignored", "--test-threads=1", "margin::"], &environment));
}

#[test]
fn optimizers_on_the_emulated_device() {
    on_the_emulated_device("optimizer::");
}

#[test]
fn triplets_on_the_emulated_device() {
    on_the_emulated_device("triplet::");
}

#[test]
fn pooling_on_the_emulated_device() {
    on_the_emulated_device("pooling::");
}

#[test]
fn failures_on_the_emulated_device() {
    on_the_emulated_device("failures::");
    let environment = [("EMBEDTUNE_REQUIRE_GPU", "1"), ("EMBEDTUNE_TEST_PRODUCTS", "cublas")];
    all_passed(with_cublas(&["--ignored", "--test-threads=1", "failures::margin"], &environment));
}

#[test]
fn the_times_are_taken_on_the_emulated_device() {
    on_the_emulated_device("a_table_of_times");
    let arguments = ["--ignored", "--exact", "a_table_of_times"];
    all_passed(with_cublas(&arguments, &[("EMBEDTUNE_REQUIRE_GPU", "1")]));
}

#[test]
#[ignore = "needs the emulated device or a GPU"]
fn a_table_of_times() {
    let file = std::env::temp_dir().join(format!("embedtune-times-{}.json", std::process::id()));
    let rows = gpu_times::run(true, Some(&file)).unwrap().len();
    assert!(rows >= 13, "{rows}");
    let written = std::fs::read_to_string(&file).unwrap();
    std::fs::remove_file(&file).unwrap();
    assert_eq!(written.matches("\"case\"").count(), rows, "{written}");
    assert!(written.contains("\"tile\": ["), "{written}");
}
