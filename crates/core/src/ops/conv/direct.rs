//! Convolution without unfolding: each image gets its border of zeros once, and a [`Gathered`] product reads the
//! shifted copies from it.

use rayon::prelude::*;

use super::gathered::{Gathered, pack, pack_transposed, padded, transpose};
use super::im2col::Geometry;
use super::{IMAGES, Plan};
use crate::{Pool, simd};

/// Channels from which on a product whose columns they are is faster without unfolding.
const FEWEST: usize = 8;

/// Images with a border of zeros.
#[derive(Clone, Copy)]
struct Bordered {
    channels: usize,
    side: [usize; 2],
    border: [usize; 2],
}

impl Bordered {
    fn width(&self) -> usize {
        self.side[1] + 2 * self.border[1]
    }

    /// Values of a channel.
    fn plane(&self) -> usize {
        (self.side[0] + 2 * self.border[0]) * self.width()
    }

    /// Whether the border is small beside the images of `plan`: a wide one would take memory that no other path needs.
    fn is_narrow(&self, plan: &Plan) -> bool {
        let side = |axis: usize| self.border[axis].checked_mul(2)?.checked_add(self.side[axis]);
        let size = side(0).zip(side(1)).and_then(|(h, w)| h.checked_mul(w)?.checked_mul(self.channels));
        let images = plan.input_len().saturating_add(plan.output_len());
        size.is_some_and(|size| size <= images.saturating_mul(16).max(1 << 16))
    }

    /// Room for one image, zero: its border stays so.
    fn room(&self, pool: &Pool) -> Vec<f32> {
        if self.border == [0, 0] { Vec::new() } else { pool.zeros(self.channels * self.plane()) }
    }

    /// `image` with the border, in `room`.
    fn fill<'a>(&self, image: &'a [f32], room: &'a mut [f32]) -> &'a [f32] {
        if self.border == [0, 0] {
            return image;
        }
        let ([height, width], [above, left]) = (self.side, self.border);
        let planes = room.chunks_exact_mut(self.plane()).zip(image.chunks_exact(height * width));
        for (to, from) in planes {
            let lines = to.chunks_exact_mut(self.width()).skip(above).zip(from.chunks_exact(width));
            for (to, from) in lines {
                to[left..left + width].copy_from_slice(from);
            }
        }
        room
    }

    /// Where the window of each output starts.
    fn starts(&self, outputs: [usize; 2], stride: [usize; 2]) -> Vec<usize> {
        let row = |r: usize| (0..outputs[1]).map(move |c| r * stride[0] * self.width() + c * stride[1]);
        (0..outputs[0]).flat_map(row).collect()
    }

    /// Where each element of a window lies, from its start; from the far corner backward if `turned`.
    fn window(&self, kernel: [usize; 2], dilation: [usize; 2], turned: bool) -> Vec<usize> {
        let at = |length: usize, k: usize| if turned { length - 1 - k } else { k };
        let mut window = Vec::with_capacity(self.channels * kernel[0] * kernel[1]);
        for channel in 0..self.channels {
            for r in 0..kernel[0] {
                for c in 0..kernel[1] {
                    let (r, c) = (at(kernel[0], r) * dilation[0], at(kernel[1], c) * dilation[1]);
                    window.push(channel * self.plane() + r * self.width() + c);
                }
            }
        }
        window
    }
}

fn reach(inner: &[usize]) -> usize {
    inner.iter().copied().max().unwrap_or(0)
}

fn input(geometry: &Geometry) -> Bordered {
    Bordered { channels: geometry.channels, side: geometry.input, border: geometry.padding }
}

pub(super) fn forward(plan: &Plan, x: &[f32], w: &[f32], y: &mut [f32], pool: &Pool) {
    let group = &plan.group;
    let bordered = input(group);
    let outer = bordered.starts(group.output, group.stride);
    let inner = bordered.window(group.kernel, group.dilation, false);
    let (depth, stride) = (group.rows(), padded(plan.out));
    let mut panels = pool.take(plan.groups * depth * stride);
    for (at, panels) in panels.chunks_exact_mut(depth * stride).enumerate() {
        let w = &w[plan.weight(at)];
        pack(depth, plan.out, panels, |i, o| w[o * depth + i]);
    }
    let blocks = y.par_chunks_mut(IMAGES * plan.output_len()).zip(x.par_chunks(IMAGES * plan.input_len()));
    blocks.for_each(|(ys, xs)| {
        let (mut room, mut c) = (bordered.room(pool), pool.take(outer.len() * stride));
        for (y, x) in ys.chunks_exact_mut(plan.output_len()).zip(xs.chunks_exact(plan.input_len())) {
            for (at, panels) in panels.chunks_exact(depth * stride).enumerate() {
                simd::with_simd(Gathered {
                    panels,
                    stride,
                    x: bordered.fill(&x[plan.input(at)], &mut room),
                    outer: &outer,
                    inner: &inner,
                    reach: reach(&inner),
                    c: &mut c,
                    add: false,
                });
                let (y, shape) = (&mut y[plan.output(at)], [outer.len(), plan.out]);
                simd::dispatch(
                    #[inline(always)]
                    || transpose(&c, stride, shape, y, outer.len()),
                );
            }
        }
        pool.give(room);
        pool.give(c);
    });
    pool.give(panels);
}

