//! Data that cannot be used: each file is named with what is wrong and what to do, and nothing is written.

mod support;

use embedtune_train::io::write_npy;
use support::{TEST, TRAIN, gzip, idx, image_folder, images, label_npy, labels, run, vector_folder, vectors};

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
            "data: the training items are images of [1, 2, 2], but the evaluation items",
        ),
        (
            "train-labels-idx1-ubyte",
            idx(&[48], &[3; 48]),
            "data: the training data hold 48 items of 1 class(es); telling classes apart needs at least 2",
        ),
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
            ("test_labels.npy", None, "but no test_labels.npy to go with it"),
            ("test.npy", None, "but no test.npy to go with it"),
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
            ("test.csv", None, "has train.csv, but no test.csv to go with it"),
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

fn image(at: &std::path::Path) {
    std::fs::create_dir_all(at.parent().unwrap()).unwrap();
    image::RgbImage::from_pixel(8, 8, image::Rgb([9, 90, 200])).save(at).unwrap();
}

/// Each message names its file, the place in it, the value and what to do; the folder stays as it was.
#[test]
fn messages_teach() {
    type Prepare = fn(&std::path::Path);
    const CSV: &str = "text,label\na b,x\nb c,x\nc d,y\nd e,y\n";
    let cases: [(Prepare, &[&str]); 16] = [
        (
            |d| {
                vector_folder(d);
                write_npy(&d.join("test.npy"), vectors(24).slice(embedtune_train::ndarray::s![.., ..5]))
                    .unwrap();
            },
            &["D/test.npy: has 5 values a row, and train.npy has 6 values a row", "one kind and length"],
        ),
        (
            |d| {
                vector_folder(d);
                for name in ["queries", "gallery"] {
                    std::fs::copy(d.join("test.npy"), d.join(format!("{name}.npy"))).unwrap();
                    let labels = format!("{name}_labels.npy");
                    std::fs::copy(d.join("test_labels.npy"), d.join(labels)).unwrap();
                }
            },
            &[
                "D: has test.npy, whose items search each other, and queries.npy, which search the gallery; keep one",
            ],
        ),
        (
            |d| {
                vector_folder(d);
                std::fs::write(d.join("classes.txt"), "a\nb\nc\n").unwrap();
            },
            &["labels.npy: row 3 has label 3", "classes.txt has 3 lines", "write a line for each"],
        ),
        (
            |d| {
                vector_folder(d);
                std::fs::write(d.join("classes.txt"), "a\nb\n\n a \n").unwrap();
            },
            &["D/classes.txt: lines 1 and 4 both say `a`: give each class a name of its own"],
        ),
        (
            |d| {
                vector_folder(d);
                std::fs::write(d.join("classes.txt"), b"a\nb\nc\xff\nd\n").unwrap();
            },
            &["D/classes.txt: line 3: not UTF-8; save the file as UTF-8"],
        ),
        (
            |d| {
                vector_folder(d);
                std::fs::write(d.join("train_labels.npy"), label_npy(&labels(47))).unwrap();
            },
            &[
                "D/train_labels.npy: has 47 labels for the 48 items of ",
                "train.npy; take both files from one place",
            ],
        ),
        (
            |d| {
                std::fs::create_dir_all(d).unwrap();
                std::fs::write(d.join("train.csv"), CSV.replace("b c", "\"b c")).unwrap();
                std::fs::write(d.join("test.csv"), CSV).unwrap();
            },
            &["D/train.csv: line 3: the quote that opens there is never closed; close it, or double it"],
        ),
        (
            |d| {
                std::fs::create_dir_all(d).unwrap();
                std::fs::write(d.join("train.csv"), CSV).unwrap();
                std::fs::write(d.join("queries.csv"), CSV).unwrap();
                std::fs::write(d.join("gallery.csv"), "text1,text2\na,b\n").unwrap();
            },
            &["D/gallery.csv: holds pairs, and the other files labels; give all in one form"],
        ),
        (
            |d| {
                std::fs::create_dir_all(d).unwrap();
                std::fs::write(d.join("train.csv"), "text,label\nhello\n").unwrap();
                std::fs::write(d.join("test.csv"), CSV).unwrap();
            },
            &["D/train.csv: line 2 has 1 columns and the header 2"],
        ),
        (
            |d| {
                std::fs::create_dir_all(d).unwrap();
                std::fs::write(d.join("x-images-idx3-ubyte"), images(TRAIN)).unwrap();
                std::fs::write(d.join("x-labels-idx1-ubyte"), idx(&[TRAIN as u32], &labels(TRAIN))).unwrap();
                let table = "class\tsplit\n0\tbackground\n1\tbackground\n2\tbackground\n3\tbackground\n";
                std::fs::write(d.join("classes.tsv"), table).unwrap();
            },
            &["D/classes.tsv: no item is of a class of the evaluation split"],
        ),
        (
            |d| {
                std::fs::create_dir_all(d).unwrap();
                std::fs::write(d.join("x-images-idx3-ubyte"), images(TRAIN)).unwrap();
                std::fs::write(d.join("x-labels-idx1-ubyte"), idx(&[TRAIN as u32], &labels(TRAIN))).unwrap();
                let table = "class\tsplit\n0\tbackground\n1\tevaluation\n0\tevaluation\n";
                std::fs::write(d.join("classes.tsv"), table).unwrap();
            },
            &["D/classes.tsv: line 4: class 0 stands for training and for evaluation; keep one of its lines"],
        ),
        (
            |d| (0..3).for_each(|i| image(&d.join(format!("a/{i}.png")))),
            &["D: no class has the four images that it takes to hold two of them back; add images"],
        ),
        (
            |d| {
                image(&d.join("train/a/0.png"));
                std::fs::create_dir(d.join("test")).unwrap();
            },
            &["D/test: holds no folders of .png, .jpg or .jpeg images, one for each class"],
        ),
        (
            |d| ["train", "query"].iter().for_each(|part| image(&d.join(part).join("a/0.png"))),
            &["D/query: is a folder of queries, but there is no folder ", "gallery for them to search"],
        ),
        (
            |d| {
                ["train", "query", "gallery", "val"]
                    .iter()
                    .for_each(|part| image(&d.join(part).join("a/0.png")))
            },
            &["D/val: its images search each other, and those of ", "keep one of the two folders"],
        ),
        (
            |d| {
                image(&d.join("a/0.png"));
                (0..4).for_each(|i| image(&d.join(format!("b/{i}.png"))));
                std::fs::write(d.join("b/1.png"), b"\x89PNG\r\n\x1a\nand no more").unwrap();
            },
            &["D/b/1.png: not a complete PNG or JPEG image (", "repair it or take it out of the folder"],
        ),
    ];
    for (prepare, parts) in cases {
        let folder = tempfile::tempdir().unwrap();
        prepare(&folder.path().join("D"));
        run(folder.path(), "fit -q --data D --out run").refused(1, &[&["error: "], parts].concat());
        assert!(!folder.path().join("run").exists(), "{parts:?}");
    }
}

