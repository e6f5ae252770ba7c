//! Every operation's value and gradients against PyTorch's (`golden/make_ops.py`).

use embedtune_core::ops::{BatchNormMode, Conv2d, Pool2d};
use embedtune_core::{Pool, Result, Tape, Var};
use ndarray::{Array1, ArrayD, IxDyn};
use serde_json::Value;

fn array(value: &Value) -> ArrayD<f32> {
    let shape: Vec<usize> =
        value["shape"].as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as usize).collect();
    let data = value["data"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap() as f32).collect();
    ArrayD::from_shape_vec(IxDyn(&shape), data).unwrap()
}

fn vector(value: &Value) -> Array1<f32> {
    array(value).iter().copied().collect()
}

/// Within 2e-6 of the largest entry.
fn close(what: &str, got: &ArrayD<f32>, golden: &Value) {
    let golden = array(golden);
    assert_eq!(got.len(), golden.len(), "{what}");
    let largest = golden.iter().fold(1.0f32, |top, v| top.max(v.abs()));
    for (at, (got, golden)) in got.iter().zip(&golden).enumerate() {
        assert!((got - golden).abs() <= 2e-6 * largest, "{what}[{at}]: {got}, PyTorch {golden}");
    }
}

fn apply<'t>(name: &str, v: &[Var<'t>], case: &Value) -> Result<Var<'t>> {
    let plain = Conv2d::default();
    let conv = |options: Conv2d| v[0].conv2d(v[1], Some(v[2]), &options);
    let batch_norm = |mode| v[0].batch_norm(v[1], v[2], 1e-5, mode);
    match name {
        "add" => v[0].add(v[1]),
        "sub" => v[0].sub(v[1]),
        "mul" => v[0].mul(v[1]),
        "scale" => v[0].scale(0.7),
        "relu" => v[0].relu(),
        "gelu" => v[0].gelu(),
        "reshape" => v[0].reshape(&[2, 6]),
        "concatenate" => Var::concatenate(1, v),
        "sum" => v[0].sum(),
        "mean" => v[0].mean(),
        "matmul" => v[0].matmul(v[1]),
        "linear" => v[0].linear(v[1], Some(v[2])),
        "bias" => v[0].bias(v[1]),
        "embedding" => v[0].embedding(&[4, 1, 4, 0]),
        "normalize_rows" => v[0].normalize_rows(1e-12),
        "conv2d" => conv(plain),
        "conv2d_strided" => conv(Conv2d { stride: [2, 1], padding: [1, 0], ..plain }),
        "conv2d_dilated" => conv(Conv2d { padding: [2, 1], dilation: [2, 2], ..plain }),
        "conv2d_grouped" => conv(Conv2d { padding: [1, 2], groups: 2, ..plain }),
        "max_pool2d" => v[0].max_pool2d(&Pool2d::square(2)),
        "max_pool2d_overlapping" => {
            v[0].max_pool2d(&Pool2d { kernel: [3, 2], stride: [2, 1], padding: [1, 1] })
        }
        "avg_pool2d" => v[0].avg_pool2d(&Pool2d::square(2)),
        "batch_norm_1d" => Ok(batch_norm(BatchNormMode::Train)?.0),
        "batch_norm_2d" => {
            let (y, statistics) = batch_norm(BatchNormMode::Train)?;
            let statistics = statistics.expect("training mode gives the batch's statistics");
            close("mean", &statistics.mean.into_dyn(), &case["statistics"][0]);
            close("variance", &statistics.variance.into_dyn(), &case["statistics"][1]);
            Ok(y)
        }
        "batch_norm_2d_running" => {
            let (mean, variance) = (vector(&case["running"][0]), vector(&case["running"][1]));
            let (y, statistics) = batch_norm(BatchNormMode::Eval { mean: &mean, variance: &variance })?;
            assert!(statistics.is_none());
            Ok(y)
        }
        "layer_norm" => v[0].layer_norm(v[1], v[2], 1e-5),
        other => panic!("no operation {other}"),
    }
}

#[test]
fn every_operation_equals_pytorch() {
    let golden: Value = serde_json::from_str(include_str!("golden/ops.json")).unwrap();
    let cases = golden["cases"].as_object().unwrap();
    assert_eq!(cases.len(), 27);
    for (name, case) in cases.iter().filter(|(name, _)| *name != "dropout_all_kept") {
        let tape = Tape::new(&Pool::new());
        let leaves: Vec<Var<'_>> =
            case["inputs"].as_array().unwrap().iter().map(|input| tape.leaf(array(input))).collect();
        let y = apply(name, &leaves, case).unwrap_or_else(|e| panic!("{name}: {e}"));
        close(name, &y.value().to_owned(), &case["value"]);
        let upstream = array(&case["upstream"]).into_shape_with_order(y.shape()).unwrap();
        let mut grads = tape.backward_from(y, upstream).unwrap();
        for (at, (&leaf, golden)) in leaves.iter().zip(case["gradients"].as_array().unwrap()).enumerate() {
            let gradient =
                grads.take(leaf).unwrap_or_else(|| panic!("{name}: no gradient {at}")).into_dense().unwrap();
            close(&format!("{name}: gradient {at}"), &gradient, golden);
        }
    }
}

/// Which values dropout keeps is a matter of the random numbers; what it makes of those it keeps is not.
#[test]
fn what_dropout_keeps_equals_pytorch() {
    let golden: Value = serde_json::from_str(include_str!("golden/ops.json")).unwrap();
    let case = &golden["cases"]["dropout_all_kept"];
    let (kept, gradient) = (array(&case["value"]), array(&case["gradients"][0]));
    let tape = Tape::new(&Pool::new());
    let x = tape.leaf(array(&case["inputs"][0]));
    let y = x.dropout(0.4, 7).unwrap();
    let value = y.value().to_owned();
    let mut grads = tape.backward_from(y, array(&case["upstream"])).unwrap();
    let dx = grads.take(x).unwrap().into_dense().unwrap();
    let count = value.iter().filter(|&&v| v != 0.0).count();
    assert!((1..value.len()).contains(&count), "{count} of {} kept", value.len());
    for (((&y, &dx), kept), gradient) in value.iter().zip(&dx).zip(&kept).zip(&gradient) {
        if y == 0.0 {
            assert_eq!(dx, 0.0);
        } else {
            assert!((y - kept).abs() <= 2e-6 * kept.abs(), "{y}, PyTorch {kept}");
            assert!((dx - gradient).abs() <= 2e-6 * gradient.abs(), "{dx}, PyTorch {gradient}");
        }
    }
}

/// Every test of this file once more on the narrower paths.
#[test]
fn narrower_instructions_pass_the_same_tests() {
    const CHOICE: &str = "EMBEDTUNE_SIMD";
    if std::env::var_os(CHOICE).is_some() {
        return;
    }
    for path in ["portable", "avx2"] {
        let tests = std::env::current_exe().unwrap();
        let run = std::process::Command::new(tests).env(CHOICE, path).output().unwrap();
        assert!(run.status.success(), "{path}: {}", String::from_utf8_lossy(&run.stdout));
    }
}
