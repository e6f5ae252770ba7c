//! The autodiff operation has the gradients of the surrogate recipe.

use burn::tensor::{Device, Tensor, TensorData};
use embedtune_losses::{Loss, MarginOptions, MarginSoftmax, TripletMargin};
use with_burn::{Error, record, surrogate};

const LABELS: [u32; 6] = [0, 1, 2, 0, 1, 2];

fn waves(rows: usize, columns: usize, step: f32) -> TensorData {
    TensorData::new(
        (0..rows * columns).map(|i| (i as f32 * step).sin()).collect::<Vec<f32>>(),
        [rows, columns],
    )
}

fn arcface() -> Result<MarginSoftmax, Error> {
    Ok(MarginSoftmax::new(3, 5, MarginOptions { scale: 6.0, ..MarginOptions::arcface() })?)
}

fn values(t: Tensor<2>) -> Vec<f32> {
    t.into_data().try_to_vec::<f32>().expect("floats")
}

#[test]
fn both_ways_agree() -> Result<(), Error> {
    let device = Device::default().autodiff();
    let loss = arcface()?;
    let run = |as_operation: bool| -> Result<(Vec<f32>, Vec<f32>), Error> {
        let encoder = Tensor::<2>::from_data(waves(4, 5, 0.9), &device).require_grad();
        let centres = Tensor::<2>::from_data(waves(3, 5, 1.3), &device).require_grad();
        let x = Tensor::<2>::from_data(waves(6, 4, 0.7), &device).matmul(encoder.clone());
        let scalar = if as_operation {
            record(&loss, x, centres.clone(), &LABELS)?
        } else {
            surrogate(&loss, x, Some(centres.clone()), &LABELS)?.1
        };
        let grads = (scalar * 2.0).backward();
        let of = |t: &Tensor<2>| values(t.grad(&grads).expect("a gradient"));
        Ok((of(&encoder), of(&centres)))
    };
    let (operation, recipe) = (run(true)?, run(false)?);
    for (a, b) in operation.0.iter().chain(&operation.1).zip(recipe.0.iter().chain(&recipe.1)) {
        assert!((a - b).abs() < 1e-5, "{a} {b}");
    }
    assert!(operation.0.iter().chain(&operation.1).all(|&g| g != 0.0));
    Ok(())
}

#[test]
fn the_operation_holds_the_value() -> Result<(), Error> {
    let device = Device::default().autodiff();
    let x = Tensor::<2>::from_data(waves(6, 5, 0.7), &device).require_grad();
    let w = Tensor::<2>::from_data(waves(3, 5, 1.3), &device).require_grad();
    let (value, _) = surrogate(&arcface()?, x.clone(), Some(w.clone()), &LABELS)?;
    let recorded = record(&arcface()?, x, w, &LABELS)?.into_data().try_to_vec::<f32>().expect("floats");
    assert!((f64::from(recorded[0]) - value).abs() < 1e-6);
    Ok(())
}

#[test]
fn a_loss_without_centres_moves_the_embeddings() -> Result<(), Error> {
    let device = Device::default().autodiff();
    let loss = TripletMargin::builder().margin(0.5).build()?;
    let x = Tensor::<2>::from_data(waves(6, 5, 0.7), &device).require_grad();
    let (value, scalar) = surrogate(&loss, x.clone(), None, &LABELS)?;
    let gradient = values(x.grad(&scalar.backward()).expect("a gradient"));
    assert!(value > 0.0 && gradient.iter().any(|&g| g != 0.0));
    assert!(record(&loss, x.clone(), x, &LABELS).is_err());
    assert_eq!(loss.weight_shape(), None);
    Ok(())
}
