//! Convolution by unfolding each image into a matrix ([`im2col`](super::im2col)) and the general product.

use ndarray::{ArrayView2, ArrayViewMut2};
use rayon::prelude::*;

use super::im2col::{fold, unfold};
use super::{IMAGES, Plan, shape_error};
use crate::{Pool, Result, linalg, simd};

fn view<'a>(rows: usize, columns: usize, data: &'a [f32]) -> Result<ArrayView2<'a, f32>> {
    ArrayView2::from_shape((rows, columns), data)
        .map_err(|_| shape_error("conv2d", format!("[{rows}, {columns}]"), &[data.len()]))
}

fn view_mut<'a>(rows: usize, columns: usize, data: &'a mut [f32]) -> Result<ArrayViewMut2<'a, f32>> {
    let length = data.len();
    ArrayViewMut2::from_shape((rows, columns), data)
        .map_err(|_| shape_error("conv2d", format!("[{rows}, {columns}]"), &[length]))
}

/// Room for one unfolded image; a plain convolution needs none.
fn scratch(plan: &Plan, pool: &Pool) -> Vec<f32> {
    pool.take(if plan.is_plain() { 0 } else { plan.group.rows() * plan.group.columns() })
}

/// One group of an image as `[channels * kernel, pixels]`.
fn matrix<'a>(plan: &Plan, image: &'a [f32], scratch: &'a mut [f32]) -> &'a [f32] {
    if plan.is_plain() {
        return image;
    }
    simd::dispatch(|| unfold(&plan.group, image, scratch));
    scratch
}

pub(super) fn forward(plan: &Plan, x: &[f32], w: &[f32], y: &mut [f32], pool: &Pool) -> Result<()> {
    let (rows, columns) = (plan.group.rows(), plan.group.columns());
    let blocks = y.par_chunks_mut(IMAGES * plan.output_len()).zip(x.par_chunks(IMAGES * plan.input_len()));
    blocks.try_for_each(|(ys, xs)| -> Result<()> {
        let mut scratch = scratch(plan, pool);
        for (y, x) in ys.chunks_mut(plan.output_len()).zip(xs.chunks(plan.input_len())) {
            for group in 0..plan.groups {
                linalg::matmul_serial(
                    1.0,
                    view(plan.out, rows, &w[plan.weight(group)])?,
                    view(rows, columns, matrix(plan, &x[plan.input(group)], &mut scratch))?,
                    0.0,
                    view_mut(plan.out, columns, &mut y[plan.output(group)])?,
                )?;
            }
        }
        pool.give(scratch);
        Ok(())
    })
}

pub(super) fn input_gradient(plan: &Plan, w: &[f32], g: &[f32], dx: &mut [f32], pool: &Pool) -> Result<()> {
    let (rows, columns) = (plan.group.rows(), plan.group.columns());
    let blocks = dx.par_chunks_mut(IMAGES * plan.input_len()).zip(g.par_chunks(IMAGES * plan.output_len()));
    blocks.try_for_each(|(dxs, gs)| -> Result<()> {
        let mut scratch = scratch(plan, pool);
        for (dx, g) in dxs.chunks_mut(plan.input_len()).zip(gs.chunks(plan.output_len())) {
            for group in 0..plan.groups {
                let g = view(plan.out, columns, &g[plan.output(group)])?;
                let w = view(plan.out, rows, &w[plan.weight(group)])?.reversed_axes();
                let image = &mut dx[plan.input(group)];
                if plan.is_plain() {
                    linalg::matmul_serial(1.0, w, g, 0.0, view_mut(rows, columns, image)?)?;
                } else {
                    linalg::matmul_serial(1.0, w, g, 0.0, view_mut(rows, columns, &mut scratch)?)?;
                    image.fill(0.0);
                    simd::dispatch(|| fold(&plan.group, &scratch, image));
                }
            }
        }
        pool.give(scratch);
        Ok(())
    })
}

pub(super) fn weight_gradient(plan: &Plan, x: &[f32], g: &[f32], dw: &mut [f32], pool: &Pool) -> Result<()> {
    let (rows, columns) = (plan.group.rows(), plan.group.columns());
    let blocks = g.par_chunks(IMAGES * plan.output_len()).zip(x.par_chunks(IMAGES * plan.input_len()));
    let parts: Vec<Vec<f32>> = blocks
        .map(|(gs, xs)| -> Result<Vec<f32>> {
            let mut part = pool.take(dw.len());
            let mut scratch = scratch(plan, pool);
            for (index, (g, x)) in gs.chunks(plan.output_len()).zip(xs.chunks(plan.input_len())).enumerate() {
                for group in 0..plan.groups {
                    let unfolded = matrix(plan, &x[plan.input(group)], &mut scratch);
                    linalg::matmul_serial(
                        1.0,
                        view(plan.out, columns, &g[plan.output(group)])?,
                        view(rows, columns, unfolded)?.reversed_axes(),
                        if index == 0 { 0.0 } else { 1.0 },
                        view_mut(plan.out, rows, &mut part[plan.weight(group)])?,
                    )?;
                }
            }
            pool.give(scratch);
            Ok(part)
        })
        .collect::<Result<_>>()?;
    dw.fill(0.0);
    for part in parts {
        dw.iter_mut().zip(&part).for_each(|(sum, v)| *sum += v);
        pool.give(part);
    }
    Ok(())
}
