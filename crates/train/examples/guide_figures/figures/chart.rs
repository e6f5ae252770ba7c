//! A small chart writer: SVG that takes its text colour from the page around it, so that it reads in a light and in a
//! dark theme, and whose coordinates are rounded, so that it is the same file wherever it is drawn.

use std::fmt::Write;

/// Hues that keep a contrast of 3 to 1 on white and on rustdoc's dark grey; `INK` is the page's own text colour.
pub(super) const BLUE: &str = "#3b82c4";
pub(super) const ORANGE: &str = "#d9772b";
pub(super) const GREEN: &str = "#3a9e5f";
pub(super) const PURPLE: &str = "#9b6dd0";
pub(super) const GREY: &str = "#8a8f98";
pub(super) const INK: &str = "currentColor";

const WIDTH: f64 = 720.0;
const LEFT: f64 = 50.0;
const RIGHT: f64 = 30.0;
const PLOT: f64 = 220.0;
const LEGEND_ROW: f64 = 19.0;
/// Width of a character of the 12 pixel font, on average and a little more.
const CHARACTER: f64 = 6.4;

/// One axis.
pub(super) struct Axis {
    pub(super) label: &'static str,
    pub(super) from: f64,
    pub(super) to: f64,
    pub(super) log: bool,
    pub(super) ticks: Vec<(f64, String)>,
}

impl Axis {
    /// A linear axis with a tick at each of `ticks`.
    pub(super) fn new(label: &'static str, from: f64, to: f64, ticks: &[f64]) -> Self {
        let ticks = ticks.iter().map(|&at| (at, at.to_string())).collect();
        Self { label, from, to, log: false, ticks }
    }

    /// The same with a logarithmic scale.
    pub(super) fn log(label: &'static str, from: f64, to: f64, ticks: &[f64]) -> Self {
        Self { log: true, ..Self::new(label, from, to, ticks) }
    }

    /// Ticks with names of their own.
    pub(super) fn named(mut self, ticks: &[(f64, &str)]) -> Self {
        self.ticks = ticks.iter().map(|&(at, name)| (at, name.to_owned())).collect();
        self
    }

    /// Where a value stands, 0 to 1.
    fn place(&self, value: f64) -> f64 {
        let scaled = |v: f64| if self.log { v.ln() } else { v };
        (scaled(value) - scaled(self.from)) / (scaled(self.to) - scaled(self.from))
    }
}

/// What a series looks like.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Mark {
    Line,
    Dashed,
    Dotted,
    /// Discs of this radius.
    Disc(f64),
    /// Rings of this radius.
    Ring(f64),
    /// Bars from zero, this wide in units of the x axis.
    Bars(f64),
}

/// One curve, or one set of marks or bars.
pub(super) struct Series {
    pub(super) name: String,
    pub(super) colour: &'static str,
    pub(super) mark: Mark,
    pub(super) points: Vec<(f64, f64)>,
}

impl Series {
    pub(super) fn new(
        name: impl Into<String>,
        colour: &'static str,
        mark: Mark,
        points: impl IntoIterator<Item = (f64, f64)>,
    ) -> Self {
        Self { name: name.into(), colour, mark, points: points.into_iter().collect() }
    }
}

/// One coordinate system.
pub(super) struct Panel {
    pub(super) title: String,
    pub(super) x: Axis,
    pub(super) y: Axis,
    pub(super) series: Vec<Series>,
    /// Short texts in the plot: x, y, text, centred on x.
    pub(super) notes: Vec<(f64, f64, String)>,
}

