//! Powers take ways of their own, by what is wanted of them: the same values to the bit, and the gradient of
//! the formula.

use embedtune_pooling::ndarray::{Array2, Array3, s};
use embedtune_pooling::{GemOptions, Pooling, Saved, maps};

/// Lengths around those of vectors and of the parts that sums are taken in.
const LENGTHS: [usize; 9] = [1, 7, 15, 16, 17, 49, 196, 1024, 2100];

/// After a ReLU that let some negative values through; a map of zeros, one of large values and one that is not finite.
fn maps_of(length: usize) -> Array3<f32> {
    Array3::from_shape_fn((3, 4, length), |(b, c, i)| match (b, c) {
        (1, 1) => 0.0,
        (1, 2) => 3e38 - i as f32 * 1e34,
        (2, 3) if i == length - 1 => f32::NAN,
        _ => ((b * 7 + c * 3 + i * 5) as f32 * 0.37).sin().max(-0.2),
    })
}

#[test]
fn learnt_or_not_the_values_are_the_same() {
    let options = GemOptions::default().build().unwrap();
    for length in LENGTHS {
        let x = maps_of(length);
        for p in [1.0, 2.0, 3.0, 4.0, 5.0] {
            let [fixed, learnt] = [false, true].map(|learnable| {
                let mut y = Array2::zeros((3, 4));
                let gem = Pooling::GeM { p: &[p], options: &options, learnable };
                maps::forward(x.view(), gem, y.view_mut(), &mut Saved::default()).unwrap();
                y.map(|v: &f32| v.to_bits())
            });
            assert_eq!(fixed, learnt, "p = {p}, length {length}");
        }
    }
}

#[test]
fn the_gradient_is_the_formulas() {
    let options = GemOptions::default().build().unwrap();
    for length in LENGTHS {
        let x = maps_of(length);
        for p in [1.0f32, 2.0, 3.0, 4.0, 5.0] {
            let gem = Pooling::GeM { p: &[p], options: &options, learnable: false };
            let (mut y, mut dx, mut saved) = (Array2::zeros((3, 4)), x.clone(), Saved::default());
            maps::forward(x.view(), gem, y.view_mut(), &mut saved).unwrap();
            let dy = Array2::from_elem((3, 4), 0.5);
            maps::backward(x.view(), gem, &saved, dy.view(), Some(dx.view_mut()), None).unwrap();
            for b in 0..3 {
                for c in 0..4 {
                    let row = x.slice(s![b, c, ..]);
                    let got = dx.slice(s![b, c, ..]);
                    if row.iter().any(|v| !v.is_finite()) {
                        assert!(got.iter().all(|d| d.is_nan()), "NaN reaches the whole map");
                        continue;
                    }
                    let p = f64::from(p);
                    let clamped = |v: f32| f64::from(v).max(1e-6);
                    let mean = row.iter().map(|&v| clamped(v).powf(p)).sum::<f64>() / length as f64;
                    for (&v, &d) in row.iter().zip(got) {
                        let slope = mean.powf(1.0 / p - 1.0) * clamped(v).powf(p - 1.0) / length as f64;
                        let expected = if v < 1e-6 { 0.0 } else { 0.5 * slope };
                        assert!(
                            (f64::from(d) - expected).abs() <= 2e-5 * expected.abs() + 1e-12,
                            "{d} for {expected}, p = {p}, length {length}, map {b} {c}"
                        );
                    }
                }
            }
        }
    }
}
