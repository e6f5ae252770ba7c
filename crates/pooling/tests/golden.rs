//! Values and gradients against PyTorch in f64 (`golden/make_gem.py`).

use embedtune_pooling::ndarray::{Array2, Array3};
use embedtune_pooling::tokens::{self, Mask, Valid};
use embedtune_pooling::{GemOptions, Pooling, Saved, Sign, maps};
use serde_json::Value;

fn numbers(value: &Value) -> Vec<f32> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap() as f32).collect()
}

fn close(what: &str, got: &[f32], expected: &Value) {
    let expected = expected.as_array().unwrap();
    assert_eq!(got.len(), expected.len(), "{what}");
    for (i, (got, expected)) in got.iter().zip(expected).enumerate() {
        let expected = expected.as_f64().unwrap();
        let error = (f64::from(*got) - expected).abs();
        assert!(error <= 2e-5 * expected.abs().max(1.0), "{what}[{i}]: {got} instead of {expected}");
    }
}

#[test]
fn gem_agrees_with_pytorch() {
    let golden: Value = serde_json::from_str(include_str!("golden/gem.json")).unwrap();
    let &[batch, channels, length] = numbers(&golden["shape"]).as_slice() else { panic!("three axes") };
    let (batch, channels, length) = (batch as usize, channels as usize, length as usize);
    let flags: Vec<bool> = golden["mask"].as_array().unwrap().iter().map(|v| v.as_bool().unwrap()).collect();
    let valid = Valid::new(Mask::Tokens(&flags), batch, length).unwrap();
    let dy = Array2::from_shape_vec((batch, channels), numbers(&golden["dy"])).unwrap();
    let cases = golden["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 30);
    for case in cases {
        let name = format!("{} {} p {}", case["layout"], case["sign"], case["p"]);
        let sign: Sign = serde_json::from_value(case["sign"].clone()).unwrap();
        let options = GemOptions { sign, ..GemOptions::default() }.build().unwrap();
        let p = numbers(&case["p"]);
        let gem = Pooling::GeM { p: &p, options: &options, learnable: true };
        let is_maps = case["layout"] == "maps";
        let shape = if is_maps { (batch, channels, length) } else { (batch, length, channels) };
        let x = Array3::from_shape_vec(shape, numbers(&golden[case["layout"].as_str().unwrap()])).unwrap();
        let (mut y, mut saved) = (Array2::zeros((batch, channels)), Saved::default());
        let (mut dx, mut d_p) = (Array3::from_elem(shape, f32::NAN), vec![f32::NAN; p.len()]);
        if is_maps {
            maps::forward(x.view(), gem, y.view_mut(), &mut saved).unwrap();
            maps::backward(x.view(), gem, &saved, dy.view(), Some(dx.view_mut()), Some(&mut d_p)).unwrap();
        } else {
            tokens::forward(x.view(), &valid, gem, y.view_mut(), &mut saved).unwrap();
            let (x, dx) = (x.view(), Some(dx.view_mut()));
            tokens::backward(x, &valid, gem, &saved, dy.view(), dx, Some(&mut d_p)).unwrap();
        }
        close(&format!("{name}: y"), y.as_slice().unwrap(), &case["y"]);
        close(&format!("{name}: dx"), dx.as_slice().unwrap(), &case["dx"]);
        close(&format!("{name}: dp"), &d_p, &case["dp"]);
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
