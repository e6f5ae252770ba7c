//! The head on the GPU beside the one on the CPU, on the kernels' stand-in driver: the same kernels and the same host code,
//! run on the CPU. The tests that compute are ignored here and run in a second process, in which the stand-in is found under
//! the driver's name; on a machine with a GPU, `cargo test -p embedtune-train --test cuda -- --ignored` runs them on it.
#![cfg(unix)]

#[path = "cuda/heads.rs"]
mod heads;
#[path = "cuda/runs.rs"]
mod runs;
mod support;

use std::path::Path;
use std::process::Command;

mod too_small {
    use super::*;

    #[test]
    #[ignore = "run by centres_that_do_not_fit_the_gpu"]
    fn auto_says_one_thing_and_cuda_refuses() {
        let split = support::noisy_vectors(4);
        let build = |device| Trainer::builder().loss(LossKind::ArcFaceLoss).device(device).build(&split);
        let auto = build(Device::Auto).unwrap();
        let told: Vec<&String> =
            auto.notices().iter().filter(|notice| notice.starts_with("device = ")).collect();
        assert!(
            matches!(&told[..], [one] if one.starts_with("device = auto: computing on the CPU (out of GPU memory")),
            "{told:?}"
        );
        let refused = build(Device::Cuda).err().unwrap().to_string();
        assert!(refused.contains("out of GPU memory") && refused.contains("bytes"), "{refused}");
    }
}

use embedtune_cuda_kernels::{Error as CudaError, devices, emulator};
use embedtune_losses::LossKind;
use embedtune_train::Error;
use embedtune_train::run::{Device, RunOptions, Trainer};

/// Runs the ignored tests whose names start with `module` in a process that finds the stand-in.
fn on_the_emulated_device(module: &str) {
    on_a_device_of(1 << 30, module);
}

/// The same on one with so many bytes of memory.
fn on_a_device_of(bytes: usize, module: &str) {
    let library = emulator::driver(Path::new(env!("CARGO_TARGET_TMPDIR"))).unwrap();
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--test-threads=1", module])
        .env("LD_LIBRARY_PATH", library.parent().unwrap())
        .env("EMULATED_MEMORY", bytes.to_string())
        .output()
        .unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}\n{err}");
    assert!(!out.contains(" 0 passed"), "nothing ran: {out}");
}

#[test]
fn heads_on_the_emulated_device() {
    on_the_emulated_device("heads::");
}

#[test]
fn runs_on_the_emulated_device() {
    on_the_emulated_device("runs::");
}

#[test]
fn centres_that_do_not_fit_the_gpu() {
    on_a_device_of(200, "too_small::");
}

#[test]
fn a_gpu_that_is_not_there_is_named() {
    let Err(reason) = devices() else {
        println!("SKIPPED: there is a GPU");
        return;
    };
    let options = RunOptions { device: Device::Cuda, ..RunOptions::default() };
    let error = options.check().unwrap_err();
    assert!(matches!(&error, Error::Device(found) if *found == reason), "{error}");
    let message = error.to_string();
    if matches!(reason, CudaError::NoDriver { .. }) {
        for part in ["device = cuda: no CUDA driver found", "install NVIDIA's driver", "or run on the CPU"] {
            assert!(message.contains(part), "{message}");
        }
    }
    let split = support::noisy_vectors(4);
    let auto = Trainer::builder().loss(LossKind::ArcFaceLoss).build(&split).unwrap();
    let fallen =
        auto.notices().iter().filter(|notice| notice.starts_with("device = auto")).collect::<Vec<_>>();
    assert_eq!(fallen, [&format!("device = auto: computing on the CPU ({reason})")]);
    let cpu = Trainer::builder().device(Device::Cpu).build(&split).unwrap();
    assert!(!cpu.notices().iter().any(|notice| notice.contains("device")), "{:?}", cpu.notices());
}
