//! The page itself: the template in `assets/report` with its parts filled in.

use std::fmt::Write;

use embedtune_train::data::Split;
use embedtune_train::run::{EpochRecord, Quality};
use embedtune_train::{Error, Result};
use serde::Serialize;
use serde_json::Value;

use super::entries::Table;
use super::variant::Variant;
use super::{Run, alarms, options};
use crate::figure::{Projection, palette};
use crate::markup::{escape, script_json, shortened};
use crate::standing;

const TEMPLATE: &str = include_str!("../../assets/report/page.html");
const STYLE: &str = include_str!("../../assets/report/page.css");
/// In the order in which they run: one function scope holds them all.
const SCRIPTS: [&str; 6] = [
    include_str!("../../assets/report/base.js"),
    include_str!("../../assets/report/curves.js"),
    include_str!("../../assets/report/scatter.js"),
    include_str!("../../assets/report/searches.js"),
    include_str!("../../assets/report/classes.js"),
    include_str!("../../assets/report/start.js"),
];

/// Longest class name, in characters.
const NAME: usize = 200;

/// What a page is made of.
pub(super) struct Content<'a> {
    pub(super) source: &'a str,
    pub(super) runs: &'a [Run],
    pub(super) variants: &'a [Variant],
    pub(super) entries: Table,
    pub(super) split: &'a Split,
    pub(super) projection: Projection,
    pub(super) claims: Value,
}

impl Content<'_> {
    /// What the runs have learnt, in their order; what was there before stands before it.
    fn tuned(&self) -> &[Variant] {
        self.variants.get(self.variants.len().saturating_sub(self.runs.len())..).unwrap_or_default()
    }

    /// Those of them that find most: several where they tie.
    pub(super) fn leaders(&self) -> Vec<&Variant> {
        let measured: Vec<(&Variant, f64)> =
            self.tuned().iter().filter_map(|variant| Some((variant, variant.quality?.recall_at_1))).collect();
        standing::first(&measured)
    }
}

/// The document that the page's script reads.
#[derive(Serialize)]
struct Data<'a> {
    kind: &'static str,
    projection: Projection,
    colours: [&'static str; 10],
    classes: Vec<String>,
    /// Queries in all, of which some are shown.
    queries: usize,
    entries: &'a Table,
    variants: &'a [Variant],
    runs: Vec<Curves>,
}

#[derive(Serialize)]
struct Curves {
    name: &'static str,
    records: Vec<Value>,
}

pub(super) fn render(content: &Content<'_>) -> Result<String> {
    let data = Data {
        kind: content.split.queries.items.kind(),
        projection: content.projection,
        colours: palette::COLOURS,
        classes: content.split.queries.classes.iter().map(|name| shortened(name, NAME)).collect(),
        queries: content.split.queries.labels.len(),
        entries: &content.entries,
        variants: content.variants,
        runs: content
            .runs
            .iter()
            .map(|run| Ok(Curves { name: run.loss(), records: untimed(&run.records)? }))
            .collect::<Result<_>>()?,
    };
    let json = serde_json::to_string(&data).map_err(|e| Error::Unsuitable(format!("report: {e}")))?;
    let sprite = content
        .entries
        .sprite
        .as_ref()
        .map_or(String::new(), |sprite| format!(".thumb{{background-image:url({})}}", sprite.url));
    let parts = [
        ("title", escape(&title(content))),
        ("source", escape(content.source)),
        ("lead", lead(content)),
        ("results", results(content)),
        ("alarms", alarm_list(content)),
        ("claims", claims(&content.claims)),
        ("options", options::html(content.runs)),
        ("version", escape(content.runs.first().map_or("", |run| &run.file.version))),
        ("style", STYLE.to_owned()),
        ("sprite", sprite),
        ("data", script_json(&json)),
        ("script", SCRIPTS.concat()),
    ];
    Ok(fill(TEMPLATE, &parts))
}

/// The records without what the clock said: the same training makes the same page.
fn untimed(records: &[EpochRecord]) -> Result<Vec<Value>> {
    let untimed = |record: &EpochRecord| {
        let mut value =
            serde_json::to_value(record).map_err(|e| Error::Unsuitable(format!("report: {e}")))?;
        if let Some(fields) = value.as_object_mut() {
            fields.retain(|name, _| !name.contains("second"));
        }
        Ok(value)
    };
    records.iter().map(untimed).collect()
}

