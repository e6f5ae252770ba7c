//! Ctrl-C, readers that go away, full disks: nothing is left half-written, and what can be continued says so.
#![cfg(unix)]

mod support;

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Command, Stdio};

use support::{FINISHED_FILES, RUN_FILES, Said, files, program, run, sequence_folder, signal, vector_folder};

/// Enough that a signal after the first epoch meets a run under way.
const FIT: &str = "fit --data data --batch-size 16 --epochs 80 --seed 3";

/// Starts `embedtune LINE`, sends SIGINT once standard error has a line with `mark`, and waits for the end.
fn interrupted(folder: &Path, line: &str, mark: &str) -> Said {
    let mut child = program(folder, line)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut lines = BufReader::new(child.stderr.take().unwrap());
    let mut err = String::new();
    while !err.contains(mark) {
        assert_ne!(lines.read_line(&mut err).unwrap(), 0, "it ended early: {err}");
    }
    signal("INT", child.id());
    lines.read_to_string(&mut err).unwrap();
    let mut said = Said::from(child.wait_with_output().unwrap());
    assert!(!err.contains("panicked"), "{err}");
    said.err = err;
    said
}

#[test]
fn an_interrupted_fit_continues_to_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    vector_folder(&at.join("data"));
    run(at, &format!("{FIT} --out whole")).done();
    let said = interrupted(at, &format!("{FIT} --out cut"), "epoch 1/80");
    said.refused(130, &["error: interrupted in epoch", "embedtune fit --resume cut"]);
    let mut expected = [RUN_FILES.as_slice(), &["data_files.csv", "steps.jsonl"]].concat();
    expected.sort_unstable();
    assert_eq!(files(&at.join("cut")), expected);
    run(at, "fit --resume cut").done();
    let model = |run: &str| std::fs::read(at.join(run).join("model.safetensors")).unwrap();
    assert!(model("cut") == model("whole"));
    let mut expected = [FINISHED_FILES.as_slice(), &["steps.jsonl"]].concat();
    expected.sort_unstable();
    assert_eq!(files(&at.join("cut")), expected);
    // 80 epochs of three batches, a line after every 50.
    let curves = std::fs::read_to_string(at.join("cut/steps.jsonl")).unwrap();
    assert_eq!(curves.lines().count(), 80 * 3 / 50, "{curves}");
}

/// Kills a run at random moments until it ends, each time with another number of threads, and compares it with one that was
/// left alone: `least` kills at least, which land 0 to 60 ms after the start of a process, by a fixed sequence.
fn killed_and_left_alone(at: &Path, out: &str, options: &str, least: u64) {
    let fit = |out: &str| format!("fit -q --data {options} --seed 3 --out {out}");
    let begun = std::time::Instant::now();
    run(at, &fit(&format!("{out}-whole"))).done();
    // So that the least number of kills fits into a run, however fast the machine is.
    let window = (begun.elapsed().as_micros() as u64 / (2 * least)).clamp(5_000, 60_000);
    let mut line = fit(out);
    let (mut kills, mut resumed, mut random) = (0u64, 0u64, 12_345u64);
    let saved = || at.join(out).join("checkpoint.safetensors").exists();
    let killed = loop {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let threads = (random >> 40) % 4 + 1;
        let mut command = program(at, &line);
        let mut child =
            command.env("RAYON_NUM_THREADS", threads.to_string()).stderr(Stdio::null()).spawn().unwrap();
        // Some runs are long in coming to their first checkpoint, without which there is nothing to continue from.
        while kills + 1 >= least && !saved() && child.try_wait().unwrap().is_none() {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        std::thread::sleep(std::time::Duration::from_micros((random >> 33) % window));
        let ended = child.try_wait().unwrap();
        if let Some(status) = ended {
            assert!(status.success(), "{line}");
            break kills;
        }
        child.kill().unwrap();
        child.wait().unwrap();
        kills += 1;
        resumed += u64::from(saved());
        assert!(kills < 500, "no progress between kills");
        // Before the run file is there, nothing can be resumed and nothing is lost.
        line = match at.join(out).join("run.toml").exists() {
            true => format!("fit -q --resume {out}"),
            false => fit(out),
        };
        if kills >= 8 * least {
            run(at, &line).done();
            break kills;
        }
    };
    assert!(killed >= least, "{out}: {killed} kills are too few to say anything");
    assert!(resumed > 0, "{out}: no kill came after a checkpoint");
    let whole = format!("{out}-whole");
    assert_eq!(files(&at.join(out)), files(&at.join(&whole)));
    for name in ["model.safetensors", "best.safetensors"] {
        let model = |run: &str| std::fs::read(at.join(run).join(name)).ok();
        assert!(model(out) == model(&whole), "{out}/{name} after {killed} kills");
    }
    assert!(files(&at.join(out)).iter().all(|name| !name.starts_with('.')), "{:?}", files(&at.join(out)));
}

#[test]
fn killed_at_random_moments_it_ends_in_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    vector_folder(&at.join("vectors"));
    sequence_folder(&at.join("sequences"));
    std::fs::create_dir(at.join("texts")).unwrap();
    for (part, count) in [("train", 48), ("test", 16)] {
        let line = |row| format!("word{} again{},topic{}\n", row % 4, row % 7, row % 4);
        let text: String = (0..count).map(line).collect();
        std::fs::write(at.join(format!("texts/{part}.csv")), format!("text,label\n{text}")).unwrap();
    }
    for (options, out, least) in [
        (
            "vectors --batch-size 16 --epochs 60 --loss ArcFaceLoss --centers unit_sphere --best-model \
             --wise-ft-alpha 0.7 --save-steps 2",
            "arc",
            5,
        ),
        (
            "vectors --batch-size 16 --epochs 60 --loss TripletMarginLoss --memory-size 40 --optimizer NAdam \
             --last-k-epochs 3 --tensorboard",
            "triplet",
            5,
        ),
        (
            "vectors --batch-size 20 --epochs 12 --loss CosFaceLoss --optimizer LBFGS --learning-rate 0.5 \
             --set optimizer_options.max_iter=3 --save-steps 1 --scheduler cosine",
            "lbfgs",
            2,
        ),
        (
            "sequences --batch-size 16 --epochs 12 --pooler GeM --memory-size 40 --max-grad-norm 0.5 \
             --gradient-accumulation-steps 2 --save-steps 1 --val-split 0.25",
            "queue",
            2,
        ),
        (
            "texts --batch-size 16 --epochs 4 --loss SubCenterArcFaceLoss --optimizer SparseAdam --save-steps 1 \
             --layer-wise-lr-decay 0.9",
            "table",
            2,
        ),
    ] {
        killed_and_left_alone(at, out, options, least);
    }
}

