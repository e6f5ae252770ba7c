//! What one easily gets wrong, and what the message has to say.

use embedtune_core::ndarray::{Array1, Array2, ArrayD, IxDyn};
use embedtune_core::ops::BatchNormMode;
use embedtune_core::{Grad, Pool, Result, RowGrad, Tape, linalg};

#[track_caller]
fn says<T>(result: Result<T>, parts: &[&str]) {
    let Err(error) = result else { panic!("accepted, but {parts:?} is wrong") };
    let message = error.to_string();
    for part in parts {
        assert!(message.contains(part), "`{message}` lacks `{part}`");
    }
}

#[test]
fn the_message_names_what_is_wrong() {
    let pool = Pool::new();
    let (tape, other) = (Tape::new(&pool), Tape::new(&pool));
    let ones = |shape: &[usize]| ArrayD::<f32>::ones(IxDyn(shape));
    let (x, w) = (tape.leaf(ones(&[2, 3])), tape.leaf(ones(&[4, 3])));
    let [three, four] = [3, 4].map(|n| tape.leaf(ones(&[n])));
    says(x.linear(w, Some(three)), &["bias: shape [3]", "[4], a value for each channel of [2, 4]"]);
    says(x.layer_norm(three, four, 1e-5), &["layer_norm: shape [4]", "[3] for gamma and beta"]);
    for eps in [-1.0, f32::NAN] {
        says(x.layer_norm(three, three, eps), &["layer_norm: eps =", "1e-5 is usual"]);
        says(x.batch_norm(three, three, eps, BatchNormMode::Train), &["batch_norm: eps =", "1e-5 is usual"]);
        says(x.normalize_rows(eps), &["normalize_rows: eps =", "1e-12 is usual"]);
    }
    let mut unit = Array2::zeros((2, 3));
    says(linalg::normalize_rows(Array2::zeros((2, 3)).view(), 0.0, unit.view_mut()), &["eps = 0", "NaN"]);
    says(x.add(other.leaf(ones(&[2, 3]))), &["different tapes", "one tape"]);
    says(x.matmul(w), &["matmul", "[4, 3]", "[2, 3]"]);
    let (right, wrong) = (Array1::ones(3), Array1::ones(8));
    let of = |mean, variance| x.batch_norm(three, three, 1e-5, BatchNormMode::Eval { mean, variance });
    says(of(&right, &wrong), &["batch_norm: shape [8]", "[3] for the running variance"]);
    says(of(&wrong, &right), &["batch_norm: shape [8]", "[3] for the running mean"]);
}

#[test]
fn rows_that_do_not_fit_their_table_are_named() {
    let values = Array2::<f32>::ones((2, 3));
    let rows = |rows: Vec<u32>| RowGrad { table_rows: 4, rows, values: values.clone() };
    let contributions = |rows: &[u32]| RowGrad::from_contributions(4, rows, &values);
    says(contributions(&[1, 4]), &["from_contributions: index 4 at position 1", "4 rows"]);
    says(contributions(&[1]), &["from_contributions: shape [2, 3]", "[1, dim]"]);
    assert_eq!(contributions(&[3, 1]).unwrap().rows, [1, 3]);
    says(Grad::Rows(rows(vec![1, 4])).into_dense(), &["into_dense: index 4 at position 1"]);
    says(Grad::Rows(rows(vec![1, 2, 3])).into_dense(), &["into_dense: shape [2, 3]", "[3, dim]"]);
    says(Grad::Rows(rows(vec![2, 2])).into_dense(), &["rows = 2 after 2", "from_contributions"]);
    // What an operation's own backward returns is looked at before it is added to anything.
    for (wrong, part) in
        [(vec![1, 4], "index 4 at position 1"), (vec![3, 1], "rows = 1 after 3"), (vec![1], "shape [2, 3]")]
    {
        for twice in [false, true] {
            let tape = Tape::new(&Pool::new());
            let table = tape.leaf(ArrayD::ones(IxDyn(&[4, 3])));
            let grad = Grad::Rows(rows(wrong.clone()));
            let y =
                tape.record("lookup", [table], ArrayD::ones(IxDyn(&[2, 3])), move |_, _| Ok([Some(grad)]));
            let mut loss = y.unwrap().sum().unwrap();
            if twice {
                loss = loss.add(table.sum().unwrap()).unwrap();
            }
            says(tape.backward(loss), &["lookup: ", part]);
        }
    }
}

#[test]
fn a_backward_has_to_return_a_gradient_for_each_input() {
    for count in [0, 1, 3] {
        let tape = Tape::new(&Pool::new());
        let inputs = [1, 2].map(|n| tape.leaf(ArrayD::<f32>::ones(IxDyn(&[n]))));
        let value = ArrayD::<f32>::ones(IxDyn(&[1]));
        let y = tape.record_many("both", &inputs, value, move |_, _| Ok(vec![None; count])).unwrap();
        says(tape.backward(y), &[&format!("both: shape [{count}]"), "2 gradients from its backward"]);
    }
}

#[test]
fn gradients_of_a_tape_that_is_gone_are_no_other_tapes() {
    fn sends<T: Send>(_: &T) {}
    let pool = Pool::new();
    let one = || ArrayD::<f32>::ones(IxDyn(&[1]));
    // The next tape takes the place of the last one in memory.
    let mut slot = Box::new(Tape::new(&pool));
    let leaf = slot.leaf(one());
    let grads = slot.backward(leaf.scale(2.0).unwrap()).unwrap();
    assert!(grads.dense(leaf).is_some());
    sends(&grads);
    *slot = Tape::new(&pool);
    assert!(grads.get(slot.leaf(one())).is_none());
}
