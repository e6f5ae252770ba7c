//! How many classes are done at a time. A function of the sizes alone, never of the device: bits depend on it.

use super::MarginOptions;
use super::buffers::TARGET_FIELDS;

/// Rows and columns of a product's block.
pub(crate) const TILE: usize = 128;
/// Blocks of a product that a large GPU has at a time: two on each of 132 multiprocessors.
const BLOCKS: usize = 264;
/// Sizes of tile that are looked at, from the largest down.
const CHOICES: usize = 64;
/// What the launches of a tile cost beside their work, in steps of a block.
const LAUNCHES: usize = 6;
/// Splits of the classes in the forward pass, each with a maximum and a sum of its own.
const MOST_SPLITS: usize = 64;
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
    /// With our own products: one size of tile forward and backward, of those that fit the one that keeps a large GPU
    /// busiest. Two tiles of unit rows take turns.
    pub(crate) fn new(batch: usize, dim: usize, classes: usize, options: &MarginOptions) -> Self {
        let subs = options.sub_centers;
        let padded = dim.next_multiple_of(STEP);
        let half = options.precision.parts() * size_of::<u16>();
        let (down, across, all) =
            (batch.div_ceil(TILE).max(1), padded.div_ceil(TILE), classes.div_ceil(TILE));
        let f32s = |count: usize| count * size_of::<f32>();
        // Bytes of 128 classes, and of a part of the embeddings' product.
        let of_tile = TILE * subs * (2 * (half * padded + f32s(1)) + half * batch + f32s(padded));
        let of_part = f32s(batch * padded);
        let budget = options.tile_bytes.saturating_sub(rows_bytes(batch, padded, [half, half]));
        let mut best = (f64::INFINITY, Self::of(1, 1, padded, subs, down, all));
        for parts in [1, 2, 4, 8, 16, 32] {
            // More parts than one only where they leave the tiles most of the memory.
            if parts > 1 && 4 * parts * of_part > options.tile_bytes {
                break;
            }
            let budget = budget.saturating_sub(parts * of_part).max(options.tile_bytes / 2);
            let most = (budget / of_tile).clamp(1, MOST_CLASSES / TILE).min(all);
            for tiles in most.saturating_sub(CHOICES).max(1)..=most {
                let shares = waves(down * tiles, padded * subs);
                // Of the embeddings' product and of the centres'.
                let long = (across * down * parts, (TILE * tiles * subs).div_ceil(parts));
                let gradients = waves_of_two(long, (across * tiles * subs, batch));
                let forward = tiles.div_ceil(splits(down, tiles)) * (padded * subs).div_ceil(STEP);
                let launches = all.div_ceil(tiles);
                let steps = launches * (shares + gradients + forward + LAUNCHES);
                // Fewer parts are fewer sums, larger tiles fewer launches.
                if (steps as f64) < best.0 * 0.999 {
                    best = (steps as f64, Self::of(tiles, parts, padded, subs, down, all));
                }
            }
        }
        best.1
    }

    fn of(tiles: usize, parts: usize, padded: usize, subs: usize, down: usize, all: usize) -> Self {
        let (tiles, splits) = (tiles.min(all), splits(down, tiles.min(all)));
        Self { padded, forward: tiles * TILE, splits, backward: tiles * TILE, parts, subs }
    }

    /// With cuBLAS's products: a tile's logits and shares lie in memory, three halves stand for an f32 (see
    /// `buffers::Pieces`), and parts divide a tile evenly.
    pub(crate) fn cublas(batch: usize, dim: usize, classes: usize, options: &MarginOptions) -> Self {
        let (precision, subs) = (options.precision, options.sub_centers);
        let padded = dim.next_multiple_of(STEP);
        let half = precision.parts() * size_of::<u16>();
        let pieces = size_of::<u16>() * precision.pieces();
        let blocks = batch.div_ceil(TILE).max(1) * padded.div_ceil(TILE);
        // The power of two at or below what fills a large GPU.
        let parts = 1usize << (BLOCKS / 2).div_ceil(blocks).clamp(1, 8).ilog2();
        let f32s = |count: usize| count * size_of::<f32>();
        let left = options.tile_bytes - Self::workspace(options);
        let bytes = left
            .saturating_sub(rows_bytes(batch, padded, [pieces, half]) + parts * f32s(batch * padded))
            .max(left / 2);
        let all = classes.div_ceil(TILE);
        let fit = |per_class: usize| (bytes / (per_class * TILE)).clamp(1, MOST_CLASSES / TILE).min(all);
        let unit = pieces * padded + f32s(1) + f32s(batch);
        let forward = fit(subs * unit);
        let backward = fit(subs * (unit + half * batch + f32s(padded)));
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

/// Splits of a tile among blocks, all of them with as many tiles of 128 classes but for the last.
fn splits(down: usize, tiles: usize) -> usize {
    let splits = (BLOCKS / down).clamp(1, MOST_SPLITS).min(tiles);
    tiles.div_ceil(tiles.div_ceil(splits))
}

/// Steps that a device takes for `blocks` of `shared` values of the shared dimension each.
fn waves(blocks: usize, shared: usize) -> usize {
    blocks.div_ceil(BLOCKS) * shared.div_ceil(STEP)
}

/// The same for two kinds of blocks (how many, and their values), the longer ones first.
fn waves_of_two(a: (usize, usize), b: (usize, usize)) -> usize {
    let ((long, most), (short, least)) = if a.1 >= b.1 { (a, b) } else { (b, a) };
    let (most, least) = (most.div_ceil(STEP), least.div_ceil(STEP).max(1));
    // Beside the last of the long ones there is room for some of the others.
    let beside = (long.div_ceil(BLOCKS) * BLOCKS - long) * (most / least);
    long.div_ceil(BLOCKS) * most + short.saturating_sub(beside).div_ceil(BLOCKS) * least
}

/// Bytes that the rows of a batch take: their factors in the products, of so many bytes a value, and what is known of each.
pub(super) fn rows_bytes(batch: usize, padded: usize, factors: [usize; 2]) -> usize {
    let splits = (BLOCKS / batch.div_ceil(TILE).max(1)).clamp(1, MOST_SPLITS);
    let known = 8 * TARGET_FIELDS + 4 * 5 + 8 * splits + 8;
    batch * ((factors[0] + factors[1]) * padded + known)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::margin::{Margin, Precision};

    #[test]
    fn tiles_hold_their_budget_and_cover_the_classes() {
        let plain = MarginOptions::new(Margin::Cos { cosine: 0.35 });
        for (batch, dim, classes) in [
            (0, 1, 1),
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
                assert!(tiles.forward.is_multiple_of(TILE) && tiles.forward == tiles.backward, "{tiles:?}");
                assert!(tiles.backward < classes + TILE, "{tiles:?}");
                assert!(tiles.share(tiles.backward) * tiles.parts >= tiles.backward, "{tiles:?}");
                let half = 2 * precision.parts();
                let centre = 2 * (half * tiles.padded + 4) + half * batch + 4 * tiles.padded;
                let rows = rows_bytes(batch, tiles.padded, [half, half]);
                let bytes =
                    tiles.backward * sub_centers * centre + rows + 4 * tiles.parts * batch * tiles.padded;
                let one = tiles.backward == TILE;
                assert!(bytes <= plain.tile_bytes || one, "{bytes} {batch} {dim} {classes} {tiles:?}");
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
                let rows = rows_bytes(batch, tiles.padded, [2 * precision.pieces(), half]);
                let (bytes, workspace) = (tiles.backward * sub_centers * centre, Tiles::workspace(&options));
                let all = bytes + rows + 4 * tiles.parts * batch * tiles.padded + workspace;
                let half = (plain.tile_bytes - workspace) / 2;
                assert!(all <= plain.tile_bytes || bytes <= half, "{all} {batch} {dim} {tiles:?}");
            }
        }
        let small = Tiles::new(4096, 4096, 1_000_000, &MarginOptions { tile_bytes: 1, ..plain });
        assert_eq!((small.forward, small.backward), (TILE, TILE));
    }

    #[test]
    fn tiles_fill_whole_waves_where_they_can() {
        let options =
            MarginOptions { precision: Precision::F16, ..MarginOptions::new(Margin::Cos { cosine: 0.35 }) };
        // (batch, dim, classes) and the share of the blocks' time that is work.
        for (sizes, least) in
            [((1024, 512, 100_000), 0.95), ((4096, 512, 1_000_000), 0.92), ((1024, 512, 10_000_000), 0.97)]
        {
            let (batch, dim, classes): (usize, usize, usize) = sizes;
            let tiles = Tiles::new(batch, dim, classes, &options);
            let (down, count) = (batch.div_ceil(TILE), tiles.backward / TILE);
            let steps = waves(down * count, dim)
                + waves_of_two(
                    (dim / TILE * down * tiles.parts, tiles.backward.div_ceil(tiles.parts)),
                    (dim / TILE * count, batch),
                )
                + count.div_ceil(tiles.splits) * dim / STEP;
            let took = steps * classes.div_ceil(tiles.backward) * BLOCKS;
            let work = 4 * down * classes.div_ceil(TILE) * dim / STEP;
            let share = work as f64 / took as f64;
            assert!(share > least && share <= 1.0, "{sizes:?}: {share}, {tiles:?}");
        }
    }
}
