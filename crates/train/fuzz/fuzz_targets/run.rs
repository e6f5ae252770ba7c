//! A run's folder. The first byte chooses the file that the rest replaces.
#![no_main]

use std::sync::LazyLock;

use embedtune_train::data::Glyphs;
use embedtune_train::data::Split;
use embedtune_train::run::{Model, RunFolder, Trainer, resume};
use libfuzzer_sys::fuzz_target;

static RUN: LazyLock<(tempfile::TempDir, Split)> = LazyLock::new(|| {
    let folder = tempfile::tempdir().expect("a folder");
    let split = Glyphs { train_classes: 2, train_items: 4, test_classes: 2, test_items: 2, seed: 1 }.split();
    let run = Trainer::builder().epochs(1).batch_size(8).folder(folder.path());
    run.build(&split).and_then(|trainer| trainer.fit(&mut ())).expect("a run");
    (folder, split)
});

fuzz_target!(|input: &[u8]| {
    let Some((kind, bytes)) = input.split_first() else { return };
    let (folder, split) = &*RUN;
    let names = ["run.toml", "metrics.jsonl", "model.safetensors", "checkpoint.safetensors"];
    let path = folder.path().join(names[usize::from(kind % 4)]);
    let whole = std::fs::read(&path).expect("it is there");
    std::fs::write(&path, bytes).expect("it is written");
    let run = RunFolder::new(folder.path());
    drop(Model::load(&run));
    drop(resume(&run, split, None));
    std::fs::write(&path, whole).expect("it is written");
});
