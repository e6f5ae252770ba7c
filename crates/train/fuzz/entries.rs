//! What is fuzzed: every parser of data, options and runs. Shared by the fuzz targets and by `tests/mutations.rs`, which
//! drives it without a fuzzer.

use std::path::PathBuf;
use std::sync::LazyLock;

use embedtune_train::data::{
    DataOptions, Dataset, ImageFiles, Items, Split, Stream, idx, parquet, tensors, text, vectors,
};
use embedtune_train::losses::LossKind;
use embedtune_train::ndarray::Array2;
use embedtune_train::run::{Model, RunFolder, RunOptions, Trainer, finished, options_of_run, resume};

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

fn image(path: PathBuf) {
    let options = DataOptions { image_size: 8, ..DataOptions::default() };
    if let Ok(images) = ImageFiles::new(vec![path], &options) {
        drop(images.read(&[0]));
    }
}

/// Reads what stays in its file.
fn stored(items: Items) {
    if let Items::VectorFile(file) = items {
        drop(file.read_all());
    }
}

/// The readers of data by the first byte of an input; the rest is the file.
pub(crate) const KINDS: u8 = 16;

/// Every reader of data. The first byte chooses the format, the rest is the file.
pub(crate) fn data(input: &[u8]) {
    let Some((kind, bytes)) = input.split_first() else { return };
    match kind % KINDS {
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
        11 => image(file("x.png", bytes)),
        12 => image(file("x.jpg", bytes)),
        13 => {
            let path = file("x.parquet", bytes);
            drop((parquet::read(&path), parquet::read_pairs(&path)));
        }
        14 => drop(vectors::open_vectors(&file("x.npy", bytes), false).map(stored)),
        _ => drop(tensors::open_safetensors(&file("x", bytes), false).map(|(items, _)| stored(items))),
    }
}

/// A file of options, its checks, and what is written of it.
pub(crate) fn options(text: &str) {
    drop(options_of_run(text));
    let Ok(options) = RunOptions::from_toml(text) else { return };
    if options.check().is_ok() {
        let written = options.to_toml().expect("what was read can be written");
        assert_eq!(RunOptions::from_toml(&written).expect("and read again"), options);
    }
}

static RUN: LazyLock<(tempfile::TempDir, Split)> = LazyLock::new(|| {
    let folder = tempfile::tempdir().expect("a folder");
    let part = |items: usize| {
        let vectors = Array2::from_shape_fn((items, 3), |(i, j)| ((i * 5 + j * 3) % 7) as f32 - 3.0);
        let labels = (0..items).map(|item| (item % 2) as u32).collect();
        Dataset::new(Items::Vectors(vectors), labels, vec!["a".to_owned(), "b".to_owned()])
    };
    let split = Split { train: part(8), queries: part(4), gallery: None };
    let run = Trainer::builder().epochs(1).batch_size(8).folder(folder.path());
    run.loss(LossKind::ArcFaceLoss).build(&split).and_then(|trainer| trainer.fit(&mut ())).expect("a run");
    (folder, split)
});

/// The files of a run.
pub(crate) const FILES: [&str; 4] =
    ["run.toml", "metrics.jsonl", "model.safetensors", "checkpoint.safetensors"];

/// A file of the run that [`run`] damages, as it was written.
#[allow(dead_code)] // The fuzz targets begin from their corpus.
pub(crate) fn whole(file: &str) -> Vec<u8> {
    std::fs::read(RUN.0.path().join(file)).expect("it is there")
}

/// A run's folder. The first byte chooses the file that the rest replaces.
pub(crate) fn run(input: &[u8]) {
    let Some((kind, bytes)) = input.split_first() else { return };
    let (folder, split) = &*RUN;
    let path = folder.path().join(FILES[usize::from(kind % 4)]);
    let whole = std::fs::read(&path).expect("it is there");
    std::fs::write(&path, bytes).expect("it is written");
    let run = RunFolder::new(folder.path());
    drop(Model::load(&run));
    drop(finished(&run));
    drop(resume(&run, split, None));
    std::fs::write(&path, whole).expect("it is written");
}
