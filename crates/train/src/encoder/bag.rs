//! Weighted sums of table rows: an embedding lookup fused with the average over tokens.

use embedtune_core::{Error, Grad, Result, RowGrad, Var};
use ndarray::{Array2, ArrayView2, Ix2};
use rayon::prelude::*;

/// Bags of weighted rows, bag after bag.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Bags {
    /// Rows of the table.
    pub(super) ids: Vec<u32>,
    /// The weight of each.
    pub(super) weights: Vec<f32>,
    /// Where each bag ends in `ids`; ascending, the last is `ids.len()`.
    pub(super) ends: Vec<usize>,
}

impl Bags {
    fn range(&self, bag: usize) -> std::ops::Range<usize> {
        let start = bag.checked_sub(1).map_or(0, |before| self.ends[before]);
        start..self.ends[bag]
    }

    /// Weights divided by the bag's number of tokens.
    pub(super) fn averaged(mut self) -> Self {
        for bag in 0..self.ends.len() {
            let range = self.range(bag);
            let count = range.len() as f32;
            self.weights[range].iter_mut().for_each(|weight| *weight /= count);
        }
        self
    }

    /// One bag for each of `longest` places of each bag: the bag's single tokens, then empty bags.
    pub(super) fn padded(self, longest: usize) -> Self {
        let mut ends = Vec::with_capacity(self.ends.len() * longest);
        for bag in 0..self.ends.len() {
            let range = self.range(bag);
            ends.extend((0..longest).map(|place| range.end.min(range.start + place + 1)));
        }
        Self { ends, ..self }
    }

    /// Tokens of each bag.
    pub(super) fn lengths(&self) -> Vec<usize> {
        (0..self.ends.len()).map(|bag| self.range(bag).len()).collect()
    }
}

/// `out[b] = sum of weights[i] * table[ids[i]]` over the bag's `i`: `[rows, dim] -> [bags, dim]`; an empty bag gives
/// zeros. The gradient holds the rows that occur and no others.
///
/// # Errors
/// A table that is no matrix; an id past its end.
pub(super) fn weighted_rows<'t>(table: Var<'t>, bags: Bags) -> Result<Var<'t>> {
    let value = table.value();
    let shape = value.shape().to_vec();
    let matrix = |expected: &str, got: &[usize]| Error::Shape {
        op: "weighted_rows",
        expected: expected.to_owned(),
        got: got.to_vec(),
    };
    let value = value.into_dimensionality::<Ix2>().map_err(|_| matrix("[rows, dim]", &shape))?;
    let (rows, dim) = value.dim();
    if let Some((position, &id)) = bags.ids.iter().enumerate().find(|&(_, &id)| id as usize >= rows) {
        return Err(Error::Index { op: "weighted_rows", position, index: id as usize, rows });
    }
    let mut out = Array2::zeros((bags.ends.len(), dim));
    // Each row of a result is summed by one thread in the order of the ids, so its bits do not depend on the threads.
    out.outer_iter_mut().into_par_iter().enumerate().for_each(|(bag, mut out)| {
        for i in bags.range(bag) {
            out.scaled_add(bags.weights[i], &value.row(bags.ids[i] as usize));
        }
    });
    table.tape().record("weighted_rows", [table], out.into_dyn(), move |g, _| {
        let got = g.shape().to_vec();
        let g = g.into_dimensionality::<Ix2>().map_err(|_| matrix("[bags, dim]", &got))?;
        Ok([Some(Grad::Rows(backward(&bags, g.view(), rows)))])
    })
}

fn backward(bags: &Bags, g: ArrayView2<'_, f32>, table_rows: usize) -> RowGrad {
    // (row, position, bag): sorted, the contributions to a row stand together and in order.
    let mut order: Vec<(u32, u32, u32)> = (0..bags.ends.len())
        .flat_map(|bag| bags.range(bag).map(move |i| (i, bag)))
        .map(|(i, bag)| (bags.ids[i], i as u32, bag as u32))
        .collect();
    order.par_sort_unstable();
    let runs: Vec<&[(u32, u32, u32)]> = order.chunk_by(|a, b| a.0 == b.0).collect();
    let mut values = Array2::zeros((runs.len(), g.ncols()));
    values.outer_iter_mut().into_par_iter().zip(&runs).for_each(|(mut sum, run)| {
        for &(_, i, bag) in *run {
            sum.scaled_add(bags.weights[i as usize], &g.row(bag as usize));
        }
    });
    RowGrad { table_rows, rows: runs.iter().map(|run| run[0].0).collect(), values }
}

#[cfg(test)]
mod tests {
    use embedtune_core::gradcheck::gradcheck;
    use embedtune_core::{Pool, Tape};
    use ndarray::{Array2, arr2};

    use super::*;

    fn bags() -> Bags {
        Bags { ids: vec![3, 1, 3, 0], weights: vec![0.5, 2.0, -1.0, 1.0], ends: vec![0, 3, 4] }
    }

    fn table(dim: usize) -> Array2<f32> {
        Array2::from_shape_fn((5, dim), |(i, j)| ((i * 3 + j) as f32 * 0.7).sin())
    }

    #[test]
    fn bags_are_summed_and_padded() {
        let tape = Tape::new(&Pool::new());
        let table = tape.leaf(arr2(&[[1.0f32], [10.0], [0.0], [100.0], [0.0]]).into_dyn());
        let sums =
            |bags: Bags| weighted_rows(table, bags).unwrap().value().iter().copied().collect::<Vec<_>>();
        assert_eq!(sums(bags()), [0.0, 50.0 + 20.0 - 100.0, 1.0]);
        assert_eq!(sums(bags().averaged()), [0.0, -10.0, 1.0]);
        assert_eq!(bags().lengths(), [0, 3, 1]);
        assert_eq!(sums(bags().padded(3)), [0.0, 0.0, 0.0, 50.0, 20.0, -100.0, 1.0, 0.0, 0.0]);
        let error =
            weighted_rows(table, Bags { ids: vec![5], weights: vec![1.0], ends: vec![1] }).unwrap_err();
        assert!(error.to_string().contains("index 5 at position 0"), "{error}");
    }

    #[test]
    fn gradients_match_differences_and_hold_the_rows_that_occur() {
        for make in [bags, || bags().padded(3)] {
            gradcheck(&[table(3).into_dyn()], 1e-2, |x| weighted_rows(x[0], make())).unwrap();
            let tape = Tape::new(&Pool::new());
            let leaf = tape.leaf(table(3).into_dyn());
            let grads = tape.backward(weighted_rows(leaf, make()).unwrap()).unwrap();
            let Some(Grad::Rows(rows)) = grads.get(leaf) else { panic!("a dense gradient") };
            assert_eq!((rows.table_rows, rows.rows.as_slice()), (5, [0, 1, 3].as_slice()));
        }
    }
}
