//! The calls of the documentation, as they are written there.

mod support;

use std::path::Path;

use embedtune_train::data::vectors::read_vectors;
use serde_json::Value;
use support::{
    CLASSES, FINISHED_FILES, RUN_FILES, TEST, TRAIN, files, image_folder, label_npy, labels, run,
    vector_folder, vectors,
};

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

#[track_caller]
fn figure(value: &Value, key: &str) -> f64 {
    value[key].as_f64().unwrap_or_else(|| panic!("no number `{key}` in {value}"))
}

#[test]
fn fit_evaluate_embed_and_search_on_images() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    image_folder(&at.join("D"));
    let said = run(at, "fit --data D --loss ArcFaceLoss --pooler GeM --epochs 3 --batch-size 16 --out R");
    // Tuned vectors are reported beside the raw ones.
    for row in ["raw ", "untrained ", "tuned "] {
        assert!(said.out.lines().any(|line| line.starts_with(row)), "{}", said.out);
    }
    assert!(said.err.contains("epoch 3/3"), "{}", said.err);
    said.done();
    assert_eq!(files(&at.join("R")), FINISHED_FILES);
    let metrics = std::fs::read_to_string(at.join("R/metrics.jsonl")).unwrap();
    let epochs: Vec<Value> = metrics.lines().map(json).collect();
    assert_eq!(epochs.iter().map(|e| e["epoch"].as_u64().unwrap()).collect::<Vec<_>>(), [0, 1, 2, 3]);
    assert!(figure(&epochs[0]["raw"], "recall_at_1") > 0.0);

    let found = json(&run(at, "evaluate --run R --data D --json").done());
    assert_eq!((figure(&found, "items"), figure(&found, "classes")), (TEST as f64, CLASSES as f64));
    assert_eq!(found["recall_at_1"], epochs[3]["metrics"]["recall_at_1"]);
    assert_eq!(found["map_at_r"], epochs[3]["metrics"]["map_at_r"]);
    assert_eq!(found["raw_recall_at_1"], epochs[0]["raw"]["recall_at_1"]);
    // Without --data: the run's own.
    assert_eq!(json(&run(at, "evaluate --run R --json").done()), found);

    run(at, "embed --run R --data D --out e.npy").done();
    assert_eq!(read_vectors(&at.join("e.npy")).unwrap().dim(), (TEST, 64));
    let hits = json(&run(at, "search --run R --data D --query 3 -k 2 --json").done());
    assert_eq!(hits.as_array().map(Vec::len), Some(2));
    assert!(figure(&hits[0], "similarity") >= figure(&hits[1], "similarity"));
    assert_ne!(hits[0]["item"], 3, "the querying item is left out");
    assert!(hits[0]["class"].is_string());

    let again = run(at, "fit --resume R");
    assert!(again.err.contains("finished; nothing to do"), "{}", again.err);
    again.done();
}

#[test]
fn fit_on_the_built_in_data() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let report = json(&run(at, "fit --loss ArcFaceLoss --epochs 1 --seed 5 --out R --json").done());
    assert!(
        figure(&report["tuned"], "recall_at_1") > figure(&report["untrained"], "recall_at_1"),
        "{report}"
    );
    // There are no files of data to list.
    let expected = FINISHED_FILES.into_iter().filter(|&name| name != "data_files.csv");
    assert_eq!(files(&at.join("R")), expected.collect::<Vec<_>>());
    let found = json(&run(at, "evaluate --run R --json").done());
    assert_eq!(found["recall_at_1"], report["tuned"]["recall_at_1"]);
    assert_eq!((figure(&found, "items"), figure(&found, "classes")), (1000.0, 50.0));
}

#[test]
fn early_stopping_says_what_ended_the_run() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    vector_folder(&at.join("D"));
    let line = "fit -q --data D --loss ArcFaceLoss --batch-size 16";
    let said =
        run(at, &format!("{line} --epochs 6 --patience 1 --set callbacks.min_delta=0.9 --out R")).done();
    // Nothing rises by as much, the first epoch over no epoch aside.
    let why = "Stopped after epoch 2 of 6: recall_at_1 did not improve by more than 0.9 in 1 measured epoch (patience)";
    assert!(said.contains(why) && !said.contains("still rising"), "{said}");
    let said = run(at, &format!("{line} --epochs 2 --out S")).done();
    assert!(!said.contains("Stopped"), "{said}");
}

