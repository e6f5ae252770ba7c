//! Checks at the public boundary.

use ndarray::ArrayView2;

use crate::{Error, GradsMut, Input, Result};

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
        let rows = rows.map_or("n".to_owned(), |rows| rows.to_string());
        return Err(Error::Shape { what, expected: format!("[{rows}, {dim}]"), got: x.shape().to_vec() });
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
        return fail("the embeddings' gradient", format!("{x:?}"), dx.shape());
    }
    if let Some(dw) = grads.weights.as_ref().filter(|dw| Some(dw.dim()) != w) {
        let expected = w.map_or("none: this loss has no centres".to_owned(), |w| format!("{w:?}"));
        return fail("the centres' gradient", expected, dw.shape());
    }
    if let Some(out) = grads.per_sample.as_ref().filter(|out| out.len() != x.0) {
        return fail("per_sample", format!("[{}]", x.0), &[out.len()]);
    }
    if !grads.upstream.is_finite() {
        return Err(Error::NotFinite { what: "upstream", row: 0, column: 0, value: grads.upstream });
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

/// Sample weight times class weight of every row.
pub(crate) fn factors(input: &Input<'_>) -> Result<Vec<f32>> {
    let batch = input.labels.len();
    if let Some(weights) = input.sample_weights.filter(|weights| weights.len() != batch) {
        return Err(Error::Shape {
            what: "sample_weights",
            expected: format!("[{batch}]"),
            got: vec![weights.len()],
        });
    }
    let check = |what, i: usize, v: f32| {
        if v.is_finite() { Ok(v) } else { Err(Error::NotFinite { what, row: i, column: 0, value: v }) }
    };
    (0..batch)
        .map(|i| {
            let sample = input.sample_weights.map_or(Ok(1.0), |w| check("sample_weights", i, w[i]))?;
            let Some(classes) = input.class_weights else { return Ok(sample) };
            let label = input.labels[i];
            let class =
                *classes.get(label as usize).ok_or(Error::Label { row: i, label, classes: classes.len() })?;
            Ok(sample * check("class_weights", label as usize, class)?)
        })
        .collect()
}
