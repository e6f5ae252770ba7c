//! Data in every form, from the files to an exported model.

mod support;

use std::path::Path;

use embedtune_train::data::tensors::read_items;
use embedtune_train::data::vectors::read_vectors;
use serde_json::Value;
use support::{CLASSES, FINISHED_FILES, TEST, TRAIN, files, labels, run, vectors};

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

/// Images whose brightest side tells the class, `count` of each, of different sizes.
fn image_classes(folder: &Path, count: usize, ending: &str) {
    for class in 0..CLASSES {
        let at = folder.join(format!("class {class}"));
        std::fs::create_dir_all(&at).unwrap();
        for item in 0..count {
            let (width, height) = (20 + item as u32 % 5, 24 - item as u32 % 3);
            let image = image::RgbImage::from_fn(width, height, |x, y| {
                let here = (y * 2 / height * 2 + x * 2 / width) as usize == class;
                let noise = ((x * 31 + y * 17 + item as u32 * 7) % 60) as u8;
                image::Rgb(if here { [190, 200, 150 + noise] } else { [noise, 20, noise / 2] })
            });
            image.save(at.join(format!("{item}.{ending}"))).unwrap();
        }
    }
}

#[test]
fn a_folder_of_jpegs_becomes_an_exported_model() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    image_classes(&at.join("photos"), 10, "jpg");
    std::fs::write(at.join("run.toml"), "[data_options]\nimage_size = 16\n").unwrap();
    let fit = "fit --data photos --config run.toml --loss ArcFaceLoss --epochs 6 --batch-size 16";
    // Images of other kinds are told, not passed over.
    for name in ["class 1/a.webp", "class 2/b.WEBP", "class 2/c.gif", "d.bmp"] {
        std::fs::write(at.join("photos").join(name), "").unwrap();
    }
    let said = run(at, &format!("{fit} --out R --json"));
    let told = "note: images of other kinds than PNG and JPEG are left out (1 .gif, 2 .webp)";
    assert!(said.err.contains(told), "{}", said.err);
    let report = json(&said.done());
    assert_eq!(report["tuned"]["items"], 8, "two of ten images of each class are held back");
    assert!(report["tuned"]["recall_at_1"].as_f64().unwrap() > 0.7, "{report}");
    let metrics = std::fs::read_to_string(at.join("R/metrics.jsonl")).unwrap();
    let last = json(metrics.lines().last().unwrap());
    let (waited, seconds) = (last["waiting_seconds"].as_f64().unwrap(), last["seconds"].as_f64().unwrap());
    assert!(0.0 < waited && waited <= seconds, "{last}");

    // Read ahead or kept in memory: the same batches, the same bits.
    std::fs::write(at.join("run.toml"), "[data_options]\nimage_size = 16\nin_memory = true\n").unwrap();
    run(at, &format!("{fit} --out M")).done();
    let model = |run: &str| std::fs::read(at.join(run).join("model.safetensors")).unwrap();
    assert!(model("R") == model("M"));

    run(at, "embed --run R --input photos --out all.npy --names all.csv").done();
    let names = std::fs::read_to_string(at.join("all.csv")).unwrap();
    let lines: Vec<&str> = names.lines().collect();
    assert_eq!((lines[0], lines.len()), ("row,item", 1 + 40));
    assert_eq!(lines[1], "0,photos/class 0/0.jpg");
    assert_eq!(lines[40], "39,photos/class 3/9.jpg");
    // One file by two names, there or not.
    for line in [
        "--out a.csv --names a.csv",
        "--out a.csv --names ./a.csv",
        "--out photos/../all.csv --names all.csv",
    ] {
        run(at, &format!("embed --run R --input photos {line}"))
            .refused(1, &["names = ", "is the file of the embeddings; name another"]);
    }
    assert_eq!(read_vectors(&at.join("all.npy")).unwrap().dim(), (40, 64));
    run(at, "embed --run R --out evaluated.csv").done();
    assert_eq!(std::fs::read_to_string(at.join("evaluated.csv")).unwrap().lines().count(), 1 + 8);
    // A neighbour is told by its file.
    let found = json(&run(at, "search --run R --query 0 -k 3 --json").done());
    let file = found[0]["file"].as_str().unwrap_or_default();
    assert!(file.contains("photos/class ") && Path::new(file).exists(), "{found}");
    assert!(run(at, "search --run R --query 0 -k 3").done().contains(file));
    let said = run(at, "export --run R --out model.onnx").done();
    assert!(said.contains("embeddings of length 64") && said.contains("pixels [batch, 3, 16, 16]"), "{said}");
    run(at, "export --run R --out model.pt").refused(1, &["out = model.pt", ".onnx or .safetensors"]);
    run(at, "export --run R --format safetensors --out weights.safetensors").done();
    assert!(std::fs::read(at.join("weights.safetensors")).unwrap().len() > 1000);

    // A changed image is noticed, a broken one named.
    let one = at.join("photos/class 0/0.jpg");
    let whole = std::fs::read(&one).unwrap();
    std::fs::copy(at.join("photos/class 1/0.jpg"), &one).unwrap();
    run(at, "fit --resume R").refused(
        1,
        &["the data have changed since this run began", ": class 0/0.jpg is another (", " bytes, then "],
    );
    // Runs from before there was a list know only that something has changed.
    let list = std::fs::read(at.join("R/data_files.csv")).unwrap();
    std::fs::remove_file(at.join("R/data_files.csv")).unwrap();
    let said = run(at, "fit --resume R");
    said.refused(1, &["the data have changed since this run began", "start a new run"]);
    assert!(!said.err.contains("is another"), "{}", said.err);
    std::fs::write(at.join("R/data_files.csv"), list).unwrap();
    std::fs::write(&one, &whole[..60]).unwrap();
    run(at, "fit --data photos --out B")
        .refused(1, &["0.jpg: not a complete PNG or JPEG image", "repair it"]);
    // A header that promises more pixels than so few bytes can hold: no gigabytes are laid out for them.
    let mut vast = whole.clone();
    let frame = vast.windows(2).position(|marker| marker == [0xff, 0xc0]).unwrap();
    vast[frame + 5..frame + 9].copy_from_slice(&[0x7f, 0, 0x7f, 0]);
    std::fs::write(&one, vast).unwrap();
    run(at, "fit --data photos --out B")
        .refused(1, &["0.jpg: not a complete PNG or JPEG image", "cannot hold the 32512 x 32512 pixels"]);
    std::fs::write(&one, b"GIF89a").unwrap();
    run(at, "fit --data photos --out B").refused(1, &["0.jpg: not a complete PNG or JPEG image"]);
    std::fs::create_dir(at.join("loose")).unwrap();
    std::fs::copy(at.join("photos/class 1/0.jpg"), at.join("loose/0.jpg")).unwrap();
    run(at, "fit --data loose --out B").refused(1, &["loose: holds images", "one for each class"]);
    std::fs::create_dir(at.join("photos/none")).unwrap();
    std::fs::write(&one, whole).unwrap();
    run(at, "fit --data photos --out B").refused(1, &["photos/none: no .png, .jpg or .jpeg image"]);
    assert!(!at.join("B").exists());
}

