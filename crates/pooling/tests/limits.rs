//! Limits of the power, the ends of `f32`, rows that hold no numbers, and what is refused.

use embedtune_pooling::ndarray::{Array2, Array3};
use embedtune_pooling::tokens::{self, Mask, Valid};
use embedtune_pooling::{Gem, GemOptions, Pooling, Saved, Sign, keep_powers, maps, rows};

const SIGNS: [Sign; 3] = [Sign::Clamp, Sign::Shift, Sign::Signed];

fn gem(sign: Sign) -> Gem {
    GemOptions { sign, ..GemOptions::default() }.build().unwrap()
}

fn wave(n: usize) -> Vec<f32> {
    (0..n).map(|i| 2.0 * (0.7 * i as f32 + 0.3).sin()).collect()
}

/// Value, `d value / d p` and `d value / d x` of a row.
fn all(x: &[f32], p: f32, options: &Gem) -> (f32, f32, Vec<f32>) {
    let pooled = rows::gem(x, p, options);
    let mut dx = vec![f32::NAN; x.len()];
    rows::gem_backward(x, p, options, &pooled, 1.0, &mut dx);
    (pooled.value, pooled.d_p, dx)
}

#[test]
fn power_one_is_the_average_and_a_large_power_the_maximum() {
    for n in [1, 2, 15, 16, 17, 196, 5000] {
        let signed = wave(n);
        let positive: Vec<f32> = signed.iter().map(|v| v.abs() + 0.1).collect();
        for (sign, x) in [(Sign::Clamp, &positive), (Sign::Shift, &signed), (Sign::Signed, &signed)] {
            let (value, _, dx) = all(x, 1.0, &gem(sign));
            assert!((value - rows::average(x)).abs() < 2e-6, "{sign:?} {n}: {value}");
            assert!(dx.iter().all(|d| (d - 1.0 / n as f32).abs() < 1e-6), "{sign:?} {n}: {dx:?}");
        }
        let top = rows::argmax(&positive).unwrap();
        let (value, _, dx) = all(&positive, 1000.0, &gem(Sign::Clamp));
        assert!((value - positive[top]).abs() < 0.02 * positive[top], "{n}: {value}");
        assert!((dx.iter().sum::<f32>() - 1.0).abs() < 0.02, "{n}: {dx:?}");
    }
}

#[test]
fn a_constant_row_keeps_its_value() {
    for sign in SIGNS {
        for p in [0.1, 0.5, 1.0, 3.0, 100.0] {
            let (value, d_p, dx) = all(&[0.7; 20], p, &gem(sign));
            assert!((value - 0.7).abs() < 1e-5 && d_p.abs() < 1e-4, "{sign:?} {p}: {value} {d_p}");
            assert!((dx.iter().sum::<f32>() - 1.0).abs() < 1e-4, "{sign:?} {p}: {dx:?}");
        }
    }
}

#[test]
fn every_finite_input_gives_finite_results() {
    let rows = [
        vec![0.0f32; 9],
        vec![f32::MAX; 40],
        vec![1e-38; 9],
        vec![1e-38, 3e38, 1.0],
        vec![-3e38, 3e38, 0.0],
        vec![-f32::MAX, f32::MAX],
        vec![41.0; 4],
        vec![-1.0; 5],
        vec![1.0, -1.0],
        vec![f32::MIN_POSITIVE / 8.0; 3],
        vec![-3e38],
    ];
    for sign in SIGNS {
        for x in &rows {
            for p in [0.1f32, 0.5, 1.0, 2.0, 3.0, 3.3, 100.0, 1000.0] {
                let (value, d_p, dx) = all(x, p, &gem(sign));
                assert!(value.is_finite() && d_p.is_finite(), "{sign:?} {x:?} {p}: {value} {d_p}");
                assert!(dx.iter().all(|v| v.is_finite()), "{sign:?} {x:?} {p}: {dx:?}");
                let (low, high) = x.iter().fold((f32::MAX, -f32::MAX), |(l, h), &v| (l.min(v), h.max(v)));
                let slack = 2e-4 * low.abs().max(high.abs()) + 2e-6;
                assert!(sign == Sign::Clamp || value >= low - slack, "{sign:?} {x:?} {p}: {value}");
                assert!(value <= high.max(1e-6) + slack, "{sign:?} {x:?} {p}: {value}");
            }
        }
    }
}

#[test]
fn an_all_zero_map_has_the_gradients_of_a_constant() {
    let (value, d_p, dx) = all(&[0.0; 49], 3.0, &gem(Sign::Clamp));
    assert!((value - 1e-6).abs() < 1e-11 && d_p == 0.0 && dx == [0.0; 49]);
    let (value, d_p, dx) = all(&[0.0; 49], 3.0, &gem(Sign::Shift));
    assert!(value == 0.0 && d_p == 0.0 && (dx.iter().sum::<f32>() - 1.0).abs() < 1e-5);
    let (value, d_p, dx) = all(&[0.0; 49], 3.0, &gem(Sign::Signed));
    assert!(value == 0.0 && d_p == 0.0 && dx.iter().all(|d| *d > 0.0));
}

