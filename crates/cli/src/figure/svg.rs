//! The drawing itself.

use std::fmt::Write;

use super::{Panel, Projection};

const PANEL: f64 = 340.0;
const GAP: f64 = 24.0;
const HEADER: f64 = 52.0;
const LEGEND_ROW: f64 = 24.0;
const FOOTER: f64 = 34.0;

/// Ten colours that keep their distance in lightness as well as in hue, so that neighbours in the legend are told
/// apart in grey print and with the common colour deficiencies; the marker's shape says it again.
const COLOURS: [&str; 10] = [
    "#1b6ca8", "#e07b39", "#2e8b57", "#c0392b", "#7d5ba6", "#8c6239", "#d86fae", "#5f6b6d", "#a8a02c",
    "#2aa5b8",
];

pub(super) fn render(
    panels: &[Panel<'_>],
    points: &[Vec<[f64; 2]>],
    labels: &[usize],
    classes: &[String],
    projection: Projection,
) -> String {
    let columns = panels.len().clamp(1, 2);
    let rows = panels.len().div_ceil(columns);
    let width = GAP + columns as f64 * (PANEL + GAP);
    let legend_columns = 5;
    let legend_rows = classes.len().div_ceil(legend_columns) as f64;
    let legend_top = GAP + rows as f64 * (PANEL + HEADER + GAP);
    let height = legend_top + legend_rows * LEGEND_ROW + FOOTER;

    let mut svg = String::new();
    // Writing to a String cannot fail.
    let _ = write!(
        svg,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" \
         height=\"{height}\" font-family=\"system-ui, 'Segoe UI', Helvetica, Arial, sans-serif\" role=\"img\">\n\
         <title>Ten classes before and after training with each loss</title>\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n"
    );
    for (index, (panel, points)) in panels.iter().zip(points).enumerate() {
        let x = GAP + (index % columns) as f64 * (PANEL + GAP);
        let y = GAP + (index / columns) as f64 * (PANEL + HEADER + GAP);
        draw_panel(&mut svg, x, y, panel, points, labels);
    }
    for (class, name) in classes.iter().enumerate() {
        let step = (width - 2.0 * GAP) / legend_columns as f64;
        let x = GAP + (class % legend_columns) as f64 * step;
        let y = legend_top + (class / legend_columns) as f64 * LEGEND_ROW;
        marker(&mut svg, x + 6.0, y, 5.0, class, 1.0);
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\" font-size=\"13\" fill=\"#222\">{}</text>",
            x + 18.0,
            y + 4.5,
            escape(&shortened(name, 17))
        );
    }
    let how = match projection {
        Projection::Tsne => {
            "t-SNE (perplexity 30) of unit vectors: neighbours are kept, distances between clusters are not"
        }
        Projection::Pca => "first two principal components of unit vectors",
    };
    let _ = write!(
        svg,
        "<text x=\"{GAP}\" y=\"{:.1}\" font-size=\"12\" fill=\"#666\">{how}</text>\n</svg>\n",
        height - 12.0
    );
    svg
}

fn draw_panel(svg: &mut String, x: f64, y: f64, panel: &Panel<'_>, points: &[[f64; 2]], labels: &[usize]) {
    let top = y + HEADER;
    let _ = writeln!(
        svg,
        "<text x=\"{x}\" y=\"{:.1}\" font-size=\"17\" font-weight=\"600\" fill=\"#111\">{}</text>\n\
         <text x=\"{x}\" y=\"{:.1}\" font-size=\"13\" fill=\"#555\">{}</text>\n\
         <rect x=\"{x}\" y=\"{top}\" width=\"{PANEL}\" height=\"{PANEL}\" fill=\"#fafafa\" stroke=\"#ddd\"/>",
        y + 18.0,
        escape(&panel.title),
        y + 38.0,
        escape(&panel.subtitle)
    );
    let bounds = |axis: usize| {
        let low = points.iter().map(|p| p[axis]).fold(f64::INFINITY, f64::min);
        let high = points.iter().map(|p| p[axis]).fold(f64::NEG_INFINITY, f64::max);
        (low, high)
    };
    let ((left, right), (low, high)) = (bounds(0), bounds(1));
    // One scale for both axes, so that directions are not distorted.
    let span = (right - left).max(high - low).max(1e-12) * 1.08;
    let place = |value: f64, a: f64, b: f64| PANEL * ((value - (a + b) / 2.0) / span + 0.5);
    for (point, &label) in points.iter().zip(labels) {
        let (px, py) = (place(point[0], left, right), PANEL - place(point[1], low, high));
        marker(svg, x + px, top + py, 3.2, label, 0.75);
    }
}

fn marker(svg: &mut String, x: f64, y: f64, size: f64, class: usize, opacity: f64) {
    let colour = COLOURS[class % COLOURS.len()];
    let style = format!("fill=\"{colour}\" fill-opacity=\"{opacity}\"");
    let _ = match class % 3 {
        0 => writeln!(svg, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{size}\" {style}/>"),
        1 => writeln!(
            svg,
            "<rect x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\" {style}/>",
            x - size * 0.9,
            y - size * 0.9,
            size * 1.8,
            size * 1.8
        ),
        _ => writeln!(
            svg,
            "<path d=\"M{x:.1} {:.1}L{:.1} {:.1}L{:.1} {:.1}Z\" {style}/>",
            y - size * 1.2,
            x + size * 1.15,
            y + size * 0.9,
            x - size * 1.15,
            y + size * 0.9
        ),
    };
}

fn shortened(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    text.chars().take(most - 1).chain(['…']).collect()
}

/// Text for XML: markup and control characters, which XML forbids, are neutralised.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use embedtune_train::ndarray::Array2;

    #[test]
    fn hostile_names_stay_text() {
        let embeddings = Array2::from_shape_fn((6, 3), |(i, j)| ((i * 3 + j) as f32).sin());
        let panel =
            Panel { title: "a<b>&\"c\u{0}".into(), subtitle: String::new(), embeddings: embeddings.view() };
        let classes = ["<script>alert(1)</script>".to_owned(), "x".repeat(10_000)];
        let svg = super::super::draw(&[panel], &[0, 1, 0, 1, 0, 1], &classes, Projection::Pca);
        assert!(!svg.contains("<script"));
        assert!(svg.contains("a&lt;b&gt;&amp;&quot;c\u{fffd}"));
        assert!(!svg.contains(&"x".repeat(100)));
        assert_eq!(svg.matches("<circle").count() + svg.matches("<rect").count(), 6 + 2 + 2);
    }
}
