//! Buffers that outlive a training step.
//!
//! A step allocates the same buffers every time. Taking them from a [`Pool`] instead of the allocator saves the
//! page faults of fresh memory, which cost as much as the arithmetic of small layers.
//!
//! A pool takes back as many buffers of a length as it has lent. Whatever else is given to it (a gradient that an
//! operation allocated itself) returns to the allocator: otherwise a training loop that gives more than it takes
//! would grow by that much in every step.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// A cheaply cloned handle to a set of free `f32` buffers, keyed by length.
#[derive(Clone, Debug, Default)]
pub struct Pool {
    free: Arc<Mutex<Free>>,
}

#[derive(Debug, Default)]
struct Free {
    by_len: HashMap<usize, Shelf>,
    bytes: usize,
}

/// The buffers of one length.
#[derive(Debug, Default)]
struct Shelf {
    free: Vec<Vec<f32>>,
    /// How many are out.
    lent: usize,
}

impl Pool {
    /// An empty pool.
    pub fn new() -> Self {
        Self::default()
    }

    /// A buffer of `len` values with unspecified contents (whatever its last user left).
    pub fn take(&self, len: usize) -> Vec<f32> {
        let reused = {
            let mut free = self.lock();
            let shelf = free.by_len.entry(len).or_default();
            shelf.lent += 1;
            let hit = shelf.free.pop();
            if hit.is_some() {
                free.bytes -= len * size_of::<f32>();
            }
            hit
        };
        reused.unwrap_or_else(|| vec![0.0; len])
    }

    /// A buffer of `len` zeros.
    pub fn zeros(&self, len: usize) -> Vec<f32> {
        let mut buffer = self.take(len);
        buffer.fill(0.0);
        buffer
    }

    /// Gives a buffer back for the next step; freed if no buffer of its length is out.
    pub fn give(&self, buffer: Vec<f32>) {
        if buffer.is_empty() {
            return;
        }
        let mut free = self.lock();
        let bytes = buffer.len() * size_of::<f32>();
        let Some(shelf) = free.by_len.get_mut(&buffer.len()).filter(|shelf| shelf.lent > 0) else { return };
        shelf.lent -= 1;
        shelf.free.push(buffer);
        free.bytes += bytes;
    }

    /// Bytes that the free buffers hold.
    pub fn free_bytes(&self) -> usize {
        self.lock().bytes
    }

    /// The lengths of the free buffers in ascending order, one for each.
    pub fn free_lengths(&self) -> Vec<usize> {
        let free = self.lock();
        let shelves = free.by_len.iter();
        let mut lengths: Vec<usize> =
            shelves.flat_map(|(&len, shelf)| std::iter::repeat_n(len, shelf.free.len())).collect();
        lengths.sort_unstable();
        lengths
    }

    /// Returns the free buffers to the allocator.
    pub fn clear(&self) {
        *self.lock() = Free::default();
    }

    // A panic while the lock was held leaves at worst a buffer fewer: the data is still valid.
    fn lock(&self) -> std::sync::MutexGuard<'_, Free> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_given_buffer_is_taken_again() {
        let pool = Pool::new();
        let mut buffer = pool.take(8);
        buffer.fill(3.0);
        let address = buffer.as_ptr();
        pool.give(buffer);
        assert_eq!(pool.free_bytes(), 32);
        let again = pool.clone().zeros(8);
        assert_eq!(again.as_ptr(), address);
        assert_eq!(again, vec![0.0; 8]);
        assert_eq!(pool.free_bytes(), 0);
    }

    #[test]
    fn a_loop_that_gives_more_than_it_takes_does_not_grow() {
        let pool = Pool::new();
        for _ in 0..100 {
            let taken = pool.take(4);
            pool.give(vec![0.0; 4]);
            pool.give(taken);
            pool.give(vec![0.0; 5]);
        }
        assert_eq!(pool.free_bytes(), 16);
        assert_eq!(pool.free_lengths(), [4]);
    }
}
