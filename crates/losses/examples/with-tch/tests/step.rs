//! The step moves encoder and centres along the loss's gradients.

use embedtune_losses::{Input, Loss, MarginOptions, MarginSoftmax};
use tch::nn::{Init, OptimizerConfig, Sgd, VarStore};
use tch::{Device, Kind, Tensor};
use with_tch::{Error, step};

const LABELS: [u32; 6] = [0, 1, 2, 0, 1, 2];
const RATE: f64 = 0.1;

fn waves(rows: i64, columns: i64, step: f64) -> Tensor {
    (Tensor::arange(rows * columns, (Kind::Float, Device::Cpu)) * step).sin().reshape([rows, columns])
}

fn host(t: &Tensor) -> Result<Vec<f32>, Error> {
    Ok(Vec::try_from(&t.detach().contiguous().view([-1]))?)
}

#[test]
fn a_step_goes_along_the_gradients() -> Result<(), Error> {
    let loss = MarginSoftmax::new(3, 5, MarginOptions { scale: 6.0, ..MarginOptions::arcface() })?;
    let store = VarStore::new(Device::Cpu);
    let parameter = |name: &str, from: Tensor| {
        let mut to = store.root().var(name, &from.size(), Init::Const(0.0));
        tch::no_grad(|| to.copy_(&from));
        to
    };
    let (encoder, centres) = (parameter("encoder", waves(4, 5, 0.9)), parameter("centres", waves(3, 5, 1.3)));
    let mut optimizer = Sgd::default().build(&store, RATE)?;
    let items = waves(6, 4, 0.7);

    let (x, w) = (host(&items.matmul(&encoder))?, host(&centres)?);
    let (stats, dx, dw) =
        loss.evaluate(Input::from_slices(&x, 5, &LABELS)?.with_weight_slice(&w)?)?.into_vecs();
    let dw = dw.ok_or("centres")?;
    let d_encoder = host(&items.transpose(0, 1).matmul(&Tensor::from_slice(&dx).view([6, 5])))?;
    let before = host(&encoder)?;

    let value = step(&loss, &items.matmul(&encoder), &centres, &LABELS, &mut optimizer)?;
    assert_eq!(value, stats.value);
    for (before, after, gradient) in [(before, host(&encoder)?, d_encoder), (w, host(&centres)?, dw)] {
        for ((before, after), gradient) in before.iter().zip(&after).zip(&gradient) {
            assert!((before - RATE as f32 * gradient - after).abs() < 1e-5, "{before} {after} {gradient}");
            assert!(before != after);
        }
    }
    let again = step(&loss, &items.matmul(&encoder), &centres, &LABELS, &mut optimizer)?;
    assert!(again < value, "{again} after {value}");
    Ok(())
}

#[test]
fn a_wrong_label_is_an_error() -> Result<(), Error> {
    let loss = MarginSoftmax::new(3, 5, MarginOptions::arcface())?;
    let store = VarStore::new(Device::Cpu);
    let centres = store.root().var("centres", &[3, 5], Init::Const(1.0));
    let mut optimizer = Sgd::default().build(&store, RATE)?;
    let error = step(&loss, &waves(6, 5, 0.7), &centres, &[0, 1, 2, 0, 1, 3], &mut optimizer).unwrap_err();
    assert!(error.to_string().contains("label 3"), "{error}");
    Ok(())
}
