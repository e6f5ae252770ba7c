//! Inputs of every kind, damaged at random from valid ones: never a panic, never a result, never a part of one.
//!
//! Each damaged file is first given to the library in this process. Where it is refused there, the program is run on it
//! and must say why, name the file, end with 1 and leave nothing behind; where it is still valid (a changed pixel, a
//! changed letter) nothing more is asked than that no panic was needed to find out.

mod support;

use std::path::Path;

use embedtune_train::data::{DataOptions, Split, Stream};
use embedtune_train::ndarray::Array2;
use embedtune_train::run::RunOptions;
use support::damage::{contents, damage, random};
use support::{
    TEST, TRAIN, files, gzip, idx, images, label_npy, labels, run, sequence_folder, tensors, vector_folder,
    vectors,
};

/// Damaged versions of each file.
const VERSIONS: u64 = 26;

/// A folder of valid data and the files of it that are damaged in turn.
type Case = (&'static str, fn(&Path), &'static [&'static str]);

fn idx_folder(at: &Path) {
    support::image_folder(at);
    // One of them gzipped.
    std::fs::write(at.join("train-labels-idx1-ubyte"), gzip(&idx(&[TRAIN as u32], &labels(TRAIN)))).unwrap();
}

fn class_folder(at: &Path) {
    std::fs::create_dir_all(at).unwrap();
    std::fs::write(at.join("x-images-idx3-ubyte"), images(TRAIN)).unwrap();
    std::fs::write(at.join("x-labels-idx1-ubyte"), idx(&[TRAIN as u32], &labels(TRAIN))).unwrap();
    let table = "class\tsplit\n0\tbackground\n1\tbackground\n2\tevaluation\n3\tevaluation\n";
    std::fs::write(at.join("classes.tsv"), table).unwrap();
}

fn npz_folder(at: &Path) {
    std::fs::create_dir_all(at).unwrap();
    for (part, count) in [("train", TRAIN), ("test", TEST)] {
        let labels = label_npy(&labels(count));
        npz(&at.join(format!("{part}.npz")), &vectors(count), &[("labels", labels)]);
    }
}

/// Vectors, and other arrays, in a `.npz` file.
fn npz(path: &Path, vectors: &Array2<f32>, more: &[(&str, Vec<u8>)]) {
    let array = path.with_extension("part");
    embedtune_train::io::write_npy(&array, vectors.view()).unwrap();
    let mut archive = zip::ZipWriter::new(std::fs::File::create(path).unwrap());
    let mut add = |name: &str, bytes: &[u8]| {
        archive.start_file(format!("{name}.npy"), zip::write::SimpleFileOptions::default()).unwrap();
        std::io::Write::write_all(&mut archive, bytes).unwrap();
    };
    add("vectors", &std::fs::read(&array).unwrap());
    more.iter().for_each(|(name, bytes)| add(name, bytes));
    archive.finish().unwrap();
    std::fs::remove_file(array).unwrap();
}

/// Vectors whose labels have names.
fn named_folder(at: &Path) {
    vector_folder(at);
    std::fs::write(at.join("classes.txt"), "card\ntop up\nfee\nrate\n").unwrap();
}

/// Texts in Parquet files, which only the fuzz targets' seeds are at hand for; a folder without files where these are not.
fn parquet_folder(at: &Path) {
    std::fs::create_dir_all(at).unwrap();
    let seed = concat!(env!("CARGO_MANIFEST_DIR"), "/../train/fuzz/corpus/data/parquet_texts");
    let Ok(seed) = std::fs::read(seed) else { return };
    for part in ["train", "test"] {
        // Behind the byte that chooses the reader.
        std::fs::write(at.join(format!("{part}.parquet")), &seed[1..]).unwrap();
    }
}

fn csv_folder(at: &Path) {
    std::fs::create_dir_all(at).unwrap();
    let text = "text,label\n\"where, is my card\",card\nmy card is lost,card\ntop up,top\n\"top \"\"it\"\" up\",top\n";
    std::fs::write(at.join("train.csv"), text).unwrap();
    std::fs::write(at.join("test.csv"), text).unwrap();
}

fn pair_folder(at: &Path) {
    std::fs::create_dir_all(at).unwrap();
    let text = "text1,text2,score\nwhere is it,not here,0.9\ntop up,topping up,0.7\nnot here,gone,1\nother,thing,0.1\n";
    std::fs::write(at.join("train.csv"), text).unwrap();
    std::fs::write(at.join("test.csv"), text).unwrap();
}

fn photo_folder(at: &Path) {
    for part in ["train", "test"] {
        for class in ["a", "b"] {
            let folder = at.join(part).join(class);
            std::fs::create_dir_all(&folder).unwrap();
            for (item, ending) in ["png", "jpg"].into_iter().enumerate() {
                let shade = if class == "a" { 40 } else { 180 };
                let image = image::RgbImage::from_fn(9, 7, |x, y| {
                    image::Rgb([shade, (x * 20) as u8, (y * 30) as u8])
                });
                image.save(folder.join(format!("{item}.{ending}"))).unwrap();
            }
        }
    }
}

const DATA: [Case; 10] = [
    (
        "idx",
        idx_folder,
        &[
            "train-images-idx3-ubyte",
            "train-labels-idx1-ubyte",
            "t10k-images-idx3-ubyte",
            "t10k-labels-idx1-ubyte",
        ],
    ),
    ("names", named_folder, &["classes.txt"]),
    ("parquet", parquet_folder, &["train.parquet", "test.parquet"]),
    ("classes", class_folder, &["classes.tsv", "x-labels-idx1-ubyte"]),
    ("npy", vector_folder, &["train.npy", "train_labels.npy", "test.npy"]),
    ("npz", npz_folder, &["train.npz", "test.npz"]),
    ("tensors", sequence_folder, &["train.safetensors", "test.safetensors"]),
    ("csv", csv_folder, &["train.csv", "test.csv"]),
    ("pairs", pair_folder, &["train.csv"]),
    ("photos", photo_folder, &["train/a/0.png", "train/b/1.jpg"]),
];

#[test]
fn damaged_data_are_refused_and_leave_nothing() {
    let (mut refused, mut valid) = (0, 0);
    for (case, write, damaged) in DATA {
        let folder = tempfile::tempdir().unwrap();
        let (at, data) = (folder.path(), folder.path().join(case));
        write(&data);
        let options = DataOptions { image_size: 8, ..DataOptions::default() };
        match Split::load_with(&data, &options) {
            Ok(_) => {}
            // Behind a feature that this build may lack, which the program says, too.
            Err(error) if case == "parquet" => {
                let said = error.to_string();
                println!("skipped: {said}");
                if !files(&data).is_empty() {
                    assert!(said.contains("build it with the feature `parquet`"), "{said}");
                    run(at, "fit -q --data parquet --out out").refused(1, &["with the feature `parquet`"]);
                }
                continue;
            }
            Err(error) => panic!("{case} is valid at first: {error}"),
        }
        for name in damaged {
            let path = data.join(name);
            let whole = std::fs::read(&path).unwrap();
            for version in 0..VERSIONS {
                std::fs::write(&path, damage(&whole, &mut random(&format!("{case}{name}"), version)))
                    .unwrap();
                match Split::load_with(&data, &options) {
                    Ok(_) => valid += 1,
                    Err(_) => {
                        refused += 1;
                        let before = contents(at);
                        let said = run(at, &format!("fit -q --data {case} --epochs 1 --out out"));
                        said.refused(1, &["error: ", case]);
                        assert!(contents(at) == before, "{case}/{name}, version {version}");
                    }
                }
            }
            std::fs::write(&path, whole).unwrap();
        }
    }
    assert!(refused >= 200, "{refused} refused, {valid} still valid");
}

#[test]
fn damaged_options_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    vector_folder(&at.join("data"));
    let whole = RunOptions { epochs: 1, batch_size: 16, ..RunOptions::default() }.to_toml().unwrap();
    let mut refused = 0;
    for version in 0..2 * VERSIONS {
        let bytes = damage(whole.as_bytes(), &mut random("options", version));
        std::fs::write(at.join("options.toml"), &bytes).unwrap();
        let text = String::from_utf8(bytes);
        let good = text.is_ok_and(|text| RunOptions::from_toml(&text).is_ok_and(|o| o.check().is_ok()));
        if !good {
            refused += 1;
            run(at, "fit -q --data data --config options.toml --out out").refused(1, &["error: "]);
            assert!(!at.join("out").exists(), "version {version}");
        }
    }
    assert!(refused >= 20, "{refused} refused");
}

#[test]
fn damaged_streams_end_in_an_error_or_in_items() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    embedtune_train::io::write_npy(&at.join("x.npy"), vectors(TRAIN).view()).unwrap();
    sequence_folder(&at.join("t"));
    std::fs::rename(at.join("t/train.safetensors"), at.join("x.safetensors")).unwrap();
    npz(&at.join("x.npz"), &vectors(TRAIN), &[]);
    std::fs::write(at.join("x.csv"), "id,text\n1,\"a, b\"\n2,c\n3,d\n").unwrap();
    std::fs::write(at.join("x.txt"), "one\ntwo\nthr\u{e9}e\n").unwrap();
    let mut refused = 0;
    for name in ["x.npy", "x.npz", "x.safetensors", "x.csv", "x.txt"] {
        let path = at.join(name);
        let whole = std::fs::read(&path).unwrap();
        for version in 0..2 * VERSIONS {
            std::fs::write(&path, damage(&whole, &mut random(name, version))).unwrap();
            let read = || -> embedtune_train::Result<usize> {
                let mut stream = Stream::open(&path, &DataOptions::default())?;
                let mut items = 0;
                while let Some(block) = stream.next(7)? {
                    items += block.len();
                }
                Ok(items)
            };
            if let Err(error) = read() {
                refused += 1;
                assert!(error.to_string().contains(name), "{error}");
            }
        }
    }
    assert!(refused >= 80, "{refused} refused");
}

