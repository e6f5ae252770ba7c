//! `evaluate`: figures under both names, classes, intervals, thresholds, and vectors in files.

mod support;

use std::path::Path;

use embedtune_train::io::write_npy;
use embedtune_train::ndarray;
use serde_json::Value;
use support::{CLASSES, TEST, label_npy, labels, run, tensors, vector_folder, vectors};

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

#[track_caller]
fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("no number: {value}"))
}

/// A folder with a run in R and data in D.
fn trained() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    vector_folder(&folder.path().join("D"));
    run(folder.path(), "fit --data D --epochs 1 --batch-size 16 --out R").done();
    folder
}

fn files(at: &Path) {
    write_npy(&at.join("v.npy"), vectors(TEST).view()).unwrap();
    std::fs::write(at.join("l.npy"), label_npy(&labels(TEST))).unwrap();
}

#[test]
fn a_runs_figures_classes_intervals_and_thresholds() {
    let folder = trained();
    let at = folder.path();
    let plain = json(&run(at, "evaluate --run R --data D --json").done());
    for of in ["tuned", "raw"] {
        let found = &plain[of];
        assert_eq!(found["recall_at_k"], found["hit_at_k"]);
        assert_eq!(found["hit_at_k"].as_object().map(|by_k| by_k.len()), Some(3));
        for name in ["ir_recall_at_k", "precision_at_k", "ndcg_at_k"] {
            assert!((0.0..=1.0).contains(&number(&found[name]["5"])), "{name}");
        }
        // Five relevant items: recall, precision and R-precision at 5 are one number.
        assert_eq!(TEST / CLASSES, 6);
        assert!((number(&found["precision_at_k"]["5"]) - number(&found["r_precision"])).abs() < 1e-12);
        assert!(found.get("clustering").is_none() && found.get("verification").is_none());
    }
    assert_eq!(plain["recall_at_1"], plain["tuned"]["hit_at_k"]["1"]);
    assert_eq!(plain["map_at_r"], plain["tuned"]["map_at_r"]);
    assert_eq!(plain["raw_map_at_r"], plain["raw"]["map_at_r"]);

    let all = "--metrics hit,map-at-r,nmi,ami --k 3 --per-class --calibrate --far 0.5,0.01 --bootstrap 100";
    let line = format!("evaluate --run R --data D {all} --json");
    let full = json(&run(at, &line).done());
    assert_eq!(json(&run(at, &line).done()), full, "the same call gives the same figures");
    assert_eq!(full["recall_at_1"], plain["recall_at_1"]);
    let tuned = &full["tuned"];
    assert_eq!(tuned["map_at_r"], plain["map_at_r"]);
    assert_eq!(tuned["hit_at_k"].as_object().map(|by_k| by_k.len()), Some(2), "{}", tuned["hit_at_k"]);
    assert!(tuned.get("mrr").is_none());
    let intervals = &tuned["intervals"];
    assert_eq!(intervals["recall_at_k"], intervals["hit_at_k"], "one number, one interval");
    assert!(intervals["map_at_r"].is_object() && intervals.get("mrr").is_none(), "{intervals}");
    let interval = &intervals["hit_at_k"]["1"];
    assert!(number(&interval["low"]) <= number(&full["recall_at_1"]));
    assert!(number(&interval["high"]) >= number(&full["recall_at_1"]));
    assert!((0.0..=1.0).contains(&number(&tuned["clustering"]["nmi"])));
    assert_eq!(tuned["clustering"]["starts"], 10);
    let classes = tuned["per_class"].as_array().unwrap();
    let queries: u64 = classes.iter().map(|class| class["queries"].as_u64().unwrap()).sum();
    assert_eq!((classes.len(), queries), (CLASSES, TEST as u64));
    assert!(classes[0]["class"].is_string());
    let verification = &tuned["verification"];
    assert_eq!(verification["pairs_of_one_class"], 4 * 15);
    assert_eq!(verification["pairs_of_two"], 276 - 60);
    assert!((0.0..=1.0).contains(&number(&verification["eer"])));
    let at_half = &verification["at_far"][0];
    assert!(number(&at_half["far"]) <= 0.5 && number(&at_half["tar"]) > 0.0, "{at_half}");
    assert!(verification["roc"].as_array().unwrap().len() > 2);

    let text = run(at, &format!("evaluate --run R --data D {all}")).done();
    for part in [
        "24 items of 4 classes",
        "hit@3 (metric learning: Recall@3)",
        "95% confidence intervals, 100 resamples",
        "NMI of k-means, best of 10 starts",
        "60 pairs of one class, 216 of two",
        "FAR at most",
        "tuned, by class, the worst first",
    ] {
        assert!(text.contains(part), "{text}\nlacks {part}");
    }
}