/// The same of a run's own files, of other libraries' names as flags, and of what is embedded.
#[test]
fn messages_of_runs_teach() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    vector_folder(&at.join("D"));
    let fit = "fit -q --data D --loss ArcFaceLoss --epochs 2 --batch-size 16";
    run(at, &format!("{fit} --out R")).done();
    run(at, &format!("{fit} --output-dim 3 --out S")).done();
    let whole = |name: &str| std::fs::read_to_string(at.join("R").join(name)).unwrap();
    let (options, metrics) = (whole("run.toml"), whole("metrics.jsonl"));
    let source = options.lines().find(|line| line.starts_with("source = ")).unwrap();
    let other = std::fs::read(at.join("S/model.safetensors")).unwrap();
    let first: String =
        metrics.lines().filter(|line| !line.contains("\"epoch\":1,")).map(|l| format!("{l}\n")).collect();
    for (name, bytes, line, parts) in [
        (
            "run.toml",
            options.replace("learning_rate = 0.001", "learning_rate = 0.002").into_bytes(),
            "fit --resume R",
            &["R/run.toml: options have changed", "options.learning_rate = 0.002 (the run began with 0.001)"]
                [..],
        ),
        (
            "run.toml",
            options.replace(source, "source = \"built-in glyphs, seed x\"").into_bytes(),
            "embed --run R --out x.npy",
            &["data.source = built-in glyphs, seed x: no seed that this program knows; give --data"],
        ),
        (
            "metrics.jsonl",
            first.into_bytes(),
            "fit --resume R",
            &["R/metrics.jsonl: lacks a line for some of the epochs 0 to 2 of the checkpoint; restore it"],
        ),
        (
            "model.safetensors",
            other.clone(),
            "embed --run R --out x.npy",
            &[
                "R/model.safetensors: does not belong to this run's run.toml (",
                "restore both, or train again",
            ],
        ),
        (
            "model.safetensors",
            other,
            "fit --init-from R --data D --out T",
            &["init_from = ", "its model cannot be loaded (", "name a finished run"],
        ),
    ] {
        let path = at.join("R").join(name);
        let before = std::fs::read(&path).unwrap();
        std::fs::write(&path, bytes).unwrap();
        run(at, line).refused(1, &[&["error: "], parts].concat());
        std::fs::write(&path, before).unwrap();
    }
    // A damaged checkpoint, where older ones are kept: what the message says is what helps.
    let longer = fit.replace("--epochs 2", "--epochs 4");
    run(at, &format!("{longer} --last-k-epochs 3 --out K")).done();
    let model = std::fs::read(at.join("K/model.safetensors")).unwrap();
    std::fs::remove_file(at.join("K/checkpoints/epoch-4.safetensors")).unwrap();
    let place = at.join("K/checkpoint.safetensors");
    let cut = std::fs::read(&place).unwrap();
    std::fs::write(&place, &cut[..cut.len() / 2]).unwrap();
    let spare = "K/checkpoints/epoch-3.safetensors";
    run(at, "fit --resume K")
        .refused(1, &["K/checkpoint.safetensors: not a complete", &format!("or copy {spare} to")]);
    std::fs::copy(at.join(spare), &place).unwrap();
    run(at, "fit --resume K").done();
    assert!(std::fs::read(at.join("K/model.safetensors")).unwrap() == model);
    vector_folder(&at.join("B"));
    for (part, count) in [("train", TRAIN), ("test", TEST)] {
        let two: Vec<u8> = labels(count).iter().map(|label| label % 2).collect();
        std::fs::write(at.join(format!("B/{part}_labels.npy")), label_npy(&two)).unwrap();
    }
    // Rows of what is embedded.
    let mut rows = vectors(TEST);
    rows[[3, 2]] = f32::NAN;
    write_npy(&at.join("nan.npy"), rows.view()).unwrap();
    std::fs::write(at.join("open.csv"), "text\na\n\"b\nc\n").unwrap();
    std::fs::write(at.join("utf.txt"), b"a\nb\xff\n").unwrap();
    for (line, expected) in [
        ("embed --run R --input nan.npy --out x.npy", "nan.npy: row 3, column 2 is NaN"),
        (
            "embed --run R --input open.csv --out x.npy",
            "open.csv: line 3: the quote that opens there is never closed",
        ),
        ("embed --run R --input utf.txt --out x.npy", "utf.txt: line 2: not UTF-8"),
        (
            "fit --data D --miner DistanceWeightedMiner --out T",
            "miner = DistanceWeightedMiner: write TripletMarginMiner",
        ),
        ("fit --data D --loss SupConLoss --out T", "loss = SupConLoss: write TripletMarginLoss"),
        ("fit --data D --device cuda:0 --out T", "device = cuda:0: write cuda"),
        ("fit --data D --set encoder=resnet50 --out T", "encoder = resnet50: no pretrained networks"),
        (
            "fit --data B --val-split 0.1 --set val_split_by=class --batch-size 16 --out T",
            "val_split = 0.1: holds no class out, as training needs two",
        ),
    ] {
        run(at, line).refused(1, &["error: ", expected]);
    }
    assert!(!at.join("x.npy").exists() && !at.join("T").exists());
}

