//! Items to vectors, in evaluation mode.

use embedtune_core::{Error as CoreError, Pool, Tape};
use ndarray::{Array2, ArrayViewMut2, Axis, Ix2};
use rayon::prelude::*;

use super::{Batch, Encoder, Mode};
use crate::data::Items;
use crate::{Error, Result};

/// Items that one task embeds: enough to fill the matrix products, few enough that feature maps stay in the cache and
/// that two tasks share a small batch.
const BLOCK: usize = 32;

impl Encoder {
    /// The vectors of the items in `rows`, `[rows, dim]`, not normalised. Blocks of fixed size are embedded in
    /// parallel, each with its own tape, so the memory is that of one block a thread and the bits do not depend on
    /// the number of threads.
    ///
    /// # Errors
    /// Items of another kind or shape than the encoder takes; a row past the end; of several errors the first row's.
    pub fn embed(&self, items: &Items, rows: &[usize]) -> Result<Array2<f32>> {
        self.embed_watched(items, rows, &mut |_| ())
    }

    /// [`embed`](Self::embed) that calls `done` with the number of items after every few of them.
    ///
    /// # Errors
    /// As [`embed`](Self::embed).
    pub fn embed_watched(
        &self,
        items: &Items,
        rows: &[usize],
        done: &mut dyn FnMut(usize),
    ) -> Result<Array2<f32>> {
        self.spec.input.accepts(items)?;
        let pool = Pool::new();
        let mut vectors = Array2::zeros((rows.len(), self.output_dim));
        // As many at a time as there are threads: one that waits inside a block for another's work takes up the next block
        // meanwhile, and its tape beside its own, which no forecast could bound.
        let together = BLOCK * rayon::current_num_threads();
        // The last block, where it is a smaller one, comes alone and behind the others: its buffers are of other lengths, and
        // those of the whole blocks would lie idle beside them.
        let whole = rows.len() - rows.len() % BLOCK;
        let (mut first, mut rest) = vectors.view_mut().split_at(Axis(0), whole);
        let to =
            first.axis_chunks_iter_mut(Axis(0), together).chain(rest.axis_chunks_iter_mut(Axis(0), BLOCK));
        let (whole, last) = rows.split_at(whole);
        for (rows, mut to) in whole.chunks(together).chain(last.chunks(BLOCK)).zip(to) {
            if rows.len() < BLOCK {
                pool.clear();
            }
            let blocks: Vec<_> = rows.chunks(BLOCK).zip(to.axis_chunks_iter_mut(Axis(0), BLOCK)).collect();
            let results: Vec<Result<()>> =
                blocks.into_par_iter().map(|(rows, to)| self.embed_block(items, rows, to, &pool)).collect();
            results.into_iter().collect::<Result<()>>()?;
            done(rows.len());
        }
        Ok(vectors)
    }

    fn embed_block(
        &self,
        items: &Items,
        rows: &[usize],
        mut to: ArrayViewMut2<'_, f32>,
        pool: &Pool,
    ) -> Result<()> {
        let tape = Tape::new(pool);
        let output = self.forward(&tape, &Batch::gather(items, rows)?, Mode::Eval)?.output.value();
        let got = output.shape().to_vec();
        let wrong = || {
            let expected = format!("{:?}: one vector for each item", to.shape());
            Error::Core(CoreError::Shape { op: "encoder", expected, got })
        };
        match output.view().into_dimensionality::<Ix2>() {
            Ok(output) if output.dim() == to.dim() => to.assign(&output),
            _ => return Err(wrong()),
        }
        Ok(())
    }
}
