//! What one easily gets wrong, and what the message has to say.

use embedtune_core::ndarray::{Array2, ArrayD, IxDyn};
use embedtune_core::ops::BatchNormMode;
use embedtune_core::{Pool, Result, Tape, linalg};

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
}
