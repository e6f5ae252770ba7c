//! Slices give what arrays give, bit for bit, and refuse what does not fit.

use embedtune_pooling::ndarray::{Array2, Array3};
use embedtune_pooling::tokens::{self, Mask, Valid};
use embedtune_pooling::{GemOptions, Pooling, Saved, Sign, maps, slices};

const SHAPE: [usize; 3] = [3, 4, 5];

fn input() -> Array3<f32> {
    Array3::from_shape_fn(SHAPE, |(b, c, i)| ((b * 7 + c * 3 + i) as f32 * 0.61).sin())
}

#[test]
fn maps_agree_with_arrays() {
    let options = GemOptions { sign: Sign::Signed, ..GemOptions::default() }.build().unwrap();
    let gem = Pooling::GeM { p: &[2.5], options: &options, learnable: true };
    let x = input();
    let dy = Array2::from_shape_fn((3, 4), |(b, c)| (b as f32 - c as f32) * 0.3);
    let (mut y, mut saved) = (Array2::zeros((3, 4)), Saved::default());
    let (mut dx, mut d_p) = (Array3::zeros(SHAPE), [0.0]);
    maps::forward(x.view(), gem, y.view_mut(), &mut saved).unwrap();
    maps::backward(x.view(), gem, &saved, dy.view(), Some(dx.view_mut()), Some(&mut d_p)).unwrap();

    let (x, dy) = (x.as_slice().unwrap(), dy.as_slice().unwrap());
    let (mut flat_y, mut flat_dx, mut flat_d_p) = ([0.0; 12], [0.0; 60], [0.0]);
    let mut saved = Saved::default();
    slices::forward_maps(x, SHAPE, gem, &mut flat_y, &mut saved).unwrap();
    slices::backward_maps(x, SHAPE, gem, &saved, dy, Some(&mut flat_dx), Some(&mut flat_d_p)).unwrap();
    assert_eq!(y.as_slice().unwrap(), flat_y);
    assert_eq!(dx.as_slice().unwrap(), flat_dx);
    assert_eq!(d_p, flat_d_p);
    assert!(flat_dx.iter().any(|&g| g != 0.0));
}

#[test]
fn tokens_agree_with_arrays() {
    let valid = Valid::new(Mask::Lengths(&[4, 0, 2]), 3, 4).unwrap();
    let x = input();
    let dy = Array2::from_shape_fn((3, 5), |(b, c)| (b as f32 - c as f32) * 0.3);
    let (mut y, mut saved) = (Array2::zeros((3, 5)), Saved::default());
    let mut dx = Array3::zeros(SHAPE);
    tokens::forward(x.view(), &valid, Pooling::Max, y.view_mut(), &mut saved).unwrap();
    tokens::backward(x.view(), &valid, Pooling::Max, &saved, dy.view(), Some(dx.view_mut()), None).unwrap();

    let (x, dy) = (x.as_slice().unwrap(), dy.as_slice().unwrap());
    let (mut flat_y, mut flat_dx, mut saved) = ([0.0; 15], [0.0; 60], Saved::default());
    slices::forward_tokens(x, SHAPE, &valid, Pooling::Max, &mut flat_y, &mut saved).unwrap();
    let dx_of = Some(&mut flat_dx[..]);
    slices::backward_tokens(x, SHAPE, &valid, Pooling::Max, &saved, dy, dx_of, None).unwrap();
    assert_eq!(y.as_slice().unwrap(), flat_y);
    assert_eq!(dx.as_slice().unwrap(), flat_dx);
    assert!(flat_dx.iter().any(|&g| g != 0.0));
}

#[test]
fn lengths_that_do_not_fit_are_named() {
    let (x, mut saved) = ([0.0; 60], Saved::default());
    let message = slices::forward_maps(&x[1..], SHAPE, Pooling::Avg, &mut [0.0; 12], &mut saved).unwrap_err();
    assert!(message.to_string().contains("the maps, [3, 4, 5]"), "{message}");
    let message = slices::forward_maps(&x, SHAPE, Pooling::Avg, &mut [0.0; 11], &mut saved).unwrap_err();
    assert!(message.to_string().contains("the pooled values, [3, 4]"), "{message}");
    let huge = [usize::MAX, 2, 2];
    slices::forward_maps(&x, huge, Pooling::Avg, &mut [0.0; 12], &mut saved).unwrap_err();
}
