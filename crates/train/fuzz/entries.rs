//! What is fuzzed: every parser of data, options and runs. Shared by the fuzz targets and by `tests/mutations.rs`, which
//! drives it without a fuzzer.
//!
//! What the program itself reads beside these, comparisons' `summary.json`, `crates/cli/tests/malformed_runs.rs` damages. Event
//! files and models for other programs are written alone.

use std::path::PathBuf;
use std::sync::LazyLock;

use embedtune_train::Error;
use embedtune_train::data::{
    DataOptions, Dataset, ImageFiles, Items, Split, Stream, idx, parquet, tensors, text, vectors,
};
use embedtune_train::losses::LossKind;
use embedtune_train::ndarray::Array2;
use embedtune_train::retrieval::{FileRows, NpyHeader, NpyRows, Number, Rows};
use embedtune_train::run::{
    Model, Observer, Resumed, RunFolder, RunOptions, Trainer, changed_files, finished, options_of_run, resume,
};

static FOLDER: LazyLock<tempfile::TempDir> = LazyLock::new(|| tempfile::tempdir().expect("a folder"));

fn file(name: &str, bytes: &[u8]) -> PathBuf {
    let path = FOLDER.path().join(name);
    // Some file systems wait for the disk where a file is written over, and not where it is new.
    let _ = std::fs::remove_file(&path);
    std::fs::write(&path, bytes).expect("the file is written");
    path
}

/// Reads a stream to its end, or to the fault in it.
fn stream(name: &str, bytes: &[u8]) {
    let read = || -> Result<(), Error> {
        let mut stream = Stream::open(&file(name, bytes), &DataOptions::default())?;
        while stream.next(16)?.is_some() {}
        Ok(())
    };
    // A reader with a thread of its own panics there, and says here no more than that it did.
    if let Err(error) = read() {
        assert!(!error.to_string().contains("by a fault of the program"), "{error}");
    }
}

fn image(path: PathBuf) {
    let options = DataOptions { image_size: 8, ..DataOptions::default() };
    if let Ok(images) = ImageFiles::new(vec![path], &options) {
        drop(images.read(&[0]));
        drop(images.decode_once());
    }
}

/// Reads what stays in its file.
fn stored(items: Items) {
    if let Items::VectorFile(file) = items {
        drop(file.read_all());
    }
}

/// Reads a folder with the input as the files of these names, beside valid ones.
fn folder(names: &[&str], bytes: &[u8]) {
    static BESIDE: LazyLock<()> = LazyLock::new(|| {
        let header = "{'descr': '|u1', 'fortran_order': False, 'shape': (4,), }\n";
        let start = [b"\x93NUMPY\x01\0".as_slice(), &(header.len() as u16).to_le_bytes()].concat();
        let labels = [&start, header.as_bytes(), &[0, 1, 0, 1]].concat();
        for part in ["train", "test"] {
            let vectors = Array2::from_shape_fn((4, 2), |(i, j)| (i + j) as f32);
            std::fs::create_dir_all(FOLDER.path().join("names")).expect("a folder");
            embedtune_train::io::write_npy(&FOLDER.path().join(format!("names/{part}.npy")), vectors.view())
                .expect("vectors");
            file(&format!("names/{part}_labels.npy"), &labels);
        }
        for name in ["table", "texts", "parquet"] {
            std::fs::create_dir_all(FOLDER.path().join(name)).expect("a folder");
        }
        file("table/images-idx3-ubyte", b"\0\0\x08\x03\0\0\0\x04\0\0\0\x01\0\0\0\x01\x09\x08\x07\x06");
        file("table/labels-idx1-ubyte", b"\0\0\x08\x01\0\0\0\x04\x00\x01\x00\x01");
    });
    LazyLock::force(&BESIDE);
    let mut at = PathBuf::new();
    for name in names {
        at = file(name, bytes);
    }
    drop(Split::load(at.parent().expect("a folder")));
}

/// Reads blocks of vectors that lie in a file, the last one beyond its end.
fn rows(of: &impl Rows) {
    let (items, dim) = of.shape();
    if dim <= LONGEST_ROW {
        let mut block = vec![0.0; 3 * dim];
        for first in [0, items / 2, items.saturating_sub(3), items] {
            drop(of.read(first, &mut block));
        }
    }
}

/// No input holds so many values.
const LONGEST_ROW: usize = 1 << 16;

