//! The files of runs and comparisons, damaged at random: what builds on them is refused, changes nothing and leaves nothing,
//! or does as if they were whole.

mod support;

use std::path::Path;

use embedtune_train::data::Split;
use embedtune_train::run::{Model, Observer, Resumed, RunFolder, RunOptions, Trainer, resume};
use support::damage::{contents, damage, random};
use support::{run, vector_folder};

/// Damaged versions of each file.
const VERSIONS: u64 = 24;

/// Gives a run's model to whatever takes one: where it is `loaded`, that ends well, and what it wrote goes again.
fn uses(at: &Path, loaded: bool) {
    for (line, out) in [
        ("export --run run --out out.onnx", "out.onnx"),
        ("export --run run --out out.safetensors", "out.safetensors"),
        ("fit -q --data data --init-from run --epochs 1 --batch-size 16 --out next", "next"),
    ] {
        let said = run(at, line);
        let out = at.join(out);
        assert_eq!(said.code, Some(i32::from(!loaded)), "{line}: {}", said.err);
        assert!(!said.err.contains(".embedtune-"), "{}", said.err);
        assert_eq!(out.exists(), loaded, "{line}: {}", said.err);
        if out.is_dir() {
            std::fs::remove_dir_all(out).unwrap();
        } else if loaded {
            std::fs::remove_file(out).unwrap();
        }
    }
}

#[test]
fn damaged_runs_are_refused_and_stay_as_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    vector_folder(&at.join("data"));
    run(at, "fit -q --data data --loss ArcFaceLoss --epochs 1 --batch-size 16 --out run").done();
    let (split, run_folder) = (Split::load(&at.join("data")).unwrap(), RunFolder::new(at.join("run")));
    let mut refused = 0;
    for name in support::RUN_FILES.into_iter().chain(["data_files.csv"]) {
        let path = at.join("run").join(name);
        let whole = std::fs::read(&path).unwrap();
        for version in 0..VERSIONS {
            std::fs::write(&path, damage(&whole, &mut random(name, version))).unwrap();
            let before = contents(at);
            let loaded = Model::load(&run_folder).is_ok();
            let said = run(at, "embed --run run --data data --out out.npy");
            assert_eq!(said.code, Some(i32::from(!loaded)), "{name}, version {version}: {}", said.err);
            if loaded {
                std::fs::remove_file(at.join("out.npy")).unwrap();
            }
            // The others that build on a model, for some of the versions.
            if version % 4 == 0 {
                uses(at, loaded);
            }
            // A run that is finished changes nothing; one that is damaged must not be continued.
            let finished = matches!(resume(&run_folder, &split, None), Ok(Resumed::Finished(_)));
            if !finished && resume(&run_folder, &split, None).is_err() {
                refused += 1;
                run(at, "fit -q --resume run").refused(1, &["error: "]);
            }
            assert!(contents(at) == before, "{name}, version {version}");
        }
        std::fs::write(&path, whole).unwrap();
    }
    assert!(refused >= 40, "{refused} refused");
}

/// Interrupts a run after so many batches.
struct After(usize);

impl Observer for After {
    fn stop_batch(&mut self) -> bool {
        self.0 = self.0.saturating_sub(1);
        self.0 == 0
    }
}

#[test]
fn a_damaged_run_is_not_continued() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    vector_folder(&at.join("data"));
    // As the program names it.
    let data = at.join("data").canonicalize().unwrap();
    let split = Split::load(&data).unwrap();
    let options = RunOptions { epochs: 4, batch_size: 16, memory_size: 20, ..RunOptions::default() };
    let trainer = Trainer::builder()
        .options(options)
        .folder(at.join("cut"))
        .source(data.display().to_string())
        .data_folder(&data)
        .build(&split)
        .unwrap();
    trainer.fit(&mut After(5)).map(drop).unwrap_err();
    let cut = RunFolder::new(at.join("cut"));
    let mut refused = 0;
    for name in support::RUN_FILES {
        let path = at.join("cut").join(name);
        let whole = std::fs::read(&path).unwrap();
        for version in 0..VERSIONS {
            std::fs::write(&path, damage(&whole, &mut random(&format!("cut {name}"), version))).unwrap();
            let before = contents(at);
            if resume(&cut, &split, None).is_err() {
                refused += 1;
                run(at, "fit -q --resume cut").refused(1, &["error: ", "cut/"]);
            }
            assert!(contents(at) == before, "{name}, version {version}");
        }
        std::fs::write(&path, whole).unwrap();
    }
    assert!(refused >= 40, "{refused} refused");
    // A list of the data's files that is damaged says less of what has changed, and no more.
    let train = data.join("train.npy");
    let mut changed = std::fs::read(&train).unwrap();
    *changed.last_mut().unwrap() ^= 1;
    std::fs::write(&train, changed).unwrap();
    let path = cut.data_files();
    let whole = std::fs::read(&path).unwrap();
    for version in 0..VERSIONS {
        std::fs::write(&path, damage(&whole, &mut random("list", version))).unwrap();
        let before = contents(at);
        run(at, "fit -q --resume cut").refused(1, &["the data have changed since this run began"]);
        assert!(contents(at) == before, "version {version}");
    }
}

#[test]
fn a_damaged_comparison_is_not_reported() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    vector_folder(&at.join("data"));
    run(at, "compare -q --data data --epochs 1 --batch-size 16 --out C").done();
    let path = at.join("C/summary.json");
    let whole = std::fs::read(&path).unwrap();
    let mut refused = 0;
    for version in 0..12 {
        std::fs::write(&path, damage(&whole, &mut random("summary", version))).unwrap();
        let before = contents(at);
        let said = run(at, "report C --projection pca --out page.html");
        if said.code == Some(0) {
            std::fs::remove_file(at.join("page.html")).unwrap();
        } else {
            refused += 1;
            said.refused(1, &["error: C/summary.json: "]);
        }
        assert!(contents(at) == before, "version {version}");
    }
    assert!(refused >= 4, "{refused} refused");
}