/// Whether a stream of items can be read to its end.
fn readable(path: &Path) -> bool {
    let Ok(mut stream) = Stream::open(path, &DataOptions::default()) else { return false };
    loop {
        match stream.next(512) {
            Ok(Some(_)) => {}
            end => return end.is_ok(),
        }
    }
}

/// Vectors that are read as they are used: what is wrong far behind the first block is found when much is written already.
#[test]
fn damaged_inputs_of_embed_and_evaluate_leave_nothing() {
    const ITEMS: usize = 2500;
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    vector_folder(&at.join("data"));
    run(at, "fit -q --data data --epochs 1 --batch-size 16 --out run").done();
    let rows = Array2::from_shape_fn((ITEMS, 6), |(i, j)| ((i * 7 + j * 3) % 41) as f32 / 20.0 - 1.0);
    embedtune_train::io::write_npy(&at.join("x.npy"), rows.view()).unwrap();
    npz(&at.join("x.npz"), &rows, &[]);
    tensors(&at.join("x.safetensors"), ITEMS);
    let classes: Vec<u8> = (0..ITEMS).map(|row| (row % 5) as u8).collect();
    std::fs::write(at.join("labels.npy"), label_npy(&classes)).unwrap();
    std::fs::write(at.join("out.csv"), "mine").unwrap();
    let mut refused = 0;
    for name in ["x.npy", "x.npz", "x.safetensors", "labels.npy"] {
        let path = at.join(name);
        let whole = std::fs::read(&path).unwrap();
        let mut versions: Vec<Vec<u8>> =
            (0..12).map(|version| damage(&whole, &mut random(name, version))).collect();
        versions.push(whole[..whole.len() - 1].to_vec());
        // A value near the end: not a number, in the order of its bytes.
        let mut wrong = whole.clone();
        let end = wrong.len() - if name == "x.safetensors" { ITEMS + 400 } else { 400 };
        wrong[end - end % 4..][..4].copy_from_slice(&[0xff; 4]);
        versions.push(wrong);
        for bytes in versions {
            std::fs::write(&path, bytes).unwrap();
            let before = contents(at);
            // Labels are `evaluate`'s alone, and .npz files are not.
            if name != "labels.npy" && !readable(&path) {
                refused += 1;
                for out in ["out.npy", "out.csv"] {
                    run(at, &format!("embed --run run --input {name} --out {out}"))
                        .refused(1, &["error: ", name]);
                }
                if name != "x.npz" {
                    run(at, &format!("evaluate --vectors {name} --labels labels.npy"))
                        .refused(1, &["error: "]);
                }
            }
            if name == "labels.npy" {
                let said = run(at, "evaluate --vectors x.npy --labels labels.npy");
                refused += u64::from(said.code == Some(1));
                assert!(said.code == Some(0) || said.err.contains("labels.npy"), "{}", said.err);
            }
            assert!(contents(at) == before, "{name}");
        }
        std::fs::write(&path, whole).unwrap();
    }
    assert!(refused >= 25, "{refused} refused");
}
