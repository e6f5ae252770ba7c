//! Two-dimensional convolution (cross-correlation, as every deep-learning library means it).

mod direct;
mod gathered;
mod im2col;
mod unfolded;

use im2col::Geometry;

use super::{addressable, array, contiguous, shape_error, slice, standard, window_steps};
use crate::{Error, Grad, Pool, Result, Value, Var};

/// How a convolution moves over the image: `[vertical, horizontal]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Conv2d {
    /// Step between outputs.
    pub stride: [usize; 2],
    /// Zeros around the image.
    pub padding: [usize; 2],
    /// Step between kernel elements.
    pub dilation: [usize; 2],
    /// Input and output channels are cut into this many groups that do not see each other.
    pub groups: usize,
}

impl Default for Conv2d {
    /// Stride 1, no padding, dilation 1, one group.
    fn default() -> Self {
        Self { stride: [1, 1], padding: [0, 0], dilation: [1, 1], groups: 1 }
    }
}

/// Images that one task takes together. Fixed, because the weight gradient is summed over these blocks in order.
const IMAGES: usize = 8;

#[derive(Clone, Copy)]
struct Plan {
    group: Geometry,
    groups: usize,
    images: usize,
    /// Output channels of one group.
    out: usize,
}

impl Plan {
    fn new(x: &[usize], w: &[usize], options: &Conv2d) -> Result<Self> {
        let (&[images, channels, height, width], &[out, per_group, kernel_rows, kernel_columns]) = (x, w)
        else {
            return Err(shape_error(
                "conv2d",
                "[batch, channels, height, width] and [out, in / groups, kh, kw]",
                x,
            ));
        };
        let Conv2d { stride, padding, dilation, groups } = *options;
        if groups == 0 || per_group.checked_mul(groups) != Some(channels) || out % groups != 0 {
            return Err(shape_error(
                "conv2d",
                format!(
                    "a weight [out, in / groups, kh, kw] for {channels} channels in {groups} groups, out divisible by groups"
                ),
                w,
            ));
        }
        for (name, pair) in
            [("stride", stride), ("dilation", dilation), ("kernel", [kernel_rows, kernel_columns])]
        {
            if pair.contains(&0) {
                return Err(Error::Parameter {
                    op: "conv2d",
                    name,
                    value: format!("{pair:?}"),
                    expected: "at least 1 in both directions".into(),
                });
            }
        }
        let side = |length: usize, axis: usize, kernel: usize| {
            let reach = dilation[axis].checked_mul(kernel - 1)?.checked_add(1)?;
            window_steps(length, padding[axis], reach, stride[axis])
        };
        let (Some(rows), Some(columns)) = (side(height, 0, kernel_rows), side(width, 1, kernel_columns))
        else {
            return Err(shape_error(
                "conv2d",
                format!(
                    "an image at least as large as the kernel {kernel_rows} x {kernel_columns} (dilated, less padding)"
                ),
                x,
            ));
        };
        let unfolded = [per_group, kernel_rows, kernel_columns, rows, columns];
        if !addressable(&[images, out, rows, columns]) || !addressable(&unfolded) {
            return Err(Error::Parameter {
                op: "conv2d",
                name: "padding",
                value: format!("{padding:?}"),
                expected: format!("an output of {rows} x {columns} fits no array; pad less"),
            });
        }
        let group = Geometry {
            channels: per_group,
            input: [height, width],
            output: [rows, columns],
            kernel: [kernel_rows, kernel_columns],
            stride,
            padding,
            dilation,
        };
        Ok(Self { group, groups, images, out: out / groups })
    }

    fn input_len(&self) -> usize {
        self.groups * self.group.channels * self.group.input[0] * self.group.input[1]
    }

    fn output_len(&self) -> usize {
        self.groups * self.out * self.group.columns()
    }

    /// A 1x1 kernel at stride 1 without padding needs no unfolding.
    fn is_plain(&self) -> bool {
        self.group.kernel == [1, 1] && self.group.stride == [1, 1] && self.group.padding == [0, 0]
    }