#[test]
fn folders_of_training_and_test_images() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    image_classes(&at.join("D/train"), 8, "png");
    run(at, "fit --data D --out R").refused(1, &["none named test or val"]);
    image_classes(&at.join("D/val"), 3, "png");
    let text = "epochs = 1\nbatch_size = 16\n[data_options]\nimage_size = 12\ngrayscale = true\n";
    std::fs::write(at.join("run.toml"), text).unwrap();
    let report = json(&run(at, "fit --data D --config run.toml --out R --json").done());
    assert_eq!(report["tuned"]["items"], 12);
    let written = std::fs::read_to_string(at.join("R/run.toml")).unwrap();
    for line in ["channels = 1", "height = 12", "image_size = 12", "grayscale = true"] {
        assert!(written.lines().any(|l| l == line), "{written}\nlacks: {line}");
    }
    assert_eq!(files(&at.join("R")), FINISHED_FILES);

    // The report shows each file's picture and its name.
    let html = std::fs::read_to_string(at.join("R/report.html")).unwrap();
    let (_, data) = html.split_once("id=\"data\">").unwrap();
    let data = json(data.split_once("</script>").unwrap().0);
    assert_eq!(data["entries"]["sprite"]["tile"], serde_json::json!([12, 12]));
    let names: Vec<&str> =
        data["entries"]["file"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
    assert_eq!(names, ["0.png", "1.png", "2.png"].repeat(CLASSES));
    assert!(html.contains(".thumb{background-image:url(data:image/png;base64,"));
}

