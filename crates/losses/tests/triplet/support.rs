//! Data and comparisons.

use embedtune_losses::{Distance, Miner, Reduction, TripletKind, TripletMargin, TripletMarginOptions};
use ndarray::{Array2, ArrayView2};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Rows around `classes` random centres, and labels in mixed order.
pub(crate) fn clusters(
    rows: usize,
    dim: usize,
    classes: u32,
    spread: f32,
    seed: u64,
) -> (Array2<f32>, Vec<u32>) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let centres = Array2::from_shape_fn((classes as usize, dim), |_| rng.random_range(-1.0..1.0f32));
    let labels: Vec<u32> = (0..rows).map(|_| rng.random_range(0..classes)).collect();
    let x = Array2::from_shape_fn((rows, dim), |(i, j)| {
        centres[[labels[i] as usize, j]] + spread * rng.random_range(-1.0..1.0f32)
    });
    (x, labels)
}

/// Largest absolute difference, over the largest expected entry (or `floor`).
pub(crate) fn relative_error(got: ArrayView2<'_, f32>, expected: ArrayView2<'_, f64>, floor: f64) -> f64 {
    let size = expected.iter().fold(floor, |m, v| m.max(v.abs()));
    got.iter().zip(expected).fold(0.0, |m: f64, (&g, e)| m.max((f64::from(g) - e).abs())) / size
}

/// Every combination of the options that the loss knows.
pub(crate) fn all_options(margin: f64) -> Vec<TripletMarginOptions> {
    let kinds = [TripletKind::All, TripletKind::Hard, TripletKind::Semihard, TripletKind::Easy];
    let mut miners = vec![Miner::All, Miner::BatchHard];
    miners.extend(kinds.map(|kind| Miner::TripletMargin { margin: 0.3, kind }));
    let distances = [
        (Distance::L2, true),
        (Distance::SquaredL2, true),
        (Distance::Cosine, true),
        (Distance::L2, false),
        (Distance::SquaredL2, false),
    ];
    let mut all = Vec::new();
    for miner in miners {
        for (distance, normalize) in distances {
            for (swap, smooth) in [(false, false), (true, false), (false, true), (true, true)] {
                for reduction in [Reduction::Mean, Reduction::MeanNonZero, Reduction::Sum] {
                    all.push(
                        TripletMargin::builder()
                            .margin(margin)
                            .miner(miner)
                            .distance(distance)
                            .normalize(normalize)
                            .swap(swap)
                            .smooth(smooth)
                            .reduction(reduction),
                    );
                }
            }
        }
    }
    all
}
