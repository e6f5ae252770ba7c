//! Built-in data: handwritten-like glyphs, a pure function of (seed, class, sample).
//!
//! A class is a random skeleton of two to four curved strokes. A sample moves the strokes' control points, warps
//! the plane (rotation, shear, scale, shift), chooses a pen width, and draws with soft edges. The amounts were
//! chosen by looking at the drawings and at raw pixels alone (which find the right class for about a third of the
//! drawings of unseen classes), never by how a loss does: they make it a problem that pixels do not solve, as real
//! handwriting (Omniglot) is one.

use ndarray::{Array4, Axis};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use super::{Dataset, Items, Places, Split};

const SIDE: usize = 28;
/// Points that a stroke is drawn through.
const STEPS: usize = 24;

/// Drawings of one part at most: 3.3 GB.
const MOST: usize = 1 << 22;

/// The size of the built-in data. Of a part's drawings there are at most 4,194,304: of more, the last classes are left
/// out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Glyphs {
    /// Classes to train on. Default 100.
    pub train_classes: usize,
    /// Drawings of each training class. Default 24.
    pub train_items: usize,
    /// Classes to measure on, none of them trained on. Default 50.
    pub test_classes: usize,
    /// Drawings of each. Default 20.
    pub test_items: usize,
    /// Seed of the alphabet and the drawings.
    pub seed: u64,
}

impl Default for Glyphs {
    fn default() -> Self {
        Self { train_classes: 100, train_items: 24, test_classes: 50, test_items: 20, seed: 0 }
    }
}

impl Glyphs {
    /// Draws the data: the classes after the training ones are the queries, among themselves.
    pub fn split(&self) -> Split {
        Split {
            train: self.part(0, self.train_classes, self.train_items),
            queries: self.part(self.train_classes, self.test_classes, self.test_items),
            gallery: None,
        }
    }

    fn part(&self, first: usize, classes: usize, items: usize) -> Dataset {
        let (classes, items) = kept(classes, items);
        let mut images = Array4::zeros((classes * items, 1, SIDE, SIDE));
        images.axis_iter_mut(Axis(0)).into_par_iter().enumerate().for_each(|(row, mut image)| {
            let (class, sample) = (first.wrapping_add(row / items), row % items);
            let pixels = draw(self.seed, class as u64, sample as u64);
            image.iter_mut().zip(pixels).for_each(|(to, v)| *to = v);
        });
        Dataset {
            items: Items::Images(images),
            labels: (0..classes * items).map(|row| (row / items) as u32).collect(),
            classes: (0..classes).map(|class| format!("glyph {}", first.wrapping_add(class))).collect(),
            places: Places::default(),
        }
    }
}

/// Classes and items of a part, at most [`MOST`] together.
fn kept(classes: usize, items: usize) -> (usize, usize) {
    let items = items.min(MOST);
    (classes.min(MOST / items.max(1)), items)
}

type Point = [f32; 2];

fn stream(seed: u64, class: u64, sample: u64) -> ChaCha8Rng {
    let mut key = [0u8; 32];
    for (part, value) in key.chunks_mut(8).zip([seed, class, sample, 0x676c_7970_6873]) {
        part.copy_from_slice(&value.to_le_bytes());
    }
    ChaCha8Rng::from_seed(key)
}

fn within(random: &mut ChaCha8Rng, reach: f32) -> f32 {
    (random.random::<f32>() * 2.0 - 1.0) * reach
}

/// Control points of the class's strokes, in the square from -1 to 1.
fn skeleton(seed: u64, class: u64) -> Vec<[Point; 4]> {
    let mut random = stream(seed, class, u64::MAX);
    let strokes = 2 + (random.random::<u32>() % 3) as usize;
    let mut last = [within(&mut random, 0.8), within(&mut random, 0.8)];
    (0..strokes)
        .map(|_| {
            // Half of the strokes go on where the last one ended.
            let start = if random.random::<bool>() {
                last
            } else {
                [within(&mut random, 0.8), within(&mut random, 0.8)]
            };
            let mut end = start;
            // A stroke that goes nowhere is drawn anew.
            while (end[0] - start[0]).powi(2) + (end[1] - start[1]).powi(2) < 0.6 {
                end = [within(&mut random, 0.85), within(&mut random, 0.85)];
            }
            let bend = 0.7;
            let between = |t: f32, random: &mut ChaCha8Rng| {
                [0, 1].map(|axis| start[axis] + t * (end[axis] - start[axis]) + within(random, bend))
            };
            let (a, b) = (between(0.33, &mut random), between(0.67, &mut random));
            last = end;
            [start, a, b, end]
        })
        .collect()
}

