//! Words that make no sense: the flag or option is named with its value and a remedy, and nothing is written.

mod support;

use support::{FINISHED_FILES, files, image_folder, run, vector_folder};

#[test]
fn fit_refuses_nonsense() {
    let folder = tempfile::tempdir().unwrap();
    image_folder(&folder.path().join("images"));
    vector_folder(&folder.path().join("vectors"));
    for (words, expected) in [
        ("--loss Foo", "loss = Foo: unknown variant `Foo`, expected one of `TripletMarginLoss`"),
        ("--margin nan", "loss_options.margin = NaN: "),
        ("--margin -5", "loss_options.margin = -5: "),
        ("--margin 30deg", "this loss's margin is a distance: write a plain number"),
        ("--margin xdeg", "margin = xdeg: an angle needs its unit"),
        ("--loss ArcFaceLoss --margin 0.5", "\"0.5deg\" or \"0.5rad\"?"),
        ("--loss ArcFaceLoss --margin 400deg", "an angle from 0deg to below 180deg"),
        ("--loss SphereFaceLoss --margin 2.5", "a whole number from 1 to 8"),
        ("--loss ArcFaceLoss --scale nan", "loss_options.scale = NaN: "),
        ("--loss ArcFaceLoss --scale -1", "loss_options.scale = -1: "),
        ("--scale 16", "TripletMarginLoss has no such option"),
        ("--miner Foo", "miner = Foo: "),
        ("--loss CosFaceLoss --miner BatchHardMiner", "write loss = \"TripletMarginLoss\""),
        ("--optimizer Adamw", "error: optimizer = Adamw: unknown optimizer; did you mean AdamW?"),
        ("--optimizer adam", "did you mean Adam?"),
        ("--learning-rate nan", "learning_rate = NaN: write a number above 0"),
        ("--learning-rate -1", "learning_rate = -1: "),
        ("--loss-optimizer SGD", "loss_optimizer = SGD: TripletMarginLoss has no class centres"),
        ("--scheduler exponential", "scheduler = exponential: "),
        ("--num-warmup-steps 3", "write scheduler = \"constant_with_warmup\""),
        ("--max-grad-norm -1", "max_grad_norm = -1: write a number above 0"),
        ("--gradient-accumulation-steps 0", "gradient_accumulation_steps = 0: "),
        ("--layer-wise-lr-decay 2", "optimizer_options.layer_wise_lr_decay = 2: must be above 0"),
        ("--centers round", "centers = round: "),
        ("--centers unit_sphere", "centers = unit_sphere: TripletMarginLoss has no class centres"),
        ("--loss ArcFaceLoss --centers unit_sphere --loss-optimizer SGD", "loss_optimizer = SGD: "),
        (
            "--loss ArcFaceLoss --memory-size 64",
            "memory_size = 64: ArcFaceLoss compares items with class centres",
        ),
        ("--optimizer SparseAdam", "optimizer = SparseAdam: the encoder has no embedding table"),
        ("--init-from nowhere", "nowhere: opening failed"),
        ("--init-from vectors", "init_from = "),
        ("--freeze", "freeze = true: "),
        ("--patience 0", "callbacks.patience = 0: "),
        (
            "--monitor accuracy",
            "callbacks.monitor = accuracy: `accuracy` is no figure of an epoch; write recall_at_K",
        ),
        ("--wise-ft-alpha 2", "callbacks.wise_ft_alpha = 2: "),
        ("--last-k-epochs 0", "callbacks.last_k_epochs = 0: "),
        ("--sampler some", "sampler = some: "),
        ("--num-items-per-class 0", "num_items_per_class = 0: "),
        ("--num-items-per-class 18446744073709551615", "write at most half of batch_size"),
        ("--pooler Foo", "pooler = Foo: "),
        ("--output-dim 0", "output_dim = 0: "),
        ("--output-dim 1000000000000", "write at most 65536"),
        ("--epochs 0", "epochs = 0: "),
        ("--epochs 18446744073709551615", "at most 1000000"),
        ("--batch-size 1", "batch_size = 1: "),
        ("--batch-size 18446744073709551615", "write at most 1048576"),
        ("--device cuda", "device = cuda: "),
        ("--device tpu", "device = tpu: "),
        ("--precision f8", "device_options.precision = f8: "),
        ("--device cpu --precision f16", "device_options.precision = f16: the CPU computes in f32"),
        (
            "--device cpu --set device_options.products=cublas",
            "device_options.products = cublas: the CPU computes in f32 by its own products",
        ),
        ("--seed 18446744073709551615", "below 2^63"),
        ("--config nowhere.toml", "nowhere.toml: reading failed"),
        ("--config images", "images: reading failed"),
        ("--data vectors --pooler GeM", "pooler = GeM: this encoder has no pooling layer to replace"),
    ] {
        let data = if words.contains("--data") { "" } else { "--data images" };
        run(folder.path(), &format!("fit {data} --out run {words}")).refused(1, &["error: ", expected]);
        assert!(!folder.path().join("run").exists(), "{words}");
    }
}

