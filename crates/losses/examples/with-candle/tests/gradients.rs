//! The custom operations give the gradients of the surrogate recipe and of candle's own expressions.

use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor, Var};
use embedtune_losses::{Loss, MarginOptions, MarginSoftmax, TripletMargin};
use embedtune_pooling::GemOptions;
use embedtune_pooling::tokens::{Mask, Valid};
use with_candle::{GemOp, LossOp, surrogate};

const LABELS: [u32; 6] = [0, 1, 2, 0, 1, 2];

fn waves(rows: usize, columns: usize, step: f32) -> Result<Tensor> {
    let values: Vec<f32> = (0..rows * columns).map(|i| (i as f32 * step).sin()).collect();
    Tensor::from_vec(values, (rows, columns), &Device::Cpu)
}

fn difference(a: Option<&Tensor>, b: Option<&Tensor>) -> Result<f32> {
    let (Some(a), Some(b)) = (a, b) else { return Ok(f32::INFINITY) };
    (a - b)?.abs()?.max_all()?.to_scalar()
}

fn arcface() -> Arc<dyn Loss> {
    let options = MarginOptions { scale: 6.0, ..MarginOptions::arcface() };
    Arc::new(MarginSoftmax::new(3, 5, options).expect("valid options"))
}

fn triplet() -> Arc<dyn Loss> {
    Arc::new(TripletMargin::builder().margin(0.5).build().expect("valid options"))
}

#[test]
fn a_loss_with_centres_has_the_gradients_of_the_surrogate() -> Result<()> {
    let encoder = Var::from_tensor(&waves(4, 5, 0.9)?)?;
    let centres = Var::from_tensor(&waves(3, 5, 1.3)?)?;
    let embeddings = waves(6, 4, 0.7)?.matmul(&encoder)?;
    let value = embeddings.apply_op2(&centres, LossOp::new(arcface(), LABELS.to_vec()))?;
    let ours = value.affine(2.0, 0.0)?.backward()?;
    let (loss, scalar) = surrogate(&*arcface(), &embeddings, Some(&centres), &LABELS)?;
    let theirs = scalar.affine(2.0, 0.0)?.backward()?;
    assert!((f64::from(value.to_scalar::<f32>()?) - loss).abs() < 1e-6);
    for var in [&encoder, &centres] {
        assert!(difference(ours.get(var), theirs.get(var))? < 1e-6);
    }
    assert!(ours.get(&encoder).is_some_and(|g| g.abs().and_then(|g| g.max_all()).is_ok()));
    Ok(())
}

#[test]
fn a_loss_of_pairs_is_unary_and_can_be_differentiated_twice() -> Result<()> {
    let encoder = Var::from_tensor(&waves(4, 5, 0.9)?)?;
    let embeddings = waves(6, 4, 0.7)?.matmul(&encoder)?;
    let value = embeddings.apply_op1(LossOp::new(triplet(), LABELS.to_vec()))?;
    let (_, scalar) = surrogate(&*triplet(), &embeddings, None, &LABELS)?;
    let theirs = scalar.backward()?;
    for _ in 0..2 {
        let ours = value.backward()?;
        assert!(difference(ours.get(&encoder), theirs.get(&encoder))? < 1e-6);
        assert!(ours.get(&encoder).expect("a gradient").abs()?.max_all()?.to_scalar::<f32>()? > 0.0);
    }
    Ok(())
}

#[test]
fn gem_has_the_gradients_of_the_plain_expression() -> Result<()> {
    let x = Var::from_tensor(&waves(2 * 3, 4, 0.8)?.affine(0.5, 1.0)?.reshape((2, 3, 4))?)?;
    let p = Var::from_vec(vec![3f32], 1, &Device::Cpu)?;
    let gem = GemOptions::default().build().expect("valid options");
    let valid = || Valid::new(Mask::Lengths(&[3, 3]), 2, 3).expect("a mask that fits");
    let ours = x.apply_op2(&p, GemOp::new(gem, valid()))?;
    // exp(p ln x), because candle's pow has no gradient for the exponent's broadcast.
    let power = x.log()?.broadcast_mul(&p)?.exp()?.mean(1)?;
    let plain = power.log()?.broadcast_div(&p)?.exp()?;
    assert!(difference(Some(&ours), Some(&plain))? < 1e-6);
    let weights = waves(2, 4, 1.1)?;
    let (ours, plain) =
        ((ours * &weights)?.sum_all()?.backward()?, (plain * &weights)?.sum_all()?.backward()?);
    assert!(difference(ours.get(&x), plain.get(&x))? < 1e-6);
    assert!(difference(ours.get(&p), plain.get(&p))? < 1e-5);
    Ok(())
}

#[test]
fn wrong_input_is_an_error_that_says_what_to_do() -> Result<()> {
    let message = |x: Tensor, labels: Vec<u32>| {
        x.apply_op1(LossOp::new(triplet(), labels)).expect_err("must be refused").to_string()
    };
    assert!(message(waves(4, 6, 1.0)?.t()?, vec![0; 6]).contains("contiguous()"));
    assert!(message(waves(6, 4, 1.0)?, vec![0; 5]).contains("5"));
    assert!(message(waves(6, 4, 1.0)?.to_dtype(DType::F64)?, vec![0; 6]).contains("F64"));
    let op = LossOp::new(arcface(), vec![0, 1, 2, 0, 1, 9]);
    let error = waves(6, 5, 1.0)?.apply_op2(&waves(3, 5, 1.3)?, op).expect_err("label 9 of 3");
    assert!(error.to_string().contains("row 5"), "{error}");
    Ok(())
}
