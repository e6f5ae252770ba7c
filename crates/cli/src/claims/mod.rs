//! What is said of the losses, tested in the space of the embeddings over several seeds.
//!
//! Finetuner's "Advanced methods" shows ten Fashion-MNIST classes after training with each loss and says of five of
//! them that all three losses struggle to separate them, the triplet loss separating them the least and ArcFace the
//! most. The page names the five by the colours of its picture; here they are the garments for the upper body, which
//! every classifier of this set confuses. Each claim becomes a difference, measured for each seed and paired by it;
//! a claim holds where the 95% interval of the difference's mean lies above zero, and does not where it lies below.

mod conclusion;
mod interval;
mod measure;

use std::collections::BTreeMap;
use std::fmt::Write;

use embedtune_train::data::{Dataset, Split};
use embedtune_train::ndarray::ArrayView2;
use embedtune_train::retrieval::{Exclude, Metric, knn};
use embedtune_train::{Error, Result};
use serde_json::{Value, json};

use crate::columns::cell;
use crate::standing;
use crate::vectors::Vectors;
use conclusion::{Conclusion, Said};
use interval::Interval;
pub(crate) use measure::{MEASURES, Separation};

/// The classes of Fashion-MNIST that the claims are about.
const GARMENTS: [&str; 5] = ["T-shirt/top", "Pullover", "Dress", "Coat", "Shirt"];

const TRIPLET: &str = "TripletMarginLoss";
const ARCFACE: &str = "ArcFaceLoss";
const COSFACE: &str = "CosFaceLoss";

/// Classes that are looked at where none are named and the data are not Fashion-MNIST's.
const HARDEST: usize = 5;
/// Columns of a class's name in the terminal.
const NAME: usize = 40;

/// The classes that are looked at by themselves.
pub(crate) struct Focus {
    names: Vec<String>,
    labels: Vec<u32>,
    /// Why these, where the data chose them.
    reason: Option<&'static str>,
}

impl Focus {
    /// The classes named, or the five garments where the data have them and nothing is named.
    ///
    /// # Errors
    /// A name that is no class of `data`, one class alone.
    pub(crate) fn new(named: &[String], data: &Dataset) -> Result<Option<Self>> {
        let label = |name: &str| data.classes.iter().position(|class| class == name).map(|at| at as u32);
        let names: Vec<String> = if named.is_empty() {
            if GARMENTS.iter().any(|name| label(name).is_none()) {
                return Ok(None);
            }
            GARMENTS.map(str::to_owned).to_vec()
        } else {
            named.to_vec()
        };
        let unknown = |name: &String| {
            let some: Vec<&str> = data.classes.iter().take(10).map(String::as_str).collect();
            Error::option("focus", name, format!("no such class; the classes are {} ...", some.join(", ")))
        };
        let labels = names
            .iter()
            .map(|name| label(name).ok_or_else(|| unknown(name)))
            .collect::<Result<Vec<u32>>>()?;
        if labels.len() < 2 {
            return Err(Error::option(
                "focus",
                names.join(","),
                "name two classes or more, with commas between",
            ));
        }
        Ok(Some(Self { names, labels, reason: None }))
    }

    /// The five classes whose raw vectors most often have a nearest neighbour of another class: hard before any loss
    /// has seen them. `None` for data of fewer than ten classes, of which five would be most, and for vectors that
    /// cannot be searched.
    pub(crate) fn hardest(raw: ArrayView2<'_, f32>, data: &Dataset) -> Option<Self> {
        let found = knn(raw, raw, 1, Metric::Cosine, Exclude::SameRow).ok()?;
        // Items and wrong ones by class.
        let mut counts: BTreeMap<u32, (usize, usize)> = BTreeMap::new();
        for (hits, &label) in found.rows().zip(&data.labels) {
            let of = counts.entry(label).or_default();
            of.0 += 1;
            of.1 += usize::from(
                hits.first().is_none_or(|hit| data.labels.get(hit.index as usize) != Some(&label)),
            );
        }
        if counts.len() < 2 * HARDEST {
            return None;
        }
        let mut order: Vec<(u32, usize, usize)> =
            counts.into_iter().map(|(label, (all, wrong))| (label, all, wrong)).collect();
        // By wrong / all, without division: the same on every machine.
        order.sort_by(|a, b| (b.2 * a.1).cmp(&(a.2 * b.1)).then(a.0.cmp(&b.0)));
        let mut labels: Vec<u32> = order.iter().take(HARDEST).map(|&(label, ..)| label).collect();
        labels.sort_unstable();
        let names = labels
            .iter()
            .map(|&label| data.classes.get(label as usize).cloned().unwrap_or_else(|| label.to_string()));
        Some(Self {
            names: names.collect(),
            labels,
            reason: Some("the raw vectors' nearest neighbours are wrong most often"),
        })
    }

