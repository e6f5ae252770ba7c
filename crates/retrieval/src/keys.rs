//! A score and an index as one number.

/// Larger is a higher score, then a lower index.
#[inline(always)]
pub(crate) fn key(score: f32, index: u32) -> u64 {
    // Adding zero turns -0 into 0. Flipping the other bits of negative numbers makes the bit patterns ascend.
    let bits = (score + 0.0).to_bits();
    let ordered = if bits >> 31 == 1 { !bits } else { bits | 1 << 31 };
    u64::from(ordered) << 32 | u64::from(!index)
}

/// The score and the index of a [`key`].
#[inline(always)]
pub(crate) fn unkey(key: u64) -> (f32, u32) {
    let ordered = (key >> 32) as u32;
    let bits = if ordered >> 31 == 1 { ordered & !(1 << 31) } else { !ordered };
    (f32::from_bits(bits), !(key as u32))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_order_by_score_and_then_by_lower_index() {
        let scores = [f32::MIN, -2.5, -1e-40, 0.0, 1e-40, 0.5, f32::MAX];
        for pair in scores.windows(2) {
            assert!(key(pair[0], 0) < key(pair[1], 9));
            assert_eq!(unkey(key(pair[0], 7)), (pair[0], 7));
        }
        assert!(key(0.5, 3) > key(0.5, 4));
        assert_eq!(key(-0.0, 3), key(0.0, 3));
    }
}
