//! Data that cannot be used: each file is named with what is wrong and what to do, and nothing is written.

mod support;

use embedtune_train::io::write_npy;
use support::{TRAIN, gzip, idx, image_folder, images, label_npy, labels, run, vector_folder, vectors};

/// What to write in place of a good file (`None`: nothing), and what the message must hold beside the file's name.
type Case = (&'static str, Option<Vec<u8>>, &'static str);

fn refused(good: impl Fn(&std::path::Path), cases: Vec<Case>) {
    for (file, bytes, expected) in cases {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        good(&data);
        // A message about a file that is not there names what goes with it.
        let named = match bytes {
            Some(bytes) => {
                std::fs::write(data.join(file), bytes).unwrap();
                file
            }
            None => {
                std::fs::remove_file(data.join(file)).unwrap();
                "data: has "
            }
        };
        run(folder.path(), "fit -q --data data --out run").refused(1, &["error: ", named, expected]);
        assert!(!folder.path().join("run").exists(), "{file}: {expected}");
    }
}

#[test]
fn damaged_idx_files() {
    let whole = images(TRAIN);
    let mut truncated = whole.clone();
    truncated.truncate(whole.len() - 5);
    let mut zipped = gzip(&whole);
    zipped.truncate(zipped.len() / 2);
    let mut wrong = whole.clone();
    wrong[2] = 0x0d;
    // Asks for 2^96 bytes; and for 60 GB, of which three bytes are there: neither may be allocated.
    let absurd = idx(&[u32::MAX; 3], b"abc");
    let lying = idx(&[60_000, 1000, 1000], b"abc");
    let image = "train-images-idx3-ubyte";
    let label = "train-labels-idx1-ubyte";
    refused(
        image_folder,
        vec![
            (
                image,
                Some(truncated),
                "promises 3072 bytes of data and 3067 are there; copy or download it again",
            ),
            (image, Some(zipped), "damaged or truncated"),
            (image, Some(b"\x1f\x8bnot gzip".to_vec()), "damaged or truncated"),
            (image, Some(Vec::new()), "ends too early"),
            (image, Some(wrong), "begins with [00, 00, 0d, 03], expected 00 00 08"),
            (image, Some(absurd), "the file is damaged"),
            (image, Some(lying), "promises 60000000000 bytes of data and 3 are there"),
            (image, Some([0, 0, 8, 255].to_vec()), "promises 255 axes"),
            (image, Some([whole.clone(), vec![0]].concat()), "more than the 3072 bytes"),
            (image, Some(idx(&[TRAIN as u32], &labels(TRAIN))), "expected images"),
            (label, Some(whole), "expected labels"),
            (label, Some(idx(&[40], &labels(40))), "has 40 labels for the 48 items of"),
            (label, None, "but no idx file with `train-labels-idx1`"),
            ("t10k-images-idx3-ubyte", None, "but no idx file with `t10k-images-idx3`"),
        ],
    );
}

#[test]
fn sets_that_cannot_be_learnt_from_or_measured() {
    let small = idx(&[TRAIN as u32, 2, 2], &labels(TRAIN * 4));
    let each: Vec<u8> = (0..48).collect();
    for (file, bytes, expected) in [
        (
            "train-images-idx3-ubyte",
            small,
            "the training items are images of [1, 2, 2], but the evaluation items",
        ),
        ("train-labels-idx1-ubyte", idx(&[48], &[3; 48]), "telling classes apart needs at least 2"),
        ("train-labels-idx1-ubyte", idx(&[48], &each), "needs a class with two items"),
        (
            "t10k-labels-idx1-ubyte",
            idx(&[24], &each[..24]),
            "none of the 24 evaluation items has another item",
        ),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        image_folder(&data);
        std::fs::write(data.join(file), bytes).unwrap();
        run(folder.path(), "fit -q --data data --out run").refused(1, &[expected]);
        assert!(!folder.path().join("run").exists(), "{expected}");
    }
}

#[test]
fn a_class_with_one_item_is_mentioned() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    vector_folder(&data);
    let mut lone = labels(TRAIN);
    lone[7] = 9;
    std::fs::write(data.join("train_labels.npy"), label_npy(&lone)).unwrap();
    let said = run(folder.path(), "fit --data data --out run --epochs 1 --batch-size 16");
    assert!(
        said.err.contains("1 of 5 classes have a single training item (class 4, for one)"),
        "{}",
        said.err
    );
    said.done();
}