/// Images that are read ahead, a network of convolutions with its statistics, and a pooler that learns.
#[test]
fn killed_while_it_learns_from_images_it_ends_in_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    for (class, shade) in [("a", 40), ("b", 120), ("c", 200)] {
        std::fs::create_dir_all(at.join("photos").join(class)).unwrap();
        for item in 0..8u32 {
            let image = image::RgbImage::from_fn(14, 12, |x, y| {
                image::Rgb([shade, (x * 17 + item * 5) as u8, (y * 19 + item * 11) as u8])
            });
            image.save(at.join(format!("photos/{class}/{item}.png"))).unwrap();
        }
    }
    let options = "photos --batch-size 8 --epochs 10 --pooler GeM --output-dim 8 --save-steps 1 --set data_options.image_size=12 \
                   --loss ArcFaceLoss --max-grad-norm 2 --set callbacks.last_k_epochs=2";
    killed_and_left_alone(at, "photos-run", options, 3);
}

/// What another run gave, with classes that it did not have; frozen layers, a queue of embeddings, averaged weights.
#[test]
fn killed_after_it_began_from_another_run_it_ends_in_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    vector_folder(&at.join("all"));
    // Of four classes the first run knows two.
    std::fs::create_dir(at.join("two")).unwrap();
    for (part, count) in [("train", support::TRAIN), ("test", support::TEST)] {
        let labels = support::labels(count);
        let known: Vec<usize> = (0..count).filter(|&row| labels[row] < 2).collect();
        let vectors = support::vectors(count).select(embedtune_train::ndarray::Axis(0), &known);
        embedtune_train::io::write_npy(&at.join(format!("two/{part}.npy")), vectors.view()).unwrap();
        let labels: Vec<u8> = known.iter().map(|&row| labels[row]).collect();
        std::fs::write(at.join(format!("two/{part}_labels.npy")), support::label_npy(&labels)).unwrap();
    }
    run(at, "fit -q --data two --batch-size 16 --epochs 3 --loss ArcFaceLoss --out first").done();
    for (options, out) in [
        (
            "all --init-from first --batch-size 16 --epochs 40 --loss ArcFaceLoss --best-model --tensorboard --save-steps 2 \
             --wise-ft-alpha 0.6",
            "classes",
        ),
        (
            "all --init-from first --freeze --output-dim 5 --batch-size 16 --epochs 40 --loss TripletMarginLoss --memory-size 40 \
             --wise-ft-alpha 0.6 --best-model --tensorboard --save-steps 2",
            "frozen",
        ),
    ] {
        killed_and_left_alone(at, out, options, 4);
    }
}

#[test]
fn a_run_without_a_checkpoint_starts_over() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    vector_folder(&at.join("data"));
    run(at, &format!("{FIT} --out whole")).done();
    std::fs::create_dir(at.join("cut")).unwrap();
    // What a machine leaves that stops before the first epoch.
    std::fs::copy(at.join("whole/run.toml"), at.join("cut/run.toml")).unwrap();
    let said = run(at, "fit --resume cut");
    assert!(said.err.contains("no checkpoint yet: starting over"), "{}", said.err);
    said.done();
    let model = |run: &str| std::fs::read(at.join(run).join("model.safetensors")).unwrap();
    assert!(model("cut") == model("whole"));
}