#[test]
fn texts_in_pairs_and_with_scores() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    std::fs::create_dir(at.join("D")).unwrap();
    let pairs = |file: &str, header: &str, rows: &[(&str, &str, &str)]| {
        let text: String = rows.iter().map(|(a, b, score)| format!("{a},{b}{score}\n")).collect();
        std::fs::write(at.join("D").join(file), format!("{header}\n{text}")).unwrap();
    };
    let train = [
        ("where is my card", "card not here", ""),
        ("card not here", "my card is missing", ""),
        ("top up failed", "the top up did not work", ""),
    ];
    pairs("train.csv", "query,document", &train);
    pairs(
        "test.csv",
        "query,document",
        &[("no card yet", "still no card", ""), ("top up", "topping up", "")],
    );
    let fit = "fit --data D --epochs 1 --batch-size 4 --num-items-per-class 2";
    run(at, &format!("{fit} --out R")).done();
    let written = std::fs::read_to_string(at.join("R/run.toml")).unwrap();
    assert!(written.contains("0: where is my card") && written.contains("1: top up failed"), "{written}");
    let scored = train.map(|(a, b, _)| (a, b, if b.starts_with("my") { ",0.2" } else { ",0.9" }));
    pairs("train.csv", "text1,text2,score", &scored);
    run(at, &format!("{fit} --out S")).done();
    let written = std::fs::read_to_string(at.join("S/run.toml")).unwrap();
    assert!(written.contains("1: my card is missing"), "{written}");
    for (file, text, expected) in [
        ("train.csv", "text1,text2\na,\n", "line 2: a text of the pair is empty"),
        ("train.csv", "text1,text2,score\na,b,x\n", "line 2: the score `x` is no number"),
        ("train.csv", "text1,text2,score\na,b,inf\n", "line 2: the score `inf` is no number"),
        ("train.csv", "text1,text2\n", "a header and no rows"),
        ("train.csv", "text,label\na,b\n", "one file holds pairs and the other labels"),
    ] {
        std::fs::write(at.join("D").join(file), text).unwrap();
        run(at, &format!("{fit} --out B")).refused(1, &[expected]);
    }
    // Texts without labels, a block at a time.
    std::fs::write(at.join("new.txt"), "my card\ntop it up\n").unwrap();
    run(at, "embed --run R --input new.txt --out new.safetensors").done();
    assert_eq!(read_items(&at.join("new.safetensors")).unwrap().describe(), "vectors of length 128");
    run(at, "embed --run R --input R/run.toml --out x.npy")
        .refused(1, &["its ending names no kind of items"]);
    run(at, "embed --run R --input new.txt --out x.txt").refused(1, &["write a name that ends in .npy"]);
    run(at, "embed --run R --input new.safetensors --out x.npy").refused(1, &["the encoder takes text"]);
    assert!(!at.join("x.npy").exists());
}

