//! What stands in a folder is never mixed with something else, and never lost.

mod support;

use embedtune_train::data::{DataOptions, ImageFiles};
use embedtune_train::io::write_npy;
use embedtune_train::ndarray::{Array2, Axis};
use support::{TRAIN, files, image_folder, run, vector_folder, vectors};

#[test]
fn a_run_and_a_comparison_do_not_share_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    image_folder(&at.join("D"));
    run(at, "fit -q --data D --loss ArcFaceLoss --epochs 1 --batch-size 16 --out R").done();
    let before = std::fs::read(at.join("R/report.html")).unwrap();
    run(at, "compare -q --data D --epochs 1 --batch-size 16 --out R")
        .refused(1, &["out = R: the folder holds `", "name another"]);
    assert!(std::fs::read(at.join("R/report.html")).unwrap() == before);
    run(at, "compare -q --data D --epochs 1 --batch-size 16 --out C").done();
    // A comparison replaces an earlier one.
    run(at, "compare -q --data D --epochs 1 --batch-size 16 --out C").done();
    let made = files(&at.join("C"));
    run(at, "fit -q --data D --epochs 1 --batch-size 16 --overwrite --out C")
        .refused(1, &["out = C: the folder holds a comparison", "name another"]);
    assert_eq!(files(&at.join("C")), made);
}

#[test]
fn a_comparison_that_cannot_begin_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    vector_folder(&at.join("D"));
    write_npy(&at.join("D/train.npy"), Array2::<f32>::zeros((48, 3)).view()).unwrap();
    let said = run(at, "compare -q --data D --epochs 1 --batch-size 16 --out C");
    assert_ne!(said.code, Some(0), "{}", said.out);
    assert!(!at.join("C").exists());
    image_folder(&at.join("I"));
    run(at, "compare --data I --batch-size 4 --out C").refused(1, &["batch_size = 4: ", "write 8 or more"]);
    assert!(!at.join("C").exists());
}

#[test]
fn a_finished_run_is_left_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    image_folder(&at.join("D"));
    run(at, "fit -q --data D --loss ArcFaceLoss --epochs 1 --batch-size 16 --out R --monitor recall_at_1")
        .done();
    let options = std::fs::read_to_string(at.join("R/run.toml")).unwrap();
    assert!(options.contains("monitor = \"recall_at_1\""), "{options}");
    let report = at.join("R/report.html");
    std::fs::write(&report, "as it was").unwrap();
    let said = run(at, "fit --resume R");
    assert!(said.err.contains("this run is finished") && !said.err.contains("writing"), "{}", said.err);
    assert!(said.done().contains("tuned"));
    assert_eq!(std::fs::read_to_string(&report).unwrap(), "as it was");
    std::fs::remove_file(&report).unwrap();
    run(at, "fit --resume R").done();
    assert!(report.exists());
    run(at, "fit --resume R --epochs 5")
        .refused(2, &["--resume goes with no other option", "leave out --epochs, or start"]);
    std::fs::remove_file(at.join("R/model.safetensors")).unwrap();
    run(at, "evaluate --run R").refused(1, &["model.safetensors: not found", "restore it or train again"]);
}

#[test]
fn a_runs_file_does_it_all_again() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    vector_folder(&at.join("D"));
    run(at, "fit -q --data D --loss ArcFaceLoss --epochs 2 --batch-size 16 --seed 5 --out R").done();
    let said = run(at, "fit --config R/run.toml --out S");
    assert!(said.err.contains("note: options and data of an earlier run: "), "{}", said.err);
    said.done();
    let model = |run: &str| std::fs::read(at.join(run).join("model.safetensors")).unwrap();
    assert!(model("R") == model("S"));
    // Flags win over it; other data may be named.
    run(at, "fit -q --config R/run.toml --data D --seed 6 --epochs 1 --out T").done();
    assert!(model("R") != model("T"));
    let text = std::fs::read_to_string(at.join("R/run.toml")).unwrap();
    std::fs::write(at.join("bad.toml"), text.replace("\nepochs = 2\n", "\nepochs = \"two\"\n")).unwrap();
    run(at, "fit --config bad.toml --out U").refused(1, &["bad.toml: ", "epochs", "restore the file"]);
    let line = text.lines().find(|line| line.starts_with("learning_rate = ")).unwrap();
    std::fs::write(at.join("R/run.toml"), text.replace(line, "learning_rate = 256.0")).unwrap();
    run(at, "report R").refused(1, &["R/run.toml: options.learning_rate = 256: write a number above 0"]);
    std::fs::remove_file(at.join("R/model.safetensors")).unwrap();
    run(at, "fit --resume R")
        .refused(1, &["R/run.toml: options.learning_rate = 256: write a number above 0"]);
    std::fs::write(at.join("R/run.toml"), &text).unwrap();
    std::fs::write(at.join("R/model.safetensors"), model("S")).unwrap();
    for (file, damage) in [("run.toml", "format = ["), ("metrics.jsonl", "{\"epoch\": ")] {
        let path = at.join("R").join(file);
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, damage).unwrap();
        run(at, "report R").refused(1, &[file, "restore the file, or train again into another folder"]);
        std::fs::write(&path, b"\xff\xfe").unwrap();
        run(at, "report R").refused(1, &[file, "is not UTF-8 text; restore the file"]);
        std::fs::write(&path, whole).unwrap();
    }
}

