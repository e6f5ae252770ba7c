//! How many classes are done at a time. A function of the sizes alone, never of the device: bits depend on it.

use super::MarginOptions;

/// Rows and columns of a product's block.
pub(crate) const TILE: usize = 128;
/// Blocks that fill a large GPU twice over.
const BLOCKS: usize = 264;
/// Values of the shared dimension that a product takes at a time; operands end at a multiple.
const STEP: usize = 32;
const MOST_CLASSES: usize = 1 << 20;

/// Sizes of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tiles {
    /// `dim` up to the next multiple of [`STEP`].
    pub(crate) padded: usize,
    /// Classes of a forward tile, and the shares into which its sums are split.
    pub(crate) forward: usize,
    pub(crate) splits: usize,
    /// Classes of a backward tile, and the parts in which the embeddings' product is made.
    pub(crate) backward: usize,
    pub(crate) parts: usize,
    /// Centres of a class.
    pub(crate) subs: usize,
}

impl Tiles {
    pub(crate) fn new(batch: usize, dim: usize, classes: usize, options: &MarginOptions) -> Self {
        let (precision, bytes, subs) = (options.precision, options.tile_bytes, options.sub_centers);
        let padded = dim.next_multiple_of(STEP);
        let half = precision.parts() * size_of::<u16>();
        let rows = batch.div_ceil(TILE);
        let all = classes.div_ceil(TILE);
        // As many tiles of 128 as the bytes hold, at least one.
        let fit = |per_class: usize| (bytes / (per_class * TILE)).clamp(1, MOST_CLASSES / TILE).min(all);
        let splits = BLOCKS.div_ceil(rows).clamp(1, 64).min(all);
        let unit = subs * (half * padded + size_of::<f32>());
        let forward = fit(unit);
        let forward = if forward > splits { forward / splits * splits } else { forward };
        let backward = fit(unit + subs * (half * batch + size_of::<f32>() * padded));
        let blocks = rows * padded.div_ceil(TILE);
        let parts = (BLOCKS / 2).div_ceil(blocks).clamp(1, 8).min(backward);
        Self { padded, forward: forward * TILE, splits, backward: backward * TILE, parts, subs }
    }

    /// Centres that a part of a tile of `pitch` centres takes.
    pub(crate) fn share(&self, pitch: usize) -> usize {
        pitch.div_ceil(self.parts).next_multiple_of(STEP)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::margin::{Margin, Precision};

    #[test]
    fn tiles_hold_their_budget_and_cover_the_classes() {
        let plain = MarginOptions::new(Margin::Cos { cosine: 0.35 });
        for (batch, dim, classes) in [
            (1, 1, 1),
            (1024, 512, 100_000),
            (4096, 512, 1_000_000),
            (1024, 512, 10_000_000),
            (200, 100, 129),
        ] {
            for (precision, sub_centers) in
                [(Precision::F32, 1), (Precision::F16, 1), (Precision::F32, 3), (Precision::F16, 16)]
            {
                let options = MarginOptions { precision, sub_centers, ..plain };
                let tiles = Tiles::new(batch, dim, classes, &options);
                assert!(
                    tiles.forward.is_multiple_of(TILE) && tiles.backward.is_multiple_of(TILE),
                    "{tiles:?}"
                );
                assert!(tiles.forward < classes + TILE && tiles.backward < classes + TILE, "{tiles:?}");
                assert!(tiles.share(tiles.backward) * tiles.parts >= tiles.backward, "{tiles:?}");
                let half = 2 * precision.parts();
                let centre = half * (tiles.padded + batch) + 4 * tiles.padded + 4;
                let bytes = tiles.backward * sub_centers * centre;
                assert!(bytes <= 48 << 20, "{tiles:?}");
            }
        }
        let small = Tiles::new(4096, 4096, 1_000_000, &MarginOptions { tile_bytes: 1, ..plain });
        assert_eq!((small.forward, small.backward), (TILE, TILE));
    }
}
