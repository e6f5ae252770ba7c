//! What is drawn where, in pixels from the upper left corner: one layout for the SVG and the PNG.

use super::font::Font;
use super::{Picture, Projection};

const MARGIN: f64 = 36.0;
const PANEL: f64 = 400.0;
const GAP: f64 = 28.0;
/// Room for a panel's title and the line below it.
const HEADER: f64 = 54.0;
/// Room for the picture's own title and the line below it.
const HEADLINE: f64 = 66.0;
const LEGEND_ROW: f64 = 26.0;
const LEGEND_SIZE: f64 = 14.0;
/// From a legend's marker to its name, and from a name to the next marker at least.
const LEGEND_INDENT: f64 = 18.0;
const LEGEND_GAP: f64 = 24.0;

pub(super) const INK: &str = "#1c1f23";
pub(super) const SOFT: &str = "#5c636b";
pub(super) const PAPER: &str = "#ffffff";
const GROUND: &str = "#f7f8f9";
const EDGE: &str = "#d9dde1";

pub(super) enum Element {
    Rect {
        x: f64,
        y: f64,
        width: f64,
        height: f64,
        fill: &'static str,
        stroke: Option<&'static str>,
    },
    Marker {
        x: f64,
        y: f64,
        size: f64,
        class: usize,
    },
    /// From its baseline's left end.
    Text {
        x: f64,
        y: f64,
        size: f64,
        bold: bool,
        fill: &'static str,
        text: String,
        /// Its width where it was cut: a viewer's own typeface may not make it wider.
        width: Option<f64>,
    },
}

pub(super) struct Scene {
    pub(super) width: f64,
    pub(super) height: f64,
    pub(super) title: String,
    pub(super) elements: Vec<Element>,
}

pub(super) fn layout(picture: &Picture<'_>, points: &[Vec<[f64; 2]>], projection: Projection) -> Scene {
    let (regular, bold) = (Font::new(false), Font::new(true));
    let columns = picture.panels.len().clamp(1, 2);
    let rows = picture.panels.len().div_ceil(columns);
    let inner = columns as f64 * PANEL + (columns - 1) as f64 * GAP;
    let mut elements = Vec::new();
    let mut heading = |x: f64, y: f64, size: f64, room: f64, words: &str| {
        elements.push(text((x, y), size, true, INK, bold.fitted(words, size, room), words, &bold));
    };
    heading(MARGIN, MARGIN + 20.0, 22.0, inner, &picture.title);

    let corner = |index: usize| {
        let x = MARGIN + (index % columns) as f64 * (PANEL + GAP);
        (x, MARGIN + HEADLINE + (index / columns) as f64 * (PANEL + HEADER + GAP))
    };
    for (index, panel) in picture.panels.iter().enumerate() {
        let (x, y) = corner(index);
        heading(x, y + 21.0, 17.0, PANEL, &panel.title);
    }
    let mut remark = |x: f64, y: f64, size: f64, room: f64, words: &str| {
        elements.push(text((x, y), size, false, SOFT, regular.fitted(words, size, room), words, &regular));
    };
    remark(MARGIN, MARGIN + 44.0, 14.0, inner, method(projection));
    for (index, panel) in picture.panels.iter().enumerate() {
        let (x, y) = corner(index);
        remark(x, y + 41.0, 13.0, PANEL, &panel.subtitle);
    }
    for (index, (_, points)) in picture.panels.iter().zip(points).enumerate() {
        let (x, y) = corner(index);
        scatter(&mut elements, x, y + HEADER, points, picture.labels);
    }
    let top = MARGIN + HEADLINE + rows as f64 * (PANEL + HEADER + GAP) + 6.0;
    let height = top + legend(&mut elements, top, inner, picture.classes, &regular) + MARGIN - 8.0;
    Scene { width: inner + 2.0 * MARGIN, height, title: picture.title.clone(), elements }
}

/// `fitted` is what of `whole` has room.
fn text(
    (x, y): (f64, f64),
    size: f64,
    bold: bool,
    fill: &'static str,
    fitted: String,
    whole: &str,
    font: &Font,
) -> Element {
    let width = (fitted != whole).then(|| font.width(&fitted, size));
    Element::Text { x, y, size, bold, fill, text: fitted, width }
}

fn method(projection: Projection) -> &'static str {
    match projection {
        Projection::Tsne => "t-SNE of unit vectors: near stays near; distances between groups mean little",
        Projection::Pca => "The two directions of largest variance of unit vectors",
    }
}

fn scatter(elements: &mut Vec<Element>, x: f64, y: f64, points: &[[f64; 2]], labels: &[usize]) {
    elements.push(Element::Rect { x, y, width: PANEL, height: PANEL, fill: GROUND, stroke: Some(EDGE) });
    let bounds = |axis: usize| {
        let low = points.iter().map(|p| p[axis]).fold(f64::INFINITY, f64::min);
        let high = points.iter().map(|p| p[axis]).fold(f64::NEG_INFINITY, f64::max);
        (low, high)
    };
    let ((left, right), (low, high)) = (bounds(0), bounds(1));
    // One scale for both axes, so that directions are not distorted.
    let span = (right - left).max(high - low).max(1e-12) * 1.08;
    let place = |value: f64, a: f64, b: f64| PANEL * ((value - (a + b) / 2.0) / span + 0.5);
    // Room for all without hiding any: smaller markers where there are many.
    let size = (90.0 / (points.len().max(1) as f64).sqrt()).clamp(2.2, 4.0);
    for (point, &class) in points.iter().zip(labels) {
        let (px, py) = (place(point[0], left, right), PANEL - place(point[1], low, high));
        elements.push(Element::Marker { x: x + px, y: y + py, size, class });
    }
}

/// Draws the legend in as many columns as its longest name leaves; its height.
fn legend(elements: &mut Vec<Element>, top: f64, inner: f64, classes: &[String], font: &Font) -> f64 {
    let longest = classes.iter().map(|name| font.width(name, LEGEND_SIZE)).fold(0.0, f64::max);
    let wanted = longest + LEGEND_INDENT + LEGEND_GAP;
    let columns = ((inner + LEGEND_GAP) / wanted).floor().clamp(2.0, 5.0);
    let step = (inner + LEGEND_GAP) / columns;
    for (class, name) in classes.iter().enumerate() {
        let x = MARGIN + (class % columns as usize) as f64 * step;
        let y = top + (class / columns as usize) as f64 * LEGEND_ROW;
        elements.push(Element::Marker { x: x + 6.0, y: y + 8.0, size: 5.5, class });
        let fitted = font.fitted(name, LEGEND_SIZE, step - LEGEND_INDENT - LEGEND_GAP);
        elements.push(text((x + LEGEND_INDENT, y + 13.0), LEGEND_SIZE, false, INK, fitted, name, font));
    }
    (classes.len() as f64 / columns).ceil() * LEGEND_ROW
}
