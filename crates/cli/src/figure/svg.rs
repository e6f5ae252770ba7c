//! A scene as SVG.

use std::fmt::Write;

use super::palette::{self, Shape};
use super::scene::{Element, PAPER, Scene};
use crate::markup::escape;

pub(super) fn render(scene: &Scene) -> String {
    let mut svg = String::new();
    let (width, height) = (scene.width, scene.height);
    // Writing to a String cannot fail.
    let _ = write!(
        svg,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" \
         height=\"{height}\" font-family=\"Inter, 'Helvetica Neue', Helvetica, Arial, sans-serif\" role=\"img\">\n\
         <title>{}</title>\n<rect width=\"100%\" height=\"100%\" fill=\"{PAPER}\"/>\n",
        escape(&scene.title)
    );
    for element in &scene.elements {
        draw(&mut svg, element);
    }
    svg.push_str("</svg>\n");
    svg
}

fn draw(svg: &mut String, element: &Element) {
    let _ = match element {
        Element::Rect { x, y, width, height, fill, stroke } => {
            let stroke = stroke.map_or(String::new(), |colour| format!(" stroke=\"{colour}\""));
            writeln!(
                svg,
                "<rect x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\" fill=\"{fill}\"{stroke}/>"
            )
        }
        Element::Marker { x, y, size, class } => marker(svg, *x, *y, *size, *class),
        Element::Text { x, y, size, bold, fill, text, width } => {
            let weight = if *bold { " font-weight=\"600\"" } else { "" };
            let length = width.map_or(String::new(), |width| {
                format!(" textLength=\"{width:.1}\" lengthAdjust=\"spacingAndGlyphs\"")
            });
            writeln!(
                svg,
                "<text x=\"{x:.1}\" y=\"{y:.1}\" font-size=\"{size}\"{weight}{length} fill=\"{fill}\">{}</text>",
                escape(text)
            )
        }
    };
}

fn marker(svg: &mut String, x: f64, y: f64, size: f64, class: usize) -> std::fmt::Result {
    let style = format!("fill=\"{}\" stroke=\"#fff\" stroke-width=\"0.6\"", palette::colour(class));
    let shape = palette::shape(class);
    if shape == Shape::Circle {
        return writeln!(svg, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{size:.1}\" {style}/>");
    }
    let corners: Vec<String> =
        palette::corners(shape, size).iter().map(|[dx, dy]| format!("{:.1} {:.1}", x + dx, y + dy)).collect();
    writeln!(svg, "<path d=\"M{}Z\" {style}/>", corners.join("L"))
}
