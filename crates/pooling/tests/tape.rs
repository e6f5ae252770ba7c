//! Pooling on the tape: gradients, masks, and the value that PyTorch gives.
#![cfg(feature = "autodiff")]

use embedtune_core::gradcheck::gradcheck;
use embedtune_core::{Pool, Tape};
use embedtune_pooling::ops::{pool_maps, pool_tokens};
use embedtune_pooling::{GemOptions, PoolerKind, Sign};
use ndarray::{ArrayD, IxDyn, arr1};

fn wave(shape: &[usize]) -> ArrayD<f32> {
    let count: usize = shape.iter().product();
    // Distinct multiples of 1/16 in a scrambled order: none within a difference's step, where the maximum kinks.
    let data = (0..count).map(|i| 0.3 + (i * 37 % 83) as f32 / 16.0).collect();
    ArrayD::from_shape_vec(IxDyn(shape), data).unwrap()
}

#[test]
fn gradients() {
    for (kind, sign) in [
        (PoolerKind::GeM, Sign::Clamp),
        (PoolerKind::GeM, Sign::Shift),
        (PoolerKind::GeM, Sign::Signed),
        (PoolerKind::Avg, Sign::Clamp),
        (PoolerKind::Max, Sign::Clamp),
    ] {
        let gem = GemOptions { sign, ..GemOptions::default() }.build().unwrap();
        for p in [vec![2.5], vec![3.0, 1.5, 2.0]] {
            let p = arr1(&p).into_dyn().mapv(|v: f64| v as f32);
            gradcheck(&[wave(&[2, 3, 2, 3]), p.clone()], 1e-2, |v| pool_maps(v[0], kind, Some(v[1]), &gem))
                .unwrap();
            gradcheck(&[wave(&[2, 4, 3]), p], 1e-2, |v| pool_tokens(v[0], &[4, 2], kind, Some(v[1]), &gem))
                .unwrap();
        }
    }
}

#[test]
fn padding_changes_nothing_and_no_tokens_give_zeros() {
    let gem = GemOptions { sign: Sign::Signed, ..GemOptions::default() }.build().unwrap();
    for kind in [PoolerKind::GeM, PoolerKind::Avg, PoolerKind::Max] {
        let run = |pad: f32| {
            let tape = Tape::new(&Pool::new());
            let mut x = wave(&[2, 5, 3]).mapv(|v| v - 1.3);
            x.index_axis_mut(ndarray::Axis(0), 0).slice_axis_mut(ndarray::Axis(0), (3..).into()).fill(pad);
            let p = tape.leaf(arr1(&[3.0f32]).into_dyn());
            let y = pool_tokens(tape.leaf(x), &[3, 0], kind, Some(p), &gem).unwrap();
            y.value().iter().copied().collect::<Vec<f32>>()
        };
        assert_eq!(run(0.0), run(1e9));
        assert_eq!(run(0.0)[3..], [0.0; 3]);
    }
}

#[test]
fn pytorchs_value_and_gradients() {
    // The case "gem" of the reference values that the losses crate tests against too, with the script that made them.
    let golden: serde_json::Value = serde_json::from_str(include_str!("golden/pml290_gem.json")).unwrap();
    let x = ArrayD::from_shape_fn(IxDyn(&[1, 2, 4, 3]), |i| {
        (2.0 * (0.5 * i[1] as f64 + 0.7 * i[2] as f64 + 1.1 * i[3] as f64).sin()) as f32
    });
    let tape = Tape::new(&Pool::new());
    let (x, p) = (tape.leaf(x), tape.leaf(arr1(&[3.0f32]).into_dyn()));
    let gem = GemOptions::default().build().unwrap();
    let y = pool_maps(x, PoolerKind::GeM, Some(p), &gem).unwrap();
    let close = |got: &[f32], expected: &serde_json::Value| {
        let mut flat = Vec::new();
        flatten(expected, &mut flat);
        assert_eq!(got.len(), flat.len());
        for (a, b) in got.iter().zip(flat) {
            assert!((f64::from(*a) - b).abs() < 3e-6 * b.abs().max(1.0), "{a} {b}");
        }
    };
    close(y.value().as_slice().unwrap(), &golden["y"]);
    let grads = tape.backward(y.sum().unwrap()).unwrap();
    close(grads.dense(x).unwrap().as_slice().unwrap(), &golden["grad_x"]);
    close(grads.dense(p).unwrap().as_slice().unwrap(), &golden["grad_p"]);
}

fn flatten(value: &serde_json::Value, into: &mut Vec<f64>) {
    match value {
        serde_json::Value::Array(items) => items.iter().for_each(|item| flatten(item, into)),
        other => into.push(other.as_f64().unwrap()),
    }
}
