//! What stands in a folder is never mixed with something else, and never lost.

mod support;

use embedtune_train::io::write_npy;
use embedtune_train::ndarray::Array2;
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
    run(at, "fit --resume R --epochs 5").refused(2, &["--resume goes with no other option"]);
    std::fs::remove_file(at.join("R/model.safetensors")).unwrap();
    run(at, "evaluate --run R").refused(1, &["model.safetensors: not found", "restore it or train again"]);
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
    std::fs::write(at.join("D/train.csv"), csv(&[",x", ",x", ",y", ",y"])).unwrap();
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
