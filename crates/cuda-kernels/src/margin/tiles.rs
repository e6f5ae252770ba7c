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

    /// With cuBLAS's products: a tile's logits and shares lie in memory, three halves stand for an f32 (see
    /// `buffers::Pieces`), and parts divide a tile evenly.
    pub(crate) fn cublas(batch: usize, dim: usize, classes: usize, options: &MarginOptions) -> Self {
        let (precision, subs) = (options.precision, options.sub_centers);
        let bytes = options.tile_bytes - Self::workspace(options);
        let padded = dim.next_multiple_of(STEP);
        let half = precision.parts() * size_of::<u16>();
        let all = classes.div_ceil(TILE);
        let fit = |per_class: usize| (bytes / (per_class * TILE)).clamp(1, MOST_CLASSES / TILE).min(all);
        let f32s = |count: usize| count * size_of::<f32>();
        let unit = size_of::<u16>() * precision.pieces() * padded + f32s(1) + f32s(batch);
        let forward = fit(subs * unit);
        let backward = fit(subs * (unit + half * batch + f32s(padded)));
        let blocks = batch.div_ceil(TILE) * padded.div_ceil(TILE);
        // The power of two at or below what fills a large GPU.
        let parts = 1usize << (BLOCKS / 2).div_ceil(blocks).clamp(1, 8).ilog2();
        Self { padded, forward: forward * TILE, splits: 1, backward: backward * TILE, parts, subs }
    }

    /// Bytes that cuBLAS gets for itself.
    pub(crate) fn workspace(options: &MarginOptions) -> usize {
        options.tile_bytes / 4
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
        for (batch, dim, classes) in
            [(1, 1, 1), (1024, 512, 100_000), (4096, 512, 1_000_000), (200, 100, 129)]
        {
            for (precision, sub_centers) in [(Precision::F32, 1), (Precision::F16, 3)] {
                let options = MarginOptions { precision, sub_centers, ..plain };
                let tiles = Tiles::cublas(batch, dim, classes, &options);
                assert!(tiles.forward < classes + TILE && tiles.backward < classes + TILE, "{tiles:?}");
                // Each part starts where cuBLAS's fast paths can load: at a multiple of 8 values.
                assert!((tiles.subs * TILE).is_multiple_of(8 * tiles.parts), "{tiles:?}");
                let half = 2 * precision.parts();
                let centre =
                    2 * precision.pieces() * tiles.padded + 4 + (4 + half) * batch + 4 * tiles.padded;
                let bytes = tiles.backward * sub_centers * centre + Tiles::workspace(&options);
                assert!(bytes <= 48 << 20, "{tiles:?}");
            }
        }
        let small = Tiles::new(4096, 4096, 1_000_000, &MarginOptions { tile_bytes: 1, ..plain });
        assert_eq!((small.forward, small.backward), (TILE, TILE));
    }
}
