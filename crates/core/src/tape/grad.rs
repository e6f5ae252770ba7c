//! Gradients: dense, or rows of a table.

use std::collections::BTreeMap;

use ndarray::{Array2, ArrayD, Ix2};

use super::Var;
use crate::{Error, Pool, Result};

/// The gradient of one value. Whoever reads one has to know both forms: a third would be another type.
#[derive(Debug, Clone, PartialEq)]
pub enum Grad {
    /// A gradient for every element.
    Dense(ArrayD<f32>),
    /// A gradient for some rows of a table; the others are zero.
    Rows(RowGrad),
}

/// Gradient of some rows of a `[rows, dim]` table, as an embedding lookup produces. One that breaks what its fields say is
/// refused where it is used ([`check`](Self::check)).
#[derive(Debug, Clone, PartialEq)]
pub struct RowGrad {
    /// Rows in the table.
    pub table_rows: usize,
    /// Which rows; ascending, without repetition, below `table_rows`.
    pub rows: Vec<u32>,
    /// Their gradients, `[rows.len(), dim]`.
    pub values: Array2<f32>,
}

impl RowGrad {
    /// Sums contributions to the same row, in the order in which they come, so that the bits do not depend on
    /// anything else. `values` is `[rows.len(), dim]`.
    ///
    /// # Errors
    /// [`Error::Shape`] for another number of rows than of `values`, [`Error::Index`] for a row beyond the table.
    pub fn from_contributions(table_rows: usize, rows: &[u32], values: &Array2<f32>) -> Result<Self> {
        const OP: &str = "RowGrad::from_contributions";
        Self::check_rows(OP, table_rows, rows, values)?;
        let mut place: BTreeMap<u32, usize> = rows.iter().map(|&row| (row, 0)).collect();
        for (position, slot) in place.values_mut().enumerate() {
            *slot = position;
        }
        let mut sums = Array2::zeros((place.len(), values.ncols()));
        for (row, value) in rows.iter().zip(values.rows()) {
            let mut sum = sums.row_mut(place[row]);
            sum += &value;
        }
        Ok(Self { table_rows, rows: place.into_keys().collect(), values: sums })
    }

    /// Whether the fields fit each other; `op` is what an error names.
    ///
    /// # Errors
    /// [`Error::Shape`] for another number of rows than of values, [`Error::Index`] for a row beyond the table,
    /// [`Error::Parameter`] for rows that do not ascend.
    pub fn check(&self, op: &'static str) -> Result<()> {
        Self::check_rows(op, self.table_rows, &self.rows, &self.values)?;
        let Some(at) = self.rows.windows(2).position(|pair| pair[0] >= pair[1]) else { return Ok(()) };
        Err(Error::Parameter {
            op,
            name: "RowGrad::rows",
            value: format!("{} after {}", self.rows[at + 1], self.rows[at]),
            expected: "rows have to ascend without repetition; RowGrad::from_contributions sums what comes in any order"
                .to_owned(),
        })
    }

    fn check_rows(op: &'static str, table_rows: usize, rows: &[u32], values: &Array2<f32>) -> Result<()> {
        if values.nrows() != rows.len() {
            let expected =
                format!("[{}, dim] for the values of a row gradient, one for each of its rows", rows.len());
            return Err(Error::Shape { op, expected, got: values.shape().to_vec() });
        }
        match rows.iter().position(|&row| row as usize >= table_rows) {
            Some(position) => {
                Err(Error::Index { op, position, index: rows[position] as usize, rows: table_rows })
            }
            None => Ok(()),
        }
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
    ///
    /// # Errors
    /// What [`RowGrad::check`] says; none for a gradient that came from a tape.
    pub fn into_dense(self) -> Result<ArrayD<f32>> {
        match self {
            Self::Dense(g) => Ok(g),
            Self::Rows(g) => {
                g.check("Grad::into_dense")?;
                let mut dense = Array2::zeros((g.table_rows, g.values.ncols()));
                for (&row, value) in g.rows.iter().zip(g.values.rows()) {
                    dense.row_mut(row as usize).assign(&value);
                }
                Ok(dense.into_dyn())
            }
        }
    }

    /// The sum of two checked gradients of one value; the freed buffer goes to `pool`.
    pub(super) fn add(self, other: Grad, pool: &Pool) -> Result<Grad> {
        Ok(match (self, other) {
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
                Grad::Rows(RowGrad::from_contributions(a.table_rows, &rows, &values)?)
            }
        })
    }
}

/// The gradients of a tape's leaves. They outlive the tape, and may be sent to another thread.
#[derive(Debug)]
pub struct Grads {
    /// The tape's number.
    tape: u64,
    by_node: Vec<Option<Grad>>,
}

impl Grads {
    pub(super) fn new(tape: u64, by_node: Vec<Option<Grad>>) -> Self {
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

    fn slot(&self, var: Var<'_>) -> Option<usize> {
        (self.tape == var.tape().id).then(|| var.index())
    }
}
