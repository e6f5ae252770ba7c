//! Optimizers against PyTorch's trajectories, and their contract: in place, row-sparse, resumable, thread-independent.

use std::collections::BTreeMap;

use embedtune_core::{Grad, RowGrad, Value};
use embedtune_train::State;
use embedtune_train::optim::{self, Optimizer, OptimizerKind, OptimizerOptions, Param};
use ndarray::{Array1, Array2, ArrayD, array};
use serde::Deserialize;

#[derive(Deserialize)]
struct Golden {
    torch: String,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    optimizer: OptimizerKind,
    options: OptimizerOptions,
    values: BTreeMap<u32, Vec<f64>>,
}

fn golden() -> Golden {
    serde_json::from_str(include_str!("golden/optim.json")).unwrap()
}

/// The start and the gradients of `golden/make_optim.py`.
fn start() -> Value {
    let values = (0..6).map(|i| (1.5 + 0.5 * i as f32) * if i % 2 == 0 { 1.0 } else { -1.0 });
    Array1::from_iter(values).into_dyn().into_shared()
}

fn gradient(t: u32) -> ArrayD<f32> {
    let at = |i: u32| {
        if i == 5 && t % 2 == 1 {
            return 0.0;
        }
        let (t, i) = (f64::from(t), f64::from(i));
        ((0.37 * t + 1.3 * i).sin() * (0.2 + 0.3 * i) + 0.05 * (0.11 * t * i).cos()) as f32
    };
    Array1::from_iter((0..6).map(at)).into_dyn()
}

fn step(optimizer: &mut dyn Optimizer, value: &mut Value, grad: Grad) {
    optimizer.step(&mut [Param { name: "p", value, grad: Some(grad) }], None).unwrap();
}

fn table(t: u32) -> RowGrad {
    let rows = match t % 4 {
        0 => vec![0, 3],
        1 => vec![3],
        2 => vec![],
        _ => vec![1, 4, 5],
    };
    let values =
        Array2::from_shape_fn((rows.len(), 3), |(i, j)| (t as f32 + i as f32 * 1.7 + j as f32).sin());
    RowGrad { table_rows: 7, rows, values }
}

#[test]
fn trajectories_are_pytorchs() {
    let golden = golden();
    assert!(golden.torch.starts_with("2."));
    assert_eq!(golden.cases.len(), 15);
    for case in golden.cases {
        let mut optimizer = optim::build(case.optimizer, &case.options, 1e9).unwrap();
        assert_eq!(optimizer.kind(), case.optimizer);
        let mut value = start();
        let mut worst = 0.0f64;
        for t in 1..=100 {
            step(optimizer.as_mut(), &mut value, Grad::Dense(gradient(t)));
            for (got, expected) in value.iter().zip(case.values.get(&t).into_iter().flatten()) {
                worst = worst.max((f64::from(*got) - expected).abs() / expected.abs());
            }
        }
        assert!(worst < 1e-6, "{} {:?}: {worst:.2e}", case.optimizer, case.options);
    }
}

#[test]
fn row_gradients_equal_the_same_dense_gradient() {
    for case in golden().cases {
        let build = || optim::build(case.optimizer, &case.options, 0.1).unwrap();
        let mut dense = (build(), Value::from_elem(vec![7, 3], 0.5));
        let mut sparse = (build(), Value::from_elem(vec![7, 3], 0.5));
        for t in 0..12 {
            // Dense in between, as when a tied table gets both kinds.
            let grad =
                if t == 9 { Grad::Dense(Grad::Rows(table(t)).into_dense()) } else { Grad::Rows(table(t)) };
            step(dense.0.as_mut(), &mut dense.1, Grad::Dense(Grad::Rows(table(t)).into_dense()));
            step(sparse.0.as_mut(), &mut sparse.1, grad);
            if t == 5 {
                let state = sparse.0.state();
                sparse.0 = build();
                sparse.0.load_state(&state).unwrap();
            }
            assert_eq!(dense.1, sparse.1, "{} {:?} at step {t}", case.optimizer, case.options);
            assert_eq!(dense.0.state(), sparse.0.state());
        }
    }
}