#[test]
fn vectors_in_files_need_no_run() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    files(at);
    let among = json(&run(at, "evaluate --vectors v.npy --labels l.npy --json").done());
    assert_eq!((number(&among["items"]), number(&among["classes"])), (TEST as f64, CLASSES as f64));
    assert_eq!(among["recall_at_1"], among["vectors"]["hit_at_k"]["1"]);
    let line =
        "evaluate --vectors v.npy --labels l.npy --gallery v.npy --gallery-labels l.npy --distance l2 --json";
    // Each item finds itself in the gallery.
    assert_eq!(json(&run(at, line).done())["recall_at_1"], 1.0);
    let said = run(at, line.trim_end_matches(" --json")).done();
    let head = format!("{TEST} queries of {CLASSES} classes, each in a gallery of {TEST} items\n");
    assert!(said.starts_with(&head), "{said}");
    // As tensors of one file.
    tensors(&at.join("t.safetensors"), TEST);
    let same = run(at, "evaluate --vectors t.safetensors --labels t.safetensors --json").done();
    assert_eq!(json(&same), among);
    let text = run(at, "evaluate --vectors v.npy --labels l.npy --metrics precision").done();
    assert!(text.contains("precision@5") && !text.contains("hit@"), "{text}");
}

#[test]
fn one_class_has_figures_but_no_threshold() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    write_npy(&at.join("v.npy"), vectors(TEST).view()).unwrap();
    std::fs::write(at.join("one.npy"), label_npy(&[3; TEST])).unwrap();
    let line = "evaluate --vectors v.npy --labels one.npy --calibrate";
    let said = run(at, line);
    said.refused(1, &["error: --calibrate: no threshold can be calibrated: all 276 pairs are of one class"]);
    assert_eq!(said.err.lines().count(), 1, "{}", said.err);
    assert!(said.out.starts_with("24 items of 1 class\n"), "{}", said.out);
    assert!(said.out.contains("hit@1 (metric learning: Recall@1)            1.0000"), "{}", said.out);
    let said = run(at, &format!("{line} --json"));
    assert_eq!(said.code, Some(1));
    let found = json(&said.out);
    assert_eq!(found["recall_at_1"], 1.0);
    let found = &found["vectors"];
    assert!(
        found["uncalibrated"].as_str().unwrap().starts_with("no threshold")
            && found.get("verification").is_none()
    );
    // Without the option nothing is missing.
    run(at, "evaluate --vectors v.npy --labels one.npy").done();
}

#[test]
fn wrong_calls_say_what_to_write() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    files(at);
    std::fs::write(at.join("few.npy"), label_npy(&[0, 1])).unwrap();
    std::fs::write(at.join("own.npy"), label_npy(&(0..TEST as u8).collect::<Vec<_>>())).unwrap();
    write_npy(&at.join("narrow.npy"), vectors(TEST).slice(ndarray::s![.., ..2])).unwrap();
    for (code, line, part) in [
        (2, "evaluate --vectors v.npy", "--labels"),
        (2, "evaluate --run R --vectors v.npy --labels l.npy", "cannot be used with"),
        (2, "evaluate --vectors v.npy --labels l.npy --data D", "cannot be used with"),
        (
            2,
            "evaluate --vectors v.npy --labels l.npy --metrics recal",
            "tip: a similar value exists: 'recall'",
        ),
        (2, "evaluate --vectors v.npy --labels l.npy --far 0.1", "--calibrate"),
        (1, "evaluate --vectors v.npy --labels l.npy --k 5,0", "k = 0: k counts neighbours from 1"),
        (1, "evaluate --vectors v.npy --labels l.npy --bootstrap 0", "bootstrap = 0: "),
        (1, "evaluate --vectors v.npy --labels l.npy --calibrate --far 2", "far = 2: "),
        (1, "evaluate --vectors l.npy --labels l.npy", "l.npy: expected vectors [items, dim]"),
        (1, "evaluate --vectors nowhere.npy --labels l.npy", "nowhere.npy: "),
        (
            1,
            "evaluate --vectors v.npy --labels l.npy --gallery narrow.npy --gallery-labels l.npy",
            "narrow.npy: holds vectors of length 2, and v.npy of length",
        ),
        (
            1,
            "evaluate --vectors v.npy --labels own.npy",
            "v.npy: retrieval cannot be measured: no query (24 in all) has another item",
        ),
        (1, "evaluate --vectors v.npy --labels few.npy", "few.npy: has 2 labels for the 24 vectors of v.npy"),
    ] {
        run(at, line).refused(code, &[part]);
    }
}
