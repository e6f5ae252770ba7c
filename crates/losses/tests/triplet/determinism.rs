//! The same bits for any number of threads, memory within the stated bound, and random batches.

use embedtune_losses::{
    GradsMut, Input, Loss, Miner, Reduction, Reference, TripletKind, TripletMargin, Workspace,
};
use ndarray::Array2;
use proptest::prelude::*;

use super::naive::naive;
use super::support::{all_options, clusters, relative_error};

#[test]
fn the_bits_do_not_depend_on_the_threads() {
    let hard = Miner::triplet_margin(TripletKind::Semihard);
    let base = TripletMargin::builder;
    // Several strips' worth of tasks; 16 and 250 rows of a class, so that intervals are compared and searched.
    for (rows, classes) in [(530, 33), (500, 2)] {
        let (x, labels) = clusters(rows, 19, classes, 0.9, 8);
        let options = [
            base(),
            base().miner(hard),
            base().miner(Miner::BatchHard),
            base().swap(true),
            base().swap(true).smooth(true).miner(hard).normalize(false),
        ];
        for options in options {
            let loss = options.clone().build().unwrap();
            for reference in [false, true] {
                let mut input = Input::new(x.view(), &labels);
                if reference {
                    input.reference =
                        Some(Reference { embeddings: x.view(), labels: &labels, same_item: None });
                }
                let runs = [1, 2, 3, 5].map(|threads| {
                    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                    pool.install(|| loss.evaluate(input)).unwrap()
                });
                assert!(runs[0].stats.triplets > 0);
                assert!(runs.iter().all(|run| *run == runs[0]), "{options:?}, {rows} rows");
            }
        }
    }
}

#[test]
fn searched_intervals_agree_with_the_definition() {
    let kinds = [TripletKind::All, TripletKind::Hard, TripletKind::Semihard, TripletKind::Easy];
    let mut miners = vec![Miner::All];
    miners.extend(kinds.map(|kind| Miner::TripletMargin { margin: 0.02, kind }));
    let (x, labels) = clusters(230, 5, 2, 1.5, 4);
    for miner in miners {
        let options = TripletMargin::builder().miner(miner).margin(0.05).reduction(Reduction::Mean);
        let got = options.clone().build().unwrap().value_and_grad(x.view(), &labels).unwrap();
        let expected = naive(&options, Input::new(x.view(), &labels));
        // Only a triplet at a boundary may be counted otherwise than in f64.
        let ties = expected.ties;
        assert!(ties < 20, "{miner:?}: {ties} ties; the data say little");
        assert!(got.stats.triplets.abs_diff(expected.triplets) <= ties, "{miner:?}");
        assert!(got.stats.active_triplets.abs_diff(expected.active) <= ties, "{miner:?}");
        approx::assert_relative_eq!(got.stats.value, expected.value, max_relative = 1e-4, epsilon = 1e-7);
        // One triplet moves a row by at most two unit directions over the row's norm and the divisor.
        let shortest =
            x.rows().into_iter().map(|r| f64::from(r.dot(&r)).sqrt()).fold(f64::INFINITY, f64::min);
        let one = 2.0 / (shortest * expected.triplets as f64);
        let size = expected.d_embeddings.iter().fold(0.0f64, |m, v| m.max(v.abs()));
        let error = relative_error(got.d_embeddings.view(), expected.d_embeddings.view(), 1e-6) * size;
        println!("{miner:?}: {ties} ties, error {error:e}, {:.2} triplets, size {size:e}", error / one);
        assert!(error <= 2e-5 * size + ties as f64 * one, "{miner:?}: {error} with {ties} ties of {one}");
    }
}

#[test]
fn the_workspace_bound_holds() {
    let (x, labels) = clusters(300, 33, 12, 0.9, 8);
    let (r, r_labels) = clusters(700, 33, 12, 0.9, 9);
    // The reduction takes no memory.
    for options in all_options(0.2).into_iter().filter(|o| o.reduction == Reduction::Sum) {
        let loss = options.clone().build().unwrap();
        for reference in [None, Some(Reference { embeddings: r.view(), labels: &r_labels, same_item: None })]
        {
            let mut work = Workspace::default();
            let mut d = Array2::zeros(x.dim());
            for _ in 0..2 {
                let grads = GradsMut { embeddings: Some(d.view_mut()), ..GradsMut::default() };
                let input = Input { reference, ..Input::new(x.view(), &labels) };
                loss.forward_backward(input, grads, &mut work).unwrap();
            }
            let bound = loss.workspace_bytes(300, reference.map_or(0, |r| r.labels.len()), 33);
            let used = work.pool().free_bytes();
            assert!(used > 0 && used <= bound, "{options:?}: {used} bytes, {bound} stated");
        }
    }
    // 33 billion triplets.
    let loss = TripletMargin::builder().build().unwrap();
    assert!(loss.workspace_bytes(32_768, 0, 128) < 512 << 20);
}

#[test]
fn the_definition_has_the_gradient_of_its_value() {
    let (x, labels) = clusters(9, 3, 3, 0.9, 21);
    for options in all_options(0.2) {
        let input = Input::new(x.view(), &labels);
        let at = naive(&options, input);
        let mut checked = 0;
        for (index, &expected) in at.d_embeddings.indexed_iter() {
            let value = |step: f32| {
                let mut moved = x.clone();
                moved[index] += step;
                let result = naive(&options, Input::new(moved.view(), &labels));
                (result.value, result.triplets, result.active, f64::from(moved[index]))
            };
            let (high, low) = (value(1e-3), value(-1e-3));
            // A step over a kink, or to another choice of triplets, says nothing about the slope.
            let same = |v: (f64, u64, u64, f64)| (v.1, v.2) == (at.triplets, at.active);
            if !same(high) || !same(low) || options.miner == Miner::BatchHard || options.swap {
                continue;
            }
            let slope = (high.0 - low.0) / (high.3 - low.3);
            assert!(
                (slope - expected).abs() < 2e-4 * expected.abs().max(1.0),
                "{options:?} {index:?}: {slope} {expected}"
            );
            checked += 1;
        }
        assert!(checked > 10 || options.miner == Miner::BatchHard || options.swap, "{options:?}: {checked}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn any_finite_batch_gives_finite_numbers(
        rows in 0usize..20,
        dim in 0usize..9,
        classes in 1u32..5,
        bits in proptest::collection::vec(any::<u32>(), 200),
        pick in 0usize..1000,
    ) {
        let value = |i: usize| Some(f32::from_bits(bits[i % 200])).filter(|v| v.is_finite()).unwrap_or(0.5);
        let x = Array2::from_shape_fn((rows, dim), |(i, j)| value(i * dim + j));
        let labels: Vec<u32> = (0..rows).map(|i| bits[199 - i] % classes).collect();
        let options = all_options(0.2);
        let loss = options[pick % options.len()].clone().build().unwrap();
        let got = loss.value_and_grad(x.view(), &labels).unwrap();
        prop_assert!(got.stats.value.is_finite() && got.stats.value >= 0.0);
        prop_assert!(got.d_embeddings.iter().all(|v| v.is_finite()));
        prop_assert!(got.stats.active_triplets <= got.stats.triplets);
    }
}
