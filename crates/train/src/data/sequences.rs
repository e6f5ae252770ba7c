//! Sequences of token vectors with masks.

use ndarray::{Array2, Array3, Axis, Slice};

/// Token vectors `[items, tokens, dim]`, of which each item's first `lengths` count. (Pooling does not look at the order
/// of tokens, so a mask with gaps is stored with the gaps closed.)
#[derive(Debug, Clone, PartialEq)]
pub struct Sequences {
    values: Array3<f32>,
    lengths: Vec<usize>,
}

impl Sequences {
    /// From values and a flag for each token, row by row.
    ///
    /// # Errors
    /// In words: a mask of another length; an item that keeps no token; a kept value that is not finite.
    pub fn new(values: Array3<f32>, mask: &[bool]) -> Result<Self, String> {
        Self::from_block(0, values, mask)
    }

    /// As [`new`](Self::new), of items that are counted from `first` on.
    pub(super) fn from_block(first: usize, mut values: Array3<f32>, mask: &[bool]) -> Result<Self, String> {
        let (items, tokens, dim) = values.dim();
        if dim == 0 || tokens == 0 {
            return Err(format!(
                "its shape is [{items}, {tokens}, {dim}]; sequences need tokens and columns"
            ));
        }
        if mask.len() != items * tokens {
            return Err(format!("the mask has {} flags for {items} x {tokens} tokens", mask.len()));
        }
        let mut lengths = Vec::with_capacity(items);
        for (item, mut of_item) in values.outer_iter_mut().enumerate() {
            let mut kept = 0;
            for token in 0..tokens {
                if !mask[item * tokens + token] {
                    continue;
                }
                let row = of_item.row(token).to_owned();
                if let Some((column, value)) = row.iter().enumerate().find(|(_, v)| !v.is_finite()) {
                    let item = first + item;
                    return Err(format!(
                        "item {item}, token {token}, column {column} is {value}; tokens that the mask keeps must be \
                         finite: repair it or mask it"
                    ));
                }
                of_item.row_mut(kept).assign(&row);
                kept += 1;
            }
            if kept == 0 {
                let item = first + item;
                return Err(format!("item {item} keeps no token: its mask is all zero; leave the item out"));
            }
            // What is not kept holds nothing that could leak into a checksum or a result.
            of_item.slice_axis_mut(Axis(0), Slice::from(kept..)).fill(0.0);
            lengths.push(kept);
        }
        Ok(Self { values, lengths })
    }

    /// `[items, tokens, dim]`, zero behind each item's tokens.
    pub fn values(&self) -> &Array3<f32> {
        &self.values
    }

    /// Tokens of each item.
    pub fn lengths(&self) -> &[usize] {
        &self.lengths
    }

    /// Length of a token's vector.
    pub fn dim(&self) -> usize {
        self.values.len_of(Axis(2))
    }

    /// The items in `rows`, which must exist, in that order.
    #[must_use]
    pub fn select(&self, rows: &[usize]) -> Self {
        Self {
            values: self.values.select(Axis(0), rows),
            lengths: rows.iter().map(|&row| self.lengths[row]).collect(),
        }
    }

    /// The mean of each item's tokens, `[items, dim]`.
    pub fn averages(&self) -> Array2<f32> {
        let mut means = Array2::zeros((self.lengths.len(), self.dim()));
        for ((tokens, mut mean), &length) in self.values.outer_iter().zip(means.rows_mut()).zip(&self.lengths)
        {
            for token in tokens.rows().into_iter().take(length) {
                mean += &token;
            }
            mean /= length as f32;
        }
        means
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::arr2;

    #[test]
    fn gaps_are_closed_and_masked_values_are_not_looked_at() {
        let mut values = Array3::from_shape_fn((2, 3, 2), |(i, t, c)| (i * 100 + t * 10 + c) as f32);
        values[[0, 1, 0]] = f32::NAN;
        let mask = [true, false, true, true, false, false];
        let sequences = Sequences::new(values.clone(), &mask).unwrap();
        assert_eq!(sequences.lengths(), [2, 1]);
        assert_eq!(sequences.averages(), arr2(&[[10.0, 11.0], [100.0, 101.0]]));
        assert_eq!(sequences.select(&[1]).averages(), arr2(&[[100.0, 101.0]]));
        let all = [true; 6];
        assert!(
            Sequences::new(values.clone(), &all).unwrap_err().contains("item 0, token 1, column 0 is NaN")
        );
        let none = [true, false, true, false, false, false];
        assert!(Sequences::new(values.clone(), &none).unwrap_err().contains("item 1 keeps no token"));
        assert!(Sequences::new(values, &[true]).unwrap_err().contains("1 flags for 2 x 3 tokens"));
    }
}