/// Draws panels side by side. `description` is read out where the picture is not seen.
pub(super) fn draw(description: &str, panels: &[Panel]) -> String {
    let width = WIDTH / panels.len() as f64;
    let rows = panels.iter().map(|panel| legend(panel, width).1).max().unwrap_or(0);
    let top = 30.0 + rows as f64 * LEGEND_ROW + 24.0;
    let height = top + PLOT + 44.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" \
         style=\"width:100%;max-width:{WIDTH}px;height:auto;display:block;margin:1em 0\" fill=\"currentColor\" \
         font-family=\"system-ui, 'Segoe UI', Helvetica, Arial, sans-serif\" font-size=\"12\">\n\
         <title>{}</title>\n",
        escape(description)
    );
    for (at, panel) in panels.iter().enumerate() {
        one(&mut svg, panel, at as f64 * width, width, top);
    }
    svg.push_str("</svg>\n");
    svg
}

/// Where each legend entry stands (offset, row), and the number of rows.
fn legend(panel: &Panel, width: f64) -> (Vec<(f64, usize)>, usize) {
    let (mut x, mut row) = (0.0, 0);
    let mut places = Vec::new();
    for series in panel.series.iter().filter(|series| !series.name.is_empty()) {
        let wide = 30.0 + CHARACTER * series.name.chars().count() as f64 + 14.0;
        if x > 0.0 && x + wide > width - LEFT - RIGHT + 20.0 {
            (x, row) = (0.0, row + 1);
        }
        places.push((x, row));
        x += wide;
    }
    let rows = if places.is_empty() { 0 } else { row + 1 };
    (places, rows)
}

// Writing to a String cannot fail, so the results of `write!` are dropped throughout.
fn one(svg: &mut String, panel: &Panel, left: f64, width: f64, top: f64) {
    let (x0, x1, y0, y1) = (left + LEFT, left + width - RIGHT, top + PLOT, top);
    let x = |value: f64| x0 + panel.x.place(value) * (x1 - x0);
    let y = |value: f64| y0 + panel.y.place(value) * (y1 - y0);
    let _ = writeln!(
        svg,
        "<text x=\"{x0}\" y=\"17\" font-size=\"14\" font-weight=\"600\">{}</text>",
        escape(&panel.title)
    );
    let named = panel.series.iter().filter(|series| !series.name.is_empty());
    for (series, (offset, row)) in named.zip(legend(panel, width).0) {
        let (at, middle) = (x0 + offset, 34.0 + row as f64 * LEGEND_ROW);
        key(svg, series, at, middle);
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\">{}</text>",
            at + 30.0,
            middle + 4.0,
            escape(&series.name)
        );
    }
    let faint = "fill-opacity=\"0.75\" font-size=\"11\"";
    let _ = writeln!(
        svg,
        "<text x=\"{:.1}\" y=\"{:.1}\" {faint}>{}</text>\n\
         <text x=\"{:.1}\" y=\"{:.1}\" {faint} text-anchor=\"end\">{}</text>",
        left + 4.0,
        y1 - 10.0,
        escape(panel.y.label),
        x1,
        y0 + 36.0,
        escape(panel.x.label)
    );
    for (value, name) in &panel.y.ticks {
        let at = y(*value);
        let _ = writeln!(
            svg,
            "<path d=\"M{x0:.1} {at:.1}H{x1:.1}\" stroke=\"currentColor\" stroke-opacity=\"0.15\"/>\n\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\" {faint}>{name}</text>",
            x0 - 7.0,
            at + 4.0
        );
    }
    let _ = writeln!(
        svg,
        "<path d=\"M{x0:.1} {y0:.1}H{x1:.1}\" stroke=\"currentColor\" stroke-opacity=\"0.6\"/>"
    );
    for (value, name) in &panel.x.ticks {
        let at = x(*value);
        let _ = writeln!(
            svg,
            "<path d=\"M{at:.1} {y0:.1}v4\" stroke=\"currentColor\" stroke-opacity=\"0.6\"/>\n\
             <text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\" {faint}>{name}</text>",
            y0 + 18.0
        );
    }
    for series in &panel.series {
        if let Mark::Bars(wide) = series.mark {
            for &(at, value) in &series.points {
                let (from, to, high) = (x(at - wide / 2.0), x(at + wide / 2.0), y(value));
                let _ = writeln!(
                    svg,
                    "<rect x=\"{from:.1}\" y=\"{high:.1}\" width=\"{:.1}\" height=\"{:.1}\" {}/>",
                    to - from,
                    (y0 - high).max(0.0),
                    style(series)
                );
            }
        } else if let Mark::Disc(radius) | Mark::Ring(radius) = series.mark {
            for &(at, value) in &series.points {
                let _ = writeln!(
                    svg,
                    "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"{radius}\" {}/>",
                    x(at),
                    y(value),
                    style(series)
                );
            }
        } else {
            for piece in inside(&series.points, panel.y.from.min(panel.y.to), panel.y.from.max(panel.y.to)) {
                let mut path = String::new();
                for (i, &(at, value)) in piece.iter().enumerate() {
                    let _ = write!(path, "{}{:.1} {:.1}", if i == 0 { 'M' } else { 'L' }, x(at), y(value));
                }
                let _ = writeln!(svg, "<path d=\"{path}\" {}/>", style(series));
            }
        }
    }
    for (at, value, text) in &panel.notes {
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            x(*at),
            y(*value),
            escape(text)
        );
    }
}

