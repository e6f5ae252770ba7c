//! Raw pixels of real images, whose retrieval quality is known.

use std::io::Read;
use std::path::{Path, PathBuf};

use embedtune_retrieval::{EvaluateOptions, evaluate};
use flate2::read::GzDecoder;
use ndarray::Array2;

/// The folder of real data, or `None`, which is printed.
fn folder(name: &str) -> Option<PathBuf> {
    let root = std::env::var_os("EMBEDTUNE_DATA")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data"), PathBuf::from);
    let folder = root.join(name);
    if folder.is_dir() {
        return Some(folder);
    }
    println!("skipped: no {}; set EMBEDTUNE_DATA to the folder that holds {name}", folder.display());
    None
}

/// The bytes of a gzip idx file after its header of `header` bytes.
fn idx(folder: &Path, file: &str, header: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    let file = std::fs::File::open(folder.join(file)).unwrap();
    GzDecoder::new(file).read_to_end(&mut bytes).unwrap();
    bytes.split_off(header)
}

fn images(bytes: Vec<u8>) -> Array2<f32> {
    Array2::from_shape_vec((bytes.len() / 784, 784), bytes.into_iter().map(f32::from).collect()).unwrap()
}

#[test]
fn fashion_mnist_test_images() {
    let Some(folder) = folder("fashion-mnist") else { return };
    let pixels = images(idx(&folder, "t10k-images-idx3-ubyte.gz", 16));
    let labels: Vec<u32> = idx(&folder, "t10k-labels-idx1-ubyte.gz", 8).into_iter().map(u32::from).collect();
    let metrics = evaluate(pixels.view(), &labels, None, &EvaluateOptions::default()).unwrap();
    assert_eq!((metrics.items, metrics.classes, metrics.queries_without_match), (10_000, 10, 0));
    assert!((metrics.recall_at_1 - 0.8146).abs() < 5e-5, "{}", metrics.recall_at_1);
}

#[test]
fn omniglot_evaluation_classes() {
    let Some(folder) = folder("omniglot28") else { return };
    let pixels = images(idx(&folder, "omniglot28-images-idx3-ubyte.gz", 16));
    let labels: Vec<u32> = idx(&folder, "omniglot28-labels-idx1-short.gz", 8)
        .chunks_exact(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
        .collect();
    let classes = std::fs::read_to_string(folder.join("omniglot28-classes.tsv")).unwrap();
    let unseen: Vec<bool> = classes.lines().skip(1).map(|line| line.contains("evaluation")).collect();
    let rows: Vec<usize> = (0..labels.len()).filter(|&row| unseen[labels[row] as usize]).collect();
    let labels: Vec<u32> = rows.iter().map(|&row| labels[row]).collect();
    let pixels = pixels.select(ndarray::Axis(0), &rows);
    let metrics = evaluate(pixels.view(), &labels, None, &EvaluateOptions::default()).unwrap();
    assert_eq!((metrics.items, metrics.classes), (13_180, 659));
    // A few queries have two nearest drawings that only rounding tells apart.
    assert!((metrics.recall_at_1 - 0.2182).abs() < 2e-4, "{}", metrics.recall_at_1);
}
