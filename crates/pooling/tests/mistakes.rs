//! What one easily gets wrong, and what the message has to say.

use embedtune_pooling::ndarray::{Array2, Array3};
use embedtune_pooling::tokens::{Mask, Valid};
use embedtune_pooling::{GemOptions, Pooling, Saved, maps, tokens};

#[track_caller]
fn says<T>(result: embedtune_pooling::core::Result<T>, parts: &[&str]) {
    let Err(error) = result else { panic!("accepted, but {parts:?} is wrong") };
    let message = error.to_string();
    for part in parts {
        assert!(message.contains(part), "`{message}` lacks `{part}`");
    }
}

#[test]
fn the_message_names_what_is_wrong() {
    let gem = GemOptions::default().build().unwrap();
    let x = Array3::<f32>::ones((2, 4, 9));
    let (mut y, mut saved) = (Array2::zeros((2, 4)), Saved::default());
    for (p, part) in [(0.0, "0 at"), (-3.0, "-3 at"), (f32::NAN, "NaN at")] {
        let four = Pooling::GeM { p: &[3.0, p, 3.0, 3.0], options: &gem, learnable: true };
        let pooled = maps::forward(x.view(), four, y.view_mut(), &mut saved);
        says(pooled, &["p =", part, "position 1", "keep_powers"]);
    }
    says(Valid::new(Mask::Lengths(&[3, 9]), 2, 4).map(|_| ()), &["length = 9 in row 1", "at most 4 tokens"]);
    let most = usize::MAX;
    says(Valid::new(Mask::Tokens(&[true; 7]), most, 4).map(|_| ()), &["shape [7]", "x 4 flags"]);
    says(Valid::new(Mask::Tokens(&[]), most, 0).map(|_| ()), &["tokens = 0 in", "fewer items"]);
    says(Valid::new(Mask::Lengths(&[most, 2]), 2, most).map(|_| ()), &["tokens = more than usize::MAX in 2"]);
    says(Valid::new(Mask::Lengths(&[most / 2]), 1, most).map(|_| ()), &["tokens = 9223", "in 1 items"]);

    let [fixed, learnt] = [false, true].map(|learnable| Pooling::GeM { p: &[3.0], options: &gem, learnable });
    // The values that one pooling saved mean nothing to another.
    let dy = Array2::ones((2, 4));
    maps::forward(x.view(), Pooling::Avg, y.view_mut(), &mut saved).unwrap();
    says(
        maps::backward(x.view(), learnt, &saved, dy.view(), None, Some(&mut [0.0])),
        &["saved = values of Average", "its own forward pass"],
    );
    maps::forward(x.view(), fixed, y.view_mut(), &mut saved).unwrap();
    says(
        maps::backward(x.view(), learnt, &saved, dy.view(), None, Some(&mut [0.0])),
        &["learnable: false", "learnable: true"],
    );
    maps::forward(x.view(), learnt, y.view_mut(), &mut saved).unwrap();
    maps::backward(x.view(), fixed, &saved, dy.view(), None, None).unwrap();
    // Nor those of maps of another size, whose rows are as many.
    let smaller = Array3::<f32>::ones((2, 4, 3));
    says(maps::backward(smaller.view(), fixed, &saved, dy.view(), None, None), &["[2, 4, 9]", "[2, 4, 3]"]);
    says(
        maps::backward(x.view(), fixed, &Saved::default(), dy.view(), None, None),
        &["saved values of the forward"],
    );
    // Nor those of maps to tokens of their shape, whose rows are others.
    let x = Array3::<f32>::ones((2, 3, 5));
    let (mut of_maps, mut of_tokens) = (Array2::zeros((2, 3)), Array2::zeros((2, 5)));
    let all = Valid::new(Mask::Lengths(&[3, 3]), 2, 3).unwrap();
    for pooling in [fixed, Pooling::Avg, Pooling::Max] {
        maps::forward(x.view(), pooling, of_maps.view_mut(), &mut saved).unwrap();
        let mut dx = x.clone();
        says(
            tokens::backward(x.view(), &all, pooling, &saved, of_tokens.view(), Some(dx.view_mut()), None),
            &["saved = values of", "of maps", "of tokens needs those of its own"],
        );
        tokens::forward(x.view(), &all, pooling, of_tokens.view_mut(), &mut saved).unwrap();
        says(
            maps::backward(x.view(), pooling, &saved, of_maps.view(), Some(dx.view_mut()), None),
            &["of tokens", "of maps needs those of its own"],
        );
    }
}
