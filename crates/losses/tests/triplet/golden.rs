//! Against pytorch-metric-learning 2.9.0 in float64; `tests/golden` holds the numbers and the scripts.

use embedtune_losses::{
    CrossBatchMemory, Distance, Input, Loss, Miner, Output, Reduction, TripletKind, TripletMargin, miner,
};
use ndarray::Array2;
use serde_json::Value;

use super::support::relative_error;

fn pml290() -> Value {
    serde_json::from_str(include_str!("../golden/pml290.json")).unwrap()
}

fn golden() -> Value {
    serde_json::from_str(include_str!("../golden/triplet.json")).unwrap()
}

/// The embeddings and labels of `make_pml290.py`.
fn waves() -> (Array2<f32>, Vec<u32>) {
    let x =
        |(i, j): (usize, usize)| (1.7 * i as f64 + 0.9 * (j * j) as f64 + 0.3 * (i * j) as f64).sin() as f32;
    (Array2::from_shape_fn((12, 5), x), (0..12).map(|i| i % 3).collect())
}

/// The embeddings and labels of `make_triplet.py`.
fn inputs(rows: usize, dim: usize, classes: usize, phase: f64) -> (Array2<f32>, Vec<u32>) {
    let x = Array2::from_shape_fn((rows, dim), |(i, j)| {
        let (row, column) = (i as f64, j as f64);
        let wave = (1.7 * row + 0.9 * column * column + 0.3 * row * column + phase).sin();
        (wave + 0.8 * (2.1 * (i % classes) as f64 + 1.3 * column).cos()) as f32
    });
    (x, (0..rows).map(|i| (i % classes) as u32).collect())
}

fn mined(name: &str, margin: f64) -> Miner {
    let kind = match name {
        "none" => return Miner::All,
        "batch_hard" => return Miner::BatchHard,
        "all" => TripletKind::All,
        "hard" => TripletKind::Hard,
        "semihard" => TripletKind::Semihard,
        "easy" => TripletKind::Easy,
        _ => panic!("unknown miner {name}"),
    };
    Miner::TripletMargin { margin, kind }
}

fn check(what: &str, got: &Output, expected: &Value) {
    let number = |name: &str| expected[name].as_f64().unwrap();
    let d = got.d_embeddings.mapv(f64::from);
    let norm = d.iter().map(|v| v * v).sum::<f64>().sqrt();
    let product: f64 = d.indexed_iter().map(|((i, j), v)| v * (i as f64 + 2.0 * j as f64).cos()).sum();
    let close = |got: f64, expected: f64, scale: f64| (got - expected).abs() <= 1e-5 * scale.max(1e-4);
    assert!(close(got.stats.value, number("value"), number("value")), "{what}: value {}", got.stats.value);
    assert!(close(norm, number("norm"), number("norm")), "{what}: norm {norm}, not {}", number("norm"));
    assert!(close(product, number("product"), number("norm")), "{what}: product {product}");
}

#[test]
fn values_and_gradients_entry_by_entry() {
    let (x, labels) = waves();
    let golden = pml290();
    let base = || TripletMargin::builder().margin(0.2);
    for (name, options) in [
        ("triplet m=.05 L2norm avgnonzero", TripletMargin::builder()),
        ("triplet m=.2 L2norm avgnonzero", base()),
        ("triplet m=.2 mean", base().reduction(Reduction::Mean)),
        ("triplet m=.2 swap", base().swap(true)),
        ("triplet m=.2 smooth", base().smooth(true)),
        ("triplet m=.2 cosine", base().distance(Distance::Cosine)),
        ("triplet m=1 unnormalised L2", base().margin(1.0).normalize(false)),
        ("triplet m=.2 squared L2 (power=2)", base().distance(Distance::SquaredL2)),
    ] {
        let expected = &golden["losses"][name];
        let got = options.build().unwrap().value_and_grad(x.view(), &labels).unwrap();
        approx::assert_relative_eq!(got.stats.value, expected["loss"].as_f64().unwrap(), max_relative = 1e-6);
        let rows = expected["grad_e"].as_array().unwrap();
        let d = Array2::from_shape_fn(x.dim(), |(i, j)| rows[i][j].as_f64().unwrap());
        let error = relative_error(got.d_embeddings.view(), d.view(), 0.0);
        assert!(error < 2e-6, "{name}: gradient off by {error}");
    }
}

