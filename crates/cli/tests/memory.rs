//! The memory that `fit` predicts, and what it then takes.

mod support;

use embedtune_train::io::write_npy;
use embedtune_train::ndarray::Array2;
use serde_json::Value;
use support::{idx, run};

/// Vectors of `classes` classes, of which the first sixteen are measured on.
fn many_classes(folder: &std::path::Path, classes: usize, dim: usize) {
    std::fs::create_dir_all(folder).unwrap();
    let rows = |count: usize| {
        Array2::from_shape_fn((count, dim), |(i, j)| {
            (((i % classes) * 37 + j * 11) % 101) as f32 / 50.0 - 1.0
        })
    };
    for (part, count) in [("train", classes), ("test", 32)] {
        write_npy(&folder.join(format!("{part}.npy")), rows(count).view()).unwrap();
        let header = format!("{{'descr': '<u4', 'fortran_order': False, 'shape': ({count},), }}\n");
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend_from_slice(&(header.len() as u16).to_le_bytes());
        bytes.extend_from_slice(header.as_bytes());
        let of = if part == "train" { classes } else { 16 };
        bytes.extend((0..count).flat_map(|row| ((row % of) as u32).to_le_bytes()));
        std::fs::write(folder.join(format!("{part}_labels.npy")), bytes).unwrap();
    }
}

fn photos(folder: &std::path::Path, count: usize) {
    std::fs::create_dir_all(folder).unwrap();
    for (part, count) in [("train", count), ("t10k", 64)] {
        let pixels: Vec<u8> = (0..count * 784).map(|i| (i * 31 % 251) as u8).collect();
        std::fs::write(
            folder.join(format!("{part}-images-idx3-ubyte")),
            idx(&[count as u32, 28, 28], &pixels),
        )
        .unwrap();
        let labels: Vec<u8> = (0..count).map(|i| (i % 8) as u8).collect();
        std::fs::write(folder.join(format!("{part}-labels-idx1-ubyte")), idx(&[count as u32], &labels))
            .unwrap();
    }
}

/// A tenth, or 5 MiB of a small run.
fn near(predicted: f64, measured: f64) -> bool {
    (predicted - measured).abs() < (0.1 * measured).max(5.0)
}

/// Images of `side` x `side` in files, one folder for each of eight classes.
fn image_files(folder: &std::path::Path, side: u32, counts: [u32; 2]) {
    for (part, count) in ["train", "test"].into_iter().zip(counts) {
        for class in 0..8u32 {
            let inside = folder.join(part).join(class.to_string());
            std::fs::create_dir_all(&inside).unwrap();
            for item in 0..count {
                let pixel =
                    |x: u32, y: u32| image::Rgb([(x * 7 + item) as u8, (y * 5) as u8, (class * 30) as u8]);
                let picture = image::RgbImage::from_fn(side, side, pixel);
                picture.save(inside.join(format!("{item}.png"))).unwrap();
            }
        }
    }
}

/// Batches whose sizes share buffers, items in files that are read ahead, little to compute, a memory, one thread and two.
#[test]
fn small_runs_are_predicted_too() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    many_classes(&at.join("few"), 2_000, 128);
    let labels: Vec<u8> = (0..2_000).map(|row| (row % 16) as u8).collect();
    std::fs::write(at.join("few/train_labels.npy"), support::label_npy(&labels)).unwrap();
    support::vector_folder(&at.join("tiny"));
    image_files(&at.join("files"), 80, [40, 8]);
    // Fewer to measure than a task embeds at once; a batch smaller than the trials; files beside which the rest is small.
    image_files(&at.join("some"), 80, [9, 2]);
    image_files(&at.join("large"), 1_000, [2, 2]);
    for (name, line) in [
        ("tiny", "--data tiny --batch-size 16"),
        ("vectors", "--data few --loss CosFaceLoss"),
        ("vectors, a memory", "--data few --memory-size 1024"),
        ("image files, 128 and 64 in a batch", "--data files --loss ArcFaceLoss"),
        ("few image files", "--data some --batch-size 16 --loss CosFaceLoss --pooler GeM"),
        ("fewer in a batch", "--data some --batch-size 8"),
        ("large image files", "--data large --batch-size 8"),
        ("glyphs", "--loss ArcFaceLoss --batch-size 64"),
    ] {
        for threads in ["1", "2"] {
            let line = format!("fit {line} --epochs 1 --out run --overwrite --json");
            let said = support::program(at, &line).env("RAYON_NUM_THREADS", threads).output().unwrap();
            let report: Value = serde_json::from_str(&support::Said::from(said).done()).unwrap();
            let bytes = |key: &str| report["memory"][key].as_f64().map(|bytes| bytes / f64::from(1 << 20));
            let (Some(predicted), Some(measured)) = (bytes("predicted"), bytes("measured")) else {
                println!("{name}: skipped: this system does not say how much memory a process takes");
                continue;
            };
            println!("{name}, {threads}: {predicted:.1} MiB predicted, {measured:.1} measured");
            assert!(near(predicted, measured), "{name}, {threads}: {predicted:.1} MiB, took {measured:.1}");
        }
    }
}

