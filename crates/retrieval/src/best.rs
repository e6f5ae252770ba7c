//! The best of a stream of scores.

use crate::keys::{key, unkey};
use crate::product::{Scores, above};

/// The best `k` of a stream of scores.
///
/// Scores above the bound go to a reservoir of twice the size; when it is full a selection keeps the best `k` and
/// raises the bound to the worst of these. That is a few operations for each score that passes, and scores that do
/// not pass, nearly all, cost one vector comparison for many.
pub(crate) struct Best {
    k: usize,
    keys: Vec<u64>,
}

/// Scores that a reservoir holds at least: selecting among fewer is not worth its calls.
const LEAST: usize = 32;

impl Best {
    pub(crate) fn new(k: usize) -> Self {
        Self { k, keys: Vec::with_capacity(Self::capacity(k)) }
    }

    /// Keys that one holds at most.
    pub(crate) fn capacity(k: usize) -> usize {
        (2 * k).max(LEAST)
    }

    /// Considers the scores of items `first`, `first + 1`, ..., `count` of them, except `own`; raises the bound.
    ///
    /// Ties with the bound are not taken, so items must come in ascending order, or the bound be below all of one's
    /// equals.
    #[inline(always)]
    pub(crate) fn offer(&mut self, scores: &Scores, count: usize, first: u32, own: u32, bound: &mut f32) {
        let mut mask = above(scores, *bound);
        if count < scores.len() {
            mask &= (1 << count) - 1;
        }
        while mask != 0 {
            let i = mask.trailing_zeros();
            mask &= mask - 1;
            let (score, index) = (scores[i as usize], first + i);
            // The bound may have risen since the mask was made.
            if score > *bound && index != own {
                self.push(key(score, index), bound);
            }
        }
    }

    #[inline(always)]
    fn push(&mut self, key: u64, bound: &mut f32) {
        self.keys.push(key);
        if self.keys.len() == Self::capacity(self.k) {
            *bound = self.shrink();
        }
    }

    /// Takes another's best.
    pub(crate) fn merge(&mut self, other: &Self, bound: &mut f32) {
        for &key in &other.keys {
            self.push(key, bound);
        }
    }

    /// Keeps the best `k`; the score of the worst, if there are as many.
    #[inline(never)]
    fn shrink(&mut self) -> f32 {
        if self.keys.len() < self.k {
            return f32::NEG_INFINITY;
        }
        let (_, &mut worst, _) = self.keys.select_nth_unstable_by(self.k - 1, |a, b| b.cmp(a));
        self.keys.truncate(self.k);
        unkey(worst).0
    }

    /// The best, best first.
    pub(crate) fn finish(&mut self) -> &[u64] {
        if self.keys.len() > self.k {
            self.shrink();
        }
        self.keys.sort_unstable_by(|a, b| b.cmp(a));
        &self.keys
    }
}
