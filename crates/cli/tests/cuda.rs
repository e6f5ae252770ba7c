//! `--device cuda`, without a driver and on the kernels' stand-in for one.
#![cfg(unix)]

mod support;

use std::path::Path;
use std::process::Stdio;

use embedtune_cuda_kernels::emulator;
use support::{Said, program, run, vector_folder};

const FIT: &str = "fit --data data --loss ArcFaceLoss --epochs 2 --batch-size 16";

/// Runs `embedtune LINE` where the stand-in is found under the driver's name.
fn on_the_emulated_device(folder: &Path, line: &str) -> Said {
    let library = emulator::driver(Path::new(env!("CARGO_TARGET_TMPDIR"))).unwrap();
    let mut command = program(folder, line);
    command.env("LD_LIBRARY_PATH", library.parent().unwrap()).stdin(Stdio::null());
    command.output().unwrap().into()
}

#[test]
fn a_gpu_that_is_not_there_is_named() {
    if embedtune_cuda_kernels::is_available() {
        println!("SKIPPED: there is a GPU");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    vector_folder(&folder.path().join("data"));
    let line = format!("{FIT} --device cuda --out R");
    run(folder.path(), &line).refused(1, &["error: device = cuda: ", "or run on the CPU"]);
    assert!(!folder.path().join("R").exists());
    let auto = run(folder.path(), &format!("{FIT} --out R"));
    assert_eq!(auto.err.matches("device = auto: computing on the CPU (").count(), 1, "{}", auto.err);
    auto.done();
}

#[test]
fn a_run_in_f16_however_it_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    vector_folder(&at.join("data"));
    let toml = "device = \"cuda\"\n[device_options]\nprecision = \"f16\"\n";
    std::fs::write(at.join("f16.toml"), toml).unwrap();
    let mut models = Vec::new();
    for (out, words) in [
        ("A", "--device cuda --precision f16"),
        ("B", "--device cuda --set device_options.precision=f16"),
        ("C", "--config f16.toml"),
        ("D", "--device cuda"),
    ] {
        let said = on_the_emulated_device(at, &format!("{FIT} {words} --out {out}"));
        assert_eq!(said.err.contains(") in f16, the encoder on the CPU"), out != "D", "{}", said.err);
        assert!(said.err.contains("GPU memory: "), "{}", said.err);
        said.done();
        models.push(std::fs::read(at.join(out).join("model.safetensors")).unwrap());
    }
    assert!(models[0] == models[1] && models[0] == models[2], "the same run");
    assert!(models[0] != models[3], "f16 is coarser");
}

#[test]
fn a_run_on_the_gpu() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    vector_folder(&at.join("data"));
    let gpu = on_the_emulated_device(at, &format!("{FIT} --device cuda --out G --json"));
    assert!(gpu.err.contains("device = cuda: ArcFaceLoss on the GPU ("), "{}", gpu.err);
    let recall = |said: Said| -> f64 {
        let report: serde_json::Value = serde_json::from_str(&said.done()).unwrap();
        report["tuned"]["recall_at_1"].as_f64().unwrap()
    };
    let cpu = recall(run(at, &format!("{FIT} --device cpu --out C --json")));
    // Rounding may turn a neighbour or two.
    assert!((recall(gpu) - cpu).abs() < 0.1, "{cpu}");
    // What it wrote is a run as any other.
    run(at, "evaluate --run G --data data").done();
    run(at, "fit --resume G").refused(1, &["device = cuda: "]);
    on_the_emulated_device(at, "fit --resume G").done();
    let refused = on_the_emulated_device(at, &format!("{FIT} --device cuda --optimizer RMSprop --out X"));
    refused.refused(1, &["device = cuda: loss_optimizer = RMSprop: ", "write cpu or auto"]);
    assert!(!at.join("X").exists());
}
