//! A scene as PNG.

use embedtune_train::{Error, Result};
use tiny_skia::{Color, FillRule, Paint, PathBuilder, Pixmap, Rect, Stroke, Transform};

use super::font::Font;
use super::palette::{self, Shape};
use super::scene::{Element, PAPER, Scene};

/// Pixels to a unit of the scene: sharp on dense screens and in print.
const SCALE: f32 = 2.0;

/// # Errors
/// A scene too large for one picture.
pub(super) fn render(scene: &Scene) -> Result<Vec<u8>> {
    let pixels = |units: f64| (units * f64::from(SCALE)).ceil() as u32;
    let too_large =
        || Error::Unsuitable(format!("a picture of {} x {} is too large", scene.width, scene.height));
    let mut canvas = Pixmap::new(pixels(scene.width), pixels(scene.height)).ok_or_else(too_large)?;
    canvas.fill(colour(PAPER));
    let fonts = [Font::new(false), Font::new(true)];
    for element in &scene.elements {
        draw(&mut canvas, element, &fonts);
    }
    canvas.encode_png().map_err(|e| Error::Unsuitable(format!("figure.png: {e}")))
}

fn draw(canvas: &mut Pixmap, element: &Element, [regular, bold]: &[Font; 2]) {
    let (path, fill, stroke) = match element {
        Element::Rect { x, y, width, height, fill, stroke } => {
            let rect = Rect::from_xywh(*x as f32, *y as f32, *width as f32, *height as f32);
            (rect.map(PathBuilder::from_rect), *fill, stroke.map(|colour| (colour, 1.0)))
        }
        Element::Marker { x, y, size, class } => {
            (marker(*x, *y, *size, *class), palette::colour(*class), Some(("#ffffff", 0.6)))
        }
        Element::Text { x, y, size, bold: heavy, fill, text, .. } => {
            let font = if *heavy { bold } else { regular };
            (font.outline(text, *size, *x, *y), *fill, None)
        }
    };
    let Some(path) = path else { return };
    let scaled = Transform::from_scale(SCALE, SCALE);
    let paint = |hex: &str| {
        let mut paint = Paint::default();
        paint.set_color(colour(hex));
        paint
    };
    canvas.fill_path(&path, &paint(fill), FillRule::Winding, scaled, None);
    if let Some((hex, width)) = stroke {
        let stroke = Stroke { width, ..Stroke::default() };
        canvas.stroke_path(&path, &paint(hex), &stroke, scaled, None);
    }
}

fn marker(x: f64, y: f64, size: f64, class: usize) -> Option<tiny_skia::Path> {
    let shape = palette::shape(class);
    if shape == Shape::Circle {
        return PathBuilder::from_circle(x as f32, y as f32, size as f32);
    }
    let mut path = PathBuilder::new();
    for (index, [dx, dy]) in palette::corners(shape, size).into_iter().enumerate() {
        let (x, y) = ((x + dx) as f32, (y + dy) as f32);
        if index == 0 { path.move_to(x, y) } else { path.line_to(x, y) }
    }
    path.close();
    path.finish()
}

/// A colour written `#rrggbb`.
fn colour(hex: &str) -> Color {
    let value = u32::from_str_radix(hex.trim_start_matches('#'), 16).unwrap_or(0);
    let part = |shift: u32| (value >> shift) as u8;
    Color::from_rgba8(part(16), part(8), part(0), 255)
}
