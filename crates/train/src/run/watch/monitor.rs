//! The figures of an epoch that a run may be steered by.

use std::fmt;
use std::str::FromStr;

use embedtune_retrieval::Measure;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// More neighbours than anybody looks at.
const MOST: usize = 1_000_000;

/// A figure of an epoch, named as `evaluate --json` names it. All but the loss are measured on the items held out by
/// `val_split`, or else on the evaluation items.
///
/// | name | figure |
/// |---|---|
/// | `recall_at_K`, `hit_at_K` | [`Measure::Hit`]: metric-learning papers' Recall@K |
/// | `ir_recall_at_K` | [`Measure::Recall`]: search engines' recall@K |
/// | `precision_at_K`, `ndcg_at_K` | [`Measure::Precision`], [`Measure::NdcgAt`] |
/// | `r_precision`, `map_at_r`, `map`, `mrr`, `ndcg` | the measures of these names |
/// | `nmi`, `ami` | agreement of k-means with the classes; measured where they are monitored alone, for they take a clustering |
/// | `loss` | the training loss; lower is better |
///
/// Finetuner's `train_loss`, `average_precision` and `reciprocal_rank` are read as `loss`, `map` and `mrr`. Its
/// `recall_at_K` is `ir_recall_at_K` here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Monitor {
    /// The training loss; lower is better.
    Loss,
    /// A retrieval measure; higher is better.
    Measure(Measure),
    /// Normalised mutual information of k-means and the classes; higher is better.
    Nmi,
    /// The same, adjusted for chance; higher is better.
    Ami,
}

/// A measure at so many neighbours.
type AtK = fn(usize) -> Measure;
/// What may stand before `_at_`, and what it is then.
const AT_K: [(&str, AtK); 5] = [
    ("recall", Measure::Hit),
    ("hit", Measure::Hit),
    ("ir_recall", Measure::Recall),
    ("precision", Measure::Precision),
    ("ndcg", Measure::NdcgAt),
];
/// The others.
const WHOLE: [(&str, Measure); 5] = [
    ("r_precision", Measure::RPrecision),
    ("map_at_r", Measure::MapAtR),
    ("map", Measure::Map),
    ("mrr", Measure::Mrr),
    ("ndcg", Measure::Ndcg),
];

/// How Finetuner's figures begin that are none here.
const ELSEWHERE: [(&str, &str); 3] = [
    (
        "val_loss",
        "items held out by val_split are measured by retrieval; write recall_at_1, or loss for the training loss",
    ),
    ("f1_score", "write precision_at_K or ir_recall_at_K, of which it is the harmonic mean"),
    ("dcg", "write ndcg_at_K, which is dcg_at_K as a share of the best possible"),
];

impl Monitor {
    /// Recall@1, the default.
    pub const RECALL_AT_1: Self = Self::Measure(Measure::Hit(1));

    /// Whether a lower figure is the better one.
    pub fn lower_is_better(self) -> bool {
        self == Self::Loss
    }

    /// The number of neighbours that the figure looks at, if it has one.
    pub(in crate::run) fn k(self) -> Option<usize> {
        match self {
            Self::Measure(
                Measure::Hit(k) | Measure::Recall(k) | Measure::Precision(k) | Measure::NdcgAt(k),
            ) => Some(k),
            _ => None,
        }
    }
}

/// A measure's name in files; `None` for one that is not known here.
pub(in crate::run) fn name(measure: Measure) -> Option<String> {
    let at = |name: &str, k: usize| Some(format!("{name}_at_{k}"));
    match measure {
        Measure::Hit(k) => at("recall", k),
        Measure::Recall(k) => at("ir_recall", k),
        Measure::Precision(k) => at("precision", k),
        Measure::NdcgAt(k) => at("ndcg", k),
        other => WHOLE.iter().find(|(_, whole)| *whole == other).map(|(name, _)| (*name).to_owned()),
    }
}

impl Default for Monitor {
    fn default() -> Self {
        Self::RECALL_AT_1
    }
}

