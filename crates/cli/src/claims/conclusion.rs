//! What the measures say together.

use serde::Serialize;

use super::Claim;
use super::interval::Verdict;
use crate::standing::listed;

/// What is documented.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Said {
    Struggle,
    TripletLeast,
    ArcFaceMost,
}

impl Said {
    const ALL: [Self; 3] = [Self::Struggle, Self::TripletLeast, Self::ArcFaceMost];

    fn words(self) -> &'static str {
        match self {
            Self::Struggle => "All three losses struggle with them",
            Self::TripletLeast => "The triplet loss separates them least",
            Self::ArcFaceMost => "ArcFace separates them most",
        }
    }
}

/// One documented claim by all measures.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Conclusion {
    pub(super) claim: &'static str,
    /// `None` where the measures do not agree.
    verdict: Option<Verdict>,
    /// The verdict in words, with the measures, and what is so instead.
    pub(super) words: String,
}

impl Conclusion {
    /// One for each documented claim; none where nothing could be asked.
    pub(super) fn of(claims: &[Claim]) -> Vec<Self> {
        let of = |said: Said| -> Vec<&Claim> { claims.iter().filter(|claim| claim.said == said).collect() };
        Said::ALL.into_iter().map(|said| (said, of(said))).filter(|(_, of)| !of.is_empty()).map(one).collect()
    }
}

fn one((said, claims): (Said, Vec<&Claim>)) -> Conclusion {
    let with = |verdict: Verdict| -> Vec<&&Claim> {
        claims.iter().filter(|claim| claim.difference.verdict() == verdict).collect()
    };
    let found: Vec<(Verdict, Vec<&&Claim>)> = [Verdict::Holds, Verdict::Fails, Verdict::Undecided]
        .into_iter()
        .map(|verdict| (verdict, with(verdict)))
        .filter(|(_, claims)| !claims.is_empty())
        .collect();
    let verdict = if let [(only, _)] = found.as_slice() { Some(*only) } else { None };
    let mut words = match verdict {
        Some(Verdict::Fails) => "does not hold by any measure".to_owned(),
        Some(verdict) => format!("{} by every measure", verdict.word()),
        None => {
            let part = |(verdict, claims): &(Verdict, Vec<&&Claim>)| {
                let names: Vec<String> = claims.iter().map(|claim| by(said, claim)).collect();
                let names: Vec<&str> = names.iter().map(String::as_str).collect();
                format!("{} by {}", verdict.word(), listed(&names))
            };
            found.iter().map(part).collect::<Vec<_>>().join("; ")
        }
    };
    if said != Said::Struggle && verdict != Some(Verdict::Holds) {
        words += &instead(said, &claims);
    }
    Conclusion { claim: said.words(), verdict, words }
}

/// The measure of a claim, and its loss where there is a claim for each.
fn by(said: Said, claim: &Claim) -> String {
    match said {
        Said::Struggle => format!("{} ({})", claim.measure, claim.loss),
        Said::TripletLeast | Said::ArcFaceMost => claim.measure.to_owned(),
    }
}

/// Which loss has the least, or the highest, mean.
fn instead(said: Said, claims: &[&Claim]) -> String {
    let end = if said == Said::TripletLeast { "lowest" } else { "highest" };
    let Some(first) = claims.first() else { return String::new() };
    if claims.iter().all(|claim| claim.loss == first.loss) {
        return format!(" (the {end} mean is {}'s)", first.loss);
    }
    let mut of: Vec<(&str, Vec<&str>)> = Vec::new();
    for claim in claims {
        match of.iter_mut().find(|(loss, _)| *loss == claim.loss) {
            Some((_, measures)) => measures.push(claim.measure),
            None => of.push((&claim.loss, vec![claim.measure])),
        }
    }
    let each: Vec<String> =
        of.iter().map(|(loss, measures)| format!("{loss}'s by {}", listed(measures))).collect();
    format!(" (the {end} mean is {})", each.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::claims::interval::Interval;

    fn claim(said: Said, measure: &'static str, differences: &[f64], loss: &str) -> Claim {
        let difference = Interval::of(differences);
        Claim { said, words: String::new(), measure, difference, loss: loss.to_owned() }
    }

    #[test]
    fn measures_that_agree_are_one_sentence_and_others_are_named() {
        let (holds, fails, open) = ([1.0, 1.1, 0.9], [-1.0, -1.1, -0.9], [-1.0, 1.0, 0.1]);
        let claims = [
            claim(Said::Struggle, "a", &holds, "T"),
            claim(Said::Struggle, "b", &holds, "C"),
            claim(Said::TripletLeast, "a", &fails, "C"),
            claim(Said::TripletLeast, "b", &fails, "C"),
            claim(Said::ArcFaceMost, "a", &holds, "A"),
            claim(Said::ArcFaceMost, "b", &fails, "T"),
            claim(Said::ArcFaceMost, "c", &open, "A"),
        ];
        let found = Conclusion::of(&claims);
        let told: Vec<(Option<Verdict>, &str)> =
            found.iter().map(|found| (found.verdict, &*found.words)).collect();
        assert_eq!(
            told,
            [
                (Some(Verdict::Holds), "holds by every measure"),
                (Some(Verdict::Fails), "does not hold by any measure (the lowest mean is C's)"),
                (
                    None,
                    "holds by a; does not hold by b; undecided by c (the highest mean is A's by a and c, T's by b)"
                ),
            ]
        );
        let mixed = [claim(Said::Struggle, "a", &holds, "T"), claim(Said::Struggle, "a", &open, "C")];
        assert_eq!(Conclusion::of(&mixed)[0].words, "holds by a (T); undecided by a (C)");
        assert!(Conclusion::of(&[]).is_empty());
    }
}
