//! Slices give what arrays give, and refuse what does not fit.

use embedtune_losses::{
    CrossBatchMemory, GradsMut, Input, Loss, MarginOptions, MarginSoftmax, Miner, Reference, TripletMargin,
    Workspace, Write, miner,
};
use ndarray::ArrayView2;

const LABELS: [u32; 4] = [0, 1, 0, 1];

fn embeddings() -> Vec<f32> {
    (0..12).map(|i| (i as f32 * 0.73).sin()).collect()
}

#[test]
fn a_loss_with_centres_agrees_with_arrays_and_accumulates() {
    let (x, w) = (embeddings(), [0.3, -0.2, 0.9, -0.5, 0.4, 0.1]);
    let loss = MarginSoftmax::new(2, 3, MarginOptions { scale: 4.0, ..MarginOptions::arcface() }).unwrap();
    let arrays = loss
        .value_and_grad(
            ArrayView2::from_shape((4, 3), &x).unwrap(),
            ArrayView2::from_shape((2, 3), &w).unwrap(),
            &LABELS,
        )
        .unwrap();
    let input = Input::from_slices(&x, 3, &LABELS).unwrap().with_weight_slice(&w).unwrap();
    let (mut dx, mut dw) = (vec![0.0; 12], vec![0.0; 6]);
    for write in [Write::Overwrite, Write::Add] {
        let grads = GradsMut { write, ..GradsMut::from_slices(Some(&mut dx), Some(&mut dw), 3).unwrap() };
        let stats = loss.forward_backward(input, grads, &mut Workspace::default()).unwrap();
        assert_eq!(stats, arrays.stats);
    }
    let (_, once_x, once_w) = arrays.into_vecs();
    // What is added to is rounded once more.
    let doubled = |twice: &[f32], once: &[f32]| {
        twice.iter().zip(once).for_each(|(a, b)| assert!((a - 2.0 * b).abs() <= 1e-6 * a.abs(), "{a} {b}"));
    };
    doubled(&dx, &once_x);
    doubled(&dw, &once_w.unwrap());
    assert!(dx.iter().chain(&dw).all(|&g| g != 0.0));
}

#[test]
fn logits_of_slices_are_those_of_arrays() {
    let (x, w) = (embeddings(), [0.3, -0.2, 0.9, -0.5, 0.4, 0.1]);
    let loss = MarginSoftmax::new(2, 3, MarginOptions::cosface()).unwrap();
    let x_view = ArrayView2::from_shape((4, 3), &x).unwrap();
    let w_view = ArrayView2::from_shape((2, 3), &w).unwrap();
    let expected = loss.logits(x_view, w_view).unwrap();
    assert!(expected.is_standard_layout());
    assert_eq!(loss.logits_of_slices(&x, &w).unwrap(), expected.into_raw_vec_and_offset().0);
    let error = loss.logits_of_slices(&x[1..], &w).unwrap_err().to_string();
    assert!(error.contains("embeddings has shape [11]") && error.contains("rows of 3 values"), "{error}");
    assert!(loss.logits_of_slices(&x, &w[..3]).unwrap_err().to_string().contains("expected [2, 3]"));
}

#[test]
fn a_miner_and_a_memory_take_slices() {
    let x = embeddings();
    let mut memory = CrossBatchMemory::new(8, 3).unwrap();
    memory.push_slice(&x, &LABELS).unwrap();
    let mut input = Input::from_slices(&x, 3, &LABELS).unwrap();
    input.reference = Some(memory.reference());
    let triplets = miner::mine(&Miner::All, input).unwrap();
    assert_eq!(triplets.len(), 4 * 2); // one positive (not the item itself) and two negatives for each anchor
    let out = TripletMargin::builder().margin(0.5).build().unwrap().evaluate(input).unwrap();
    assert_eq!(out.stats.triplets, 8);
    assert!(memory.push_slice(&x[1..], &LABELS).is_err());
    assert_eq!(memory.len(), 4);
}

#[test]
fn a_loss_with_centres_refuses_a_memory() {
    let (x, w) = (embeddings(), [0.3, -0.2, 0.9, -0.5, 0.4, 0.1]);
    let mut memory = CrossBatchMemory::new(8, 3).unwrap();
    memory.push_slice(&x, &LABELS).unwrap();
    let mut input = Input::from_slices(&x, 3, &LABELS).unwrap().with_weight_slice(&w).unwrap();
    input.reference = Some(memory.reference());
    let loss = MarginSoftmax::new(2, 3, MarginOptions::cosface()).unwrap();
    let error = loss.evaluate(input).unwrap_err().to_string();
    assert!(error.contains("reference = 4 rows"), "{error}");
}

#[test]
fn gradients_that_are_no_rows_are_refused() {
    let error = GradsMut::from_slices(Some(&mut [0.0; 7]), None, 3).unwrap_err();
    assert!(error.to_string().contains("gradient of the embeddings"), "{error}");
    assert!(GradsMut::from_slices(None, Some(&mut [0.0; 7]), 0).is_err());
}

#[test]
fn a_gallery_of_slices_is_one_of_arrays() {
    let (x, gallery) = (embeddings(), [0.3, -0.2, 0.9, -0.5, 0.4, 0.1]);
    let loss = TripletMargin::builder().margin(0.5).build().unwrap();
    let mut input = Input::from_slices(&x, 3, &LABELS).unwrap();
    input.reference = Some(Reference::from_slices(&gallery, 3, &[0, 1]).unwrap());
    let slices = loss.evaluate(input).unwrap();
    let embeddings = ArrayView2::from_shape((2, 3), &gallery).unwrap();
    input.reference = Some(Reference { embeddings, labels: &[0, 1], same_item: None });
    assert_eq!(slices, loss.evaluate(input).unwrap());
    assert_eq!(slices.stats.triplets, 4);
    let error = Reference::from_slices(&gallery, 3, &[0]).unwrap_err().to_string();
    assert!(error.contains("reference embeddings has shape [6]") && error.contains("1 rows of 3"), "{error}");
}
