//! Gradients: dense, or rows of a table.

use std::collections::BTreeMap;

use ndarray::{Array2, ArrayD, Ix2};

use super::{Tape, Var};
use crate::Pool;

/// The gradient of one value. Whoever reads one has to know both forms: a third would be another type.
#[derive(Debug, Clone, PartialEq)]
pub enum Grad {
    /// A gradient for every element.
    Dense(ArrayD<f32>),
    /// A gradient for some rows of a table; the others are zero.
    Rows(RowGrad),
}

/// Gradient of some rows of a `[rows, dim]` table, as an embedding lookup produces.
#[derive(Debug, Clone, PartialEq)]
pub struct RowGrad {
    /// Rows in the table.
    pub table_rows: usize,
    /// Which rows; ascending, without repetition.
    pub rows: Vec<u32>,
    /// Their gradients, `[rows.len(), dim]`.
    pub values: Array2<f32>,
}

impl RowGrad {
    /// Sums contributions to the same row, in the order in which they come, so that the bits do not depend on
    /// anything else.
    pub fn from_contributions(table_rows: usize, rows: &[u32], values: &Array2<f32>) -> Self {
        let mut place: BTreeMap<u32, usize> = rows.iter().map(|&row| (row, 0)).collect();
        for (position, slot) in place.values_mut().enumerate() {
            *slot = position;
        }
        let mut sums = Array2::zeros((place.len(), values.ncols()));
        for (row, value) in rows.iter().zip(values.rows()) {
            let mut sum = sums.row_mut(place[row]);
            sum += &value;
        }
        Self { table_rows, rows: place.into_keys().collect(), values: sums }
    }
}

impl Grad {
    /// The gradient's (table's) shape.
    pub fn shape(&self) -> Vec<usize> {
        match self {
            Self::Dense(g) => g.shape().to_vec(),
            Self::Rows(g) => vec![g.table_rows, g.values.ncols()],
        }
    }

    /// As a full array.
    pub fn into_dense(self) -> ArrayD<f32> {
        match self {
            Self::Dense(g) => g,
            Self::Rows(g) => {
                let mut dense = Array2::zeros((g.table_rows, g.values.ncols()));
                for (&row, value) in g.rows.iter().zip(g.values.rows()) {
                    dense.row_mut(row as usize).assign(&value);
                }
                dense.into_dyn()
            }
        }
    }

    /// The sum of two gradients of one value; the freed buffer goes to `pool`.
    pub(super) fn add(self, other: Grad, pool: &Pool) -> Grad {
        match (self, other) {
            (Grad::Dense(mut a), Grad::Dense(b)) => {
                a += &b;
                let (buffer, offset) = b.into_raw_vec_and_offset();
                if offset.unwrap_or(0) == 0 {
                    pool.give(buffer);
                }
                Grad::Dense(a)
            }
            (Grad::Dense(mut a), Grad::Rows(b)) | (Grad::Rows(b), Grad::Dense(mut a)) => {
                if let Ok(mut table) = a.view_mut().into_dimensionality::<Ix2>() {
                    for (&row, value) in b.rows.iter().zip(b.values.rows()) {
                        let mut sum = table.row_mut(row as usize);
                        sum += &value;
                    }
                }
                Grad::Dense(a)
            }
            (Grad::Rows(a), Grad::Rows(b)) => {
                let rows: Vec<u32> = a.rows.iter().chain(&b.rows).copied().collect();
                let mut values = Array2::zeros((rows.len(), a.values.ncols()));
                for (mut to, from) in
                    values.rows_mut().into_iter().zip(a.values.rows().into_iter().chain(b.values.rows()))
                {
                    to.assign(&from);
                }
                Grad::Rows(RowGrad::from_contributions(a.table_rows, &rows, &values))
            }
        }
    }
}

/// The gradients of a tape's leaves.
#[derive(Debug)]
pub struct Grads {
    tape: *const Tape,
    by_node: Vec<Option<Grad>>,
}

impl Grads {
    pub(super) fn new(tape: &Tape, by_node: Vec<Option<Grad>>) -> Self {
        Self { tape, by_node }
    }

    /// The gradient of a leaf; `None` if nothing flowed to it (or it is not a leaf of this tape).
    pub fn get(&self, var: Var<'_>) -> Option<&Grad> {
        self.by_node.get(self.slot(var)?)?.as_ref()
    }

    /// The gradient of a leaf as an array, if it is dense.
    pub fn dense(&self, var: Var<'_>) -> Option<&ArrayD<f32>> {
        match self.get(var)? {
            Grad::Dense(g) => Some(g),
            Grad::Rows(_) => None,
        }
    }

    /// Takes the gradient of a leaf out.
    pub fn take(&mut self, var: Var<'_>) -> Option<Grad> {
        let slot = self.slot(var)?;
        self.by_node.get_mut(slot)?.take()
    }

    // The address is only compared, never followed.
    fn slot(&self, var: Var<'_>) -> Option<usize> {
        std::ptr::eq(self.tape, var.tape()).then(|| var.index())
    }
}
