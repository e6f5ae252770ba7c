//! Pairs whose cosine lies within 1,000 ulp of -1, 0 or 1.

use embedtune_losses::{Distance, Input, TripletMargin};
use ndarray::Array2;
use proptest::prelude::*;

use super::naive::naive;
use super::support::relative_error;

/// Rows in a plane at these cosines to the first axis: `(1, 0)`, then `(c, +-sqrt(1 - c^2))`, rotated by `turn`, times
/// `lengths`.
fn rows(cosines: &[f32], turn: f64, lengths: &[f64]) -> Array2<f32> {
    let mut angles = vec![0.0];
    angles.extend(cosines.iter().enumerate().map(|(i, &c)| {
        let angle = f64::from(c).clamp(-1.0, 1.0).acos();
        if i % 2 == 0 { angle } else { -angle }
    }));
    Array2::from_shape_fn((angles.len(), 2), |(i, j)| {
        let angle = angles[i] + turn;
        (lengths[i % lengths.len()] * if j == 0 { angle.cos() } else { angle.sin() }) as f32
    })
}

/// The float `steps` floats from `at` (towards 0 from either end; from 0, multiples of an ulp of 1).
fn near(at: f32, steps: u32) -> f32 {
    if at == 0.0 { steps as f32 * f32::EPSILON } else { f32::from_bits(at.to_bits() - steps) }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn cosines_at_their_ends_agree_with_the_definition(
        at in prop::sample::select(vec![-1.0f32, 0.0, 1.0]),
        steps in prop::collection::vec(0u32..1000, 11),
        turn in 0.0f64..6.3,
        lengths in prop::collection::vec(0.1f64..10.0, 12),
        margin in 0.05f64..0.5,
        normalize in any::<bool>(),
        variant in 0usize..3,
    ) {
        let cosines: Vec<f32> = steps.iter().map(|&steps| near(at, steps)).collect();
        let x = rows(&cosines, turn, &lengths);
        let labels: Vec<u32> = (0..12).map(|i| i % 3).collect();
        for distance in [Distance::L2, Distance::SquaredL2, Distance::Cosine] {
            let options = TripletMargin::builder()
                .distance(distance)
                .margin(margin)
                .normalize(normalize || distance == Distance::Cosine)
                .swap(variant == 1)
                .smooth(variant == 2);
            let input = Input::new(x.view(), &labels);
            let got = options.clone().build().unwrap().value_and_grad(x.view(), &labels).unwrap();
            let expected = naive(&options, input);
            let what = format!("{options:?}");
            prop_assert_eq!(got.stats.triplets, expected.triplets);
            prop_assert!(got.stats.active_triplets.abs_diff(expected.active) <= expected.ties, "{}", what);
            prop_assert!(got.d_embeddings.iter().all(|d| d.is_finite()), "{}", what);
            // A triplet moves a unit row by 4 at most (squared L2: twice a difference of two others), and the mean's
            // share of all triplets is 1.
            if normalize || distance == Distance::Cosine {
                let shortest = lengths.iter().fold(f64::INFINITY, |m, &l| m.min(l));
                let largest = got.d_embeddings.iter().fold(0.0f64, |m, &d| m.max(f64::from(d).abs()));
                let most = 4.0 / shortest;
                prop_assert!(largest <= most * 1.001, "{}: {} beyond {}", what, largest, most);
            }
            if expected.ties == 0 {
                let size = expected.value.abs().max(1e-3);
                let error = (got.stats.value - expected.value).abs() / size;
                prop_assert!(error < 2e-4, "{}: {} {}", what, got.stats.value, expected.value);
                // Not for the L2 distance, as the direction between rows one ulp apart has no digits in `f32`, nor for
                // swap, where either of two distances that agree to an ulp may be the lesser.
                if distance != Distance::L2 && variant != 1 {
                    let error = relative_error(got.d_embeddings.view(), expected.d_embeddings.view(), 1e-1);
                    prop_assert!(error < 1e-4, "{}: gradient off by {}", what, error);
                }
            }
        }
    }
}