#[test]
fn configuration_files_are_read_strictly() {
    let folder = tempfile::tempdir().unwrap();
    image_folder(&folder.path().join("data"));
    for (text, parts) in [
        ("epoch = 3", ["line 1", "unknown field `epoch`"]),
        ("[loss_options]\nmargn = 3", ["line 2", "unknown field `margn`"]),
        ("epochs = \"three\"", ["options.toml", "invalid type: string \"three\""]),
        ("epochs = ", ["options.toml", "line 1"]),
        ("encoder = \"text\"", ["encoder = text", "the data are images"]),
        (
            "[loss_optimizer_options]\nlr = 0.1",
            ["loss_optimizer_options = { learning_rate = 0.1 }", "no class centres"],
        ),
        ("[miner_options]\nmargin = 0.1", ["miner_options = { margin = 0.1 }", "no miner is given"]),
        (
            "miner = \"BatchHardMiner\"\n[miner_options]\nmargin = 0.1",
            ["miner_options", "BatchHardMiner has no options"],
        ),
        ("miner = \"TripletMarginMiner\"\n[miner_options]\nmargin = nan", ["miner_options.margin", "NaN"]),
        ("[pooler_options]\np = 5.0", ["pooler_options", "no pooler is given"]),
        ("pooler = \"Avg\"\n[pooler_options]\np = 5.0", ["pooler_options", "Avg has no options"]),
        ("pooler = \"GeM\"\n[pooler_options]\np = nan", ["pooler_options.p = NaN", "write a number"]),
        (
            "[optimizer_options]\nmomentum = 0.9",
            ["optimizer_options.momentum = 0.9", "Adam has no such option"],
        ),
        (
            "loss = \"SubCenterArcFaceLoss\"\n[loss_options]\nsub_centers = 1000000000000",
            ["loss_options.sub_centers", "write at most 1024"],
        ),
        ("loss = \"ArcFaceLoss\"\n[loss_options]\nswap = true", ["loss_options.swap", "leave it out"]),
        ("val_split = 1.5", ["val_split = 1.5", "write a share"]),
        (
            "scheduler = \"linear\"\n[scheduler_options]\nnum_warmup_steps = -3",
            ["num_warmup_steps = -3", "write"],
        ),
    ] {
        std::fs::write(folder.path().join("options.toml"), text).unwrap();
        let said = run(folder.path(), "fit --data data --out run --config options.toml");
        said.refused(1, &parts);
        assert!(!folder.path().join("run").exists(), "{text}");
    }
}

#[test]
fn flags_win_over_the_configuration_file() {
    let folder = tempfile::tempdir().unwrap();
    vector_folder(&folder.path().join("data"));
    let text =
        "epochs = 9\nbatch_size = 16\nloss = \"CosFaceLoss\"\n[loss_options]\nmargin = 0.2\nscale = 20.0";
    std::fs::write(folder.path().join("options.toml"), text).unwrap();
    run(folder.path(), "fit -q --data data --out run --config options.toml --epochs 1 --scale 30").done();
    let written = std::fs::read_to_string(folder.path().join("run/run.toml")).unwrap();
    for line in ["epochs = 1", "batch_size = 16", "loss = \"CosFaceLoss\"", "margin = 0.2", "scale = 30.0"] {
        assert!(written.lines().any(|l| l == line), "{written}\nlacks: {line}");
    }
}

/// The place as it was given, what is wrong with it, and what to do.
const NO_FOLDER: &str =
    "writing failed: there is no folder nowhere (make it, if it is meant); check the path";

