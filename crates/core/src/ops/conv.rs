//! Two-dimensional convolution (cross-correlation, as every deep-learning library means it).

use ndarray::{ArrayView2, ArrayViewMut2};
use rayon::prelude::*;

use super::im2col::{Geometry, fold, unfold};
use super::{addressable, array, contiguous, shape_error, slice, standard, window_steps};
use crate::{Error, Grad, Pool, Result, Value, Var, linalg, simd};

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

fn view<'a>(rows: usize, columns: usize, data: &'a [f32]) -> Result<ArrayView2<'a, f32>> {
    ArrayView2::from_shape((rows, columns), data)
        .map_err(|_| shape_error("conv2d", format!("[{rows}, {columns}]"), &[data.len()]))
}

fn view_mut<'a>(rows: usize, columns: usize, data: &'a mut [f32]) -> Result<ArrayViewMut2<'a, f32>> {
    let length = data.len();
    ArrayViewMut2::from_shape((rows, columns), data)
        .map_err(|_| shape_error("conv2d", format!("[{rows}, {columns}]"), &[length]))
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
        return Ok(y);
    }
    let (rows, columns) = (plan.group.rows(), plan.group.columns());
    y.par_chunks_mut(IMAGES * plan.output_len()).zip(x.par_chunks(IMAGES * plan.input_len())).try_for_each(
        |(ys, xs)| -> Result<()> {
            let mut scratch = pool.take(if plan.is_plain() { 0 } else { rows * columns });
            for (y, x) in ys.chunks_mut(plan.output_len()).zip(xs.chunks(plan.input_len())) {
                for group in 0..plan.groups {
                    let image = &x[plan.input(group)];
                    let unfolded = if plan.is_plain() {
                        image
                    } else {
                        simd::dispatch(|| unfold(&plan.group, image, &mut scratch));
                        &scratch[..]
                    };
                    linalg::matmul_serial(
                        1.0,
                        view(plan.out, rows, &w[plan.weight(group)])?,
                        view(rows, columns, unfolded)?,
                        0.0,
                        view_mut(plan.out, columns, &mut y[plan.output(group)])?,
                    )?;
                }
            }
            pool.give(scratch);
            Ok(())
        },
    )?;
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
    let (rows, columns) = (plan.group.rows(), plan.group.columns());
    let mut dx = if to_x { pool.zeros(xs.len()) } else { Vec::new() };
    let mut dw = if to_w { pool.zeros(ws.len()) } else { Vec::new() };
    if !g.is_empty() && !xs.is_empty() {
        // Without an input gradient every block gets an empty part of it.
        let blocks = plan.images.div_ceil(IMAGES);
        let mut dx_parts: Vec<&mut [f32]> = dx.chunks_mut(IMAGES * plan.input_len()).collect();
        dx_parts.resize_with(blocks, Default::default);
        let parts: Vec<Vec<f32>> = dx_parts
            .into_par_iter()
            .zip(g.par_chunks(IMAGES * plan.output_len()))
            .zip(xs.par_chunks(IMAGES * plan.input_len()))
            .map(|((dx, g), xs)| -> Result<Vec<f32>> {
                let mut part = if to_w { pool.take(ws.len()) } else { Vec::new() };
                let mut scratch = pool.take(if plan.is_plain() { 0 } else { rows * columns });
                for (index, (g, x)) in
                    g.chunks(plan.output_len()).zip(xs.chunks(plan.input_len())).enumerate()
                {
                    for group in 0..plan.groups {
                        let g = view(plan.out, columns, &g[plan.output(group)])?;
                        if to_w {
                            let image = &x[plan.input(group)];
                            let unfolded = if plan.is_plain() {
                                image
                            } else {
                                simd::dispatch(|| unfold(&plan.group, image, &mut scratch));
                                &scratch[..]
                            };
                            let beta = if index == 0 { 0.0 } else { 1.0 };
                            linalg::matmul_serial(
                                1.0,
                                g,
                                view(rows, columns, unfolded)?.reversed_axes(),
                                beta,
                                view_mut(plan.out, rows, &mut part[plan.weight(group)])?,
                            )?;
                        }
                        if to_x {
                            let w = view(plan.out, rows, &ws[plan.weight(group)])?;
                            let image = &mut dx[index * plan.input_len()..][plan.input(group)];
                            if plan.is_plain() {
                                linalg::matmul_serial(
                                    1.0,
                                    w.reversed_axes(),
                                    g,
                                    0.0,
                                    view_mut(rows, columns, image)?,
                                )?;
                            } else {
                                linalg::matmul_serial(
                                    1.0,
                                    w.reversed_axes(),
                                    g,
                                    0.0,
                                    view_mut(rows, columns, &mut scratch)?,
                                )?;
                                simd::dispatch(|| fold(&plan.group, &scratch, image));
                            }
                        }
                    }
                }
                pool.give(scratch);
                Ok(part)
            })
            .collect::<Result<_>>()?;
        for part in parts {
            dw.iter_mut().zip(&part).for_each(|(sum, v)| *sum += v);
            pool.give(part);
        }
    }
    Ok((
        to_x.then(|| array("conv2d", x.shape(), dx)).transpose()?.map(Grad::Dense),
        to_w.then(|| array("conv2d", w.shape(), dw)).transpose()?.map(Grad::Dense),
    ))
}
