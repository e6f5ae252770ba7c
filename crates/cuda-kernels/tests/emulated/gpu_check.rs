//! The script that runs on a GPU machine goes on where a step fails, keeps to its time, and says so where there is no GPU:
//! shown with stand-ins for what it calls.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use crate::build::crate_path;

fn program(folder: &Path, name: &str, text: &str) {
    let path = folder.join(name);
    std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

/// Starts `run` in a folder of its own with these stand-ins in the way of the real ones; returns what it said and the
/// summary that it left.
fn run(name: &str, seconds: &str, stand_ins: &[(&str, &str)]) -> (Output, String) {
    let folder = std::env::temp_dir().join(format!("embedtune-gpu-check-{name}-{}", std::process::id()));
    let bin = folder.join("bin");
    std::fs::create_dir_all(&bin).unwrap();
    let written =
        Command::new("bash").arg(crate_path("gpu-check.sh")).arg("script").arg(&folder).output().unwrap();
    assert!(written.status.success(), "{written:?}");
    program(&folder, "tests", "echo tested $*");
    program(&folder, "times", "echo '| copy |'; echo '[]' > $1");
    program(&bin, "python3", "exit 1");
    program(&bin, "compute-sanitizer", "echo sanitized");
    program(&bin, "nvidia-smi", "echo 'GPU 0: a stand-in'");
    for (name, text) in stand_ins {
        let place = if matches!(*name, "tests" | "times") { &folder } else { &bin };
        program(place, name, text);
    }
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let results = folder.join("out");
    let output = Command::new("bash")
        .arg(folder.join("run"))
        .arg(seconds)
        .env("PATH", path)
        // From where it is called.
        .current_dir(&bin)
        .env("OUT", "../out")
        .output()
        .unwrap();
    let summary = std::fs::read_to_string(results.join("summary.txt")).unwrap_or_default();
    std::fs::remove_dir_all(&folder).unwrap();
    (output, summary)
}

#[test]
fn without_a_gpu_it_says_so() {
    let (output, summary) = run("none", "60", &[("nvidia-smi", "echo 'No devices were found'; exit 6")]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.starts_with("no GPU: nvidia-smi -L says: No devices were found"), "{said}");
    assert!(said.contains("nothing was checked") && summary.starts_with("no GPU"), "{said}{summary}");
    let (output, _) = run("words", "soon", &[]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
}

#[test]
fn a_step_that_fails_is_listed_and_the_others_run() {
    let failing = "case \"$*\" in *triplet::*) echo went wrong; exit 7;; esac; echo tested";
    let (output, summary) = run("failing", "60", &[("tests", failing)]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("went wrong") && summary.contains("== tests-triplet: FAILED, status 7"), "{said}");
    for ran in
        ["tests-margin: ok", "tests-pooling: ok", "tests-cublas: ok", "times: ok", "memcheck-pooling: ok"]
    {
        assert!(summary.contains(ran), "{ran}: {summary}");
    }
    // The stand-in for Python fails as well, and so do four tools on the triplets, which the tests' stand-in is not asked for.
    assert!(
        summary.contains("2 steps did not go well") && summary.contains("  peers (status 1)"),
        "{summary}"
    );
}

#[test]
fn it_keeps_to_its_time() {
    let begun = std::time::Instant::now();
    let (output, summary) = run("slow", "9", &[("tests", "exec sleep 60")]);
    assert!(begun.elapsed().as_secs() < 40, "{summary}");
    assert_eq!(output.status.code(), Some(1), "{summary}");
    assert!(summary.contains("== tests-margin: FAILED, ended after"), "{summary}");
    assert!(summary.contains("== tests-triplet: no time left, not run"), "{summary}");
}