/// A limit of the process's own counts as the machine's memory does.
#[cfg(target_os = "linux")]
#[test]
fn a_limit_of_the_process_counts() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    many_classes(&at.join("many"), 12_000, 128);
    let line = "fit --data many --loss ArcFaceLoss --output-dim 4096 --out run";
    let mut limited = std::process::Command::new("sh");
    limited.args(["-c", &format!("ulimit -v 1500000; exec \"$0\" {line}"), env!("CARGO_BIN_EXE_embedtune")]);
    let said = limited.current_dir(at).env("RAYON_NUM_THREADS", "1").output().unwrap();
    support::Said::from(said).refused(1, &["MiB at its peak", "MiB are free"]);
    assert!(!at.join("run").exists());
}

#[test]
fn what_is_predicted_is_what_is_taken() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    many_classes(&at.join("many"), 12_000, 128);
    photos(&at.join("photos"), 512);
    for (name, line) in [
        ("centres, Adam", "--data many --loss ArcFaceLoss --batch-size 512"),
        ("centres, SGD", "--data many --loss CosFaceLoss --batch-size 1024 --optimizer SGD --output-dim 256"),
        ("images", "--data photos --loss ArcFaceLoss --batch-size 128"),
        ("images, triplets", "--data photos --batch-size 256 --pooler GeM"),
    ] {
        let said = run(at, &format!("fit {line} --epochs 2 --out run --overwrite --json"));
        assert!(said.err.contains("MiB at the peak"), "{}", said.err);
        let report: Value = serde_json::from_str(&said.done()).unwrap();
        let bytes = |key: &str| report["memory"][key].as_f64().map(|bytes| bytes / f64::from(1 << 20));
        let (Some(predicted), Some(measured)) = (bytes("predicted"), bytes("measured")) else {
            println!("{name}: skipped: this system does not say how much memory a process takes");
            continue;
        };
        println!("{name}: {predicted:.0} MiB predicted, {measured:.0} measured, {:.3}", predicted / measured);
        assert!((predicted / measured - 1.0).abs() < 0.1, "{name}: {predicted:.0} MiB, took {measured:.0}");
    }
}

/// 240,000 vectors of 64 columns are 59 MiB, which stay in their file unless they are wanted in memory.
#[test]
fn vectors_stay_in_their_file() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    many_classes(&at.join("long"), 240_000, 64);
    // As few classes as leave the file the largest thing there is.
    let labels: Vec<u8> = (0..240_000).map(|row| (row % 16) as u8).collect();
    std::fs::write(at.join("long/train_labels.npy"), support::label_npy(&labels)).unwrap();
    let peak = |more: &str| {
        let line =
            "fit --data long --loss ArcFaceLoss --batch-size 512 --epochs 1 --out run --overwrite --json";
        let report: Value = serde_json::from_str(&run(at, &format!("{line} {more}")).done()).unwrap();
        let model = std::fs::read(at.join("run/model.safetensors")).unwrap();
        let bytes = |key: &str| report["memory"][key].as_f64().map(|bytes| bytes / f64::from(1 << 20));
        (bytes("predicted"), bytes("measured"), model)
    };
    let (stays, held) = (peak(""), peak("--set data_options.in_memory=true"));
    assert!(stays.2 == held.2, "the weights differ");
    let (Some(predicted), Some(measured), Some(all)) = (stays.0, stays.1, held.1) else {
        println!("skipped: this system does not say how much memory a process takes");
        return;
    };
    println!("{predicted:.0} MiB predicted, {measured:.0} measured, {all:.0} in memory");
    assert!(all - measured > 50.0, "{measured:.0} MiB, in memory {all:.0}");
    // Next to nothing is left, of which what threads may take for themselves is a third.
    assert!((predicted - measured).abs() < 10.0, "{predicted:.0} MiB, took {measured:.0}");
}

#[test]
fn what_cannot_fit_is_refused_and_auto_fits() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    photos(&at.join("photos"), 256);
    run(at, "fit --data photos --epochs 1 --batch-size auto --out run -q").done();
    let written = std::fs::read_to_string(at.join("run/run.toml")).unwrap();
    // 128, unless this machine is very small.
    assert!(written.contains("batch_size = ") && !written.contains("auto\"\nbatch"), "{written}");
    // 1,024 centres of 65,536 columns for each of 12,000 classes: 3 TiB, three times more for Adam.
    many_classes(&at.join("many"), 12_000, 2);
    let line = "fit --data many --loss SubCenterArcFaceLoss --set loss_options.sub_centers=1024 --output-dim 65536 \
                --out huge";
    run(at, line).refused(
        1,
        &["output_dim = 65536: ", "MiB at its peak", "MiB are free", "write a smaller output_dim"],
    );
    assert!(!at.join("huge").exists());
    run(at, "fit --data photos --batch-size 0 --out huge")
        .refused(1, &["batch_size = 0: write 2 or more items"]);
    run(at, "fit --data photos --batch-size some --out huge").refused(1, &["batch_size = some: "]);
}