/// Vectors at a place in a file that the first bytes give: start, items, length, type.
fn file_rows(bytes: &[u8]) {
    const TYPES: [&str; 5] = ["<f2", "<f4", "<f8", ">f4", ">f8"];
    let Some((&place, rest)) = bytes.split_first_chunk::<25>() else { return };
    let number = |at: usize| u64::from_le_bytes(std::array::from_fn(|byte| place[at + byte]));
    let of_type = Number::of_npy(TYPES[usize::from(place[24]) % TYPES.len()]).expect("one of its types");
    let shape = [number(8), number(16)].map(|size| usize::try_from(size).unwrap_or(usize::MAX));
    if let Ok(file) = FileRows::open(&file("x.bin", rest), number(0), shape, of_type) {
        rows(&file);
        if shape[1] <= LONGEST_ROW {
            drop(file.read_rows(&[shape[0] / 2, 0, shape[0]], &mut vec![0.0; 3 * shape[1]]));
        }
    }
}

/// A reader of data.
pub(crate) struct Reader {
    pub(crate) name: &'static str,
    /// Reads the input as its file.
    read: fn(&[u8]),
    /// The reader whose seeds are files for this one: itself, if it has its own.
    pub(crate) seeds: u8,
}

const fn reader(name: &'static str, seeds: u8, read: fn(&[u8])) -> Reader {
    Reader { name, read, seeds }
}

/// The readers of data, by the first byte of an input; the rest is the file.
pub(crate) const DATA: [Reader; 28] = [
    reader("idx_images", 0, |bytes| drop(idx::read_images(&file("x", bytes)))),
    reader("idx_labels", 1, |bytes| drop(idx::read_labels(&file("x", bytes)))),
    reader("npy", 2, |bytes| drop(vectors::read_vectors(&file("x", bytes)))),
    reader("npy_labels", 3, |bytes| drop(vectors::read_labels(&file("x", bytes)))),
    reader("npz", 4, |bytes| drop(vectors::read_npz(&file("x", bytes)))),
    reader("safetensors", 5, |bytes| drop(tensors::read_safetensors(&file("x", bytes)))),
    reader("csv", 6, |bytes| drop(text::read_table(&file("x", bytes)))),
    reader("class_split", 7, |bytes| drop(text::read_class_split(&file("x", bytes)))),
    reader("stream_npy", 8, |bytes| stream("x.npy", bytes)),
    reader("stream_csv", 9, |bytes| stream("x.csv", bytes)),
    reader("stream_txt", 10, |bytes| stream("x.txt", bytes)),
    reader("png", 11, |bytes| image(file("x.png", bytes))),
    reader("jpeg", 12, |bytes| image(file("x.jpg", bytes))),
    reader("parquet", 13, |bytes| {
        let path = file("x.parquet", bytes);
        drop((parquet::read(&path), parquet::read_pairs(&path)));
    }),
    reader("stored_npy", 2, |bytes| drop(vectors::open_vectors(&file("x.npy", bytes), false).map(stored))),
    reader("stored_safetensors", 5, |bytes| {
        drop(tensors::open_safetensors(&file("x", bytes), false).map(|(items, _)| stored(items)));
    }),
    reader("stream_npz", 4, |bytes| stream("x.npz", bytes)),
    reader("stream_safetensors", 5, |bytes| stream("x.safetensors", bytes)),
    reader("stream_parquet", 13, |bytes| stream("x.parquet", bytes)),
    reader("safetensors_items", 5, |bytes| {
        let path = file("x", bytes);
        drop((tensors::read_items(&path), tensors::read_labels(&path)));
    }),
    reader("npz_items", 4, |bytes| drop(vectors::read_npz_items(&file("x", bytes)))),
    reader("class_names", 21, |bytes| folder(&["names/classes.txt"], bytes)),
    reader("split_by_table", 7, |bytes| folder(&["table/classes.tsv"], bytes)),
    reader("split_of_texts", 6, |bytes| folder(&["texts/train.csv", "texts/test.csv"], bytes)),
    reader("split_of_parquet", 13, |bytes| {
        folder(&["parquet/train.parquet", "parquet/test.parquet"], bytes);
    }),
    reader("retrieval_header", 2, |bytes| drop(NpyHeader::read(bytes))),
    reader("retrieval_npy", 2, |bytes| drop(NpyRows::open(file("x.npy", bytes)).map(|npy| rows(&npy)))),
    reader("retrieval_file", 27, file_rows),
];

/// Every reader of data.
pub(crate) fn data(input: &[u8]) {
    let Some((kind, bytes)) = input.split_first() else { return };
    (DATA[usize::from(*kind) % DATA.len()].read)(bytes);
}