#[test]
fn a_finished_run_needs_no_data_and_another_says_where_they_were() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    vector_folder(&at.join("D"));
    run(at, "fit -q --data D --loss ArcFaceLoss --epochs 2 --batch-size 16 --out R").done();
    std::fs::rename(at.join("D"), at.join("E")).unwrap();
    let said = run(at, "fit --resume R");
    for part in ["this run is finished; nothing to do", "note: its data are not there any more: "] {
        assert!(said.err.contains(part), "{}", said.err);
    }
    said.done();
    std::fs::remove_file(at.join("R/checkpoint.safetensors")).unwrap();
    run(at, "fit --resume R")
        .refused(1, &["D: the run's data are not there any more", "as data.source in R/run.toml"]);
    let text = std::fs::read_to_string(at.join("R/run.toml")).unwrap();
    let now = text.replace(&at.join("D").display().to_string(), &at.join("E").display().to_string());
    std::fs::write(at.join("R/run.toml"), now).unwrap();
    // It would be trained anew, over the model that there is.
    let model = std::fs::read(at.join("R/model.safetensors")).unwrap();
    run(at, "fit -q --resume R")
        .refused(1, &["checkpoint.safetensors", "is missing, and the run has trained 2 epochs"]);
    assert!(std::fs::read(at.join("R/model.safetensors")).unwrap() == model);
    std::fs::remove_file(at.join("R/metrics.jsonl")).unwrap();
    run(at, "fit -q --resume R").done();
    assert!(std::fs::read(at.join("R/model.safetensors")).unwrap() == model);
}

