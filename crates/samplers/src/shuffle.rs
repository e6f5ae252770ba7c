//! The pinned source of randomness.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

/// A stream for one epoch: seed and epoch fill separate parts of the key.
pub(crate) struct Stream(ChaCha8Rng);

impl Stream {
    pub(crate) fn new(seed: u64, epoch: u64) -> Self {
        let mut key = [0u8; 32];
        key[..8].copy_from_slice(&seed.to_le_bytes());
        key[8..16].copy_from_slice(&epoch.to_le_bytes());
        key[16..24].copy_from_slice(b"sampling");
        Self(ChaCha8Rng::from_seed(key))
    }

    /// A whole number below `bound` (at least 1) by Lemire's multiplication with rejection, unbiased.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        let bound = bound.max(1) as u64;
        let threshold = bound.wrapping_neg() % bound;
        loop {
            let product = u128::from(self.0.next_u64()) * u128::from(bound);
            if product as u64 >= threshold {
                return (product >> 64) as usize;
            }
        }
    }

    /// Fisher-Yates.
    pub(crate) fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }
}

/// Cards dealt in random order. Every card is dealt once before any is dealt again, and no hand holds one twice.
pub(crate) struct Deck {
    cards: Vec<usize>,
    next: usize,
}

impl Deck {
    pub(crate) fn new(cards: Vec<usize>) -> Self {
        Self { next: cards.len(), cards }
    }

    /// Deals a hand of `count` cards (all, if there are fewer).
    pub(crate) fn deal(&mut self, count: usize, random: &mut Stream, mut take: impl FnMut(usize)) {
        let len = self.cards.len();
        let count = count.min(len);
        let first = count.min(len - self.next);
        self.cards[self.next..self.next + first].iter().for_each(|&card| take(card));
        self.next += first;
        let rest = count - first;
        if rest > 0 {
            // The hand holds the last `first` cards: the new order may begin with any of the others.
            random.shuffle(&mut self.cards[..len - first]);
            self.cards[..rest].iter().for_each(|&card| take(card));
            random.shuffle(&mut self.cards[rest..]);
            self.next = rest;
        }
    }
}
