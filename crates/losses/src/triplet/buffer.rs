//! Scratch that returns itself.

use std::ops::{Deref, DerefMut};

use embedtune_core::Pool;

/// A buffer on loan from a pool, given back when dropped (on errors too).
pub(crate) struct Buffer {
    pool: Pool,
    data: Vec<f32>,
}

impl Buffer {
    /// `len` values of unspecified contents.
    pub(crate) fn take(pool: &Pool, len: usize) -> Self {
        Self { pool: pool.clone(), data: pool.take(len) }
    }

    /// `len` zeros.
    pub(crate) fn zeros(pool: &Pool, len: usize) -> Self {
        Self { pool: pool.clone(), data: pool.zeros(len) }
    }
}

impl Deref for Buffer {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        &self.data
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.data
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.pool.give(std::mem::take(&mut self.data));
    }
}