/// Exif data with nothing but an orientation, as the segment of a JPEG.
fn exif(orientation: u8) -> Vec<u8> {
    let tiff =
        [b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0".as_slice(), &[orientation, 0, 0, 0], &[0; 4]]
            .concat();
    [b"\xff\xe1".as_slice(), &(tiff.len() as u16 + 8).to_be_bytes(), b"Exif\0\0", &tiff].concat()
}

#[test]
fn photographs_are_read_upright() {
    let folder = tempfile::tempdir().unwrap();
    // Bright at the top left, darker to the right and darker still downwards: no turn of it looks like another.
    let (width, height) = (48u32, 32u32);
    let picture = image::RgbImage::from_fn(width, height, |x, y| {
        image::Rgb([
            (250 - x * 3 - y * 4 / 3) as u8,
            (240 - y * 5) as u8,
            if x < 12 && y < 8 { 220 } else { 30 },
        ])
    });
    let turned = |orientation: u8| match orientation {
        1 => picture.clone(),
        2 => image::imageops::flip_horizontal(&picture),
        3 => image::imageops::rotate180(&picture),
        4 => image::imageops::flip_vertical(&picture),
        5 => image::imageops::flip_horizontal(&image::imageops::rotate90(&picture)),
        6 => image::imageops::rotate270(&picture),
        7 => image::imageops::flip_horizontal(&image::imageops::rotate270(&picture)),
        _ => image::imageops::rotate90(&picture),
    };
    let paths: Vec<_> = (1..=8u8)
        .map(|orientation| {
            let mut bytes = Vec::new();
            let encoder = image::codecs::jpeg::JpegEncoder::new_with_quality(&mut bytes, 95);
            turned(orientation).write_with_encoder(encoder).unwrap();
            // Behind the marker that begins the file.
            bytes.splice(2..2, exif(orientation));
            let path = folder.path().join(format!("{orientation}.jpg"));
            std::fs::write(&path, bytes).unwrap();
            path
        })
        .collect();
    let options = DataOptions { image_size: 32, ..DataOptions::default() };
    let images = ImageFiles::new(paths, &options).unwrap().read(&[0, 1, 2, 3, 4, 5, 6, 7]).unwrap();
    let upright = images.index_axis(Axis(0), 0).to_owned();
    for (at, image) in images.outer_iter().enumerate() {
        let apart = image.iter().zip(&upright).map(|(a, b)| f64::from(a.abs_diff(*b))).sum::<f64>()
            / image.len() as f64;
        assert!(apart < 3.0, "orientation {}: {apart:.1} apart", at + 1);
    }
}

#[test]
fn what_cannot_be_learnt_from_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    std::fs::create_dir(at.join("D")).unwrap();
    let csv = |rows: &[&str]| format!("text,label\n{}\n", rows.join("\n"));
    let train = csv(&["aa,x", "ab,x", "ba,y", "bb,y", "cc,z"]);
    std::fs::write(at.join("D/train.csv"), train).unwrap();
    std::fs::write(at.join("D/test.csv"), csv(&["aa,x", "ba,y"])).unwrap();
    let said = run(at, "fit --data D --loss ArcFaceLoss --epochs 1 --batch-size 4 --out R");
    assert!(said.err.contains("1 of 3 classes have a single training item"), "{}", said.err);
    said.done();
    std::fs::write(at.join("D/train.csv"), csv(&["!,x", "?,x", "!,y", "?,y"])).unwrap();
    let said = run(at, "fit --data D --loss ArcFaceLoss --epochs 1 --batch-size 4 --out S");
    assert!(said.err.contains("the gradient of every batch was zero"), "{}", said.err);
    vector_folder(&at.join("V"));
    let path = at.join("V/train.npy");
    let mut rows = vectors(TRAIN);
    rows[[7, 0]] = 1e30;
    write_npy(&path, rows.view()).unwrap();
    let said = run(at, "fit --data V --loss ArcFaceLoss --epochs 1 --batch-size 16 --out T");
    assert!(said.err.contains("row 7, for one, has length 1.000e30"), "{}", said.err);
}

#[test]
fn a_quote_that_stays_open_and_a_class_on_both_sides_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    std::fs::create_dir(at.join("D")).unwrap();
    std::fs::write(at.join("D/test.csv"), "text,label\naa,x\nba,y\n").unwrap();
    for (rows, line) in [
        ("aa,x\nab,\"x\nba,y\nbb,y\n", "line 3: the quote"),
        ("\"a\"\"a\",x\n\"ab,x\nba,y\n", "line 3: the quote"),
    ] {
        std::fs::write(at.join("D/train.csv"), format!("text,label\n{rows}")).unwrap();
        run(at, "fit --data D --loss ArcFaceLoss --epochs 1 --out R")
            .refused(1, &["train.csv", line, "never closed"]);
    }
    std::fs::write(at.join("D/train.csv"), "text,label\n\"a, \"\"a\"\"\nb\",x\nab,x\nb\"a,y\nbb,y\n")
        .unwrap();
    run(at, "fit -q --data D --loss ArcFaceLoss --epochs 1 --out R").done();
    image_folder(&at.join("O"));
    for (old, new) in
        [("train-images-idx3-ubyte", "o-images-idx3"), ("train-labels-idx1-ubyte", "o-labels-idx1")]
    {
        std::fs::rename(at.join("O").join(old), at.join("O").join(new)).unwrap();
    }
    for old in ["t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"] {
        std::fs::remove_file(at.join("O").join(old)).unwrap();
    }
    let split = "class\tsplit\n0\tbackground\n1\tbackground\n2\tevaluation\n3\tevaluation\n2\tbackground\n";
    std::fs::write(at.join("O/o-classes.tsv"), split).unwrap();
    run(at, "fit --data O --epochs 1 --out S")
        .refused(1, &["line 6: class 2 stands for training and for evaluation"]);
}
