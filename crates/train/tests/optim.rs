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

/// SparseAdam's gradients in `golden/make_optim.py`.
fn sparse_gradient(t: u32) -> RowGrad {
    let rows: Vec<u32> = (0..6).filter(|i| !(t + i).is_multiple_of(3)).collect();
    let all = gradient(t);
    let values = Array2::from_shape_fn((rows.len(), 1), |(i, _)| all[rows[i] as usize]);
    RowGrad { table_rows: 6, rows, values }
}

/// LBFGS's loss in `golden/make_optim.py`; sets the gradient.
fn curve(param: &mut Param<'_>, t: u32) -> f64 {
    let (mut loss, mut grad) = (0.0, Vec::new());
    for (i, (&p, &start)) in param.value.iter().zip(start().iter()).enumerate() {
        let i = i as f64;
        let d = f64::from(p) - f64::from(start) - (0.37 * f64::from(t) + 1.3 * i).sin();
        let a = 0.5 + 0.25 * i;
        loss += a * d * d / 2.0 + 0.01 * d.powi(4);
        grad.push((a * d + 0.04 * d.powi(3)) as f32);
    }
    param.grad = Some(Grad::Dense(Array1::from_vec(grad).into_dyn()));
    loss
}

/// Where the case starts, and its step `t`.
fn begin(kind: OptimizerKind) -> Value {
    match kind {
        OptimizerKind::SparseAdam => start().into_shape_with_order(vec![6, 1]).unwrap(),
        _ => start(),
    }
}