/// Each `{{name}}` of the template becomes the part of that name; what parts hold is never looked into.
fn fill(template: &str, parts: &[(&str, String)]) -> String {
    let mut out = String::new();
    let mut pieces = template.split("{{");
    out.push_str(pieces.next().unwrap_or_default());
    for piece in pieces {
        let Some((name, rest)) = piece.split_once("}}") else { continue };
        out.push_str(parts.iter().find(|part| part.0 == name).map_or("", |part| &part.1));
        out.push_str(rest);
    }
    out
}

fn title(content: &Content<'_>) -> String {
    match content.runs {
        [run] => run.loss().to_owned(),
        runs => {
            let number = ["No", "One", "Two", "Three"].get(runs.len()).copied().unwrap_or("Several");
            format!("{number} losses compared")
        }
    }
}

/// What the figures below come to, in a sentence.
fn lead(content: &Content<'_>) -> String {
    let recall = |variant: &Variant| variant.quality.map(|quality| quality.recall_at_1);
    let Some(raw) = content.variants.first().and_then(recall) else { return String::new() };
    let leaders = content.leaders();
    let Some(tuned) = leaders.first().and_then(|leader| recall(leader)) else { return String::new() };
    let points = (tuned - raw) * 100.0;
    let change = match points {
        p if p >= 0.05 => format!("<b>{p:.1} points more</b> than"),
        p if p <= -0.05 => format!("<b>{:.1} points less</b> than", -p),
        _ => "as many as".to_owned(),
    };
    let names: Vec<&str> = leaders.iter().map(|leader| leader.name.as_str()).collect();
    let who = match leaders.len() {
        _ if content.runs.len() == 1 => "The tuned embeddings find".to_owned(),
        1 => format!("{} does best: it finds", escape(&standing::listed(&names))),
        _ => format!("{} tie: each finds", escape(&standing::listed(&names))),
    };
    format!(
        "{who} an item of the right class first for <b>{:.1}%</b> of the queries, {change} the raw {}.",
        tuned * 100.0,
        match content.split.queries.items.kind() {
            "images" => "pixels",
            "text" => "words",
            _ => "vectors",
        }
    )
}

fn results(content: &Content<'_>) -> String {
    let mut html = String::from(
        "<table class=\"results\"><thead><tr><th scope=\"col\">Embeddings</th><th></th><th scope=\"col\">Recall@1</th>\
         <th scope=\"col\">MAP@R</th><th scope=\"col\" class=\"wide\">Recall@1, over raw</th></tr></thead><tbody>",
    );
    let raw = content.variants.first().and_then(|variant| variant.quality);
    let measured: Vec<_> =
        content.variants.iter().filter_map(|variant| Some((variant, variant.quality?))).collect();
    let best = |figure: fn(&Quality) -> f64| {
        standing::best(&measured.iter().map(|(_, quality)| figure(quality)).collect::<Vec<_>>())
    };
    let (best_recall, best_map) = (best(|q| q.recall_at_1), best(|q| q.map_at_r));
    let mark = |best: bool| if best { " class=\"best\"" } else { "" };
    for (at, (variant, quality)) in measured.iter().enumerate() {
        let marks = [mark(best_recall[at]), mark(best_map[at])];
        let over = raw.map_or(0.0, |raw| (quality.recall_at_1 - raw.recall_at_1) * 100.0);
        let over =
            if variant.name == "raw" { "–".to_owned() } else { format!("{over:+.1}").replace('-', "−") };
        // Writing to a String cannot fail.
        let _ = write!(
            html,
            "<tr><th scope=\"row\">{}</th><td class=\"bar\"><span class=\"meter\" style=\"--part:{:.4}\"></span></td>\
             <td{}>{:.4}</td><td{}>{:.4}</td><td class=\"wide\">{over}</td></tr>",
            escape(&variant.name),
            quality.recall_at_1,
            marks[0],
            quality.recall_at_1,
            marks[1],
            quality.map_at_r,
        );
    }
    html += "</tbody></table>";
    html
}