/// A file of options, its checks, and what is written of it. A first line of the form `name=value` is also set over the rest,
/// as `--set` does.
pub(crate) fn options(text: &str) {
    drop(options_of_run(text));
    if let Some((first, rest)) = text.split_once('\n')
        && let Some((name, value)) = first.split_once('=')
    {
        drop(RunOptions::from_toml_with(rest, &[(name.trim().to_owned(), value.trim().to_owned())]));
    }
    let Ok(options) = RunOptions::from_toml(text) else { return };
    if options.check().is_ok() {
        let written = options.to_toml().expect("what was read can be written");
        assert_eq!(RunOptions::from_toml(&written).expect("and read again"), options);
    }
}

static RUN: LazyLock<(tempfile::TempDir, Split)> = LazyLock::new(|| {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data");
    std::fs::create_dir(&data).expect("a folder");
    std::fs::write(data.join("a, b.csv"), "text,label\na,b\n").expect("a file");
    let part = |items: usize| {
        let vectors = Array2::from_shape_fn((items, 3), |(i, j)| ((i * 5 + j * 3) % 7) as f32 - 3.0);
        let labels = (0..items).map(|item| (item % 2) as u32).collect();
        Dataset::new(Items::Vectors(vectors), labels, vec!["a".to_owned(), "b".to_owned()])
    };
    let split = Split { train: part(8), queries: part(4), gallery: None };
    let run = Trainer::builder().epochs(1).batch_size(8).folder(folder.path().join("run")).data_folder(data);
    run.loss(LossKind::ArcFaceLoss).build(&split).and_then(|trainer| trainer.fit(&mut ())).expect("a run");
    (folder, split)
});

/// Interrupts a run after its first batch.
struct Once;

impl Observer for Once {
    fn stop_batch(&mut self) -> bool {
        true
    }
}

/// A run that was interrupted: what only those that train read is read when it goes on.
static CUT: LazyLock<tempfile::TempDir> = LazyLock::new(|| {
    let folder = tempfile::tempdir().expect("a folder");
    let mut options = RunOptions { epochs: 99, batch_size: 4, ..RunOptions::default() };
    options.loss = LossKind::ArcFaceLoss;
    (options.callbacks.log_steps, options.callbacks.tensorboard) = (1, true);
    let run = Trainer::builder().options(options).folder(folder.path()).build(&RUN.1).expect("a run");
    assert!(run.fit(&mut Once).is_err(), "it is interrupted");
    folder
});

/// The lines within epochs.
const STEPS: &str = "steps.jsonl";

fn steps(bytes: &[u8]) {
    let run = RunFolder::new(CUT.path());
    let before = std::fs::read(run.checkpoint()).expect("it is there");
    std::fs::write(run.steps(), bytes).expect("it is written");
    if let Ok(Resumed::Ready(trainer)) = resume(&run, &RUN.1, None) {
        assert!(trainer.fit(&mut Once).is_err(), "it is interrupted");
    }
    std::fs::write(run.checkpoint(), before).expect("it is written");
}

/// The files of a run.
pub(crate) const FILES: [&str; 6] =
    ["run.toml", "metrics.jsonl", "model.safetensors", "checkpoint.safetensors", "data_files.csv", STEPS];

/// A file of the run that [`run`] damages, as it was written.
#[allow(dead_code)] // The fuzz targets begin from their corpus.
pub(crate) fn whole(file: &str) -> Vec<u8> {
    let folder = if file == STEPS { CUT.path().to_path_buf() } else { RUN.0.path().join("run") };
    std::fs::read(folder.join(file)).expect("it is there")
}

/// A run's folder. The first byte chooses the file that the rest replaces.
pub(crate) fn run(input: &[u8]) {
    let Some((kind, bytes)) = input.split_first() else { return };
    let (folder, split) = &*RUN;
    let run = RunFolder::new(folder.path().join("run"));
    let name = FILES[usize::from(*kind) % FILES.len()];
    if name == STEPS {
        return steps(bytes);
    }
    let path = run.path().join(name);
    let whole = std::fs::read(&path).expect("it is there");
    std::fs::write(&path, bytes).expect("it is written");
    drop(Model::load(&run));
    drop(finished(&run));
    drop(resume(&run, split, None));
    drop(changed_files(&run, &folder.path().join("data")));
    drop(Trainer::builder().epochs(1).batch_size(8).init_from(run.path()).build(split));
    std::fs::write(&path, whole).expect("it is written");
}
