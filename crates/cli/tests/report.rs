//! The page of a run, the picture and the claims of a comparison, and how progress is shown.

mod support;

use std::path::Path;

use embedtune_train::io::write_npy;
use embedtune_train::ndarray::Array2;
use serde_json::Value;
use support::{CLASSES, TEST, TRAIN, files, image_folder, program, run, vector_folder};

/// Labels that would break out of markup, a script or a line.
const HOSTILE: [&str; 4] = [
    "<script>hacked=1</script>",
    "\"'&</title><img src=x onerror=hacked=1>",
    "\u{202e}كلمة",
    "🧥 {{data}} \\u003c",
];

fn text_folder(folder: &Path) {
    std::fs::create_dir_all(folder).unwrap();
    for (part, count) in [("train", 48), ("test", 20)] {
        let mut csv = String::from("text,label\n");
        for row in 0..count {
            let class = row % HOSTILE.len();
            let word = ["alpha", "beta", "gamma", "delta"][class];
            let quoted = HOSTILE[class].replace('"', "\"\"");
            csv += &format!("\"{word} {row} </script><b>{}\",\"{quoted}\"\n", "y".repeat(row * 100));
        }
        std::fs::write(folder.join(format!("{part}.csv")), csv).unwrap();
    }
}

/// The document in the page's script element.
fn data(html: &str) -> Value {
    let (_, rest) = html.split_once("id=\"data\">").expect("the page holds its data");
    let (json, _) = rest.split_once("</script>").unwrap();
    serde_json::from_str(json).unwrap()
}

#[test]
fn a_run_that_starts_from_another_is_shown_beside_it() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    image_folder(&at.join("D"));
    run(at, "fit -q --data D --loss ArcFaceLoss --epochs 1 --batch-size 16 --out A").done();
    let text =
        run(at, "fit -q --data D --loss ArcFaceLoss --init-from A --epochs 1 --batch-size 16 --out B").done();
    assert!(text.contains("\nbefore ") && !text.contains("untrained"), "{text}");
    let page = || data(&std::fs::read_to_string(at.join("B/report.html")).unwrap());
    let names = |page: &Value| -> Vec<String> {
        page["variants"].as_array().unwrap().iter().map(|v| v["name"].as_str().unwrap().to_owned()).collect()
    };
    let written = page();
    assert_eq!(names(&written), ["raw", "before", "tuned"]);
    let found: Value = serde_json::from_str(&run(at, "evaluate --run A --json").done()).unwrap();
    assert_eq!(written["variants"][1]["quality"]["recall_at_1"], found["recall_at_1"]);
    // Without the first run there is still a page, with all that is known of this one.
    let said = || {
        let html = std::fs::read_to_string(at.join("B/report.html")).unwrap();
        let part = |from: &str, to: &str| {
            let (_, rest) = html.split_once(from).unwrap_or_else(|| panic!("no {from}"));
            rest.split_once(to).unwrap().0.to_owned()
        };
        [part("<p class=\"lead\">", "</p>"), part("<h3>Notes</h3>", "</section>")]
    };
    let before = said();
    assert!(before[0].starts_with("The tuned embeddings find") && before[1].contains("<li"), "{before:?}");
    std::fs::remove_dir_all(at.join("A")).unwrap();
    run(at, "report B").done();
    assert_eq!(names(&page()), ["raw", "tuned"]);
    assert_eq!(said(), before);
}

#[test]
fn losses_that_tie_are_said_to_tie() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    vector_folder(&at.join("D"));
    // Classes that nothing confuses, before and after.
    for (part, count) in [("train", TRAIN), ("test", TEST)] {
        let apart = Array2::from_shape_fn((count, 6), |(row, column)| {
            f32::from(u8::from(row % CLASSES == column)) + (row * 31 + column * 17) as f32 % 29.0 / 1000.0
        });
        write_npy(&at.join(format!("D/{part}.npy")), apart.view()).unwrap();
    }
    let text = run(at, "compare -q --data D --epochs 1 --batch-size 16 --out C").done();
    let all = "TripletMarginLoss, ArcFaceLoss and CosFaceLoss tie";
    assert!(text.contains(&format!("{all}: Recall@1 1.0000, the same as the raw vectors")), "{text}");
    assert!(!text.contains("taken for another"), "{text}");
    let html = std::fs::read_to_string(at.join("C/report.html")).unwrap();
    assert!(html.contains(&format!("{all}: each finds an item of the right class first for <b>100.0%</b>")));
    assert!(!html.contains("does best") && !html.contains("class=\"best\""), "one of equals is marked");
}

