//! Inputs of every kind, damaged at random from valid ones: never a panic, never a result, never a part of one.
//!
//! Each damaged file is first given to the library in this process. Where it is refused there, the program is run on it
//! and must say why, name the file, end with 1 and leave nothing behind; where it is still valid (a changed pixel, a
//! changed letter) nothing more is asked than that no panic was needed to find out.

mod support;

use std::path::{Path, PathBuf};

use embedtune_train::data::{DataOptions, Split, Stream};
use embedtune_train::run::{Model, Resumed, RunFolder, RunOptions, resume};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use support::{
    TEST, TRAIN, files, gzip, idx, images, label_npy, labels, run, sequence_folder, vector_folder, vectors,
};

/// Damaged versions of each file.
const VERSIONS: u64 = 28;

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
        let vectors_at = at.join("part");
        embedtune_train::io::write_npy(&vectors_at, vectors(count).view()).unwrap();
        let mut archive = zip::ZipWriter::new(std::fs::File::create(at.join(format!("{part}.npz"))).unwrap());
        for (name, bytes) in
            [("vectors", std::fs::read(&vectors_at).unwrap()), ("labels", label_npy(&labels(count)))]
        {
            archive.start_file(format!("{name}.npy"), zip::write::SimpleFileOptions::default()).unwrap();
            std::io::Write::write_all(&mut archive, &bytes).unwrap();
        }
        archive.finish().unwrap();
        std::fs::remove_file(vectors_at).unwrap();
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

const DATA: [Case; 8] = [
    ("idx", idx_folder, &["train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-labels-idx1-ubyte"]),
    ("classes", class_folder, &["classes.tsv", "x-labels-idx1-ubyte"]),
    ("npy", vector_folder, &["train.npy", "train_labels.npy", "test.npy"]),
    ("npz", npz_folder, &["train.npz", "test.npz"]),
    ("tensors", sequence_folder, &["train.safetensors", "test.safetensors"]),
    ("csv", csv_folder, &["train.csv", "test.csv"]),
    ("pairs", pair_folder, &["train.csv"]),
    ("photos", photo_folder, &["train/a/0.png", "train/b/1.jpg"]),
];

/// Cuts, flips bits, overwrites, inserts, removes and doubles stretches: one to three of these.
fn damage(bytes: &[u8], random: &mut ChaCha8Rng) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for _ in 0..random.random_range(1..=3) {
        let length = bytes.len();
        let at = random.random_range(0..length.max(1));
        // Headers are where parsers live.
        let at = if random.random_bool(0.5) { at % 64 } else { at }.min(length);
        let end = (at + random.random_range(1..=16)).min(length);
        match random.random_range(0..6) {
            0 => bytes.truncate(at),
            1 if at < length => bytes[at] ^= 1 << random.random_range(0..8),
            2 => bytes[at..end]
                .iter_mut()
                .for_each(|b| *b = *[0, 1, 0x7f, 0xff, b'9', b'"'].get(at % 6).unwrap_or(&0)),
            3 => drop(bytes.splice(at..at, std::iter::repeat_n(random.random::<u8>(), 5))),
            4 => drop(bytes.drain(at..end)),
            _ => {
                let again = bytes[at..end].to_vec();
                drop(bytes.splice(at..at, again));
            }
        }
    }
    bytes
}

fn random(case: &str, version: u64) -> ChaCha8Rng {
    let name = case.bytes().fold(7u64, |sum, b| sum.wrapping_mul(31).wrapping_add(b.into()));
    ChaCha8Rng::seed_from_u64(name ^ version)
}

/// Every file below a folder with its bytes.
fn contents(at: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut all = Vec::new();
    for name in files(at) {
        let path = at.join(name);
        if path.is_dir() {
            all.extend(contents(&path));
        } else {
            let bytes = std::fs::read(&path).unwrap();
            all.push((path, bytes));
        }
    }
    all
}

#[test]
fn damaged_data_are_refused_and_leave_nothing() {
    let (mut refused, mut valid) = (0, 0);
    for (case, write, damaged) in DATA {
        let folder = tempfile::tempdir().unwrap();
        let (at, data) = (folder.path(), folder.path().join(case));
        write(&data);
        let options = DataOptions { image_size: 8, ..DataOptions::default() };
        Split::load_with(&data, &options).unwrap_or_else(|e| panic!("{case} is valid at first: {e}"));
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
fn damaged_runs_are_refused_and_stay_as_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    vector_folder(&at.join("data"));
    run(at, "fit -q --data data --loss ArcFaceLoss --epochs 1 --batch-size 16 --out run").done();
    let (split, run_folder) = (Split::load(&at.join("data")).unwrap(), RunFolder::new(at.join("run")));
    let mut refused = 0;
    for name in support::RUN_FILES {
        let path = at.join("run").join(name);
        let whole = std::fs::read(&path).unwrap();
        for version in 0..VERSIONS {
            std::fs::write(&path, damage(&whole, &mut random(name, version))).unwrap();
            let before = contents(at);
            let loaded = Model::load(&run_folder).is_ok();
            let said = run(at, "embed --run run --data data --out out.npy");
            assert_eq!(said.code, Some(i32::from(!loaded)), "{name}, version {version}: {}", said.err);
            if loaded {
                std::fs::remove_file(at.join("out.npy")).unwrap();
            }
            // A run that is finished changes nothing; one that is damaged must not be continued.
            let finished = matches!(resume(&run_folder, &split, None), Ok(Resumed::Finished(_)));
            if !finished && resume(&run_folder, &split, None).is_err() {
                refused += 1;
                run(at, "fit -q --resume run").refused(1, &["error: "]);
            }
            assert!(contents(at) == before, "{name}, version {version}");
        }
        std::fs::write(&path, whole).unwrap();
    }
    assert!(refused >= 40, "{refused} refused");
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
    std::fs::write(at.join("x.csv"), "id,text\n1,\"a, b\"\n2,c\n3,d\n").unwrap();
    std::fs::write(at.join("x.txt"), "one\ntwo\nthr\u{e9}e\n").unwrap();
    let mut refused = 0;
    for name in ["x.npy", "x.safetensors", "x.csv", "x.txt"] {
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
    assert!(refused >= 60, "{refused} refused");
}
