//! The program and small data for it.
#![allow(dead_code)] // Each test file uses its own part.

pub(crate) mod damage;

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use embedtune_train::io::write_npy;
use embedtune_train::ndarray::Array2;

pub(crate) const CLASSES: usize = 4;
pub(crate) const TRAIN: usize = 48;
pub(crate) const TEST: usize = 24;

/// What a call of the program said and how it ended.
pub(crate) struct Said {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("the program writes UTF-8");
        let said = Self { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) };
        assert!(!said.err.contains("panicked"), "{}", said.err);
        said
    }
}

impl Said {
    /// Checks that the call failed with a message that holds each of `parts`.
    #[track_caller]
    pub(crate) fn refused(&self, code: i32, parts: &[&str]) {
        assert_eq!(self.code, Some(code), "stdout: {}\nstderr: {}", self.out, self.err);
        assert!(!self.err.contains(".embedtune-"), "a file is named that nobody has: {}", self.err);
        for part in parts {
            assert!(self.err.contains(part), "{}\nlacks: {part}", self.err);
        }
    }

    /// Checks that the call succeeded; what it printed.
    #[track_caller]
    pub(crate) fn done(self) -> String {
        assert_eq!(self.code, Some(0), "stdout: {}\nstderr: {}", self.out, self.err);
        self.out
    }
}

pub(crate) fn program(folder: &Path, line: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_embedtune"));
    command.current_dir(folder).args(line.split_whitespace()).stdin(Stdio::null());
    command
}

/// Runs `embedtune LINE` in `folder`; words are separated by spaces.
pub(crate) fn run(folder: &Path, line: &str) -> Said {
    program(folder, line).output().expect("the program starts").into()
}

/// The files of a folder by name, hidden ones included.
pub(crate) fn files(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .map(|entries| entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect())
        .unwrap_or_default();
    names.sort();
    names
}

pub(crate) const RUN_FILES: [&str; 4] =
    ["checkpoint.safetensors", "metrics.jsonl", "model.safetensors", "run.toml"];

/// Those, the list of the data's files, and what is written at the end.
pub(crate) const FINISHED_FILES: [&str; 6] = [
    "checkpoint.safetensors",
    "data_files.csv",
    "metrics.jsonl",
    "model.safetensors",
    "report.html",
    "run.toml",
];

pub(crate) fn labels(count: usize) -> Vec<u8> {
    (0..count).map(|row| (row % CLASSES) as u8).collect()
}

/// Vectors of which two columns carry the class.
pub(crate) fn vectors(count: usize) -> Array2<f32> {
    Array2::from_shape_fn((count, 6), |(row, column)| {
        let class = (row % CLASSES) as f32;
        let noise = ((row * 31 + column * 17) % 29) as f32 / 29.0 - 0.5;
        if column < 2 { class * if column == 0 { 0.5 } else { -0.3 } + 0.2 * noise } else { noise }
    })
}

/// An idx file of bytes.
pub(crate) fn idx(sizes: &[u32], data: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0, 0, 8, sizes.len() as u8];
    sizes.iter().for_each(|size| bytes.extend_from_slice(&size.to_be_bytes()));
    bytes.extend_from_slice(data);
    bytes
}

/// `count` images of 8 x 8 whose brightest rows tell the class.
pub(crate) fn images(count: usize) -> Vec<u8> {
    let pixels = (0..count).flat_map(|item| {
        (0..64).map(move |pixel| {
            let noise = (item * 37 + pixel * 11) % 90;
            if pixel / 16 == item % CLASSES { 160 + noise as u8 } else { noise as u8 }
        })
    });
    idx(&[count as u32, 8, 8], &pixels.collect::<Vec<u8>>())
}

/// A `.npy` file of labels.
pub(crate) fn label_npy(labels: &[u8]) -> Vec<u8> {
    let header = format!("{{'descr': '|u1', 'fortran_order': False, 'shape': ({},), }}\n", labels.len());
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend_from_slice(&(header.len() as u16).to_le_bytes());
    bytes.extend_from_slice(header.as_bytes());
    bytes.extend_from_slice(labels);
    bytes
}

/// Writes a folder of vectors that can be learnt from.
pub(crate) fn vector_folder(folder: &Path) {
    std::fs::create_dir_all(folder).unwrap();
    for (part, count) in [("train", TRAIN), ("test", TEST)] {
        write_npy(&folder.join(format!("{part}.npy")), vectors(count).view()).unwrap();
        std::fs::write(folder.join(format!("{part}_labels.npy")), label_npy(&labels(count))).unwrap();
    }
}

/// Writes vectors and labels as the tensors of one file: `vectors` F32, `labels` U8.
pub(crate) fn tensors(path: &Path, count: usize) {
    let rows = vectors(count);
    let bytes = rows.len() * 4;
    let header = format!(
        "{{\"vectors\":{{\"dtype\":\"F32\",\"shape\":[{count},{}],\"data_offsets\":[0,{bytes}]}},\"labels\":{{\"dtype\":\"U8\",\
         \"shape\":[{count}],\"data_offsets\":[{bytes},{}]}}}}",
        rows.ncols(),
        bytes + count
    );
    let values = rows.iter().flat_map(|v| v.to_le_bytes()).chain(labels(count));
    let file: Vec<u8> =
        (header.len() as u64).to_le_bytes().into_iter().chain(header.into_bytes()).chain(values).collect();
    std::fs::write(path, file).unwrap();
}

/// Writes a folder of images that can be learnt from.
pub(crate) fn image_folder(folder: &Path) {
    std::fs::create_dir_all(folder).unwrap();
    for (part, count) in [("train", TRAIN), ("t10k", TEST)] {
        std::fs::write(folder.join(format!("{part}-images-idx3-ubyte")), images(count)).unwrap();
        let labels = idx(&[count as u32], &labels(count));
        std::fs::write(folder.join(format!("{part}-labels-idx1-ubyte")), labels).unwrap();
    }
}

/// Sends a signal by name, as a terminal would.
pub(crate) fn signal(name: &str, process: u32) {
    let kill = Command::new("kill").args([format!("-{name}"), process.to_string()]).status();
    assert!(kill.expect("kill is there").success());
}

/// The bytes as a gzip file.
pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Token sequences with masks, in safetensors files.
pub(crate) fn sequence_folder(at: &Path) {
    std::fs::create_dir_all(at).unwrap();
    for (part, count) in [("train", TRAIN), ("test", TEST)] {
        let rows: Vec<u8> = vectors(count).iter().flat_map(|v| v.to_le_bytes()).collect();
        let mask: Vec<u8> = (0..count * 3).map(|i| u8::from(i % 6 != 4)).collect();
        let (a, b) = (rows.len(), rows.len() + mask.len());
        let header = format!(
            r#"{{"tokens":{{"dtype":"F32","shape":[{count},3,2],"data_offsets":[0,{a}]}},"mask":{{"dtype":"BOOL","shape":[{count},3],"data_offsets":[{a},{b}]}},"labels":{{"dtype":"U8","shape":[{count}],"data_offsets":[{b},{}]}}}}"#,
            b + count
        );
        let bytes =
            [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &rows, &mask, &labels(count)].concat();
        std::fs::write(at.join(format!("{part}.safetensors")), bytes).unwrap();
    }
}