impl fmt::Display for Monitor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Loss => f.pad("loss"),
            Self::Nmi => f.pad("nmi"),
            Self::Ami => f.pad("ami"),
            Self::Measure(measure) => f.pad(&name(measure).unwrap_or_else(|| measure.to_string())),
        }
    }
}

impl FromStr for Monitor {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let plain = match text {
            // As Finetuner calls them, too.
            "loss" | "train_loss" => Some(Self::Loss),
            "average_precision" => Some(Self::Measure(Measure::Map)),
            "reciprocal_rank" => Some(Self::Measure(Measure::Mrr)),
            "nmi" => Some(Self::Nmi),
            "ami" => Some(Self::Ami),
            // As Keras-like names write it.
            "recall_at1" => Some(Self::RECALL_AT_1),
            _ => WHOLE.iter().find(|(name, _)| *name == text).map(|(_, measure)| Self::Measure(*measure)),
        };
        let at_k = || {
            let (name, k) = text.rsplit_once("_at_")?;
            let k = k.parse().ok().filter(|k| (1..=MOST).contains(k))?;
            AT_K.iter().find(|(known, _)| *known == name).map(|(_, measure)| Self::Measure(measure(k)))
        };
        plain.or_else(at_k).ok_or_else(|| {
            if let Some((_, reason)) = ELSEWHERE.iter().find(|(name, _)| text.starts_with(name)) {
                return format!("`{text}` is not measured here: {reason}");
            }
            format!(
                "`{text}` is no figure of an epoch; write recall_at_K (or hit_at_K), ir_recall_at_K, precision_at_K or \
                 ndcg_at_K with K from 1 to {MOST}, r_precision, map_at_r, map, mrr, ndcg, nmi, ami or loss"
            )
        })
    }
}

impl Serialize for Monitor {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Monitor {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        for (name, monitor) in [
            ("loss", Monitor::Loss),
            ("nmi", Monitor::Nmi),
            ("ami", Monitor::Ami),
            ("recall_at_1", Monitor::RECALL_AT_1),
            ("recall_at_20", Monitor::Measure(Measure::Hit(20))),
            ("ir_recall_at_5", Monitor::Measure(Measure::Recall(5))),
            ("precision_at_5", Monitor::Measure(Measure::Precision(5))),
            ("ndcg_at_10", Monitor::Measure(Measure::NdcgAt(10))),
            ("r_precision", Monitor::Measure(Measure::RPrecision)),
            ("map_at_r", Monitor::Measure(Measure::MapAtR)),
            ("map", Monitor::Measure(Measure::Map)),
            ("mrr", Monitor::Measure(Measure::Mrr)),
            ("ndcg", Monitor::Measure(Measure::Ndcg)),
        ] {
            assert_eq!(name.parse(), Ok(monitor));
            assert_eq!(monitor.to_string(), name);
        }
        assert_eq!("hit_at_1".parse(), Ok(Monitor::RECALL_AT_1));
        assert_eq!("average_precision".parse(), Ok(Monitor::Measure(Measure::Map)));
        assert_eq!("reciprocal_rank".parse(), Ok(Monitor::Measure(Measure::Mrr)));
        assert_eq!("train_loss".parse(), Ok(Monitor::Loss));
        for (name, part) in [
            ("val_loss", "write recall_at_1, or loss"),
            ("f1_score_at_5", "write precision_at_K"),
            ("dcg_at_10", "write ndcg_at_K"),
        ] {
            let message = name.parse::<Monitor>().unwrap_err();
            assert!(message.contains(part), "{message}");
        }
        for wrong in
            ["accuracy", "recall_at_0", "recall_at_x", "recall_at_", "map_at_5", "recall_at_99999999", ""]
        {
            let message = wrong.parse::<Monitor>().unwrap_err();
            assert!(message.contains("r_precision, map_at_r, map, mrr, ndcg, nmi, ami or loss"), "{message}");
        }
    }
}