    fn weight(&self, group: usize) -> std::ops::Range<usize> {
        let length = self.out * self.group.rows();
        group * length..(group + 1) * length
    }

    fn input(&self, group: usize) -> std::ops::Range<usize> {
        let length = self.group.channels * self.group.input[0] * self.group.input[1];
        group * length..(group + 1) * length
    }

    fn output(&self, group: usize) -> std::ops::Range<usize> {
        let length = self.out * self.group.columns();
        group * length..(group + 1) * length
    }
}

impl<'t> Var<'t> {
    /// Convolution of `[batch, in, height, width]` with `weight` `[out, in / groups, kh, kw]` and an optional
    /// `bias` `[out]`, giving `[batch, out, height', width']` with
    /// `height' = (height + 2 padding - dilation (kh - 1) - 1) / stride + 1`.
    ///
    /// # Errors
    /// Shapes that do not fit, a stride, dilation or kernel of 0, an image smaller than the kernel.
    pub fn conv2d(self, weight: Var<'t>, bias: Option<Var<'t>>, options: &Conv2d) -> Result<Var<'t>> {
        let (x, w) = (standard(&self.value()), standard(&weight.value()));
        let plan = Plan::new(x.shape(), w.shape(), options)?;
        let pool = self.tape().pool().clone();
        let shape = [plan.images, plan.out * plan.groups, plan.group.output[0], plan.group.output[1]];
        let y = forward(&plan, slice("conv2d", &x)?, slice("conv2d", &w)?, &pool)?;
        let y = array("conv2d", &shape, y)?;
        let y = self.tape().record("conv2d", [self, weight], y, move |g, [to_x, to_w]| {
            let g = contiguous(g);
            let (dx, dw) = backward(&plan, &x, &w, g.as_slice().unwrap_or_default(), [to_x, to_w], &pool)?;
            pool.give(g.into_raw_vec_and_offset().0);
            Ok([dx, dw])
        })?;
        bias.map_or(Ok(y), |bias| y.bias(bias))
    }
}

fn forward(plan: &Plan, x: &[f32], w: &[f32], pool: &Pool) -> Result<Vec<f32>> {
    let mut y = pool.take(plan.images * plan.output_len());
    if y.is_empty() || x.is_empty() {
        y.fill(0.0);
    } else if direct::suits(plan) {
        direct::forward(plan, x, w, &mut y, pool);
    } else {
        unfolded::forward(plan, x, w, &mut y, pool)?;
    }
    Ok(y)
}

fn backward(
    plan: &Plan,
    x: &Value,
    w: &Value,
    g: &[f32],
    [to_x, to_w]: [bool; 2],
    pool: &Pool,
) -> Result<(Option<Grad>, Option<Grad>)> {
    let (xs, ws) = (slice("conv2d", x)?, slice("conv2d", w)?);
    let empty = g.is_empty() || xs.is_empty();
    let dx = to_x.then(|| -> Result<_> {
        let mut dx = pool.take(xs.len());
        if empty {
            dx.fill(0.0);
        } else if direct::suits_input(plan) {
            direct::input_gradient(plan, ws, g, &mut dx, pool);
        } else {
            unfolded::input_gradient(plan, ws, g, &mut dx, pool)?;
        }
        Ok(Grad::Dense(array("conv2d", x.shape(), dx)?))
    });
    let dw = to_w.then(|| -> Result<_> {
        let mut dw = pool.take(ws.len());
        if empty {
            dw.fill(0.0);
        } else if direct::suits(plan) {
            direct::weight_gradient(plan, xs, g, &mut dw, pool);
        } else {
            unfolded::weight_gradient(plan, xs, g, &mut dw, pool)?;
        }
        Ok(Grad::Dense(array("conv2d", w.shape(), dw)?))
    });
    Ok((dx.transpose()?, dw.transpose()?))
}