    fn title(&self) -> String {
        let names: Vec<String> = self.names.iter().map(|name| cell(name, NAME)).collect();
        match self.reason {
            Some(reason) => format!("{} ({reason})", names.join(", ")),
            None => names.join(", "),
        }
    }
}

/// One variant's separation, a value for each seed.
struct Row {
    name: String,
    all: Vec<Separation>,
    focus: Vec<Separation>,
}

/// What several seeds have measured.
pub(crate) struct Findings {
    seeds: Vec<u64>,
    focus: Option<Focus>,
    rows: Vec<Row>,
    setting: String,
}

/// One claim about one measure.
struct Claim {
    /// What it is a part of.
    said: Said,
    words: String,
    measure: &'static str,
    difference: Interval,
    /// The loss that the claim is about, or, of the least and the most, the loss whose mean is that.
    loss: String,
}

impl Findings {
    /// Of no seed yet. `setting` says in words what each seed trains.
    pub(crate) fn new(focus: Option<Focus>, setting: String) -> Self {
        Self { seeds: Vec::new(), focus, rows: Vec::new(), setting }
    }

    /// Begins a seed; [`add`](Self::add) then takes its variants, the same for every seed.
    pub(crate) fn begin(&mut self, seed: u64) {
        self.seeds.push(seed);
    }

    /// Measures a variant of the seed under way, on the evaluation items among themselves.
    ///
    /// # Errors
    /// Those of [`Separation::of`].
    pub(crate) fn add(&mut self, name: &str, vectors: &Vectors, split: &Split) -> Result<()> {
        let labels = &split.queries.labels;
        let all = Separation::of(vectors.queries.view(), labels)?;
        let focus = match &self.focus {
            Some(focus) => Some(Separation::of_classes(vectors.queries.view(), labels, &focus.labels)?),
            None => None,
        };
        let at = self.rows.iter().position(|row| row.name == name).unwrap_or_else(|| {
            self.rows.push(Row { name: name.to_owned(), all: Vec::new(), focus: Vec::new() });
            self.rows.len() - 1
        });
        if let Some(row) = self.rows.get_mut(at) {
            row.all.push(all);
            row.focus.extend(focus);
        }
        Ok(())
    }

    fn claims(&self) -> Vec<Claim> {
        let row = |name: &str| self.rows.iter().find(|row| row.name == name && !row.focus.is_empty());
        let (Some(triplet), Some(arcface), Some(cosface)) = (row(TRIPLET), row(ARCFACE), row(COSFACE)) else {
            return Vec::new();
        };
        let mut claims = Vec::new();
        let losses = [triplet, arcface, cosface];
        for (at, measure) in MEASURES.into_iter().enumerate() {
            let mut claim = |said: Said, loss: &str, words: String, of: &dyn Fn(usize) -> f64| {
                let differences: Vec<f64> = (0..triplet.focus.len()).map(of).collect();
                let difference = Interval::of(&differences);
                claims.push(Claim { said, words, measure, difference, loss: loss.to_owned() });
            };
            let value = |row: &Row, seed: usize| row.focus[seed].values()[at];
            let mean = |row: &Row| intervals(&row.focus)[at].mean;
            for row in losses {
                let words = format!("{} struggles: all classes minus these", row.name);
                claim(Said::Struggle, &row.name, words, &|seed| {
                    row.all[seed].values()[at] - value(row, seed)
                });
            }
            let lowest = losses.into_iter().fold(triplet, |a, b| if mean(b) < mean(a) { b } else { a });
            let words = "triplet separates them least: the lower of the others minus triplet".to_owned();
            claim(Said::TripletLeast, &lowest.name, words, &|seed| {
                value(arcface, seed).min(value(cosface, seed)) - value(triplet, seed)
            });
            let highest = losses.into_iter().fold(arcface, |a, b| if mean(b) > mean(a) { b } else { a });
            let words = "ArcFace separates them most: ArcFace minus the higher of the others".to_owned();
            claim(Said::ArcFaceMost, &highest.name, words, &|seed| {
                value(arcface, seed) - value(triplet, seed).max(value(cosface, seed))
            });
        }
        claims
    }