#[test]
fn a_report_is_the_same_from_the_same_run() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    image_folder(&at.join("D"));
    run(at, "fit -q --data D --loss ArcFaceLoss --pooler GeM --epochs 2 --batch-size 16 --out R").done();
    let path = at.join("R/report.html");
    let first = std::fs::read(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    for threads in ["1", "2", "3", "5"] {
        let output = program(at, "report R").env("RAYON_NUM_THREADS", threads).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        assert!(std::fs::read(&path).unwrap() == first, "other bytes on {threads} threads");
    }
    let html = String::from_utf8(first).unwrap();
    let data = data(&html);
    let names: Vec<&str> =
        data["variants"].as_array().unwrap().iter().map(|v| v["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["raw", "untrained", "tuned"]);
    // What the page says is what the program measures.
    let found: Value = serde_json::from_str(&run(at, "evaluate --run R --json").done()).unwrap();
    assert_eq!(data["variants"][2]["quality"]["recall_at_1"], found["recall_at_1"]);
    let right: u64 = data["variants"][2]["confusion"]["right"]
        .as_array()
        .unwrap()
        .iter()
        .map(|n| n.as_u64().unwrap())
        .sum();
    assert_eq!(right as f64 / 24.0, found["recall_at_1"].as_f64().unwrap());
    let hits: Value = serde_json::from_str(&run(at, "search --run R --query 3 -k 5 --json").done()).unwrap();
    let rows: Vec<u64> = hits.as_array().unwrap().iter().map(|hit| hit["item"].as_u64().unwrap()).collect();
    let near: Vec<u64> =
        data["variants"][2]["near"][3].as_array().unwrap().iter().map(|n| n.as_u64().unwrap()).collect();
    assert_eq!(near, rows);
    assert_eq!(data["runs"][0]["records"].as_array().unwrap().len(), 3);
    // The options as given, what the run took, and what the program remarked.
    for part in ["[options.loss_options]", "[encoder.input]", "scale = 16", "computing on the CPU"] {
        assert!(html.contains(part), "no {part}");
    }
    assert!(!html.contains("[resolved]"));
    for (name, value, whence) in [
        ("encoder", "cnn", "chosen"),
        ("sampler", "random", "chosen"),
        ("loss_optimizer", "Adam", "default"),
        ("loss_learning_rate", "0.01", "default"),
        ("loss_options.margin", "28.6° (0.4992 rad)", "default"),
        ("loss_options.scale", "16.0", "chosen for the classes"),
        ("output_dim", "64", "default"),
    ] {
        let row = format!("<th scope=\"row\"><code>{name}</code></th><td>{value}</td><td>{whence}</td>");
        assert!(html.contains(&row), "no {row}");
    }
    let file = std::fs::read_to_string(at.join("R/run.toml")).unwrap();
    let (_, resolved) = file.split_once("\n[resolved]").unwrap();
    for line in
        ["sampler = \"random\"", "loss_optimizer = \"Adam\"", "[resolved.loss_options]", "scale = 16.0"]
    {
        assert!(resolved.contains(line), "{file}");
    }
    // The same training again: the page tells nothing of the clock.
    run(at, "fit -q --data D --loss ArcFaceLoss --pooler GeM --epochs 2 --batch-size 16 --out S").done();
    assert!(std::fs::read_to_string(at.join("S/report.html")).unwrap() == html, "another page");
    run(at, "report R --items 8 --projection pca --out other.html").done();
    let other = self::data(&std::fs::read_to_string(at.join("other.html")).unwrap());
    assert_eq!(other["entries"]["shown"], 8);
    assert_eq!(files(at), ["D", "R", "S", "other.html"]);
}

#[test]
fn what_comes_from_data_stays_text() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    text_folder(&at.join("D"));
    run(at, "fit -q --data D --loss ArcFaceLoss --epochs 1 --batch-size 16 --out R").done();
    let html = std::fs::read_to_string(at.join("R/report.html")).unwrap();
    // The page's own two scripts and no other element of the kind, no image, one title.
    assert_eq!((html.matches("<script").count(), html.matches("</script").count()), (2, 2));
    assert_eq!((html.matches("<img").count(), html.matches("</title").count()), (0, 1));
    let data = data(&html);
    let mut classes: Vec<&str> =
        data["classes"].as_array().unwrap().iter().map(|c| c.as_str().unwrap()).collect();
    let mut expected = HOSTILE;
    classes.sort_unstable();
    expected.sort_unstable();
    assert_eq!(classes, expected);
    let texts = data["entries"]["text"].as_array().unwrap();
    assert!(texts[0].as_str().unwrap().starts_with("alpha 0 </script><b>"));
    assert!(texts.iter().all(|text| text.as_str().unwrap().chars().count() <= 1000));
}

#[test]
fn reports_refuse_what_is_no_run() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    vector_folder(&at.join("D"));
    run(at, "fit -q --data D --epochs 1 --batch-size 16 --out R").done();
    for (code, line, expected) in [
        (1, "report D", "not the folder of a run or a comparison"),
        (1, "report R --items 0", "items = 0: the projection shows 1 to 10000 items"),
        (1, "report R --items 10001", "items = 10001: "),
        (2, "report", "<RUN>"),
    ] {
        run(at, line).refused(code, &[expected]);
    }
}

