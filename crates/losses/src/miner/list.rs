//! Explicit triplets, for callers who want to see them.

use embedtune_core::Pool;

use super::Miner;
use crate::triplet::parts::{Frame, Groups, Mining, Rows, distances, hardest_triplets};
use crate::{Error, GradsMut, Input, Result};

/// Triplets of row indices, ordered by anchor, then positive, then negative.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Triplets {
    /// Rows of the batch.
    pub anchors: Vec<u32>,
    /// Rows of the reference, or of the batch where there is none.
    pub positives: Vec<u32>,
    /// As `positives`.
    pub negatives: Vec<u32>,
}

impl Triplets {
    /// Number of triplets.
    pub fn len(&self) -> usize {
        self.anchors.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.anchors.is_empty()
    }

    fn reserve(&mut self, more: usize) -> Result<()> {
        let lists = [&mut self.anchors, &mut self.positives, &mut self.negatives];
        for list in lists {
            list.try_reserve(more).map_err(|_| Error::Option {
                option: "miner",
                value: format!("{} triplets and more", list.len()),
                reason:
                    "the list does not fit the memory; mine a smaller batch, or use TripletMargin, which \
                         needs no list"
                        .into(),
            })?;
        }
        Ok(())
    }
}

/// The triplets that `miner` keeps of this batch (and reference, if any), by the rules of the loss with that miner.
///
/// A list takes 12 bytes a triplet, and a batch of 4,096 with 16 of a class has 251 million:
/// [`TripletMargin`](crate::TripletMargin) with the same miner makes none. Weights are ignored.
///
/// # Errors
/// As [`Loss::forward_backward`](crate::Loss::forward_backward); [`Error::Option`] for a list that does not fit the
/// memory and for a margin out of range.
pub fn mine(miner: &Miner, input: Input<'_>) -> Result<Triplets> {
    miner.check()?;
    crate::triplet::parts::check(&input, &GradsMut::default())?;
    let pool = Pool::new();
    let groups = Groups::new(&input);
    let reference = input.reference.map(|r| (r.embeddings, groups.reference()));
    let rows = Rows::new(Frame::CentredUnit, (input.embeddings, &groups.batch), reference, &pool);
    let mut triplets = Triplets::default();
    let positions = groups.batch_positions();
    let others = groups.reference();
    if *miner == Miner::BatchHard {
        let hardest = hardest_triplets(&groups, &rows, &pool);
        for (anchor, &position) in (0u32..).zip(&positions) {
            if let Some((positive, negative)) = hardest[position as usize] {
                triplets.reserve(1)?;
                triplets.anchors.push(anchor);
                triplets.positives.push(others[positive]);
                triplets.negatives.push(others[negative]);
            }
        }
        return Ok(triplets);
    }
    let mining = Mining::of(miner);
    let mut negatives: Vec<(u32, f32)> = Vec::new();
    for (row, &position) in (0u32..).zip(&positions) {
        let anchor = &groups.anchors[position as usize];
        let mut line = distances(&rows, position as usize, &pool);
        let near: Vec<(u32, f32)> = anchor.positives().map(|at| (others[at], line[at])).collect();
        anchor.mask(&mut line, others.len());
        negatives.clear();
        let candidates = others.iter().zip(line.iter()).filter(|(_, d)| **d < f32::MAX);
        negatives.extend(candidates.map(|(&row, &d)| (row, d)));
        negatives.sort_unstable_by_key(|&(row, _)| row);
        for (positive, d) in near {
            let (low, high) = mining.map_or((f32::NEG_INFINITY, f32::MAX), |m| m.interval(d));
            let kept = negatives.iter().filter(|(_, d)| *d >= low && *d < high);
            triplets.reserve(negatives.len())?;
            for &(negative, _) in kept {
                triplets.anchors.push(row);
                triplets.positives.push(positive);
                triplets.negatives.push(negative);
            }
        }
    }
    Ok(triplets)
}