fn golden_step(optimizer: &mut dyn Optimizer, value: &mut Value, t: u32) {
    match optimizer.kind() {
        OptimizerKind::SparseAdam => step(optimizer, value, Grad::Rows(sparse_gradient(t))),
        OptimizerKind::Lbfgs => {
            let mut evaluate = |params: &mut [Param<'_>]| Ok(curve(&mut params[0], t));
            let mut params = [Param { name: "p", value, grad: None }];
            optimizer.step(&mut params, Some(&mut evaluate)).unwrap();
        }
        _ => step(optimizer, value, Grad::Dense(gradient(t))),
    }
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
    assert!(golden.torch.starts_with("2.15"));
    assert_eq!(golden.cases.len(), 37);
    for kind in OptimizerKind::ALL {
        assert!(golden.cases.iter().any(|case| case.optimizer == kind), "{kind}");
    }
    let mut failed = false;
    for case in golden.cases {
        let mut optimizer = optim::build(case.optimizer, &case.options, 1e9).unwrap();
        assert_eq!(optimizer.kind(), case.optimizer);
        let mut value = begin(case.optimizer);
        let mut worst = 0.0f64;
        for t in 1..=100 {
            golden_step(optimizer.as_mut(), &mut value, t);
            for (got, expected) in value.iter().zip(case.values.get(&t).into_iter().flatten()) {
                worst = worst.max((f64::from(*got) - expected).abs() / expected.abs());
            }
        }
        println!("{:<10} {worst:.1e} {:?}", case.optimizer, case.options);
        failed |= worst >= 1e-6;
    }
    assert!(!failed, "see the table");
}

#[test]
fn lbfgs_needs_a_closure_and_keeps_the_parameters_where_it_fails() {
    let mut lbfgs = optim::build(OptimizerKind::Lbfgs, &OptimizerOptions::default(), 1.0).unwrap();
    let mut value = start();
    let mut params = [Param { name: "p", value: &mut value, grad: None }];
    assert!(lbfgs.step(&mut params, None).unwrap_err().to_string().contains("closure"));
    let mut calls = 0;
    let mut evaluate = |params: &mut [Param<'_>]| {
        calls += 1;
        match calls {
            3 => Err(embedtune_train::Error::Unsuitable("the third time".to_owned())),
            _ => Ok(curve(&mut params[0], 1)),
        }
    };
    let error = lbfgs.step(&mut params, Some(&mut evaluate)).unwrap_err().to_string();
    assert_eq!((error.as_str(), calls), ("the third time", 3));
    assert_eq!(value, start());
}

#[test]
fn sparse_adam_moves_the_rows_of_its_gradient_alone_and_refuses_dense_ones() {
    let mut sparse = optim::build(OptimizerKind::SparseAdam, &OptimizerOptions::default(), 0.1).unwrap();
    let mut value = Value::from_elem(vec![7, 3], 0.5);
    for t in 0..4 {
        let before = value.to_owned();
        step(sparse.as_mut(), &mut value, Grad::Rows(table(t)));
        for row in 0..7 {
            let moved = value.index_axis(ndarray::Axis(0), row) != before.index_axis(ndarray::Axis(0), row);
            assert_eq!(moved, table(t).rows.contains(&(row as u32)), "row {row} at step {t}");
        }
    }
    let grad = Some(Grad::Dense(ArrayD::zeros(vec![7, 3])));
    let mut params = [Param { name: "head.weight", value: &mut value, grad }];
    let error = sparse.step(&mut params, None).unwrap_err().to_string();
    assert!(error.contains("`head.weight`") && error.contains("give it to Adam"), "{error}");
}

#[test]
fn row_gradients_equal_the_same_dense_gradient() {
    let of_elements =
        |case: &Case| !matches!(case.optimizer, OptimizerKind::SparseAdam | OptimizerKind::Lbfgs);
    for case in golden().cases.into_iter().filter(of_elements) {
        let build = || optim::build(case.optimizer, &case.options, 0.1).unwrap();
        let mut dense = (build(), Value::from_elem(vec![7, 3], 0.5));
        let mut sparse = (build(), Value::from_elem(vec![7, 3], 0.5));
        for t in 0..12 {
            // Dense in between, as when a tied table gets both kinds.
            let grad = if t == 9 {
                Grad::Dense(Grad::Rows(table(t)).into_dense().unwrap())
            } else {
                Grad::Rows(table(t))
            };
            step(dense.0.as_mut(), &mut dense.1, Grad::Dense(Grad::Rows(table(t)).into_dense().unwrap()));
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
        let (mut optimizer, mut value) = (build(), begin(case.optimizer));
        for t in 1..=20 {
            golden_step(optimizer.as_mut(), &mut value, t);
        }
        let (mut resumed, mut copy) = (build(), value.clone());
        resumed.load_state(&optimizer.state()).unwrap();
        for t in 21..=30 {
            golden_step(optimizer.as_mut(), &mut value, t);
            golden_step(resumed.as_mut(), &mut copy, t);
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
        (rows(vec![2], ones(1)), "index 2 at position 0 is out of range; the table has 2 rows"),
        (rows(vec![1, 0], ones(2)), "rows have to ascend without repetition"),
        (rows(vec![0, 0], ones(2)), "rows have to ascend without repetition"),
        (rows(vec![0, 1], ones(1)), "one for each of its rows"),
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
        (OptimizerKind::NAdam, state(), "lacks `p.mu_product`"),
        (OptimizerKind::Lbfgs, state(), "`p.exp_avg`, which LBFGS"),
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
                let grad = wave(100_003, t as f32);
                match kind {
                    OptimizerKind::SparseAdam => {
                        let mut table =
                            std::mem::take(&mut value).into_shape_with_order(vec![100_003, 1]).unwrap();
                        let values = grad.into_shape_with_order((100_003, 1)).unwrap();
                        let rows = RowGrad { table_rows: 100_003, rows: (0..100_003).collect(), values };
                        step(optimizer.as_mut(), &mut table, Grad::Rows(rows));
                        value = table.into_shape_with_order(vec![100_003]).unwrap();
                    }
                    OptimizerKind::Lbfgs => {
                        let mut params = [Param { name: "p", value: &mut value, grad: None }];
                        let mut evaluate = |params: &mut [Param<'_>]| {
                            let distance = (&*params[0].value - &grad).mapv(|v| v.tanh());
                            let loss = distance.iter().map(|&v| f64::from(v)).sum();
                            params[0].grad = Some(Grad::Dense(distance));
                            Ok(loss)
                        };
                        optimizer.step(&mut params, Some(&mut evaluate)).unwrap();
                    }
                    _ => step(optimizer.as_mut(), &mut value, Grad::Dense(grad)),
                }
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
