//! The triplet margin loss, the miners and the memory bank against their definitions and against
//! pytorch-metric-learning.

mod cosines;
mod definition;
mod determinism;
mod edge;
mod golden;
mod memory;
mod naive;
mod support;
mod ties;

/// Every test of this file once more on the narrower paths.
#[test]
fn narrower_instructions_pass_the_same_tests() {
    const CHOICE: &str = "EMBEDTUNE_SIMD";
    if std::env::var_os(CHOICE).is_some() {
        return;
    }
    for path in ["portable", "avx2"] {
        let tests = std::env::current_exe().unwrap();
        let run = std::process::Command::new(tests).env(CHOICE, path).output().unwrap();
        assert!(run.status.success(), "{path}: {}", String::from_utf8_lossy(&run.stdout));
    }
}
