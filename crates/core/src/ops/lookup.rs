//! Rows of a table, with a gradient for those rows alone.

use ndarray::{Array2, Ix2};

use super::{contiguous, shape_error};
use crate::{Error, Grad, Result, RowGrad, Var};

impl<'t> Var<'t> {
    /// Rows `ids` of this table: `[rows, dim] -> [ids.len(), dim]`.
    ///
    /// # Errors
    /// A table that is no matrix; an id past its end, with its position.
    pub fn embedding(self, ids: &[u32]) -> Result<Var<'t>> {
        let table = self.value();
        let shape = table.shape().to_vec();
        let table = table
            .into_dimensionality::<Ix2>()
            .map_err(|_| shape_error("embedding", "[rows, dim]", &shape))?;
        let rows = table.nrows();
        if let Some((position, &id)) = ids.iter().enumerate().find(|&(_, &id)| id as usize >= rows) {
            return Err(Error::Index { op: "embedding", position, index: id as usize, rows });
        }
        let mut out = Array2::zeros((ids.len(), table.ncols()));
        for (mut to, &id) in out.rows_mut().into_iter().zip(ids) {
            to.assign(&table.row(id as usize));
        }
        let ids = ids.to_vec();
        self.tape().record("embedding", [self], out.into_dyn(), move |g, _| {
            let got = g.shape().to_vec();
            let g = contiguous(g)
                .into_dimensionality::<Ix2>()
                .map_err(|_| shape_error("embedding", "[ids, dim]", &got))?;
            Ok([Some(Grad::Rows(RowGrad::from_contributions(rows, &ids, &g)?))])
        })
    }
}
