//! What tells classes apart: a colour and a shape.

/// Ten colours for categories: Petroff 2021, "Accessible Color Sequences for Data Visualization" (arXiv:2107.02270,
/// the sequence of ten), chosen there for a least distance under the common colour deficiencies and in lightness.
/// The order is ours: classes that share a shape differ in lightness too.
pub(crate) const COLOURS: [&str; 10] = [
    "#3f90da", "#bd1f01", "#ffa90e", "#832db6", "#a96b59", "#92dadd", "#94a4a2", "#e76300", "#b9ac70",
    "#717581",
];

/// The marker's shape says again what the colour says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    Circle,
    Square,
    Triangle,
    Diamond,
}

/// Class `index`'s colour.
pub(crate) fn colour(class: usize) -> &'static str {
    COLOURS[class % COLOURS.len()]
}

/// Class `index`'s shape: classes that share a colour differ in shape, and so do neighbours in the legend.
pub(crate) fn shape(class: usize) -> Shape {
    [Shape::Circle, Shape::Square, Shape::Triangle, Shape::Diamond][(class + class / COLOURS.len()) % 4]
}

/// A shape's corners around the origin for markers of half-width `size`, of equal area to the eye; a circle has none.
pub(crate) fn corners(shape: Shape, size: f64) -> Vec<[f64; 2]> {
    match shape {
        Shape::Circle => Vec::new(),
        Shape::Square => {
            let h = size * 0.88;
            vec![[-h, -h], [h, -h], [h, h], [-h, h]]
        }
        Shape::Triangle => vec![[0.0, -size * 1.3], [size * 1.2, size * 0.85], [-size * 1.2, size * 0.85]],
        Shape::Diamond => {
            let h = size * 1.25;
            vec![[0.0, -h], [h, 0.0], [0.0, h], [-h, 0.0]]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forty_classes_differ_in_colour_or_shape() {
        for a in 0..40 {
            for b in 0..a {
                assert!(colour(a) != colour(b) || shape(a) != shape(b), "{a} and {b}");
            }
        }
    }
}