#[test]
fn every_distance_reduction_miner_swap_and_smooth() {
    for case in golden()["cases"].as_array().unwrap() {
        let shape: Vec<usize> = serde_json::from_value(case["shape"].clone()).unwrap();
        let (x, labels) = inputs(shape[0], shape[1], shape[2], 0.0);
        let (distance, normalize) = match case["distance"].as_str().unwrap() {
            "l2" => (Distance::L2, true),
            "l2 plain" => (Distance::L2, false),
            "squared_l2" => (Distance::SquaredL2, true),
            "squared_l2 plain" => (Distance::SquaredL2, false),
            _ => (Distance::Cosine, true),
        };
        let reduction = match case["reduction"].as_str().unwrap() {
            "mean" => Reduction::Mean,
            "sum" => Reduction::Sum,
            _ => Reduction::MeanNonZero,
        };
        let options = TripletMargin::builder()
            .margin(case["margin"].as_f64().unwrap())
            .distance(distance)
            .normalize(normalize)
            .reduction(reduction)
            .swap(case["swap"].as_bool().unwrap())
            .smooth(case["smooth"].as_bool().unwrap())
            .miner(mined(case["miner"].as_str().unwrap(), 0.3));
        let what = format!("{shape:?} {options:?}");
        check(&what, &options.build().unwrap().value_and_grad(x.view(), &labels).unwrap(), case);
    }
}

#[test]
fn miners_give_the_same_lists() {
    let compare = |what: &str, rule: &Miner, x: &Array2<f32>, labels: &[u32], expected: &Value| {
        let expected: Vec<Vec<u32>> = serde_json::from_value(expected.clone()).unwrap();
        let got = miner::mine(rule, Input::new(x.view(), labels)).unwrap();
        assert_eq!(vec![got.anchors, got.positives, got.negatives], expected, "{what}");
    };
    let (golden, pml290) = (golden(), pml290());
    let (x, labels) = inputs(16, 6, 4, 0.0);
    for (name, list) in golden["miners"].as_object().unwrap() {
        compare(name, &mined(name, 0.3), &x, &labels, list);
    }
    let (x, labels) = waves();
    for name in ["all", "hard", "semihard", "easy"] {
        let list = &pml290["miners"][format!("TripletMarginMiner m=.2 {name}")];
        compare(name, &mined(name, 0.2), &x, &labels, list);
    }
    compare("BatchHard", &Miner::BatchHard, &x, &labels, &pml290["miners"]["BatchHard"]);
}

#[test]
fn the_memory_bank_step_by_step() {
    let loss = TripletMargin::builder().margin(0.2).build().unwrap();
    let mut memory = CrossBatchMemory::new(20, 6).unwrap();
    for (step, expected) in golden()["memory"].as_array().unwrap().iter().enumerate() {
        let (x, labels) = inputs(12, 6, 3, 0.7 * step as f64);
        memory.push(x.view(), &labels).unwrap();
        let mut input = Input::new(x.view(), &labels);
        input.reference = Some(memory.reference());
        check(&format!("step {step}"), &loss.evaluate(input).unwrap(), expected);
    }
}

#[test]
fn class_weights_weigh_the_anchor() {
    let (x, labels) = inputs(30, 6, 5, 0.0);
    let loss = TripletMargin::builder().margin(0.2).reduction(Reduction::Mean).build().unwrap();
    let mut input = Input::new(x.view(), &labels);
    input.class_weights = Some(&[1.0, 0.5, 2.0, 0.0, 1.5]);
    check("class weights", &loss.evaluate(input).unwrap(), &golden()["class_weights"]);
}
