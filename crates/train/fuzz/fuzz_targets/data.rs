//! Every reader of data. The first byte chooses the format, the rest is the file.
#![no_main]

use std::path::PathBuf;
use std::sync::LazyLock;

use embedtune_train::data::{DataOptions, ImageFiles, Stream, idx, tensors, text, vectors};
use libfuzzer_sys::fuzz_target;

static FOLDER: LazyLock<tempfile::TempDir> = LazyLock::new(|| tempfile::tempdir().expect("a folder"));

fn file(name: &str, bytes: &[u8]) -> PathBuf {
    let path = FOLDER.path().join(name);
    std::fs::write(&path, bytes).expect("the file is written");
    path
}

fn stream(path: PathBuf) {
    if let Ok(mut stream) = Stream::open(&path, &DataOptions::default()) {
        while let Ok(Some(_)) = stream.next(16) {}
    }
}

fuzz_target!(|input: &[u8]| {
    let Some((kind, bytes)) = input.split_first() else { return };
    match kind % 12 {
        0 => drop(idx::read_images(&file("x", bytes))),
        1 => drop(idx::read_labels(&file("x", bytes))),
        2 => drop(vectors::read_vectors(&file("x", bytes))),
        3 => drop(vectors::read_labels(&file("x", bytes))),
        4 => drop(vectors::read_npz(&file("x", bytes))),
        5 => drop(tensors::read_safetensors(&file("x", bytes))),
        6 => drop(text::read_table(&file("x", bytes))),
        7 => drop(text::read_class_split(&file("x", bytes))),
        8 => stream(file("x.npy", bytes)),
        9 => stream(file("x.csv", bytes)),
        10 => stream(file("x.txt", bytes)),
        _ => {
            let options = DataOptions { image_size: 8, ..DataOptions::default() };
            if let Ok(images) = ImageFiles::new(vec![file("x.png", bytes)], &options) {
                drop(images.read(&[0]));
            }
        }
    }
});
