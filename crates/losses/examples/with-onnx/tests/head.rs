//! A head that was trained on an ONNX model's vectors computes in the exported file what it computed in training, and is
//! worth something on classes that it has not seen.

use embedtune_losses::ndarray::{Array2, Axis};
use embedtune_retrieval::{EvaluateOptions, evaluate};
use with_onnx::{Error, Head, drawn, embed, with_head};

#[test]
fn the_exported_model_computes_what_was_trained() -> Result<(), Error> {
    let body = drawn::random_body(7);
    let (items, labels) = drawn::drawings(40, 12, 1);
    let head = Head::train(embed(&body, items.view())?.view(), &labels, 1)?;
    let tuned = with_head(&body, &head)?;

    // Other classes, and a count that fills no batch of 64.
    let (items, labels) = drawn::drawings(20, 11, 2);
    let vectors = embed(&body, items.view())?;
    let mut wanted = head.apply(vectors.view());
    for mut row in wanted.outer_iter_mut() {
        row /= row.dot(&row).sqrt();
    }
    let exported = embed(&tuned, items.view())?;
    assert_eq!(exported.dim(), wanted.dim());
    let apart = (&exported - &wanted).iter().fold(0.0f32, |worst, v| worst.max(v.abs()));
    assert!(apart < 1e-5, "{apart}");

    let recall = |vectors: &Array2<f32>| -> Result<f64, Error> {
        Ok(evaluate(vectors.view(), &labels, None, &EvaluateOptions::default())?.recall_at_1)
    };
    let (before, after) = (recall(&vectors)?, recall(&exported)?);
    assert!(after > before + 0.05, "{before} before, {after} after");

    // Which rows share a batch changes nothing.
    let alone = embed(&tuned, items.slice_axis(Axis(0), (100..101).into()))?;
    assert!((&alone.row(0) - &exported.row(100)).iter().all(|v| v.abs() < 1e-6));
    Ok(())
}

#[test]
fn what_cannot_be_is_said() -> Result<(), Error> {
    let (items, labels) = drawn::drawings(3, 2, 1);
    let body = drawn::random_body(7);
    assert!(embed(b"not a model", items.view()).is_err());
    assert!(embed(&body, items.slice_axis(Axis(2), (0..8).into())).is_err(), "a shape that it does not take");
    assert!(Head::train(Array2::ones((6, 4)).view(), &labels, 1).is_err(), "vectors that are all the same");
    assert!(Head::train(Array2::eye(6).view(), &labels[..5], 1).is_err(), "a vector without a label");
    let tuned = with_head(&body, &Head::train(embed(&body, items.view())?.view(), &labels, 1)?)?;
    let twice = with_head(&tuned, &Head::train(embed(&tuned, items.view())?.view(), &labels, 1)?);
    assert!(twice.unwrap_err().to_string().contains("`tuned` already"));
    Ok(())
}