/// Whether [`forward`] and [`weight_gradient`] suit: few channels would leave most of a vector empty.
pub(super) fn suits(plan: &Plan) -> bool {
    plan.out >= FEWEST && input(&plan.group).is_narrow(plan)
}

/// Whether [`input_gradient`] suits: it is a convolution of the same kind, unless strides leave gaps between windows.
pub(super) fn suits_input(plan: &Plan) -> bool {
    let group = &plan.group;
    group.stride == [1, 1]
        && group.channels >= FEWEST
        && output(plan).is_some_and(|bordered| bordered.is_narrow(plan))
}

/// The outputs' gradient with the border from which every input has a whole window; `None` where a border would be
/// negative.
fn output(plan: &Plan) -> Option<Bordered> {
    let group = &plan.group;
    // From a window's first element to its last.
    let spread = |axis: usize| group.dilation[axis] * (group.kernel[axis] - 1);
    let border = |axis: usize| spread(axis).checked_sub(group.padding[axis]);
    Some(Bordered { channels: plan.out, side: group.output, border: [border(0)?, border(1)?] })
}

/// For plans that [`suits_input`] says.
pub(super) fn input_gradient(plan: &Plan, w: &[f32], g: &[f32], dx: &mut [f32], pool: &Pool) {
    let group = &plan.group;
    let Some(bordered) = output(plan) else { return };
    let outer = bordered.starts(group.input, [1, 1]);
    let inner = bordered.window(group.kernel, group.dilation, true);
    let (depth, stride) = (inner.len(), padded(group.channels));
    let kernel = group.kernel[0] * group.kernel[1];
    let mut panels = pool.take(plan.groups * depth * stride);
    for (at, panels) in panels.chunks_exact_mut(depth * stride).enumerate() {
        let w = &w[plan.weight(at)];
        let turned = |i: usize, channel: usize| w[i / kernel * group.rows() + channel * kernel + i % kernel];
        pack(depth, group.channels, panels, turned);
    }
    let blocks = dx.par_chunks_mut(IMAGES * plan.input_len()).zip(g.par_chunks(IMAGES * plan.output_len()));
    blocks.for_each(|(dxs, gs)| {
        let (mut room, mut c) = (bordered.room(pool), pool.take(outer.len() * stride));
        for (dx, g) in dxs.chunks_exact_mut(plan.input_len()).zip(gs.chunks_exact(plan.output_len())) {
            for (at, panels) in panels.chunks_exact(depth * stride).enumerate() {
                simd::with_simd(Gathered {
                    panels,
                    stride,
                    x: bordered.fill(&g[plan.output(at)], &mut room),
                    outer: &outer,
                    inner: &inner,
                    reach: reach(&inner),
                    c: &mut c,
                    add: false,
                });
                let (dx, shape) = (&mut dx[plan.input(at)], [outer.len(), group.channels]);
                simd::dispatch(
                    #[inline(always)]
                    || transpose(&c, stride, shape, dx, outer.len()),
                );
            }
        }
        pool.give(room);
        pool.give(c);
    });
    pool.give(panels);
}

pub(super) fn weight_gradient(plan: &Plan, x: &[f32], g: &[f32], dw: &mut [f32], pool: &Pool) {
    let group = &plan.group;
    let bordered = input(group);
    let outer = bordered.window(group.kernel, group.dilation, false);
    let inner = bordered.starts(group.output, group.stride);
    let (depth, rows, stride) = (inner.len(), outer.len(), padded(plan.out));
    let blocks = g.par_chunks(IMAGES * plan.output_len()).zip(x.par_chunks(IMAGES * plan.input_len()));
    let parts: Vec<Vec<f32>> = blocks
        .map(|(gs, xs)| {
            let mut part = pool.take(plan.groups * rows * stride);
            // What lies past the last channel stays zero.
            let (mut room, mut panels) = (bordered.room(pool), pool.zeros(depth * stride));
            let images = gs.chunks_exact(plan.output_len()).zip(xs.chunks_exact(plan.input_len()));
            for (index, (g, x)) in images.enumerate() {
                for (at, c) in part.chunks_exact_mut(rows * stride).enumerate() {
                    let g = &g[plan.output(at)];
                    simd::dispatch(
                        #[inline(always)]
                        || pack_transposed(depth, plan.out, &mut panels, g),
                    );
                    simd::with_simd(Gathered {
                        panels: &panels,
                        stride,
                        x: bordered.fill(&x[plan.input(at)], &mut room),
                        outer: &outer,
                        inner: &inner,
                        reach: reach(&inner),
                        c,
                        add: index > 0,
                    });
                }
            }
            pool.give(room);
            pool.give(panels);
            part
        })
        .collect();
    let mut parts = parts.into_iter();
    let Some(mut sum) = parts.next() else { return };
    for part in parts {
        sum.iter_mut().zip(&part).for_each(|(sum, v)| *sum += v);
        pool.give(part);
    }
    for (at, c) in sum.chunks_exact(rows * stride).enumerate() {
        transpose(c, stride, [rows, plan.out], &mut dw[plan.weight(at)], rows);
    }
    pool.give(sum);
}
