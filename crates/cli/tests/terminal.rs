//! What a terminal shows, in a real one: `script` of util-linux provides it. Where it is missing the tests say that
//! they skip; with EMBEDTUNE_REQUIRE_TERMINAL=1 a skip is a failure.
#![cfg(unix)]

mod support;

use std::path::Path;
use std::process::{Command, Stdio};

use embedtune_train::io::write_npy;
use serde_json::Value;
use support::{CLASSES, TEST, label_npy, labels, run, vector_folder, vectors};

const FIT: &str = "fit --data D --epochs 30 --batch-size 16 --out R --overwrite";

fn is_there() -> bool {
    let version = Command::new("script").arg("--version").output();
    let there = version.is_ok_and(|said| String::from_utf8_lossy(&said.stdout).contains("util-linux"));
    if !there {
        assert!(std::env::var_os("EMBEDTUNE_REQUIRE_TERMINAL").is_none(), "no `script` of util-linux");
        println!("skipped: no `script` of util-linux");
    }
    there
}

/// Pieces of a bar.
const BAR: [char; 3] = ['━', '╸', '─'];

/// What a terminal of so many columns receives from `embedtune LINE`.
fn terminal(folder: &Path, columns: usize, line: &str, environment: &[(&str, &str)]) -> String {
    let call = format!("stty cols {columns} rows 30; exec '{}' {line}", env!("CARGO_BIN_EXE_embedtune"));
    let output = Command::new("script")
        .args(["-qefc", &call, "/dev/null"])
        .current_dir(folder)
        .stdin(Stdio::null())
        .env("TERM", "xterm")
        .env_remove("NO_COLOR")
        .env_remove("CI")
        .envs(environment.iter().copied())
        .output()
        .expect("`script` starts");
    let text = String::from_utf8(output.stdout).expect("the program writes UTF-8");
    assert!(output.status.success(), "{text}");
    text
}

/// What was drawn in place, and over again.
fn frames(received: &str) -> Vec<&str> {
    let drawn = received.split('\r').flat_map(|part| part.split("\u{1b}[2K"));
    drawn
        .filter(|part| !part.contains('\n') && part.contains(" left") && !part.contains("gradient"))
        .collect()
}

/// A terminal that knows what a progress bar needs: where the writing is, and whether it ran over the right edge.
fn lines_that_ran_over(received: &str, columns: usize) -> Vec<String> {
    let (mut column, mut line, mut over) = (0, String::new(), Vec::new());
    let mut rest = received.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '\r' => (column, line) = (0, String::new()),
            '\n' => (column, line) = (0, String::new()),
            '\u{1b}' => {
                // A control sequence ends with a letter.
                while rest.next().is_some_and(|c| !c.is_ascii_alphabetic()) {}
            }
            c => {
                line.push(c);
                column += 1;
                if column == columns + 1 {
                    over.push(line.clone() + &rest.clone().take_while(|&c| c != '\r').collect::<String>());
                }
            }
        }
    }
    over
}

#[test]
fn the_bar_stays_on_its_line_in_any_window() {
    if !is_there() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    vector_folder(&at.join("D"));
    for columns in [20, 40, 80, 120] {
        let received = terminal(at, columns, FIT, &[]);
        // Text that stays may run over the edge; what is drawn in place may not.
        for line in lines_that_ran_over(&received, columns) {
            let stays = line.contains("gradient") || !line.contains(" left");
            assert!(stays && !line.contains(BAR), "{columns} columns: {line:?}");
        }
        let shown = frames(&received);
        assert!(!shown.is_empty(), "{columns} columns: {received:?}");
        assert_eq!(shown.iter().all(|frame| frame.contains(BAR)), columns > 20, "{shown:?}");
        let named = shown.iter().filter(|frame| frame.contains("TripletMarginLoss")).count();
        assert!(columns < 120 || named == shown.len(), "{shown:?}");
        assert!(columns > 40 || named == 0, "{shown:?}");
        // Gone at the end; the summary stays.
        let (_, end) = received.rsplit_once("epoch 30/30").unwrap();
        for part in ["Learnt", "R/report.html", "Next", "\u{1b}[1m"] {
            assert!(end.contains(part), "{end}");
        }
        assert!(!end.contains(" left"), "{end}");
    }
}

#[test]
fn colours_bars_and_notes_can_be_done_without() {
    if !is_there() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    vector_folder(&at.join("D"));
    let plain = terminal(at, 80, FIT, &[("NO_COLOR", "1")]);
    assert!(!plain.contains("\u{1b}[1m") && !plain.contains("\u{1b}[2m"), "{plain:?}");
    assert!(plain.contains("Learnt  the tuned"), "{plain:?}");
    // An empty value asks for nothing (https://no-color.org).
    assert!(terminal(at, 80, FIT, &[("NO_COLOR", "")]).contains("\u{1b}[1mLearnt"));
    for (line, environment) in
        [(format!("{FIT} --progress plain"), ("TERM", "xterm")), (FIT.to_owned(), ("TERM", "dumb"))]
    {
        let lines = terminal(at, 80, &line, &[environment]);
        assert!(lines.contains("epoch 3/30, loss ") && !lines.contains("\u{1b}[2K"), "{lines:?}");
        assert!(!lines.replace("\r\n", "\n").contains('\r'), "{lines:?}");
    }
    let none = terminal(at, 80, &format!("{FIT} --progress none"), &[]);
    assert!(!none.contains("epoch 1/30") && none.contains("note: ") && none.contains("Next"), "{none:?}");
    let quiet = terminal(at, 80, &format!("{FIT} --quiet"), &[]);
    assert!(!quiet.contains("note: ") && !quiet.contains("epoch 1/30"), "{quiet:?}");
    assert!(quiet.contains("Learnt"), "{quiet:?}");
}

