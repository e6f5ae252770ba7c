//! The same bits for any number of threads.

use embedtune_pooling::ndarray::{Array2, Array3};
use embedtune_pooling::tokens::{self, Mask, Valid};
use embedtune_pooling::{GemOptions, Pooling, Saved, Sign, maps};
use rayon::ThreadPoolBuilder;

#[test]
fn the_number_of_threads_changes_no_bit() {
    let x = Array3::from_shape_fn((40, 24, 50), |(b, c, i)| ((b * 7 + c * 3 + i) as f32 * 0.37).sin());
    let lengths: Vec<usize> = (0..40).map(|b| b % 25).collect();
    let valid = Valid::new(Mask::Lengths(&lengths), 40, 24).unwrap();
    let dy = |dim| Array2::from_shape_fn((40, dim), |(b, c)| ((b + 5 * c) as f32).cos());
    for sign in [Sign::Clamp, Sign::Shift, Sign::Signed] {
        let options = GemOptions { sign, ..GemOptions::default() }.build().unwrap();
        let run = |threads: usize| {
            ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(|| {
                let gem = Pooling::GeM { p: &[2.7], options: &options, learnable: true };
                let mut bits = Vec::new();
                let mut keep = |values: &[f32]| bits.extend(values.iter().map(|v| v.to_bits()));
                let (mut saved, mut dx, mut d_p) = (Saved::default(), x.clone(), [0.0]);
                let mut y = Array2::zeros((40, 24));
                maps::forward(x.view(), gem, y.view_mut(), &mut saved).unwrap();
                let (grad, to) = (dy(24), Some(dx.view_mut()));
                maps::backward(x.view(), gem, &saved, grad.view(), to, Some(&mut d_p)).unwrap();
                [y.as_slice().unwrap(), dx.as_slice().unwrap(), &d_p].into_iter().for_each(&mut keep);
                let mut y = Array2::zeros((40, 50));
                tokens::forward(x.view(), &valid, gem, y.view_mut(), &mut saved).unwrap();
                let (grad, to) = (dy(50), Some(dx.view_mut()));
                tokens::backward(x.view(), &valid, gem, &saved, grad.view(), to, Some(&mut d_p)).unwrap();
                [y.as_slice().unwrap(), dx.as_slice().unwrap(), &d_p].into_iter().for_each(&mut keep);
                bits
            })
        };
        let one = run(1);
        for threads in [2, 3, 5] {
            assert_eq!(run(threads), one, "{sign:?} on {threads} threads");
        }
    }
}