#[test]
fn a_loaded_state_continues_bit_for_bit() {
    for case in golden().cases {
        let build = || optim::build(case.optimizer, &case.options, 0.1).unwrap();
        let (mut optimizer, mut value) = (build(), start());
        for t in 1..=20 {
            step(optimizer.as_mut(), &mut value, Grad::Dense(gradient(t)));
        }
        let (mut resumed, mut copy) = (build(), value.clone());
        resumed.load_state(&optimizer.state()).unwrap();
        for t in 21..=30 {
            step(optimizer.as_mut(), &mut value, Grad::Dense(gradient(t)));
            step(resumed.as_mut(), &mut copy, Grad::Dense(gradient(t)));
        }
        assert_eq!(value, copy, "{} {:?}", case.optimizer, case.options);
        assert_eq!(optimizer.state(), resumed.state());
    }
}

#[test]
fn updates_in_place_unless_shared() {
    let mut sgd = optim::build(OptimizerKind::Sgd, &OptimizerOptions::default(), 1.0).unwrap();
    let mut value = start();
    let address = value.as_ptr();
    step(sgd.as_mut(), &mut value, Grad::Dense(gradient(1)));
    assert_eq!(value.as_ptr(), address);
    let shared = value.clone();
    let before = shared.to_owned();
    step(sgd.as_mut(), &mut value, Grad::Dense(gradient(2)));
    assert_eq!(shared, before);
    assert_ne!(value, shared);
}

#[test]
fn any_layout_of_value_and_gradient_will_do() {
    let mut adam = optim::build(OptimizerKind::Adam, &OptimizerOptions::default(), 0.1).unwrap();
    let grad = array![[1.0f32, -1.0, 0.5], [0.0, 2.0, -3.0]];
    let plain = array![[1.0f32, 2.0, 3.0], [4.0, 5.0, 6.0]];
    let mut value = plain.clone().into_dyn().into_shared();
    step(adam.as_mut(), &mut value, Grad::Dense(grad.clone().into_dyn()));
    let mut adam = optim::build(OptimizerKind::Adam, &OptimizerOptions::default(), 0.1).unwrap();
    let fortran = |a: &Array2<f32>| a.t().as_standard_layout().into_owned().reversed_axes().into_dyn();
    let mut other = fortran(&plain).into_shared();
    assert!(!other.is_standard_layout());
    step(adam.as_mut(), &mut other, Grad::Dense(fortran(&grad)));
    assert_eq!(value, other);
}

#[test]
fn a_parameter_without_gradient_keeps_its_value_and_step_count() {
    let mut adam = optim::build(OptimizerKind::Adam, &OptimizerOptions::default(), 0.1).unwrap();
    let (mut frozen, mut free) = (start(), start());
    for t in 1..=3 {
        let grad = Some(Grad::Dense(gradient(t)));
        let mut params = [
            Param { name: "frozen", value: &mut frozen, grad: None },
            Param { name: "free", value: &mut free, grad },
        ];
        adam.step(&mut params, None).unwrap();
        assert_eq!(params[1].grad, Some(Grad::Dense(gradient(t))), "the gradient comes back for its buffer");
    }
    assert_eq!(frozen, start());
    let state = adam.state();
    assert_eq!(state.counters, BTreeMap::from([("free.step".to_owned(), 3)]));
    assert_eq!(state.tensors.keys().collect::<Vec<_>>(), ["free.exp_avg", "free.exp_avg_sq"]);
}

#[test]
fn a_schedule_drives_the_rate() {
    let options = OptimizerOptions { learning_rate: Some(0.5), ..OptimizerOptions::default() };
    let mut sgd = optim::build(OptimizerKind::Sgd, &options, 0.1).unwrap();
    assert_eq!(sgd.learning_rate(), 0.5);
    sgd.set_learning_rate(0.25).unwrap();
    let mut value = array![1.0f32].into_dyn().into_shared();
    step(sgd.as_mut(), &mut value, Grad::Dense(array![1.0f32].into_dyn()));
    assert_eq!(value[[0]], 0.75);
    for bad in [-0.1, f64::NAN, f64::INFINITY] {
        assert!(sgd.set_learning_rate(bad).unwrap_err().to_string().contains("learning_rate"));
    }
    assert_eq!(sgd.learning_rate(), 0.25);
}