fn npz(path: &Path, count: usize, names: [&str; 2]) {
    let method =
        if count == TRAIN { zip::CompressionMethod::Deflated } else { zip::CompressionMethod::Stored };
    let options = zip::write::SimpleFileOptions::default().compression_method(method);
    let mut archive = zip::ZipWriter::new(std::fs::File::create(path).unwrap());
    let part = path.with_extension("part");
    embedtune_train::io::write_npy(&part, vectors(count).view()).unwrap();
    for (name, bytes) in names.iter().zip([std::fs::read(&part).unwrap(), label_npy(&labels(count))]) {
        archive.start_file(format!("{name}.npy"), options).unwrap();
        std::io::Write::write_all(&mut archive, &bytes).unwrap();
    }
    archive.finish().unwrap();
    std::fs::remove_file(part).unwrap();
}

#[test]
fn vectors_in_npy_and_npz_files_are_the_same_data() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    vector_folder(&at.join("npy"));
    for (data, names) in [("npz", ["vectors", "labels"]), ("unnamed", ["arr_0", "arr_1"])] {
        std::fs::create_dir(at.join(data)).unwrap();
        npz(&at.join(data).join("train.npz"), TRAIN, names);
        npz(&at.join(data).join("test.npz"), TEST, names);
    }
    let mut models = Vec::new();
    for data in ["npy", "npz", "unnamed"] {
        run(at, &format!("fit --data {data} --batch-size 16 --epochs 2 --out R-{data}")).done();
        models.push(std::fs::read(at.join(format!("R-{data}/model.safetensors"))).unwrap());
    }
    assert!(models[0] == models[1] && models[0] == models[2]);
    let found = json(&run(at, "evaluate --run R-npy --data npz --json").done());
    assert_eq!(figure(&found, "items"), TEST as f64);
    run(at, "embed --run R-npz --data npz --out e.npy").done();
    run(at, "embed --run R-npz --data npz --out n.npy --names n.csv")
        .refused(1, &["names = n.csv", "these are vectors, which have no names"]);
    assert!(!at.join("n.npy").exists() && !at.join("n.csv").exists());
    // The encoder of vectors keeps their length.
    assert_eq!(read_vectors(&at.join("e.npy")).unwrap().dim(), (TEST, 6));

    npz(&at.join("npz/train.npz"), TRAIN, ["foo", "labels"]);
    let said = run(at, "fit --data npz --out R");
    said.refused(1, &["train.npz: no array of vectors: it holds [\"foo\", \"labels\"]; name it one of"]);
    let whole = std::fs::read(at.join("npz/test.npz")).unwrap();
    std::fs::write(at.join("npz/train.npz"), &whole[..whole.len() - 30]).unwrap();
    run(at, "fit --data npz --out R").refused(1, &["train.npz: not a complete .npz file"]);
    assert!(!at.join("R").exists());
}

#[test]
fn compare_writes_its_summary_figure_and_models() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    image_folder(&at.join("D"));
    let printed = json(&run(at, "compare --data D --epochs 1 --batch-size 16 --out C --json").done());
    let summary = json(&std::fs::read_to_string(at.join("C/summary.json")).unwrap());
    assert_eq!(printed, summary);
    let names = ["ArcFaceLoss", "CosFaceLoss", "TripletMarginLoss", "raw", "untrained"];
    let mut found: Vec<&String> = summary.as_object().unwrap().keys().collect();
    found.sort();
    assert_eq!(found, names);
    for name in names {
        for key in ["recall_at_1", "map_at_r", "seconds"] {
            figure(&summary[name], key);
        }
    }
    assert_eq!(
        files(&at.join("C")),
        [names[0], names[1], names[2], "figure.png", "figure.svg", "report.html", "summary.json"]
    );
    let mut expected = [RUN_FILES.as_slice(), &["data_files.csv"]].concat();
    expected.sort_unstable();
    let list = |loss: &str| std::fs::read(at.join("C").join(loss).join("data_files.csv")).unwrap();
    for loss in &names[..3] {
        assert_eq!(files(&at.join("C").join(loss)), expected);
        assert_eq!(list(loss), list(names[0]));
    }
    let svg = std::fs::read_to_string(at.join("C/figure.svg")).unwrap();
    for title in ["Before training", names[0], names[1], names[2]] {
        assert!(svg.contains(title), "no panel `{title}`");
    }
}

#[test]
fn help_names_every_format() {
    let folder = tempfile::tempdir().unwrap();
    let help = run(folder.path(), "fit --help").done();
    for name in
        ["train-images-idx3-ubyte", "classes*.tsv", "train.csv", "train_labels.npy", "train.npz", "--resume"]
    {
        assert!(help.contains(name), "{help}\nlacks: {name}");
    }
    assert!(!run(folder.path(), "fit -h").done().contains("train.npz"), "the short help is short");
}
