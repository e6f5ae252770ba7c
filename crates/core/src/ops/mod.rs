//! Differentiable operations on [`Var`](crate::Var), one family a file. Every operation checks its shapes and
//! returns an error rather than panic; every backward sits beside its forward.

mod conv;
mod elementwise;
mod linear;
mod lookup;
mod norm;
mod pool2d;
mod rows;
mod shape;

pub use conv::Conv2d;
pub use norm::{BatchNormMode, BatchStatistics};
pub use pool2d::Pool2d;

use ndarray::{ArrayD, IxDyn};

use crate::{Error, Result, Value};

/// A row-major copy-free handle where possible: the buffer of `value` in standard layout.
pub(crate) fn standard(value: &Value) -> Value {
    if value.is_standard_layout() {
        value.clone()
    } else {
        value.as_standard_layout().into_owned().into_shared()
    }
}

/// An owned array of `shape` around `data`; the caller made `data` of the right length.
pub(crate) fn array(op: &'static str, shape: &[usize], data: Vec<f32>) -> Result<ArrayD<f32>> {
    let length = data.len();
    ArrayD::from_shape_vec(IxDyn(shape), data).map_err(|_| Error::Shape {
        op,
        expected: format!("{shape:?}"),
        got: vec![length],
    })
}

/// A gradient in standard layout.
pub(crate) fn contiguous(gradient: ArrayD<f32>) -> ArrayD<f32> {
    if gradient.is_standard_layout() { gradient } else { gradient.as_standard_layout().into_owned() }
}

/// The elements of an array known to be in standard layout.
pub(crate) fn slice<'a>(op: &'static str, array: &'a Value) -> Result<&'a [f32]> {
    array.as_slice().ok_or_else(|| Error::Shape {
        op,
        expected: "an array in standard layout".into(),
        got: array.shape().to_vec(),
    })
}

/// How many steps of `stride` a window of `reach` takes over an axis of `length` between borders of `padding`; `None`
/// if it does not fit once, or if the numbers leave `usize`.
pub(crate) fn window_steps(length: usize, padding: usize, reach: usize, stride: usize) -> Option<usize> {
    let room = length.checked_add(padding.checked_mul(2)?)?.checked_sub(reach)?;
    room.checked_div(stride)?.checked_add(1)
}

/// Whether an array of this shape can exist: it counts its bytes in `isize`. An empty axis hides none of the others, as in
/// ndarray: products of some of them must not overflow either.
pub(crate) fn addressable(shape: &[usize]) -> bool {
    let mut sides = shape.iter().filter(|&&side| side > 0);
    let elements = sides.try_fold(size_of::<f32>(), |product, &side| product.checked_mul(side));
    elements.is_some_and(|bytes| isize::try_from(bytes).is_ok())
}

pub(crate) fn shape_error(op: &'static str, expected: impl Into<String>, got: &[usize]) -> Error {
    Error::Shape { op, expected: expected.into(), got: got.to_vec() }
}
