//! One fused pass over a parameter, its gradient and its state.

use embedtune_core::{Grad, RowGrad, Value, simd};
use rayon::prelude::*;

use super::slots::Slot;
use crate::Result;

/// Elements that one task updates.
const BLOCK: usize = 1 << 14;

/// Sets every element to `update(value, gradient, state) -> (value, state)`, with the first `S` buffers of `slot` as
/// the state. The shapes have been checked.
///
/// `idle`: an element whose gradient is zero and whose state is as it starts stays as it is (no weight decay). Rows of a
/// table that a row-sparse gradient does not name, now or ever before, are then left out.
pub(super) fn fused<const S: usize>(
    value: &mut Value,
    grad: &Grad,
    slot: &mut Slot,
    idle: bool,
    update: impl Fn(f32, f32, [f32; S]) -> (f32, [f32; S]) + Sync,
) -> Result<()> {
    let others = if idle { Others::OnceSeen } else { Others::All };
    pass(value, grad, slot, others, &|values, grad, state| elements(values, grad, state, &update))
}

/// As [`fused`], but of a row-sparse gradient's table only the rows that it names.
pub(super) fn named_rows<const S: usize>(
    value: &mut Value,
    grad: &Grad,
    slot: &mut Slot,
    update: impl Fn(f32, f32, [f32; S]) -> (f32, [f32; S]) + Sync,
) -> Result<()> {
    pass(value, grad, slot, Others::Never, &|values, grad, state| elements(values, grad, state, &update))
}

/// Updates elements with their gradients and state, all of one length. What hands the elements out is compiled once for all
/// optimizers with as much state; only this is made for each.
type Update<'u, const S: usize> = dyn Fn(&mut [f32], &[f32], [&mut [f32]; S]) + Sync + 'u;

/// Which rows a row-sparse gradient updates besides those that it names.
#[derive(Clone, Copy, PartialEq)]
enum Others {
    All,
    OnceSeen,
    Never,
}

fn pass<const S: usize>(
    value: &mut Value,
    grad: &Grad,
    slot: &mut Slot,
    others: Others,
    update: &Update<'_, S>,
) -> Result<()> {
    if !value.is_standard_layout() {
        *value = value.as_standard_layout().into_owned().into_shared();
    }
    // A view of a shared buffer copies it first: other handles keep the old value.
    let mut view = value.view_mut();
    let Some(values) = view.as_slice_mut() else { return Ok(()) };
    let mut buffers = slot.buffers.iter_mut();
    let state: [&mut [f32]; S] =
        std::array::from_fn(|_| buffers.next().map(Vec::as_mut_slice).unwrap_or_default());
    match grad {
        Grad::Dense(grad) => {
            slot.seen = None;
            let grad = grad.as_standard_layout();
            let Some(grad) = grad.as_slice() else { return Ok(()) };
            let tasks: Vec<_> = blocks(values, state, BLOCK).zip(grad.chunks(BLOCK)).collect();
            for_each(tasks, |((values, state), grad)| update(values, grad, state));
        }
        Grad::Rows(grad) => {
            if others == Others::All {
                slot.seen = None;
            }
            if let Some(seen) = &mut slot.seen {
                grad.rows.iter().for_each(|&row| seen[row as usize] = true);
            }
            let seen = slot.seen.as_deref();
            let moves = |row: usize| match others {
                Others::All => true,
                Others::OnceSeen => S > 0 && seen.is_none_or(|seen| seen[row]),
                Others::Never => false,
            };
            rows(values, grad, state, moves, update);
        }
    }
    Ok(())
}

/// The rows of a table: those of `grad`, and of the others those for which `moves(row)`.
fn rows<const S: usize>(
    values: &mut [f32],
    grad: &RowGrad,
    state: [&mut [f32]; S],
    moves: impl Fn(usize) -> bool + Sync,
    update: &Update<'_, S>,
) {
    let dim = grad.values.ncols();
    let gradients = grad.values.as_standard_layout();
    let Some(gradients) = gradients.as_slice().filter(|_| dim > 0) else { return };
    let none = vec![0.0; dim];
    let block_rows = (BLOCK / dim).max(1);
    let tasks: Vec<_> = blocks(values, state, block_rows * dim).enumerate().collect();
    for_each(tasks, |(block, (values, mut state))| {
        let first = block * block_rows;
        let mut next = grad.rows.partition_point(|&row| (row as usize) < first);
        for (i, values) in values.chunks_exact_mut(dim).enumerate() {
            let span = i * dim..(i + 1) * dim;
            let named = grad.rows.get(next).is_some_and(|&row| row as usize == first + i);
            if !named && !moves(first + i) {
                continue;
            }
            let state = state.each_mut().map(|buffer| &mut buffer[span.clone()]);
            if named {
                update(values, &gradients[next * dim..(next + 1) * dim], state);
                next += 1;
            } else {
                update(values, &none, state);
            }
        }
    });
}

/// Blocks of a value with the same blocks of its state.
fn blocks<'a, const S: usize>(
    values: &'a mut [f32],
    state: [&'a mut [f32]; S],
    size: usize,
) -> impl Iterator<Item = (&'a mut [f32], [&'a mut [f32]; S])> {
    let mut state = state.map(|buffer| buffer.chunks_mut(size));
    values
        .chunks_mut(size)
        .map(move |values| (values, state.each_mut().map(|chunks| chunks.next().unwrap_or_default())))
}

/// Small parameters are not worth another thread.
fn for_each<T: Send>(tasks: Vec<T>, run: impl Fn(T) + Sync + Send) {
    if tasks.len() > 1 {
        tasks.into_par_iter().for_each(run);
    } else {
        tasks.into_iter().for_each(run);
    }
}

fn elements<const S: usize>(
    values: &mut [f32],
    grad: &[f32],
    state: [&mut [f32]; S],
    update: &impl Fn(f32, f32, [f32; S]) -> (f32, [f32; S]),
) {
    let len = values.len();
    simd::dispatch(
        #[inline(always)]
        || {
            let grad = &grad[..len];
            let state = state.map(|buffer| &mut buffer[..len]);
            for i in 0..len {
                let (value, new) = update(values[i], grad[i], std::array::from_fn(|s| state[s][i]));
                values[i] = value;
                for s in 0..S {
                    state[s][i] = new[s];
                }
            }
        },
    );
}