/// The parts of a curve between two heights, cut where it leaves them; a point that is not finite ends a part.
fn inside(points: &[(f64, f64)], low: f64, high: f64) -> Vec<Vec<(f64, f64)>> {
    let mut pieces: Vec<Vec<(f64, f64)>> = vec![Vec::new()];
    let within = |v: f64| (low..=high).contains(&v);
    let cut = |a: (f64, f64), b: (f64, f64)| {
        let edge = if a.1.max(b.1) > high { high } else { low };
        (a.0 + (b.0 - a.0) * (edge - a.1) / (b.1 - a.1), edge)
    };
    for pair in points.windows(2) {
        let (a, b) = (pair[0], pair[1]);
        let last = pieces.len() - 1;
        if within(a.1) && pieces[last].is_empty() {
            pieces[last].push(a);
        }
        match (within(a.1), within(b.1)) {
            (true, true) => pieces[last].push(b),
            (true, false) => {
                if b.1.is_finite() {
                    pieces[last].push(cut(a, b));
                }
                pieces.push(Vec::new());
            }
            (false, true) if a.1.is_finite() => pieces[last].extend([cut(a, b), b]),
            _ => {}
        }
    }
    pieces.retain(|piece| piece.len() > 1);
    pieces
}

fn style(series: &Series) -> String {
    let colour = series.colour;
    let line = format!("fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\" stroke-linejoin=\"round\"");
    match series.mark {
        Mark::Line => line,
        Mark::Dashed => format!("{line} stroke-dasharray=\"7 4\""),
        Mark::Dotted => format!("{line} stroke-dasharray=\"2 3\""),
        Mark::Disc(_) => format!("fill=\"{colour}\""),
        Mark::Ring(_) => format!("fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\""),
        Mark::Bars(_) => format!("fill=\"{colour}\" fill-opacity=\"0.85\""),
    }
}

fn key(svg: &mut String, series: &Series, x: f64, y: f64) {
    let style = style(series);
    let _ = match series.mark {
        Mark::Line | Mark::Dashed | Mark::Dotted => {
            writeln!(svg, "<path d=\"M{x:.1} {y:.1}h23\" {style}/>")
        }
        Mark::Disc(radius) | Mark::Ring(radius) => {
            writeln!(svg, "<circle cx=\"{:.1}\" cy=\"{y:.1}\" r=\"{radius}\" {style}/>", x + 14.0)
        }
        Mark::Bars(_) => {
            writeln!(
                svg,
                "<rect x=\"{:.1}\" y=\"{:.1}\" width=\"12\" height=\"12\" {style}/>",
                x + 10.0,
                y - 6.0
            )
        }
    };
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
