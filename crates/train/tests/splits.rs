//! Queries and what they search, in files of their own.

mod support;

use std::path::Path;

use embedtune_losses::LossKind;
use embedtune_train::data::{Items, Split};
use embedtune_train::run::{Resumed, RunFolder, Trainer, resume};
use ndarray::Array2;
use support::Recorder;

/// Vectors of which one column carries the class, far from the others' noise in the gallery alone.
fn vectors(classes: &[u8], shift: f32) -> Array2<f32> {
    Array2::from_shape_fn((classes.len(), 6), |(i, j)| {
        let own = usize::from(classes[i]) == j;
        f32::from(u8::from(own)) + shift * ((i * 7 + j * 3) % 5) as f32 / 5.0
    })
}

fn label_npy(labels: &[u8]) -> Vec<u8> {
    let header = format!("{{'descr': '|u1', 'fortran_order': False, 'shape': ({},), }}\n", labels.len());
    let start = [b"\x93NUMPY\x01\x00".as_slice(), &(header.len() as u16).to_le_bytes()].concat();
    [start, header.into_bytes(), labels.to_vec()].concat()
}

fn npy(folder: &Path, part: &str, labels: &[u8], shift: f32) {
    embedtune_train::io::write_npy(&folder.join(format!("{part}.npy")), vectors(labels, shift).view())
        .unwrap();
    std::fs::write(folder.join(format!("{part}_labels.npy")), label_npy(labels)).unwrap();
}

fn refused(folder: &Path, parts: &[&str]) {
    let message = Split::load(folder).unwrap_err().to_string();
    assert!(parts.iter().all(|part| message.contains(part)), "{message}");
}

#[test]
fn queries_search_the_gallery_during_training_and_after() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    npy(at, "train", &[0, 1, 2, 3, 0, 1, 2, 3], 0.5);
    npy(at, "queries", &[0, 1, 4], 0.2);
    // A query's only match is in the gallery; class 5 is nowhere else.
    npy(at, "gallery", &[0, 1, 4, 5], 0.1);
    let split = Split::load(at).unwrap();
    let gallery = split.gallery.as_ref().unwrap();
    assert_eq!((split.queries.labels.len(), gallery.labels.len()), (3, 4));
    assert_eq!(split.train.classes, ["0", "1", "2", "3", "4", "5"]);
    assert!(split.train.classes == split.queries.classes && split.train.classes == gallery.classes);
    assert!(matches!(gallery.items, Items::VectorFile(_)));
    let out = at.join("run");
    let run = Trainer::builder().loss(LossKind::CosFaceLoss).epochs(2).batch_size(4).folder(&out);
    let trained = run.build(&split).unwrap().fit(&mut ()).unwrap();
    assert_eq!((trained.report.raw.recall_at_1, trained.report.tuned.items), (1.0, 3));
    let records = RunFolder::new(&out).read_metrics().unwrap();
    assert!(records.iter().all(|record| record.figures["mrr"] > 0.0), "{records:?}");
    assert_eq!(trained.model.evaluate(&split).unwrap().tuned, trained.report.tuned);
    // Classes that are only measured have no centres; they get some once they are trained on.
    assert_eq!(trained.model.centres().unwrap().nrows(), 4);
    assert_eq!(RunFolder::new(&out).read_run_file().unwrap().classes, ["0", "1", "2", "3"]);
    let more = at.join("more");
    std::fs::create_dir(&more).unwrap();
    npy(&more, "train", &[0, 1, 2, 3, 4, 5, 4, 5], 0.5);
    npy(&more, "test", &[0, 0, 1, 1], 0.1);
    let data = Split::load(&more).unwrap();
    let run = Trainer::builder().loss(LossKind::CosFaceLoss).epochs(1).batch_size(4).init_from(&out);
    let mut seen = Recorder::default();
    let tuned = run.build(&data).unwrap().fit(&mut seen).unwrap();
    assert_eq!(tuned.model.centres().unwrap().nrows(), 6);
    let told = "4 classes of the earlier run, 2 new ones, whose centres start at their items' means";
    assert!(seen.notices.iter().any(|notice| notice.contains(told)), "{:?}", seen.notices);
    let run = Trainer::builder().loss(LossKind::SubCenterArcFaceLoss).epochs(1).batch_size(4).init_from(&out);
    let mut seen = Recorder::default();
    run.build(&data).unwrap().fit(&mut seen).unwrap();
    let told = "no centres that fit this loss; those of all 6 classes";
    assert!(seen.notices.iter().any(|notice| notice.contains(told)), "{:?}", seen.notices);
    let again = Split::load(at).unwrap();
    assert!(matches!(resume(&RunFolder::new(&out), &again, None), Ok(Resumed::Finished(_))));
}

#[test]
fn half_a_pair_or_both_forms_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    npy(at, "train", &[0, 1, 0, 1], 0.5);
    npy(at, "query", &[0, 1], 0.2);
    refused(at, &["has query.npy, but no gallery.npy to be searched; add it"]);
    npy(at, "gallery", &[0, 1], 0.2);
    assert!(Split::load(at).unwrap().gallery.is_some());
    npy(at, "test", &[0, 1, 0, 1], 0.2);
    refused(at, &["has test.npy", "and query.npy", "keep one of them"]);
    for file in ["test.npy", "query.npy"] {
        std::fs::remove_file(at.join(file)).unwrap();
    }
    refused(at, &["has gallery.npy, but no queries.npy to search it"]);
}

#[test]
fn texts_have_a_gallery_of_their_own() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let write = |name: &str, text: &str| std::fs::write(at.join(name), text).unwrap();
    write("train.csv", "text,label\na b,x\na c,x\nd e,y\nd f,y\n");
    write("queries.csv", "text,label\na,x\nq,z\n");
    write("gallery.csv", "text,label\na b c,x\nq r,z\n");
    let split = Split::load(at).unwrap();
    let gallery = split.gallery.unwrap();
    assert_eq!((split.train.classes, gallery.labels), (vec!["x".into(), "y".into(), "z".into()], vec![0, 2]));
    write("gallery.csv", "text1,text2\na,b\n");
    refused(at, &["gallery.csv: holds pairs"]);
    write("train.csv", "text1,text2\na,b\n");
    write("queries.csv", "text1,text2\na,b\n");
    refused(at, &["gallery.csv: texts in pairs search each other"]);
}

#[test]
fn names_of_classes_are_checked() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    npy(at, "train", &[0, 1, 2, 0, 1, 2], 0.5);
    npy(at, "test", &[0, 1, 0, 1], 0.2);
    let names = |bytes: &[u8]| std::fs::write(at.join("classes.txt"), bytes).unwrap();
    names(b"\xef\xbb\xbfcat\r\n\ndog\n");
    assert_eq!(Split::load(at).unwrap().train.classes, ["cat", "1", "dog"]);
    names(b"cat\ndog\n");
    refused(
        at,
        &[
            "_labels.npy: row ",
            " has label 2, and ",
            "classes.txt has 2 lines, of which line 1 names label 0",
        ],
    );
    names(b"cat\ndog\ncat\n");
    refused(at, &["classes.txt: lines 1 and 3 both say `cat`"]);
    names(b"cat\nd\xffg\nbird\n");
    refused(at, &["classes.txt: line 2: not UTF-8; save the file as UTF-8"]);
}