/// A safetensors file: name, type, shape, bytes.
fn tensors(path: &Path, parts: &[(&str, &str, &[usize], Vec<u8>)]) {
    let (mut header, mut data) = (Vec::new(), Vec::new());
    for (name, dtype, shape, bytes) in parts {
        let end = data.len() + bytes.len();
        header.push(format!(
            r#""{name}":{{"dtype":"{dtype}","shape":{shape:?},"data_offsets":[{},{end}]}}"#,
            data.len()
        ));
        data.extend_from_slice(bytes);
    }
    let header = format!("{{{}}}", header.join(","));
    let bytes = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &data].concat();
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn tensors_of_vectors_and_of_sequences() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    std::fs::create_dir(at.join("V")).unwrap();
    std::fs::create_dir(at.join("S")).unwrap();
    for (part, count) in [("train", TRAIN), ("test", TEST)] {
        let rows = vectors(count);
        let flat: Vec<u8> = rows.iter().flat_map(|v| v.to_le_bytes()).collect();
        let ids: Vec<u8> = labels(count).iter().flat_map(|&l| u64::from(l).to_le_bytes()).collect();
        let path = at.join("V").join(format!("{part}.safetensors"));
        tensors(&path, &[("vectors", "F32", &[count, 6], flat), ("labels", "I64", &[count], ids.clone())]);
        // Three tokens of two values; the second of odd items does not count.
        let tokens: Vec<u8> = rows.iter().flat_map(|v| f64::from(*v).to_le_bytes()).collect();
        let mask: Vec<u8> = (0..count * 3).map(|i| u8::from(i % 6 != 4)).collect();
        tensors(
            &at.join("S").join(format!("{part}.safetensors")),
            &[
                ("tokens", "F64", &[count, 3, 2], tokens),
                ("mask", "BOOL", &[count, 3], mask),
                ("labels", "U64", &[count], ids),
            ],
        );
    }
    support::vector_folder(&at.join("N"));
    let fit = |data: &str| format!("fit --data {data} --epochs 1 --batch-size 16 --out R-{data}");
    run(at, &fit("V")).done();
    run(at, &fit("N")).done();
    let model = |run: &str| std::fs::read(at.join(run).join("model.safetensors")).unwrap();
    assert!(model("R-V") == model("R-N"), "the same vectors from another format");
    run(at, &format!("{} --pooler GeM", fit("S"))).done();
    let written = std::fs::read_to_string(at.join("R-S/run.toml")).unwrap();
    assert!(written.contains("kind = \"sequence\"") && written.contains("sign = \"signed\""), "{written}");
    run(at, "export --run R-S --format onnx --out s.onnx").done();
    run(at, "embed --run R-S --input S/test.safetensors --out s.npy").done();
    assert_eq!(read_vectors(&at.join("s.npy")).unwrap().dim(), (TEST, 2));
    for (parts, expected) in [
        (vec![("x", "F32", [2usize, 1].as_slice(), vec![0; 8])], "no tensor of labels"),
        (
            vec![("x", "F32", &[2], vec![0; 8]), ("y", "U8", &[2], vec![0; 2])],
            "expected vectors [items, dim]",
        ),
        (
            vec![
                ("x", "F32", &[1, 2], [1f32, f32::NAN].map(f32::to_le_bytes).concat()),
                ("y", "U8", &[1], vec![0]),
            ],
            "row 0, column 1 is NaN",
        ),
        (vec![("x", "I8", &[1, 2], vec![0; 2]), ("y", "U8", &[1], vec![0])], "its type is I8"),
        (vec![("x", "F32", &[1, 1], vec![0; 4]), ("y", "I8", &[1], vec![255])], "label -1 in row 0"),
        (
            vec![
                ("tokens", "F32", &[1, 1, 1], vec![0; 4]),
                ("mask", "U8", &[1, 1], vec![0]),
                ("y", "U8", &[1], vec![0]),
            ],
            "item 0 keeps no token",
        ),
    ] {
        tensors(&at.join("V/train.safetensors"), &parts);
        run(at, "fit --data V --out B").refused(1, &["train.safetensors: ", expected]);
    }
    std::fs::write(at.join("V/train.safetensors"), b"\xff\xff\xff\xff\xff\xff\xff\x7f{}").unwrap();
    run(at, "fit --data V --out B").refused(1, &["not a complete safetensors file"]);
    assert!(!at.join("B").exists());
}
