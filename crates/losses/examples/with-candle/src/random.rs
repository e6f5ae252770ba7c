//! Weights to start from, the same in every run: candle's random numbers have no seed on the CPU.

use candle_core::{Device, Result, Tensor};

/// Values from `-half_width` to `half_width` (splitmix64: Steele, Lea and Flood 2014).
pub fn uniform(shape: &[usize], half_width: f64, seed: u64) -> Result<Tensor> {
    let mut state = seed << 32;
    let values: Vec<f32> = (0..shape.iter().product())
        .map(|_| {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            let unit = ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64;
            ((2.0 * unit - 1.0) * half_width) as f32
        })
        .collect();
    Tensor::from_vec(values, shape, &Device::Cpu)
}
