//! Equal distances, coincident rows, and rows of every size.

use embedtune_losses::{Distance, Input, Loss, Miner, Reduction, TripletKind, TripletMargin, miner};
use ndarray::Array2;

use super::naive::naive;
use super::support::{all_options, clusters, relative_error};

#[test]
fn of_equal_distances_the_first_row_is_the_hardest() {
    // Any two rows are the root of 2 apart.
    let x = Array2::<f32>::eye(30);
    let labels: Vec<u32> = (0..30).map(|i| i % 3).collect();
    let mined = miner::mine(&Miner::BatchHard, Input::new(x.view(), &labels)).unwrap();
    let first = |wanted: &dyn Fn(u32) -> bool| (0..30).find(|&j| wanted(j)).unwrap();
    for (i, &anchor) in mined.anchors.iter().enumerate() {
        let positive = first(&|j| j != anchor && j % 3 == anchor % 3);
        let negative = first(&|j| j % 3 != anchor % 3);
        assert_eq!((mined.positives[i], mined.negatives[i]), (positive, negative), "anchor {anchor}");
    }
    for normalize in [true, false] {
        let options = TripletMargin::builder().normalize(normalize).reduction(Reduction::Mean);
        let loss = options.clone().miner(Miner::BatchHard).build().unwrap();
        let got = loss.value_and_grad(x.view(), &labels).unwrap();
        let expected = naive(&options.clone().miner(Miner::BatchHard), Input::new(x.view(), &labels));
        assert!(relative_error(got.d_embeddings.view(), expected.d_embeddings.view(), 0.0) < 1e-6);
        for (kind, triplets) in [(TripletKind::Semihard, 0), (TripletKind::Hard, 30 * 9 * 20)] {
            let loss = options.clone().miner(Miner::TripletMargin { margin: 0.2, kind }).build().unwrap();
            assert_eq!(loss.value_and_grad(x.view(), &labels).unwrap().stats.triplets, triplets, "{kind:?}");
        }
    }
}

#[test]
fn rows_on_one_ray_coincide() {
    // Multiples that `f32` holds exactly: the unit rows are equal, but for the rounding of their lengths.
    let direction = [3.0f32, -7.0, 11.0, 0.5, 19.0];
    let x = Array2::from_shape_fn((40, 5), |(i, j)| direction[j] * (i + 1) as f32);
    let labels: Vec<u32> = (0..40).map(|i| i % 5).collect();
    for miner in [Miner::All, Miner::BatchHard, Miner::triplet_margin(TripletKind::Hard)] {
        for (swap, distance) in [(false, Distance::L2), (true, Distance::L2), (false, Distance::SquaredL2)] {
            let options = TripletMargin::builder().miner(miner).swap(swap).distance(distance);
            let got = options.clone().build().unwrap().value_and_grad(x.view(), &labels).unwrap();
            approx::assert_relative_eq!(got.stats.value, 0.05, max_relative = 1e-6);
            let largest = got.d_embeddings.iter().fold(0.0f32, |m, v| m.max(v.abs()));
            // The square has no direction to lose: its gradient is the difference itself.
            let most = if distance == Distance::SquaredL2 { 1e-15 } else { 0.0 };
            assert!(largest <= most, "{largest}: {options:?}");
        }
    }
    let semihard = TripletMargin::builder().miner(Miner::triplet_margin(TripletKind::Semihard));
    let got = semihard.build().unwrap().value_and_grad(x.view(), &labels).unwrap();
    assert_eq!(got.stats.triplets, 0);
}

#[test]
fn rows_of_every_size_keep_their_digits() {
    let (x, labels) = clusters(40, 9, 4, 0.9, 8);
    for factor in [1e-30f32, 1e-25, 1e-12, 1e12, 1e25] {
        let x = x.mapv(|v| v * factor);
        for options in all_options(0.0) {
            if options.normalize || options.reduction != Reduction::Mean {
                continue;
            }
            let power = if options.distance == Distance::L2 { 1 } else { 2 };
            // The soft hinge's bend is 1 wide: beside it squares of 1e-60 are beyond `f32`. And rows of that length
            // have no direction by which a miner could tell them apart.
            let mined = options.miner != Miner::All;
            if factor == 1e-30 && (mined || options.smooth && power == 2) {
                continue;
            }
            let margin = (0.3 * f64::from(factor).powi(power)).min(1e15);
            let options = options.margin(margin);
            let input = Input::new(x.view(), &labels);
            let got = options.clone().build().unwrap().evaluate(input).unwrap();
            let expected = naive(&options, input);
            let context = format!("{factor:e}, {options:?}");
            assert_eq!(got.stats.triplets, expected.triplets, "{context}");
            approx::assert_relative_eq!(got.stats.value, expected.value, max_relative = 1e-5);
            let error = relative_error(got.d_embeddings.view(), expected.d_embeddings.view(), 1e-300);
            assert!(error < 1e-4, "{context}: {error}");
        }
    }
}

#[test]
fn absurd_sizes_need_absurd_memory() {
    for options in all_options(0.2) {
        let loss = options.build().unwrap();
        let small = loss.workspace_bytes(1 << 20, 1 << 20, 1 << 10);
        for sizes in [(usize::MAX, 0, 4), (4, usize::MAX, usize::MAX), (usize::MAX, usize::MAX, usize::MAX)] {
            let bytes = loss.workspace_bytes(sizes.0, sizes.1, sizes.2);
            assert!(bytes > small, "{sizes:?}: {bytes}");
        }
    }
}