#[test]
fn places_that_cannot_be_written_to() {
    let folder = tempfile::tempdir().unwrap();
    vector_folder(&folder.path().join("data"));
    std::fs::write(folder.path().join("file"), "mine").unwrap();
    let fit = "fit -q --data data --epochs 1 --batch-size 16";
    run(folder.path(), &format!("{fit} --out run")).done();
    let model = std::fs::read(folder.path().join("run/model.safetensors")).unwrap();
    for (line, expected) in [
        (format!("{fit} --out file"), "a file stands where a folder is needed"),
        (format!("{fit} --out file/run"), "a file stands where a folder is needed"),
        (format!("{fit} --out run"), "the folder is not empty; name another, continue its run with --resume"),
        ("compare -q --data data --out file".to_owned(), "a file stands where a folder is needed"),
        ("embed --run run --out run".to_owned(), "it is a folder: name a file"),
        ("embed --run run --out nowhere/x.npy".to_owned(), NO_FOLDER),
        ("embed --run run --out nowhere/x.csv --input missing.npy".to_owned(), NO_FOLDER),
        ("embed --run run --out file/x.npy".to_owned(), "error: file/x.npy: writing failed"),
        (
            "export --run run --out nowhere/x.onnx".to_owned(),
            "error: nowhere/x.onnx: writing failed: there is",
        ),
        ("export --run run --out nowhere/deep/x.safetensors".to_owned(), "there is no folder nowhere/deep"),
        ("export --run run --format onnx --out data".to_owned(), "error: data: writing failed"),
        ("report run --out nowhere/r.html".to_owned(), "error: nowhere/r.html: writing failed: there is"),
        ("report run --out data".to_owned(), "it is a folder: name a file"),
    ] {
        run(folder.path(), &line).refused(1, &[expected]);
    }
    assert_eq!(std::fs::read(folder.path().join("file")).unwrap(), b"mine");
    assert_eq!(std::fs::read(folder.path().join("run/model.safetensors")).unwrap(), model);
    assert_eq!(files(folder.path()), ["data", "file", "run"]);
    assert_eq!(files(&folder.path().join("run")), FINISHED_FILES);
    run(folder.path(), &format!("{fit} --out run --overwrite")).done();
}

#[test]
fn runs_refuse_what_is_not_theirs() {
    let folder = tempfile::tempdir().unwrap();
    vector_folder(&folder.path().join("data"));
    image_folder(&folder.path().join("images"));
    run(folder.path(), "fit -q --data data --epochs 1 --batch-size 16 --out run").done();
    for (code, line, expected) in [
        (1, "evaluate --run data", "not the folder of a run"),
        (
            1,
            "evaluate --run run --data images",
            "the encoder takes vectors of length 6, but the items are images",
        ),
        (1, "embed --run nowhere --out x.npy", "not the folder of a run"),
        (1, "fit --resume data", "not the folder of a run"),
        (1, "search --run run --query 24", "query = 24: the evaluation items are 0 to 23"),
        (1, "search --run run --query 3 -k 0", "k = 0: write 1 or more"),
        (2, "search --run run --query -1", "unexpected argument"),
        (2, "search --run run --query x", "invalid value 'x'"),
        (2, "fit --resume run --epochs 9", "goes with no other option"),
        (2, "fit --resume run --seed 9", "goes with no other option"),
        (2, "fit --resume run --overwrite", "goes with no other option"),
        (1, "compare --epochs 0", "epochs = 0: "),
        (1, "compare --batch-size 0", "batch_size = 0: "),
        (2, "compare --projection umap", "invalid value 'umap'"),
        (2, "compare --seed -1", "a seed is a whole number from 0 to 9223372036854775807"),
        (2, "fit --seed -1", "a seed is a whole number"),
        (2, "fit --seed x", "a seed is a whole number"),
        (2, "evaluate", "--run <RUN>"),
        (2, "dance", "unrecognized subcommand"),
    ] {
        run(folder.path(), line).refused(code, &[expected]);
    }
    let many = run(folder.path(), "search --run run --query 3 -k 18446744073709551615").done();
    assert_eq!(many.lines().count(), 1 + 23, "{many}");
    assert_eq!(files(folder.path()), ["data", "images", "run"]);
}