fn draw(seed: u64, class: u64, sample: u64) -> Vec<u8> {
    let mut random = stream(seed, class, sample);
    // The warp: scale and shear on both axes, a turn, a shift.
    let turn = within(&mut random, 0.45);
    let scale = [1.0 + within(&mut random, 0.30), 1.0 + within(&mut random, 0.30)];
    let shear = within(&mut random, 0.40);
    let shift = [within(&mut random, 0.30), within(&mut random, 0.30)];
    // Sine and cosine by their series: the same bits on every machine.
    let (sine, cosine) =
        (turn - turn * turn * turn / 6.0, 1.0 - turn * turn / 2.0 + turn * turn * turn * turn / 24.0);
    let pen = 0.45 + random.random::<f32>() * 0.6;
    let ink = 0.75 + random.random::<f32>() * 0.25;
    let mut points: Vec<Vec<Point>> = Vec::new();
    for stroke in skeleton(seed, class) {
        let moved = stroke.map(|p| p.map(|v| v + within(&mut random, 0.20)));
        let line = (0..=STEPS).map(|step| {
            let t = step as f32 / STEPS as f32;
            let u = 1.0 - t;
            let weights = [u * u * u, 3.0 * u * u * t, 3.0 * u * t * t, t * t * t];
            let [x, y] = [0, 1].map(|axis| moved.iter().zip(weights).map(|(p, w)| p[axis] * w).sum::<f32>());
            let (x, y) = ((x + shear * y) * scale[0], y * scale[1]);
            let (x, y) = (cosine * x - sine * y + shift[0], sine * x + cosine * y + shift[1]);
            [x, y].map(|v| (v * 0.72 + 1.0) * 0.5 * (SIDE - 1) as f32)
        });
        points.push(line.collect());
    }
    let mut pixels = Vec::with_capacity(SIDE * SIDE);
    for y in 0..SIDE {
        for x in 0..SIDE {
            let here = [x as f32, y as f32];
            let nearest = points
                .iter()
                .flat_map(|line| line.windows(2))
                .map(|pair| to_segment(here, pair[0], pair[1]))
                .fold(f32::INFINITY, f32::min);
            // Full ink inside the pen, fading over one pixel.
            let cover = (pen + 0.5 - nearest.sqrt()).clamp(0.0, 1.0) * ink;
            let noise = within(&mut random, 0.04);
            pixels.push(((cover + noise).clamp(0.0, 1.0) * 255.0) as u8);
        }
    }
    pixels
}

/// Squared distance from a point to a segment.
fn to_segment(p: Point, a: Point, b: Point) -> f32 {
    let (dx, dy) = (b[0] - a[0], b[1] - a[1]);
    let length = dx * dx + dy * dy;
    let t =
        if length > 0.0 { (((p[0] - a[0]) * dx + (p[1] - a[1]) * dy) / length).clamp(0.0, 1.0) } else { 0.0 };
    let (ex, ey) = (p[0] - a[0] - t * dx, p[1] - a[1] - t * dy);
    ex * ex + ey * ey
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_has_an_end() {
        for (asked, expected) in [
            ((100, 24), (100, 24)),
            ((usize::MAX, 24), (MOST / 24, 24)),
            ((3, usize::MAX), (1, MOST)),
            ((2, 0), (2, 0)),
        ] {
            assert_eq!(kept(asked.0, asked.1), expected);
        }
    }

    #[test]
    fn drawings_depend_on_nothing_but_their_place() {
        let small = Glyphs { train_classes: 3, train_items: 2, test_classes: 2, test_items: 2, seed: 5 };
        let split = small.split();
        let again = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap().install(|| small.split());
        assert_eq!(split, again);
        assert_ne!(split, Glyphs { seed: 6, ..small }.split());
        // The queries' classes go on after the training ones.
        let larger = Glyphs { train_classes: 5, test_classes: 0, ..small }.split();
        let Items::Images(queries) = &split.queries.items else { panic!("images") };
        assert_eq!(larger.train.items.select(&[6, 7, 8, 9]), Items::Images(queries.clone()));
        assert_eq!(split.queries.classes, ["glyph 3", "glyph 4"]);
    }

    #[test]
    fn every_drawing_has_ink_and_paper() {
        let Items::Images(images) = Glyphs::default().split().queries.items else { panic!("images") };
        let (mut least, mut most) = (f32::INFINITY, 0.0f32);
        for image in images.axis_iter(Axis(0)) {
            // Ink above the noise, in full pixels: thin pens cover many pixels faintly.
            let ink = image.iter().filter(|&&v| v > 20).map(|&v| f32::from(v)).sum::<f32>() / 255.0;
            least = least.min(ink);
            most = most.max(ink);
        }
        // A stroke of a few pixels at the least; at the most a third of the paper.
        assert!(least > 12.0 && most < 260.0, "{least} to {most} pixels of ink");
    }
}
