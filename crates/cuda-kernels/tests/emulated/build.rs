//! Builds emulated kernels with the C++ compiler when the tests run, once for each state of the sources.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::{env, fs};

/// What to build.
pub(crate) enum Kind {
    /// A shared library.
    Library,
    /// A program.
    Program,
}

pub(crate) fn crate_path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// The C++ compiler: `CXX`, or `g++`.
pub(crate) fn compiler() -> String {
    env::var("CXX").unwrap_or_else(|_| "g++".to_owned())
}

/// Whether everything is to run under the address and undefined-behaviour sanitizers.
pub(crate) fn sanitized() -> bool {
    env::var_os("EMBEDTUNE_SANITIZE").is_some()
}

fn sources_in(folder: &str, extensions: &[&str]) -> Vec<PathBuf> {
    let path = crate_path(folder);
    let entries = fs::read_dir(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut files: Vec<_> = entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| extensions.iter().any(|x| e == *x)))
        .collect();
    files.sort();
    files
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| {
        panic!(
            "these tests run the CUDA kernels on the CPU and need a C++17 compiler: {} does not start ({error}). \
             Install g++ or set CXX",
            compiler()
        )
    });
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}\n{text}");
}

/// Builds `sources` (relative to the crate, `.cu` as kernels) with the emulator, and returns the product's path.
pub(crate) fn build(name: &str, kind: &Kind, sources: &[PathBuf], flags: &[&str]) -> PathBuf {
    // Tests of one process do not build the same twice.
    static BUILDING: Mutex<()> = Mutex::new(());
    let _building = BUILDING.lock().unwrap_or_else(PoisonError::into_inner);
    let all: Vec<PathBuf> = ["scheduler.cpp", "fibers.cpp", "copies.cpp"]
        .iter()
        .map(|file| crate_path("emulator").join(file))
        .chain(sources.iter().cloned())
        .collect();
    let mut hasher = DefaultHasher::new();
    (name, flags, compiler()).hash(&mut hasher);
    let headers = [sources_in("emulator", &["h"]), sources_in("kernels", &["cuh"])].concat();
    for file in all.iter().chain(&headers) {
        (file, fs::read(file).unwrap()).hash(&mut hasher);
    }
    let root = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let folder = root.join(format!("emulated-{:016x}", hasher.finish()));
    let product = folder.join(name);
    if product.exists() {
        return product;
    }
    let scratch = root.join(format!("emulated-{:016x}-{}", hasher.finish(), std::process::id()));
    fs::create_dir_all(&scratch).unwrap();
    let objects: Vec<PathBuf> = (0..all.len()).map(|i| scratch.join(format!("{i}.o"))).collect();
    let queue = Mutex::new(all.iter().zip(&objects));
    let compile = || {
        loop {
            let Some((source, object)) = queue.lock().unwrap().next() else { return };
            let mut command = Command::new(compiler());
            command.args(["-std=c++17", "-O2", "-g1", "-fPIC", "-fno-strict-aliasing", "-ffp-contract=off"]);
            command.args(["-Wall", "-Werror", "-Wno-unknown-pragmas"]).args(flags);
            command.arg("-I").arg(crate_path("emulator")).arg("-I").arg(crate_path("kernels"));
            if source.extension().is_some_and(|extension| extension == "cu") {
                command.args(["-x", "c++", "-include"]).arg(crate_path("emulator/cuda.h"));
            }
            run(command.arg("-c").arg(source).arg("-o").arg(object));
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(compile);
        }
    });
    let made = scratch.join(name);
    let mut command = Command::new(compiler());
    if matches!(kind, Kind::Library) {
        command.arg("-shared");
    }
    run(command.args(flags).args(&objects).arg("-o").arg(&made));
    for object in objects {
        fs::remove_file(object).unwrap();
    }
    // Another test process may have been as fast.
    if fs::rename(&scratch, &folder).is_err() {
        let _ = fs::remove_dir_all(&scratch);
    }
    product
}

/// The stand-in driver library with every kernel in it.
pub(crate) fn driver() -> PathBuf {
    let mut sources = sources_in("kernels", &["cu"]);
    sources.push(crate_path("emulator/driver.cpp"));
    let flags: &[&str] =
        if sanitized() { &["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"] } else { &[] };
    let library = build("libcuda.so.1", &Kind::Library, &sources, flags);
    // Loaders also try the name without a version, and would find an installed driver first.
    let plain = library.with_file_name("libcuda.so");
    if !plain.exists() {
        let _ = std::os::unix::fs::symlink("libcuda.so.1", plain);
    }
    library
}