/// What stops nothing is said before or after training.
#[test]
fn notes_and_alarms_teach() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    vector_folder(&at.join("D"));
    let fit = "fit --data D --epochs 1 --batch-size 16 --overwrite --out R";
    let mut far = vectors(TRAIN);
    far.row_mut(7).mapv_inplace(|v| v * 1e6);
    write_npy(&at.join("far.npy"), far.view()).unwrap();
    let same = embedtune_train::ndarray::Array2::<f32>::ones((TRAIN, 6));
    write_npy(&at.join("same.npy"), same.view()).unwrap();
    let mut lone = labels(TEST);
    lone[5] = 77;
    std::fs::write(at.join("lone.npy"), label_npy(&lone)).unwrap();
    for (from, to, more, expected) in [
        (
            "far.npy",
            "train.npy",
            "",
            "1 of 48 training vectors are over 10000 times as long as most (row 7, for one,",
        ),
        ("lone.npy", "test_labels.npy", "", "1 of 24 evaluation items have no other item of their class"),
        ("", "", "--patience 4", "callbacks.patience = 4 cannot end this run early: "),
        (
            "",
            "",
            "--gradient-accumulation-steps 9",
            "gradient_accumulation_steps = 9: an epoch has 3 batches",
        ),
        ("", "", "--monitor recall_at_5", "is ir_recall_at_5"),
        (
            "",
            "",
            "",
            "epochs = 1: with 3 steps each, 3 in all, there is little to learn from; write a smaller batch_size",
        ),
        ("", "", "--sampler random", "sampler = random is ignored: TripletMarginLoss"),
        ("same.npy", "train.npy", "", "cannot be told apart"),
    ] {
        let good = (!to.is_empty()).then(|| std::fs::read(at.join("D").join(to)).unwrap());
        if good.is_some() {
            std::fs::copy(at.join(from), at.join("D").join(to)).unwrap();
        }
        let said = run(at, &format!("{fit} {more}"));
        assert!(said.err.contains(expected), "{}\nlacks: {expected}", said.err);
        said.done();
        if let Some(good) = good {
            std::fs::write(at.join("D").join(to), good).unwrap();
        }
    }
}