#[test]
fn damaged_vectors() {
    let folder = tempfile::tempdir().unwrap();
    let npy = |change: &dyn Fn(&mut embedtune_train::ndarray::Array2<f32>)| {
        let mut rows = vectors(TRAIN);
        change(&mut rows);
        let path = folder.path().join("x.npy");
        write_npy(&path, rows.view()).unwrap();
        std::fs::read(path).unwrap()
    };
    let whole = npy(&|_| {});
    refused(
        vector_folder,
        vec![
            ("train.npy", Some(npy(&|x| x[[3, 2]] = f32::NAN)), "row 3, column 2 is NaN"),
            ("test.npy", Some(npy(&|x| x[[0, 5]] = f32::NEG_INFINITY)), "row 0, column 5 is -inf"),
            (
                "train.npy",
                Some(whole[..whole.len() - 4].to_vec()),
                "promises 1152 bytes of data and 1148 are there",
            ),
            ("train.npy", Some(b"1.0,2.0\n".to_vec()), "not a .npy array"),
            ("train.npy", Some(label_npy(&labels(TRAIN))), "expected vectors"),
            ("train_labels.npy", Some(whole), "expected labels"),
            ("train_labels.npy", Some(label_npy(&labels(47))), "has 47 labels for the 48 items of"),
            ("test_labels.npy", None, "but no labels.npy file with `test`"),
            ("test.npy", None, "but no test.npy file"),
        ],
    );
}

#[test]
fn damaged_text() {
    let good = "text,label\nwhere is my card,card\nmy card is lost,card\ntop up,top\ntop it up,top\n";
    let write = |data: &std::path::Path| {
        std::fs::create_dir_all(data).unwrap();
        std::fs::write(data.join("train.csv"), good).unwrap();
        std::fs::write(data.join("test.csv"), good).unwrap();
    };
    refused(
        write,
        vec![
            ("train.csv", Some(Vec::new()), "is empty"),
            ("train.csv", Some(b"text,label\n".to_vec()), "a header and no rows"),
            (
                "train.csv",
                Some(b"text,mood\nhello,good\n".to_vec()),
                "no label column: the header is [\"text\", \"mood\"]",
            ),
            (
                "test.csv",
                Some(b"text,label\nhi,a\n\xff\xfe,b\n".to_vec()),
                "line 3, column 1: not UTF-8; save the file",
            ),
            (
                "test.csv",
                Some(b"text,label\nhi, you,a\n".to_vec()),
                "line 2 has 3 columns and the header 2; quote",
            ),
            ("train.csv", Some(b"text,label\nhi,\n".to_vec()), "line 2: the label is empty"),
            ("test.csv", None, "has train.csv, but no .csv file with `test`"),
        ],
    );
}

#[test]
fn damaged_class_tables() {
    let write = |data: &std::path::Path| {
        std::fs::create_dir_all(data).unwrap();
        std::fs::write(data.join("x-images-idx3-ubyte"), images(TRAIN)).unwrap();
        std::fs::write(data.join("x-labels-idx1-ubyte"), idx(&[TRAIN as u32], &labels(TRAIN))).unwrap();
        let table = "class\tsplit\n0\tbackground\n1\tbackground\n2\tevaluation\n3\tevaluation\n";
        std::fs::write(data.join("classes.tsv"), table).unwrap();
    };
    let mut negative = vec![0, 0, 0x0b, 1, 0, 0, 0, 48];
    negative.extend((0..48i16).flat_map(|row| if row == 5 { -3 } else { row % 4 }.to_be_bytes()));
    let table = |text: &str| Some(text.as_bytes().to_vec());
    refused(
        write,
        vec![
            ("x-labels-idx1-ubyte", Some(negative), "label -3 in row 5 is negative"),
            (
                "classes.tsv",
                table("class\tsplit\n0\tbackground\n1\tevaluation\n"),
                "has no class 2, the label of item 2",
            ),
            ("classes.tsv", table("class\tsplit\n0\ttrain\n"), "line 2: split `train` is neither"),
            (
                "classes.tsv",
                table("class\tsplit\nx\tbackground\n"),
                "line 2: class `x` is not a whole number",
            ),
            ("classes.tsv", table("klass\tsplit\n"), "no column `class`"),
            ("x-images-idx3-ubyte", None, "but no idx file with `images-idx3`"),
        ],
    );
}

#[test]
fn places_that_hold_no_data() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("empty")).unwrap();
    std::fs::write(folder.path().join("file"), "").unwrap();
    for (line, expected) in [
        ("fit --data empty", "no data found: expected train-images-idx3-ubyte"),
        ("fit --data file", "is a file; give the folder"),
        ("fit --data nowhere", "nowhere: opening failed"),
        ("compare --data empty", "no data found"),
    ] {
        run(folder.path(), line).refused(1, &[expected]);
    }
    assert!(!folder.path().join("runs").exists());
}