    /// Tables for the terminal.
    pub(crate) fn table(&self) -> String {
        let seeds: Vec<String> = self.seeds.iter().map(u64::to_string).collect();
        let mut text =
            format!("\nSeparation over seeds {} (mean +- half of the 95% interval)\n", seeds.join(", "));
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{}", self.setting);
        self.group(&mut text, "all classes", |row| &row.all);
        if let Some(focus) = &self.focus {
            self.group(&mut text, &focus.title(), |row| &row.focus);
            let claims = self.claims();
            text.push_str("\nThe documented claims, asked of these classes\n");
            for found in Conclusion::of(&claims) {
                let _ = writeln!(text, "{}: {}", found.claim, found.words);
            }
            text.push_str("\nClaim by claim: it holds where the interval of this difference is above zero\n");
            let mut told: Vec<&str> = Vec::new();
            for claim in &claims {
                if told.contains(&&*claim.words) {
                    continue;
                }
                told.push(&claim.words);
                let _ = writeln!(text, "{}", claim.words);
                for claim in claims.iter().filter(|other| other.words == claim.words) {
                    let (difference, verdict) = (shown(&claim.difference), claim.difference.verdict().word());
                    let _ = writeln!(text, "  {:<18} {difference:>18}  {verdict}", claim.measure);
                }
            }
        }
        text
    }

    /// What the documented claims come to, in a few lines; none where nothing could be asked.
    pub(crate) fn concluded(&self) -> Vec<String> {
        let (Some(focus), found) = (&self.focus, Conclusion::of(&self.claims())) else { return Vec::new() };
        if found.is_empty() {
            return Vec::new();
        }
        let names: Vec<String> = focus.names.iter().map(|name| cell(name, NAME)).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let head = format!("over {} seeds, of {}:", self.seeds.len(), standing::listed(&names));
        let lines = found.iter().map(|found| format!("- {}: {}", found.claim, found.words));
        std::iter::once(head).chain(lines).collect()
    }

    fn group(&self, text: &mut String, title: &str, of: impl Fn(&Row) -> &Vec<Separation>) {
        let _ = writeln!(text, "\n{title}");
        let _ = writeln!(text, "{:<20} {:>18} {:>18} {:>18}", "", MEASURES[0], MEASURES[1], MEASURES[2]);
        for row in &self.rows {
            let _ = write!(text, "{:<20}", row.name);
            for interval in intervals(of(row)) {
                let _ = write!(text, " {:>18}", shown(&interval));
            }
            text.push('\n');
        }
    }

    /// For `summary.json` and the report.
    pub(crate) fn to_json(&self) -> Value {
        let named = |values: [Interval; 3]| -> Value {
            MEASURES.iter().zip(values).map(|(name, value)| ((*name).to_owned(), json!(value))).collect()
        };
        let rows: Vec<Value> = self
            .rows
            .iter()
            .map(|row| {
                let focus = (!row.focus.is_empty()).then(|| named(intervals(&row.focus)));
                json!({ "name": row.name, "all": named(intervals(&row.all)), "focus": focus })
            })
            .collect();
        let claims: Vec<Value> = self
            .claims()
            .iter()
            .map(|claim| {
                json!({
                    "claim": claim.words,
                    "measure": claim.measure,
                    "difference": claim.difference,
                    "verdict": claim.difference.verdict(),
                })
            })
            .collect();
        json!({
            "seeds": self.seeds,
            "setting": self.setting,
            "focus": self.focus.as_ref().map(|focus| &focus.names),
            "focus_because": self.focus.as_ref().and_then(|focus| focus.reason),
            "rows": rows,
            "claims": claims,
            "conclusions": Conclusion::of(&self.claims()),
        })
    }
}

fn intervals(values: &[Separation]) -> [Interval; 3] {
    [0, 1, 2].map(|at| Interval::of(&values.iter().map(|v| v.values()[at]).collect::<Vec<_>>()))
}