#[test]
fn what_is_no_number_never_becomes_one() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for at in [0, 7, 16, 18] {
            let mut x = wave(19);
            x[at] = bad;
            for sign in SIGNS {
                let (value, d_p, dx) = all(&x, 2.5, &gem(sign));
                assert!(
                    value.is_nan() && d_p.is_nan() && dx.iter().all(|d| d.is_nan()),
                    "{sign:?} {bad} {at}"
                );
            }
            assert!(!rows::average(&x).is_finite());
        }
    }
    for p in [f32::NAN, f32::INFINITY] {
        assert!(rows::gem(&[1.0, 2.0], p, &gem(Sign::Clamp)).value.is_nan());
    }
    assert_eq!(rows::argmax(&[1.0, f32::NAN, 3.0]), Some(1));
    assert_eq!(rows::argmax(&[1.0, 3.0, 3.0]), Some(1));
    assert_eq!(rows::argmax(&[f32::NEG_INFINITY]), Some(0));
    assert_eq!(rows::argmax(&[]), None);
}

#[test]
fn nothing_to_pool_gives_zeros() {
    for pooling in
        [Pooling::GeM { p: &[3.0], options: &gem(Sign::Shift), learnable: true }, Pooling::Avg, Pooling::Max]
    {
        let x = Array3::<f32>::zeros((2, 3, 0));
        let (mut y, mut saved) = (Array2::from_elem((2, 3), 9.0), Saved::default());
        maps::forward(x.view(), pooling, y.view_mut(), &mut saved).unwrap();
        assert_eq!(y, Array2::zeros((2, 3)));
        let mut dx = x.clone();
        maps::backward(x.view(), pooling, &saved, y.view(), Some(dx.view_mut()), None).unwrap();

        // The second item is masked throughout, and what it holds does not matter.
        let mut x = Array3::from_elem((2, 4, 3), 2.0f32);
        x.index_axis_mut(embedtune_pooling::ndarray::Axis(0), 1).fill(f32::NAN);
        let valid = Valid::new(Mask::Lengths(&[3, 0]), 2, 4).unwrap();
        tokens::forward(x.view(), &valid, pooling, y.view_mut(), &mut saved).unwrap();
        assert!(y.row(0).iter().all(|v| (v - 2.0).abs() < 1e-5));
        assert_eq!(y.row(1).to_vec(), [0.0; 3]);
        let (dy, mut dx) = (Array2::from_elem((2, 3), 1.0), Array3::from_elem((2, 4, 3), f32::NAN));
        tokens::backward(x.view(), &valid, pooling, &saved, dy.view(), Some(dx.view_mut()), None).unwrap();
        assert!((dx.sum() - 3.0).abs() < 1e-4);
        assert!(dx.index_axis(embedtune_pooling::ndarray::Axis(0), 1).iter().all(|v| *v == 0.0));
    }
}

#[test]
fn what_does_not_fit_is_named() {
    let options = gem(Sign::Clamp);
    let x = Array3::<f32>::ones((2, 3, 4));
    let run = |p: &[f32], shape: (usize, usize)| {
        let pooling = Pooling::GeM { p, options: &options, learnable: false };
        maps::forward(x.view(), pooling, Array2::zeros(shape).view_mut(), &mut Saved::default())
            .unwrap_err()
            .to_string()
    };
    assert!(run(&[3.0, 3.0], (2, 3)).contains("one for each of the 3 channels"));
    assert!(run(&[], (2, 3)).contains("one power"));
    assert!(run(&[f32::NAN], (2, 3)).contains("p = NaN at position 0"));
    assert!(run(&[3.0], (3, 2)).contains("[2, 3]"));
    let mut y = Array2::zeros((3, 2));
    let gaps = maps::forward(x.view(), Pooling::Max, y.view_mut().reversed_axes(), &mut Saved::default());
    assert!(gaps.unwrap_err().to_string().contains("row-major"));
    let error =
        maps::backward(x.view(), Pooling::Max, &Saved::default(), Array2::zeros((2, 3)).view(), None, None);
    assert!(error.unwrap_err().to_string().contains("forward pass"));
    let lengths = Valid::new(Mask::Lengths(&[1, 5]), 2, 4).unwrap_err().to_string();
    assert!(lengths.contains("length = 5 in row 1"), "{lengths}");
    assert!(
        Valid::new(Mask::Lengths(&[1]), 2, 4).is_err() && Valid::new(Mask::Tokens(&[true; 7]), 2, 4).is_err()
    );
    let mut powers = [3.0, 0.01, -1.0, f32::NAN];
    keep_powers(&mut powers);
    assert_eq!(powers, [3.0, 0.1, 0.1, 0.1]);
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