/// Measuring the state before training takes seconds, and no batch comes before it.
#[test]
fn before_the_first_batch_nothing_waits() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    for (line, left) in [("fit --epochs 1 --out run", "run"), ("compare --epochs 1 --out C", "C")] {
        let mark = if left == "run" { "device = auto" } else { "items to measure on" };
        let said = interrupted(at, line, mark);
        let expected = if left == "run" {
            "error: interrupted before the first batch; "
        } else {
            "error: interrupted; nothing is left half-written"
        };
        said.refused(130, &[expected]);
        // What it says can be done.
        if left == "run" && said.err.contains("embedtune fit --resume run` starts this run over") {
            assert_eq!(files(&at.join("run")), ["run.toml"]);
        }
        assert!(!said.err.contains("stopping after this batch"), "{}", said.err);
        let left = files(&at.join(left));
        assert!(left.iter().all(|name| name == "run.toml"), "{left:?}");
    }
}

#[test]
fn an_interrupted_comparison_leaves_no_summary() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    vector_folder(&at.join("data"));
    let compare = "compare --data data --batch-size 16 --out C";
    run(at, &format!("{compare} --epochs 1")).done();
    let said = interrupted(at, &format!("{compare} --epochs 80"), "epoch 1/80");
    said.refused(
        130,
        &["error: interrupted in epoch", "no summary is written", "--resume C/TripletMarginLoss"],
    );
    // The earlier comparison's figures would not be this one's.
    assert_eq!(files(&at.join("C")), ["ArcFaceLoss", "CosFaceLoss", "TripletMarginLoss"]);
    run(at, "fit -q --resume C/TripletMarginLoss").done();
    run(at, &format!("{compare} --epochs 1")).done();
    assert!(at.join("C/summary.json").exists());
}

#[test]
fn readers_that_go_away_stop_no_training() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    vector_folder(&at.join("data"));
    let mut child = program(at, "fit --data data --batch-size 16 --epochs 2 --out run")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop((child.stdout.take(), child.stderr.take()));
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert_eq!(files(&at.join("run")), FINISHED_FILES);
    run(at, "evaluate --run run").done();
}

#[test]
fn a_full_standard_output_is_an_error() {
    let full = || File::options().write(true).open("/dev/full");
    if full().is_err() {
        println!("skipped: no /dev/full here");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    vector_folder(&at.join("data"));
    run(at, "fit -q --data data --batch-size 16 --epochs 1 --out run").done();
    let output = program(at, "evaluate --run run").stdout(full().unwrap()).stderr(Stdio::piped()).output();
    Said::from(output.unwrap()).refused(1, &["standard output: writing failed: No space left on device"]);
    for line in ["--help", "fit --help", "--version"] {
        let output = program(at, line).stdout(full().unwrap()).stderr(Stdio::piped()).output();
        Said::from(output.unwrap()).refused(1, &["standard output: writing failed: No space left on device"]);
        assert!(!run(at, line).done().is_empty());
    }
    let status = program(at, "evaluate --run nowhere").stderr(full().unwrap()).status();
    assert_eq!(status.unwrap().code(), Some(1));
}

/// Runs `embedtune LINE` where no file may grow beyond 3,584 bytes: what a full disk does to the files of a run,
/// without the rights to mount one.
fn cramped(folder: &Path, line: &str) -> Said {
    let script = format!("trap '' XFSZ; ulimit -f 7; exec {} {line}", env!("CARGO_BIN_EXE_embedtune"));
    Command::new("sh").args(["-c", &script]).current_dir(folder).output().expect("sh is there").into()
}

#[test]
fn a_write_that_fails_leaves_no_part_of_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    vector_folder(&at.join("data"));
    let fit = "fit -q --data data --batch-size 16 --epochs 1";
    // The run file and the metrics fit, the model does not.
    cramped(at, &format!("{fit} --out run"))
        .refused(1, &["model.safetensors: writing failed", "free some space there"]);
    assert_eq!(files(&at.join("run")), ["data_files.csv", "metrics.jsonl", "run.toml"]);
    // With room again it continues from where it can.
    run(at, "fit -q --resume run").done();
    run(at, &format!("{fit} --out whole")).done();
    let model = |run: &str| std::fs::read(at.join(run).join("model.safetensors")).unwrap();
    assert!(model("run") == model("whole"));
    // An old file survives a failed new one.
    run(at, "embed --run run --out e.npy").done();
    let before = std::fs::read(at.join("e.npy")).unwrap();
    assert!(before.len() < 1024);
    let long = "embed --run run --data long --out e.npy";
    vector_folder(&at.join("long"));
    let rows = support::vectors(480);
    embedtune_train::io::write_npy(&at.join("long/test.npy"), rows.view()).unwrap();
    std::fs::write(at.join("long/test_labels.npy"), support::label_npy(&support::labels(480))).unwrap();
    cramped(at, long).refused(1, &["e.npy: writing failed"]);
    assert!(std::fs::read(at.join("e.npy")).unwrap() == before);
    assert_eq!(files(at), ["data", "e.npy", "long", "run", "whole"]);
}
