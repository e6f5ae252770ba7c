//! Parallel loops whose result does not depend on the number of threads.
//!
//! Work is cut into blocks of a fixed size (never a size derived from the thread count), each block is computed
//! by one thread, and partial results are combined in block order.

use rayon::prelude::*;

/// Maps every block of `len` items (`block` items each, the last may be shorter) and folds the results in block
/// order. `map` receives the block's range.
pub fn map_reduce<T: Send>(
    len: usize,
    block: usize,
    map: impl Fn(std::ops::Range<usize>) -> T + Sync + Send,
    mut fold: impl FnMut(T),
) {
    let block = block.max(1);
    let parts: Vec<T> = (0..len.div_ceil(block))
        .into_par_iter()
        .map(|b| map(b * block..(b * block).saturating_add(block).min(len)))
        .collect();
    parts.into_iter().for_each(&mut fold);
}

/// Sum over blocks, in block order.
pub fn sum(len: usize, block: usize, map: impl Fn(std::ops::Range<usize>) -> f64 + Sync + Send) -> f64 {
    let mut total = 0.0;
    map_reduce(len, block, map, |part| total += part);
    total
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_at_the_end_of_usize_are_covered_once() {
        for (len, block) in
            [(usize::MAX, usize::MAX), (usize::MAX, usize::MAX / 2 + 1), (usize::MAX, 1 << 62), (7, 0)]
        {
            let mut end = 0;
            map_reduce(
                len,
                block,
                |range| range,
                |range| {
                    assert_eq!(range.start, end);
                    end = range.end;
                },
            );
            assert_eq!(end, len);
        }
    }
}