#[test]
fn wrong_gradients_are_errors_that_change_nothing() {
    let rows = |rows: Vec<u32>, values: Array2<f32>| Grad::Rows(RowGrad { table_rows: 2, rows, values });
    let ones = |rows| Array2::<f32>::ones((rows, 3));
    for (grad, part) in [
        (Grad::Dense(array![1.0f32, 2.0].into_dyn()), "gradient has shape [2]"),
        (rows(vec![0], Array2::ones((1, 2))), "gradient has shape [2, 2]"),
        (rows(vec![2], ones(1)), "below 2"),
        (rows(vec![1, 0], ones(2)), "ascending"),
        (rows(vec![0, 0], ones(2)), "ascending"),
        (rows(vec![0, 1], ones(1)), "one for each row"),
    ] {
        let mut adam = optim::build(OptimizerKind::Adam, &OptimizerOptions::default(), 0.1).unwrap();
        let (mut good, mut bad) = (start(), Value::zeros(vec![2, 3]));
        let mut params = [
            Param { name: "good", value: &mut good, grad: Some(Grad::Dense(gradient(1))) },
            Param { name: "layers.1.weight", value: &mut bad, grad: Some(grad) },
        ];
        let error = adam.step(&mut params, None).unwrap_err().to_string();
        assert!(error.contains("`layers.1.weight`") && error.contains(part), "{error}");
        assert_eq!(good, start());
        assert_eq!(adam.state(), State::default());
    }
    let mut adam = optim::build(OptimizerKind::Adam, &OptimizerOptions::default(), 0.1).unwrap();
    let (mut one, mut two) = (start(), start());
    let mut params =
        [Param { name: "p", value: &mut one, grad: None }, Param { name: "p", value: &mut two, grad: None }];
    assert!(adam.step(&mut params, None).unwrap_err().to_string().contains("two parameters"));
}

#[test]
fn foreign_states_are_refused() {
    let build = |kind| optim::build(kind, &OptimizerOptions::default(), 0.1).unwrap();
    let state = || {
        let mut adam = build(OptimizerKind::Adam);
        step(adam.as_mut(), &mut start(), Grad::Dense(gradient(1)));
        adam.state()
    };
    let tensor = |key: &str, shape: &[usize]| (key.to_owned(), ArrayD::<f32>::zeros(shape));
    let changed = |change: &dyn Fn(&mut State)| {
        let mut state = state();
        change(&mut state);
        state
    };
    for (kind, state, part) in [
        (OptimizerKind::Sgd, state(), "`p.exp_avg`, which SGD"),
        (OptimizerKind::RmsProp, state(), "`p.exp_avg`, which RMSprop"),
        (OptimizerKind::Adam, changed(&|s| drop(s.tensors.remove("p.exp_avg"))), "lacks `p.exp_avg`"),
        (OptimizerKind::Adam, changed(&|s| s.counters.clear()), "`p.exp_avg`"),
        (OptimizerKind::Adam, changed(&|s| s.tensors.extend([tensor("stray", &[6])])), "`stray`"),
        (OptimizerKind::Adam, changed(&|s| s.counters.extend([("stray".to_owned(), 1)])), "`stray`"),
        (
            OptimizerKind::Adam,
            changed(&|s| s.tensors.extend([tensor("p.exp_avg", &[2])])),
            "shapes [2] and [6]",
        ),
    ] {
        let mut optimizer = build(kind);
        let error = optimizer.load_state(&state).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
        assert_eq!(optimizer.state(), State::default());
    }
    let mut adam = build(OptimizerKind::Adam);
    adam.load_state(&state()).unwrap();
    let mut value = Value::zeros(vec![4]);
    let grad = Some(Grad::Dense(ArrayD::zeros(vec![4])));
    let error = adam.step(&mut [Param { name: "p", value: &mut value, grad }], None).unwrap_err().to_string();
    assert!(error.contains("optimizer state has shape [6]"), "{error}");
}

#[test]
fn the_number_of_threads_does_not_change_a_bit() {
    let wave =
        |n: usize, phase: f32| Array1::from_shape_fn(n, |i| (i as f32 * 0.01 + phase).sin()).into_dyn();
    let on = |threads: usize, kind| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let mut optimizer = optim::build(kind, &OptimizerOptions::default(), 0.1).unwrap();
            let mut value = wave(100_003, 0.3).into_shared();
            for t in 0..3 {
                step(optimizer.as_mut(), &mut value, Grad::Dense(wave(100_003, t as f32)));
            }
            value
        })
    };
    for kind in OptimizerKind::ALL {
        let one = on(1, kind);
        for threads in [2, 3, 5] {
            assert_eq!(on(threads, kind), one, "{kind} on {threads} threads");
        }
    }
}
