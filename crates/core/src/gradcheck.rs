//! Finite-difference checks of gradients.

use ndarray::ArrayD;

use crate::{Error, Pool, Result, Tape, Var};

/// Compares the tape's gradients with central differences.
///
/// `f` builds a value of any shape from the leaves; it is reduced to a scalar by fixed weights that differ for
/// each element, so that a gradient in the wrong place shows. With values in `f32` and a step of `1e-2` relative
/// to the input's scale the differences carry about three digits; `tolerance` is on
/// `|analytic - numeric| / max(1, |numeric|)`, and `1e-2` suits smooth operations on inputs of order 1.
///
/// # Errors
/// [`Error::GradCheck`] with the input, the element and both values; whatever `f` returns.
///
/// ```
/// use embedtune_core::gradcheck::gradcheck;
/// use ndarray::arr2;
///
/// gradcheck(&[arr2(&[[0.3f32, -0.7], [1.1, 0.2]]).into_dyn()], 1e-2, |x| x[0].gelu())?;
/// # Ok::<(), embedtune_core::Error>(())
/// ```
pub fn gradcheck(
    inputs: &[ArrayD<f32>],
    tolerance: f64,
    f: impl for<'t> Fn(&[Var<'t>]) -> Result<Var<'t>>,
) -> Result<()> {
    let pool = Pool::new();
    let weight = |i: usize| 0.5 + ((i * 7 + 3) as f64 * 0.61).sin() * 0.4;
    let value = |inputs: &[ArrayD<f32>]| -> Result<f64> {
        let tape = Tape::new(&pool);
        let leaves: Vec<_> = inputs.iter().map(|x| tape.leaf(x.clone())).collect();
        Ok(f(&leaves)?.value().iter().enumerate().map(|(i, &v)| f64::from(v) * weight(i)).sum())
    };
    let tape = Tape::new(&pool);
    let leaves: Vec<_> = inputs.iter().map(|x| tape.leaf(x.clone())).collect();
    let out = f(&leaves)?;
    let mut upstream = ArrayD::zeros(out.value().raw_dim());
    upstream.iter_mut().enumerate().for_each(|(i, u)| *u = weight(i) as f32);
    let mut grads = tape.backward_from(out, upstream)?;
    for (which, leaf) in leaves.iter().enumerate() {
        let analytic = match grads.take(*leaf) {
            Some(gradient) => gradient.into_dense()?,
            None => ArrayD::zeros(inputs[which].raw_dim()),
        };
        let mut moved = inputs.to_vec();
        for (element, &a) in analytic.iter().enumerate() {
            let at = |moved: &mut Vec<ArrayD<f32>>, to: f32| {
                if let Some(v) = moved[which].iter_mut().nth(element) {
                    *v = to;
                }
            };
            let Some(&x) = inputs[which].iter().nth(element) else { continue };
            let step = 1e-2 * x.abs().max(0.3);
            at(&mut moved, x + step);
            let up = value(&moved)?;
            at(&mut moved, x - step);
            let down = value(&moved)?;
            at(&mut moved, x);
            let numeric = (up - down) / (f64::from(x + step) - f64::from(x - step));
            let a = f64::from(a);
            // A NaN fails the comparison and so the check.
            if (a - numeric).abs() <= tolerance * numeric.abs().max(1.0) {
                continue;
            }
            return Err(Error::GradCheck(format!(
                "input {which}, element {element} (value {x}): gradient {a}, finite difference {numeric}"
            )));
        }
    }
    Ok(())
}
