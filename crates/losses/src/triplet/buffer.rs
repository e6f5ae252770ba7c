//! Scratch that returns itself.

use std::ops::{Deref, DerefMut};

use embedtune_core::Pool;

/// Floats of a cache line: vectors that straddle two lines load at half the speed.
const LINE: usize = 16;

/// A buffer on loan from a pool, given back when dropped (on errors too). It starts at a cache line.
pub(crate) struct Buffer {
    pool: Pool,
    data: Vec<f32>,
    start: usize,
}

impl Buffer {
    /// `len` values of unspecified contents.
    pub(crate) fn take(pool: &Pool, len: usize) -> Self {
        let data = pool.take(len + LINE);
        let start = data.as_ptr().align_offset(LINE * size_of::<f32>()).min(LINE);
        Self { pool: pool.clone(), data, start }
    }

    /// `len` zeros.
    pub(crate) fn zeros(pool: &Pool, len: usize) -> Self {
        let mut buffer = Self::take(pool, len);
        buffer.fill(0.0);
        buffer
    }

    /// Bytes of a buffer of `len` values; saturates.
    pub(crate) fn bytes(len: usize) -> usize {
        size_of::<f32>().saturating_mul(len.saturating_add(LINE))
    }
}

impl Deref for Buffer {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        &self.data[self.start..self.data.len() - (LINE - self.start)]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        let end = self.data.len() - (LINE - self.start);
        &mut self.data[self.start..end]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.pool.give(std::mem::take(&mut self.data));
    }
}
