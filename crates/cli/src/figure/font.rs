//! The typeface of the pictures: Inter, as committed under `assets/fonts`.

use tiny_skia::PathBuilder;
use ttf_parser::{Face, OutlineBuilder};

use crate::columns::width;

static REGULAR: &[u8] = include_bytes!("../../assets/fonts/Inter-Regular.otf");
static BOLD: &[u8] = include_bytes!("../../assets/fonts/Inter-SemiBold.otf");

/// One weight of the typeface.
pub(super) struct Font {
    /// `None` never: the tests read both files.
    face: Option<Face<'static>>,
}

impl Font {
    pub(super) fn new(bold: bool) -> Self {
        Self { face: Face::parse(if bold { BOLD } else { REGULAR }, 0).ok() }
    }

    /// Width of `text` at `size` pixels to the em. A character that the typeface lacks is as wide as others have it.
    pub(super) fn width(&self, text: &str, size: f64) -> f64 {
        text.chars().map(|c| self.advance(c)).sum::<f64>() * size
    }

    /// `text` cut to `most` pixels, with an ellipsis where something is missing.
    pub(super) fn fitted(&self, text: &str, size: f64, most: f64) -> String {
        if self.width(text, size) <= most {
            return text.to_owned();
        }
        let mut left = most - self.width("…", size);
        let kept = text.chars().take_while(|&c| {
            left -= self.advance(c) * size;
            left >= 0.0
        });
        kept.chain(['…']).collect()
    }

    /// The outlines of `text` with its baseline starting at `(x, y)`.
    pub(super) fn outline(&self, text: &str, size: f64, x: f64, y: f64) -> Option<tiny_skia::Path> {
        let face = self.face.as_ref()?;
        let scale = size / f64::from(face.units_per_em());
        let mut pen = Pen { path: PathBuilder::new(), x, y, scale };
        for c in text.chars() {
            let advance = self.advance(c) * size;
            match face.glyph_index(c) {
                Some(glyph) => {
                    face.outline_glyph(glyph, &mut pen);
                }
                // Its own box would be empty: a name in another script must not vanish.
                None if c.is_whitespace() || advance == 0.0 => {}
                None => pen.frame(advance, size),
            }
            pen.x += advance;
        }
        pen.path.finish()
    }

    /// In ems.
    fn advance(&self, c: char) -> f64 {
        let Some(face) = &self.face else { return 0.0 };
        match face.glyph_index(c) {
            Some(glyph) => {
                f64::from(face.glyph_hor_advance(glyph).unwrap_or(0)) / f64::from(face.units_per_em())
            }
            // As other typefaces have it: marks stand on the letter before them, and pictures are wider than letters.
            None => match width(c.encode_utf8(&mut [0; 4])) {
                0 => 0.0,
                1 => 0.66,
                _ if c >= '\u{1f000}' => 1.3,
                _ => 1.0,
            },
        }
    }
}

/// Font units, y upwards, to pixels, y downwards.
struct Pen {
    path: PathBuilder,
    x: f64,
    y: f64,
    scale: f64,
}

impl Pen {
    fn at(&self, x: f32, y: f32) -> (f32, f32) {
        let (x, y) = (self.x + f64::from(x) * self.scale, self.y - f64::from(y) * self.scale);
        (x as f32, y as f32)
    }
}

impl Pen {
    /// A box in the place of a character: one way round outside, the other inside.
    fn frame(&mut self, advance: f64, size: f64) {
        let line = size * 0.06;
        let corner = |inset: f64| {
            let (left, right) = (self.x + advance * 0.12 + inset, self.x + advance * 0.88 - inset);
            let (low, high) = (self.y - inset, self.y - size * 0.72 + inset);
            [(left, low), (right, low), (right, high), (left, high)].map(|(x, y)| (x as f32, y as f32))
        };
        let (outside, mut inside) = (corner(0.0), corner(line));
        inside.reverse();
        for [first, rest @ ..] in [outside, inside] {
            self.path.move_to(first.0, first.1);
            rest.into_iter().for_each(|(x, y)| self.path.line_to(x, y));
            self.path.close();
        }
    }
}

impl OutlineBuilder for Pen {
    fn move_to(&mut self, x: f32, y: f32) {
        let (x, y) = self.at(x, y);
        self.path.move_to(x, y);
    }

    fn line_to(&mut self, x: f32, y: f32) {
        let (x, y) = self.at(x, y);
        self.path.line_to(x, y);
    }

    fn quad_to(&mut self, x1: f32, y1: f32, x: f32, y: f32) {
        let ((x1, y1), (x, y)) = (self.at(x1, y1), self.at(x, y));
        self.path.quad_to(x1, y1, x, y);
    }

    fn curve_to(&mut self, x1: f32, y1: f32, x2: f32, y2: f32, x: f32, y: f32) {
        let ((x1, y1), (x2, y2), (x, y)) = (self.at(x1, y1), self.at(x2, y2), self.at(x, y));
        self.path.cubic_to(x1, y1, x2, y2, x, y);
    }

    fn close(&mut self) {
        self.path.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_weights_hold_the_letters_of_class_names() {
        for bold in [false, true] {
            let face = Font::new(bold).face.expect("the committed file is a font");
            for c in "T-shirt/top 0123456789 Ünïcode ŁĂ Ωμ Ж … · × −".chars() {
                assert!(face.glyph_index(c).is_some(), "{c:?}");
            }
        }
    }

    #[test]
    fn text_is_cut_to_its_room() {
        let font = Font::new(false);
        let long = "x".repeat(10_000);
        let cut = font.fitted(&long, 13.0, 100.0);
        assert!(cut.ends_with('…') && font.width(&cut, 13.0) <= 100.0 && cut.chars().count() > 8, "{cut}");
        assert_eq!(font.fitted("Ankle boot", 13.0, 100.0), "Ankle boot");
        assert!(font.outline("Ankle boot", 13.0, 0.0, 20.0).unwrap().bounds().width() > 40.0);
        // Letters that the typeface lacks have the room that another's take.
        assert_eq!(font.width("長袖", 10.0), 20.0);
        assert_eq!(font.fitted("長袖のシャツ", 10.0, 45.0), "長袖の…");
        let boxes = font.outline("シャツ", 13.0, 0.0, 20.0).unwrap().bounds();
        assert!(
            boxes.width() > 15.0
                && f64::from(boxes.width()) < font.width("シャツ", 13.0)
                && boxes.height() > 8.0
        );
    }
}