fn alarm_list(content: &Content<'_>) -> String {
    let mut html = String::new();
    let several = content.runs.len() > 1;
    let mut notices: Vec<(&str, Vec<&str>)> = Vec::new();
    for (run, tuned) in content.runs.iter().zip(content.tuned()) {
        let of = if several { format!("<b>{}</b> ", run.loss()) } else { String::new() };
        for alarm in alarms::of(run, tuned) {
            let _ = write!(html, "<li class=\"alarm\">{of}{}</li>", escape(&alarm));
        }
        for notice in &run.file.notices {
            match notices.iter_mut().find(|known| known.0 == notice) {
                Some(known) => known.1.push(run.loss()),
                None => notices.push((notice, vec![run.loss()])),
            }
        }
    }
    // What all runs say is said once.
    for (notice, of) in notices {
        let of =
            if of.len() < content.runs.len() { format!("<b>{}</b> ", of.join(", ")) } else { String::new() };
        let _ = write!(html, "<li>{of}{}</li>", escape(notice));
    }
    if html.is_empty() {
        return "<p class=\"calm\">Nothing out of the ordinary.</p>".to_owned();
    }
    format!("<ul class=\"notes\">{html}</ul>")
}

/// The tables of `compare --seeds`.
fn claims(claims: &Value) -> String {
    let text = |value: &Value| escape(value.as_str().unwrap_or_default());
    let interval = |value: &Value| {
        let Some(mean) = value["mean"].as_f64() else { return "–".to_owned() };
        let shown = format!("{mean:.3}").replace('-', "−");
        match value["high"].as_f64() {
            Some(high) => format!("{shown} <small>± {:.3}</small>", high - mean),
            None => shown,
        }
    };
    let Some(rows) = claims["rows"].as_array() else { return String::new() };
    let seeds = claims["seeds"].as_array().map_or(0, Vec::len);
    let mut html = format!(
        "<section id=\"claims\"><h2>What holds over {seeds} seed{}</h2><p class=\"hint\">{}; ± is half of the 95% \
         interval. Measured in the space of the embeddings, not in the picture.</p>",
        if seeds == 1 { "" } else { "s" },
        text(&claims["setting"])
    );
    let focus: Vec<String> = claims["focus"].as_array().into_iter().flatten().map(text).collect();
    let because = match &claims["focus_because"] {
        Value::String(reason) => format!(" <small>({})</small>", escape(reason)),
        _ => String::new(),
    };
    let focus = format!("{}{because}", focus.join(", "));
    let listed = claims["claims"].as_array().map(Vec::as_slice).unwrap_or_default();
    if !listed.is_empty() {
        let _ = write!(html, "<h3>The documented claims, asked of {focus}</h3>{}", conclusions(claims));
    }
    for (key, title) in [("all", "All classes".to_owned()), ("focus", focus)] {
        let measured: Vec<&Value> = rows.iter().filter(|row| row[key].is_object()).collect();
        if measured.is_empty() {
            continue;
        }
        let _ = write!(html, "<h3>{title}</h3><div class=\"scroll\"><table><thead><tr><th></th>");
        for measure in crate::claims::MEASURES {
            let _ = write!(html, "<th scope=\"col\">{measure}</th>");
        }
        html += "</tr></thead><tbody>";
        for row in measured {
            let _ = write!(html, "<tr><th scope=\"row\">{}</th>", text(&row["name"]));
            for measure in crate::claims::MEASURES {
                let _ = write!(html, "<td>{}</td>", interval(&row[key][measure]));
            }
            html += "</tr>";
        }
        html += "</tbody></table></div>";
    }
    if !listed.is_empty() {
        html += "<h3>Claim by claim</h3><p class=\"hint\">The difference that tells: a claim holds where its 95% interval \
                 lies above zero, and does not where it lies below.</p><div class=\"scroll\">\
                 <table class=\"verdicts\"><thead><tr><th scope=\"col\">Claim</th>";
        for measure in crate::claims::MEASURES {
            let _ = write!(html, "<th scope=\"col\">{measure}</th>");
        }
        html += "</tr></thead><tbody>";
        let mut told: Vec<&Value> = Vec::new();
        for claim in listed.iter().map(|listed| &listed["claim"]) {
            if told.contains(&claim) {
                continue;
            }
            told.push(claim);
            let _ = write!(html, "<tr><th scope=\"row\">{}</th>", text(claim));
            for measure in crate::claims::MEASURES {
                let of = listed.iter().find(|of| of["claim"] == *claim && of["measure"] == measure);
                let of = of.unwrap_or(&Value::Null);
                let (class, words) = match of["verdict"].as_str() {
                    Some("holds") => ("holds", "✓ holds"),
                    Some("fails") => ("fails", "✗ does not hold"),
                    _ => ("undecided", "undecided"),
                };
                let difference = interval(&of["difference"]);
                let _ = write!(html, "<td><span class=\"{class}\">{words}</span><br>{difference}</td>");
            }
            html += "</tr>";
        }
        html += "</tbody></table></div>";
    }
    html + "</section>"
}