#[test]
fn several_seeds_tell_which_claims_hold() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    image_folder(&at.join("D"));
    std::fs::write(at.join("D/classes.txt"), "top\nshirt\n\nshoe\n").unwrap();
    let compare = "compare --data D --epochs 1 --batch-size 16 --out C --seeds 2 --train-items 40";
    let said = run(at, &format!("{compare} --focus top,shirt"));
    assert!(said.err.contains("up to 40 training and all evaluation items of"), "{}", said.err);
    for part in ["Separation over seeds 0, 1", "ArcFace separates them most", "silhouette"] {
        assert!(said.out.contains(part), "{}", said.out);
    }
    let out = said.done();
    let summary: Value =
        serde_json::from_str(&std::fs::read_to_string(at.join("C/summary.json")).unwrap()).unwrap();
    let claims = &summary["claims"];
    assert_eq!(claims["claims"].as_array().unwrap().len(), 15);
    assert_eq!(claims["focus"], serde_json::json!(["top", "shirt"]));
    assert_eq!(claims["rows"][0]["all"]["1-NN accuracy"]["mean"], summary["raw"]["one_nn_accuracy"]);
    assert!(at.join("C/seed-1/ArcFaceLoss/model.safetensors").exists());
    // The page of the comparison, claims included, is made again from its folder.
    let path = at.join("C/report.html");
    let first = std::fs::read(&path).unwrap();
    run(at, "report C").done();
    assert!(std::fs::read(&path).unwrap() == first);
    let html = String::from_utf8(first).unwrap();
    assert!(html.contains("The documented claims"));
    let conclusions = claims["conclusions"].as_array().unwrap();
    assert_eq!(conclusions.len(), 3);
    for found in conclusions {
        let [claim, words] = ["claim", "words"].map(|name| found[name].as_str().unwrap());
        assert!(html.contains(&format!("<b>{claim}</b>: {}.", words.replace('\'', "&#39;"))), "{found}");
        assert!(out.contains(&format!("\n{claim}: {words}\n")), "{out}");
        assert!(out.contains(&format!("\n        - {claim}: {words}\n")), "{out}");
    }
    // What to do next is the last thing said.
    let last = out.trim_end().lines().last().unwrap();
    assert!(last.starts_with("Next    embedtune fit --data D --loss "), "{out}");
    assert!(out.contains("\n        over 2 seeds, of top and shirt:\n"), "{out}");
    let data = data(&html);
    assert_eq!(data["classes"], serde_json::json!(["top", "shirt", "2", "shoe"]));
    assert_eq!(data["variants"].as_array().unwrap().len(), 5);
    run(at, &format!("{compare} --focus top,hat")).refused(1, &["focus = hat: no such class"]);
    run(at, "compare --seeds 0").refused(1, &["seeds = 0: "]);
    run(at, "compare --train-items 1").refused(1, &["train-items = 1: "]);
}

#[test]
fn the_picture_does_not_depend_on_threads() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    image_folder(&at.join("D"));
    let drawn = |threads: &str, projection: &str| {
        let line = format!(
            "compare -q --data D --epochs 1 --batch-size 16 --out C{threads} --projection {projection}"
        );
        let output = program(at, &line).env("RAYON_NUM_THREADS", threads).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let read = |name: &str| std::fs::read(at.join(format!("C{threads}")).join(name)).unwrap();
        (read("figure.svg"), read("figure.png"))
    };
    for projection in ["tsne", "pca"] {
        let one = drawn("1", projection);
        for threads in ["2", "3", "5"] {
            assert!(one == drawn(threads, projection), "{projection}, {threads} threads");
        }
    }
}

#[test]
fn progress_is_lines_in_a_pipe_or_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    vector_folder(&at.join("D"));
    let fit = |more: &str| {
        let said = run(at, &format!("fit --data D --epochs 2 --batch-size 16 --out R --overwrite {more}"));
        assert_eq!(said.code, Some(0), "{}", said.err);
        assert!(
            !said.err.contains(['\r', '\u{1b}']) && !said.out.contains('\u{1b}'),
            "{}{}",
            said.out,
            said.err
        );
        for part in ["Learnt", "R/report.html", "Next"] {
            assert!(said.out.contains(part), "{}", said.out);
        }
        said.err
    };
    for more in ["", "--progress auto", "--progress plain", "--progress bar"] {
        assert!(fit(more).contains("epoch 2/2, loss "), "{more}");
    }
    let silent = fit("--progress none");
    assert!(!silent.contains("epoch 1/") && silent.contains("note: "), "{silent}");
    assert_eq!(fit("--quiet"), "");
    run(at, "fit --data D --progress dots").refused(2, &["invalid value 'dots'"]);
}
