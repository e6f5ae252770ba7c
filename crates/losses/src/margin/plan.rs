//! How one call cuts its classes: fixed by the sizes and the budget, never by the number of threads.

use std::ops::Range;

use super::MarginSoftmax;

/// Bytes of a tile's centres, their raw gradient and its logits together: what stays in a core's second-level cache.
const TILE_BYTES: usize = 1 << 20;
/// Groups that run in parallel, each with an embeddings' gradient of its own.
const GROUPS: Range<usize> = 16..64;
/// Bytes that those gradients may take together, where that leaves enough groups.
const GROUP_BYTES: usize = 24 << 20;

/// Classes are worked on in tiles, and consecutive tiles form a group, which is one task.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plan {
    /// Rows of the centres, all classes together.
    pub(super) rows: usize,
    /// Rows of a tile: whole classes.
    pub(super) tile: usize,
    /// Rows of a group: whole tiles.
    pub(super) group: usize,
    /// Whether all logits are kept between the passes.
    pub(super) keep: bool,
}

impl Plan {
    pub(super) fn new(loss: &MarginSoftmax, batch: usize) -> Self {
        let (rows, k, dim) = (loss.rows(), loss.options.sub_centers, loss.dim);
        let row_bytes = size_of::<f32>().saturating_mul(batch.saturating_add(dim.saturating_mul(2)));
        let tile = (TILE_BYTES / row_bytes.max(1)).clamp(64, 512).div_ceil(k) * k;
        let gradient = size_of::<f32>().saturating_mul(batch).saturating_mul(dim).max(1);
        let groups = (GROUP_BYTES / gradient).clamp(GROUPS.start, GROUPS.end);
        let group = rows.div_ceil(tile).div_ceil(groups) * tile;
        let logits = size_of::<f32>().saturating_mul(batch).saturating_mul(rows);
        Self { rows, tile, group, keep: logits <= loss.options.logits_budget_bytes }
    }

    pub(super) fn groups(&self) -> usize {
        self.rows.div_ceil(self.group)
    }

    /// Tiles of one group; the last group may have fewer.
    pub(super) fn tiles(&self) -> usize {
        self.group / self.tile
    }

    /// Bytes of scratch for a batch of this plan at most, on `threads` threads.
    pub(super) fn bytes(&self, batch: usize, dim: usize, threads: usize) -> usize {
        // In u128, saturating: sizes that no memory holds give the largest bound instead of a small wrong one.
        let [batch, dim, threads] = [batch, dim, threads].map(|n| n as u128);
        let (rows, tile, groups) = (self.rows as u128, self.tile as u128, self.groups() as u128);
        let tiles = rows.div_ceil(tile);
        let kept = if self.keep { batch.saturating_mul(rows.saturating_add(tiles)) } else { 0 };
        let matrices = batch.saturating_mul(dim).saturating_mul(2 + groups);
        // Logits where they are not kept, the raw gradient, and a copy of centres of extreme norm.
        let scratch = threads.min(groups).saturating_mul(tile).saturating_mul(batch + 2 * dim);
        let floats = kept.saturating_add(matrices).saturating_add(scratch).saturating_add(rows);
        // Beside the matrices a few numbers for each row of the batch, in every group.
        let numbers = batch.saturating_mul(256 + 16 * groups).saturating_add(tiles);
        let bytes = floats.saturating_mul(4).saturating_add(numbers);
        usize::try_from(bytes).unwrap_or(usize::MAX)
    }
}