fn shown(interval: &Interval) -> String {
    match interval.half() {
        Some(half) => format!("{:.4} +- {half:.4}", interval.mean),
        None => format!("{:.4}", interval.mean),
    }
}

#[cfg(test)]
mod tests {
    use super::interval::Verdict;
    use super::*;
    use embedtune_train::data::Items;
    use embedtune_train::ndarray::Array2;

    fn data(classes: &[&str]) -> Dataset {
        let count = classes.len() * 12;
        let labels: Vec<u32> = (0..count).map(|row| (row % classes.len()) as u32).collect();
        let classes = classes.iter().map(|&class| class.to_owned()).collect();
        Dataset::new(Items::Vectors(Array2::zeros((count, 1))), labels, classes)
    }

    #[test]
    fn the_focus_is_what_is_named_or_the_garments() {
        let fashion = data(&["Bag", "T-shirt/top", "Pullover", "Dress", "Coat", "Shirt"]);
        assert_eq!(Focus::new(&[], &fashion).unwrap().unwrap().labels, [1, 2, 3, 4, 5]);
        assert!(Focus::new(&[], &data(&["a", "b"])).unwrap().is_none());
        let named = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
            Focus::new(&names, &fashion)
        };
        assert_eq!(named(&["Bag", "Coat"]).unwrap().unwrap().labels, [0, 4]);
        assert!(named(&["Bag", "Cap"]).err().unwrap().to_string().contains("Cap"));
        assert!(named(&["Bag"]).is_err());
    }

    #[test]
    fn without_garments_the_hardest_classes_are_looked_at() {
        let names: Vec<String> = (0..12).map(|class| format!("c{class}")).collect();
        let data = data(&names.iter().map(String::as_str).collect::<Vec<_>>());
        // Classes 1, 4, 5, 8 and 10 share a direction, the others have their own.
        let shared = [1, 4, 5, 8, 10];
        let raw = Array2::from_shape_fn((data.labels.len(), 13), |(row, axis)| {
            let label = data.labels[row] as usize;
            let own = if shared.contains(&label) { 12 } else { label };
            f32::from(u8::from(axis == own)) + ((row * 37 + axis * 11) % 31) as f32 / 310.0
        });
        let focus = Focus::hardest(raw.view(), &data).unwrap();
        assert_eq!(focus.labels, [1, 4, 5, 8, 10]);
        assert!(focus.title().starts_with("c1, c4, c5, c8, c10 (the raw"), "{}", focus.title());
        let few = self::data(&["a", "b", "c"]);
        assert!(Focus::hardest(Array2::ones((36, 2)).view(), &few).is_none());
    }

    /// Vectors whose classes are `gap` apart, so that the verdicts are known beforehand.
    fn vectors(data: &Dataset, gap: f32, seed: u64) -> Vectors {
        let queries = Array2::from_shape_fn((data.labels.len(), 4), |(i, j)| {
            let own = if data.labels[i] as usize == j { gap } else { 0.0 };
            own + ((i as u64 * 37 + j as u64 * 11 + seed * 5) % 31) as f32 / 31.0
        });
        Vectors { queries, gallery: None }
    }

    #[test]
    fn claims_follow_the_measures() {
        let data = data(&["a", "b", "c", "d"]);
        let split = Split { train: data.clone(), queries: data.clone(), gallery: None };
        let focus = Focus::new(&["a".to_owned(), "b".to_owned()], &data).unwrap();
        let mut findings = Findings::new(focus, "a test".to_owned());
        for seed in 0..5 {
            findings.begin(seed);
            for (name, gap) in [(TRIPLET, 0.2), (COSFACE, 0.5), (ARCFACE, 1.5)] {
                findings.add(name, &vectors(&data, gap, seed), &split).unwrap();
            }
        }
        let claims = findings.claims();
        assert_eq!(claims.len(), 15);
        for claim in claims.iter().filter(|claim| claim.measure == "silhouette") {
            if claim.words.contains("least") || claim.words.contains("most") {
                assert_eq!(claim.difference.verdict(), Verdict::Holds, "{}", claim.words);
            }
        }
        let json = findings.to_json();
        assert_eq!(json["claims"].as_array().unwrap().len(), 15);
        assert_eq!(json["seeds"], json!([0, 1, 2, 3, 4]));
        assert!(findings.table().contains("ArcFace separates them most"));
    }
}