/// What the measures say together, a sentence for each documented claim.
fn conclusions(claims: &Value) -> String {
    let found = claims["conclusions"].as_array().map(Vec::as_slice).unwrap_or_default();
    if found.is_empty() {
        return String::new();
    }
    let mut html = String::from("<ul class=\"conclusions\">");
    for found in found {
        let (class, sign) = match found["verdict"].as_str() {
            Some("holds") => ("holds", "✓"),
            Some("fails") => ("fails", "✗"),
            _ => ("undecided", "–"),
        };
        let [claim, words] = ["claim", "words"].map(|name| escape(found[name].as_str().unwrap_or_default()));
        let _ = write!(
            html,
            "<li><b class=\"{class}\" aria-hidden=\"true\">{sign}</b><span><b>{claim}</b>: {words}.</span></li>"
        );
    }
    html + "</ul>"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_not_looked_into() {
        let parts = [("a", "{{b}}".to_owned()), ("b", "x}}y".to_owned())];
        assert_eq!(fill("1{{a}}2{{b}}3{{c}}4", &parts), "1{{b}}2x}}y34");
    }

    #[test]
    fn the_template_asks_for_nothing_from_elsewhere() {
        let whole = format!("{TEMPLATE}{STYLE}{}", SCRIPTS.concat());
        for word in [
            "http:",
            "https:",
            "//cdn",
            "@import",
            "innerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
        ] {
            let allowed = whole.replace("http://www.w3.org/2000/svg", "");
            assert!(!allowed.contains(word), "{word}");
        }
    }

    /// The relative luminance of `#rrggbb` or `#rgb` (WCAG 2.2).
    fn luminance(colour: &str) -> f64 {
        let digits = colour.trim_start_matches('#');
        let channel = |at: usize| {
            let text =
                if digits.len() == 3 { digits[at..=at].repeat(2) } else { digits[2 * at..][..2].to_owned() };
            let value = f64::from(u8::from_str_radix(&text, 16).unwrap()) / 255.0;
            if value <= 0.04045 { value / 12.92 } else { ((value + 0.055) / 1.055).powf(2.4) }
        };
        0.2126 * channel(0) + 0.7152 * channel(1) + 0.0722 * channel(2)
    }

    /// WCAG 2.2, criterion 1.4.11: what tells something has a contrast of 3 to what is around it.
    #[test]
    fn lines_stand_out_from_the_page_by_day_by_night_and_on_paper() {
        let mut checked = 0;
        for block in STYLE.split(":root{").skip(1) {
            let (block, _) = block.split_once('}').unwrap();
            let variables: Vec<(&str, &str)> = block
                .split(';')
                .filter_map(|line| line.trim().trim_start_matches("--").split_once(':'))
                .collect();
            let (_, paper) = variables.iter().find(|(name, _)| *name == "paper").unwrap();
            for (name, colour) in &variables {
                if !name.starts_with("curve-")
                    && !["same", "other", "accent", "right", "wrong"].contains(name)
                {
                    continue;
                }
                let (a, b) = (luminance(colour), luminance(paper));
                let contrast = (a.max(b) + 0.05) / (a.min(b) + 0.05);
                assert!(contrast >= 3.0, "--{name}:{colour} on {paper}: {contrast:.2}");
                checked += 1;
            }
        }
        assert_eq!(checked, 3 * 12);
    }
}
