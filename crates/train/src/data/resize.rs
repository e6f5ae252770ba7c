//! Images in another size.

use super::decode::Pixels;

/// The pixels of one line that make one pixel of the new one, and their weights, whose sum is 1.
struct Taps {
    first: usize,
    weights: Vec<f32>,
}

/// For each of `to` pixels: a triangle around its centre, as wide as the pixels that it stands for or, where the image
/// grows, as its two neighbours (linear interpolation).
fn taps(from: usize, to: usize) -> Vec<Taps> {
    let ratio = from as f64 / to as f64;
    let reach = ratio.max(1.0);
    (0..to)
        .map(|pixel| {
            let centre = (pixel as f64 + 0.5) * ratio;
            let first = (centre - reach).floor().max(0.0) as usize;
            let end = ((centre + reach).ceil() as usize).clamp(first + 1, from);
            let first = first.min(end - 1);
            let weight = |at: usize| (1.0 - ((at as f64 + 0.5 - centre) / reach).abs()).max(0.0);
            let sum: f64 = (first..end).map(weight).sum();
            Taps { first, weights: (first..end).map(|at| (weight(at) / sum) as f32).collect() }
        })
        .collect()
}

/// `pixels` in `width` x `height`, its proportions changed if need be. Sizes are above 0.
pub(super) fn resize(pixels: Pixels, width: usize, height: usize) -> Pixels {
    if (pixels.width, pixels.height) == (width, height) {
        return pixels;
    }
    let channels = pixels.channels;
    let row = width * channels;
    // First each line, then the columns of the shorter lines: a line is in the cache while it is read.
    let across = taps(pixels.width, width);
    let mut lines = vec![0.0f32; pixels.height * row];
    for (line, to) in pixels.bytes.chunks_exact(pixels.width * channels).zip(lines.chunks_exact_mut(row)) {
        for (taps, to) in across.iter().zip(to.chunks_exact_mut(channels)) {
            let own = line[taps.first * channels..].chunks_exact(channels);
            for (pixel, weight) in own.zip(&taps.weights) {
                to.iter_mut().zip(pixel).for_each(|(to, &v)| *to += weight * f32::from(v));
            }
        }
    }
    let mut bytes = Vec::with_capacity(height * row);
    let mut sums = vec![0.0f32; row];
    for taps in taps(pixels.height, height) {
        sums.fill(0.0);
        for (line, weight) in lines[taps.first * row..].chunks_exact(row).zip(&taps.weights) {
            sums.iter_mut().zip(line).for_each(|(sum, v)| *sum += weight * v);
        }
        bytes.extend(sums.iter().map(|sum| sum.round() as u8));
    }
    Pixels { width, height, channels, bytes }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grey(width: usize, height: usize, bytes: Vec<u8>) -> Pixels {
        Pixels { width, height, channels: 1, bytes }
    }

    #[test]
    fn what_is_even_stays_even_and_means_are_kept() {
        for (width, height) in [(1, 1), (3, 7), (40, 2), (64, 64)] {
            let even = resize(grey(9, 5, vec![77; 45]), width, height);
            assert_eq!(even.bytes, vec![77; width * height]);
        }
        let ramp: Vec<u8> = (0..64).map(|i| (i % 8 * 30) as u8).collect();
        assert_eq!(resize(grey(8, 8, ramp.clone()), 8, 8).bytes, ramp);
        // Halves of a ramp are symmetric around its middle, 105.
        let half = resize(grey(8, 8, ramp), 2, 1).bytes;
        assert_eq!(u32::from(half[0]) + u32::from(half[1]), 210);
    }

    #[test]
    fn a_triangle_weighs_the_neighbours() {
        // Centres of 2 of 4 pixels: 1 and 3, reach 2: weights of 0..3 are 1.5/2, 1.5/2, 0.5/2 before their sum is made 1.
        let line = resize(grey(4, 1, vec![0, 0, 140, 0]), 2, 1).bytes;
        assert_eq!(line, [20, 60]);
        // Growing is linear: a quarter and three quarters of the way.
        assert_eq!(resize(grey(2, 1, vec![0, 100]), 4, 1).bytes, [0, 25, 75, 100]);
    }

    #[test]
    fn channels_stay_apart() {
        let two = Pixels { width: 2, height: 1, channels: 3, bytes: vec![10, 20, 30, 30, 40, 50] };
        assert_eq!(resize(two, 1, 3).bytes, [20, 30, 40, 20, 30, 40, 20, 30, 40]);
    }
}