/// `evaluate` shows its stages in a window of any width, and lines or nothing elsewhere. Resampling takes as long as one
/// likes.
#[test]
fn the_stages_of_evaluate_stay_on_their_line_too() {
    if !is_there() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    write_npy(&at.join("v.npy"), vectors(TEST).view()).unwrap();
    std::fs::write(at.join("l.npy"), label_npy(&labels(TEST))).unwrap();
    let line = |resamples: usize| {
        format!("evaluate --vectors v.npy --labels l.npy --metrics hit --bootstrap {resamples}")
    };
    // What takes less than a second shows nothing.
    let found = (0..8)
        .map(|doubled| 80_000 << doubled)
        .find(|&resamples| frames(&terminal(at, 80, &line(resamples), &[])).len() > 2);
    let line = line(found.expect("progress of so many resamples"));
    for columns in [20, 40, 120] {
        let received = terminal(at, columns, &line, &[]);
        let shown = frames(&received);
        assert!(!shown.is_empty(), "{columns} columns: {received:?}");
        for frame in &shown {
            let text = frame.trim_start_matches("\u{1b}[2K").trim_end();
            assert!(console::measure_text_width(text) <= columns, "{columns} columns: {text:?}");
            assert!(frame.contains('%'), "{frame:?}");
        }
        assert_eq!(shown.iter().all(|frame| frame.contains(BAR)), columns > 20, "{shown:?}");
        assert!(columns < 120 || shown.iter().all(|frame| frame.contains("resampling")), "{shown:?}");
        // Gone at the end; the figures stay.
        let (_, end) = received.rsplit_once("\u{1b}[2K").unwrap();
        assert!(end.contains("hit@1") && !end.contains(" left") && !end.contains(BAR), "{end:?}");
    }
    for (more, environment) in [("", ("CI", "true")), ("--quiet", ("TERM", "xterm"))] {
        let received = terminal(at, 80, &format!("{line} {more}"), &[environment]);
        assert!(received.contains("hit@1"), "{received}");
        assert!(!received.replace("\r\n", "\n").contains(['\r', '\u{1b}']), "{environment:?}: {received:?}");
    }
    // Asked for, it is drawn there too; no colour is all that NO_COLOR asks for.
    for (more, environment) in [("--progress bar", ("CI", "true")), ("", ("NO_COLOR", "1"))] {
        let received = terminal(at, 80, &format!("{line} {more}"), &[environment]);
        assert!(!frames(&received).is_empty(), "{received:?}");
        assert!(!received.contains("\u{1b}[1m") && !received.contains("\u{1b}[3"), "{received:?}");
    }
    let piped = run(at, &line);
    assert_eq!(piped.err, "");
    assert!(piped.out.contains("hit@1") && !piped.out.contains(['\r', '\u{1b}']), "{}", piped.out);
}

/// Names of one column a letter, of two, of none, and far too long ones.
#[test]
fn tables_are_aligned_whatever_classes_are_called() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    vector_folder(&at.join("D"));
    let names = [
        "shirt".to_owned(),
        "長袖のシャツ".to_owned(),
        "e\u{301}te\u{301}\u{202e}".to_owned(),
        "x".repeat(10_000),
    ];
    assert_eq!(names.len(), CLASSES);
    std::fs::write(at.join("D/classes.txt"), names.join("\n")).unwrap();
    run(at, "fit -q --data D --epochs 1 --batch-size 16 --out R").done();
    let table = run(at, "evaluate --run R --per-class").done();
    let (_, classes) = table.split_once("by class, the worst first\n").unwrap();
    let (classes, _) = classes.split_once("(--metrics").unwrap();
    let widths: Vec<usize> = classes.lines().map(console::measure_text_width).collect();
    assert_eq!(widths.len(), 1 + CLASSES, "{classes}");
    assert!(widths.iter().all(|&width| width == widths[0] && width <= 120), "{widths:?}\n{classes}");
    let found = run(at, "search --run R --query 3 -k 20").done();
    assert!(found.lines().all(|line| console::measure_text_width(line) <= 70), "{found}");
    assert!(!found.contains('\u{202e}') && !table.contains('\u{202e}'));
    // As data they stay whole.
    let json: Value = serde_json::from_str(&run(at, "search --run R --query 3 -k 20 --json").done()).unwrap();
    assert!(
        json.as_array().unwrap().iter().all(|hit| names.contains(&hit["class"].as_str().unwrap().to_owned()))
    );
}
