//! Checks at the public boundary.

use ndarray::ArrayView2;

use crate::{Error, GradsMut, Input, Result};

/// Embeddings `[batch, dim]` of finite values, with a label for each row.
pub(crate) fn batch(
    what: &'static str,
    x: &ArrayView2<'_, f32>,
    labels: (&'static str, &[u32]),
    dim: usize,
) -> Result<()> {
    shaped(what, x, None, dim)?;
    if labels.1.len() != x.nrows() {
        return Err(Error::Shape {
            what: labels.0,
            expected: format!("[{}], one for each row of the {what}", x.nrows()),
            got: vec![labels.1.len()],
        });
    }
    finite(what, x)
}

/// A matrix of finite values with `dim` columns and, if given, `rows` rows.
pub(crate) fn matrix(
    what: &'static str,
    x: &ArrayView2<'_, f32>,
    rows: Option<usize>,
    dim: usize,
) -> Result<()> {
    shaped(what, x, rows, dim)?;
    finite(what, x)
}

/// [`matrix`] without a look at the values.
pub(crate) fn shaped(
    what: &'static str,
    x: &ArrayView2<'_, f32>,
    rows: Option<usize>,
    dim: usize,
) -> Result<()> {
    if x.ncols() != dim || rows.is_some_and(|rows| rows != x.nrows()) {
        let turned = x.nrows() == dim && x.ncols() != dim && rows.is_none_or(|rows| rows == x.ncols());
        let rows = rows.map_or("n".to_owned(), |rows| rows.to_string());
        let remedy = if turned {
            ": transpose it, rows are items or classes"
        } else if x.ncols() != dim {
            ": as many columns as the loss was built for, or as the embeddings have"
        } else if what == "class centres" {
            ": one row for each class that the loss was built for (with sub-centres, for each of them)"
        } else {
            ": one row for each label"
        };
        let expected = format!("[{rows}, {dim}]{remedy}");
        return Err(Error::Shape { what, expected, got: x.shape().to_vec() });
    }
    Ok(())
}

pub(crate) fn finite(what: &'static str, x: &ArrayView2<'_, f32>) -> Result<()> {
    // A product with zero is NaN exactly if a value is not finite. Sums in lanes, so that it vectorises.
    let clean = x.rows().into_iter().all(|row| match row.as_slice() {
        Some(row) => {
            let mut sums = [0.0f32; 16];
            for chunk in row.chunks(sums.len()) {
                sums.iter_mut().zip(chunk).for_each(|(sum, v)| *sum += v * 0.0);
            }
            sums.iter().all(|&sum| sum == 0.0)
        }
        None => row.iter().all(|v| v.is_finite()),
    });
    if clean {
        return Ok(());
    }
    match x.indexed_iter().find(|(_, v)| !v.is_finite()) {
        Some(((row, column), &value)) => Err(Error::NotFinite { what, row, column, value }),
        None => Ok(()),
    }
}

pub(crate) fn labels(labels: &[u32], classes: usize) -> Result<()> {
    match labels.iter().enumerate().find(|&(_, &label)| label as usize >= classes) {
        Some((row, &label)) => Err(Error::Label { row, label, classes }),
        None => Ok(()),
    }
}

/// Gradient buffers of the inputs' shapes, and a factor on them that is a number.
pub(crate) fn outputs(grads: &GradsMut<'_>, x: (usize, usize), w: Option<(usize, usize)>) -> Result<()> {
    let fail =
        |what, expected: String, got: &[usize]| Err(Error::Shape { what, expected, got: got.to_vec() });
    if let Some(dx) = grads.embeddings.as_ref().filter(|dx| dx.dim() != x) {
        return fail("the embeddings' gradient", format!("[{}, {}]", x.0, x.1), dx.shape());
    }
    if let Some(dw) = grads.weights.as_ref().filter(|dw| Some(dw.dim()) != w) {
        let expected =
            w.map_or("none: this loss has no centres".to_owned(), |w| format!("[{}, {}]", w.0, w.1));
        return fail("the centres' gradient", expected, dw.shape());
    }
    if let Some(out) = grads.per_sample.as_ref().filter(|out| out.len() != x.0) {
        return fail("per_sample", format!("[{}]", x.0), &[out.len()]);
    }
    if !grads.upstream.is_finite() {
        return Err(Error::Option {
            option: "upstream",
            value: grads.upstream.to_string(),
            reason: "the factor on the gradients has to be finite; 1 leaves them as they are".to_owned(),
        });
    }
    Ok(())
}

/// No reference: a loss with class centres has no use for one.
pub(crate) fn no_reference(input: &Input<'_>) -> Result<()> {
    let Some(reference) = input.reference else { return Ok(()) };
    Err(Error::Option {
        option: "reference",
        value: format!("{} rows", reference.labels.len()),
        reason: "a loss with class centres compares rows with centres alone; leave Input::reference out"
            .into(),
    })
}

/// Sample weight times class weight of every row. A product that `f32` holds has its digits, any other is that of `f64`: of
/// two finite weights there is always one.
pub(crate) fn factors(input: &Input<'_>) -> Result<Vec<f64>> {
    let batch = input.labels.len();
    if let Some(weights) = input.sample_weights.filter(|weights| weights.len() != batch) {
        return Err(Error::Shape {
            what: "sample_weights",
            expected: format!("[{batch}]"),
            got: vec![weights.len()],
        });
    }
    let check = |what, i: usize, v: f32| {
        if !v.is_finite() {
            return Err(Error::NotFinite { what, row: i, column: 0, value: v });
        }
        if v < 0.0 {
            let reason =
                "a weight below 0 would push a row from its own class; use 0 to leave it out".to_owned();
            return Err(Error::Option { option: what, value: format!("{v} in row {i}"), reason });
        }
        Ok(v)
    };
    (0..batch)
        .map(|i| {
            let sample = input.sample_weights.map_or(Ok(1.0), |w| check("sample_weights", i, w[i]))?;
            let Some(classes) = input.class_weights else { return Ok(f64::from(sample)) };
            let label = input.labels[i];
            let class = *classes.get(label as usize).ok_or_else(|| Error::Shape {
                what: "class_weights",
                expected: format!("a weight for every class, also for label {label} in row {i}"),
                got: vec![classes.len()],
            })?;
            let class = check("class_weights", label as usize, class)?;
            let product = sample * class;
            let holds = product.is_normal() || sample == 0.0 || class == 0.0;
            Ok(if holds { f64::from(product) } else { f64::from(sample) * f64::from(class) })
        })
        .collect()
}
