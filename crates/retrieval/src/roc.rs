//! Telling pairs of one class from pairs of two by a threshold.

use serde::Serialize;

use crate::{Error, Result};

/// What a threshold accepts as pairs of one class.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct RocPoint {
    /// Pairs that are at least as similar, or at most as distant, are accepted.
    pub threshold: f32,
    /// Accepted pairs of one class.
    pub true_accepts: u64,
    /// Accepted pairs of two classes.
    pub false_accepts: u64,
}

/// The receiver operating characteristic: what every threshold accepts, from the strictest to the loosest.
///
/// With `P` pairs of one class and `N` of two, the true accept rate (TAR) is `true_accepts / P`, the false accept rate
/// (FAR) `false_accepts / N` and the false reject rate (FRR) `1 - TAR`.
#[derive(Debug, Clone, PartialEq)]
pub struct Roc {
    pub(crate) points: Vec<RocPoint>,
    pub(crate) positives: u64,
    pub(crate) negatives: u64,
}

/// A threshold and its rates.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Operating {
    /// Pairs that are at least as similar, or at most as distant, are of one class.
    pub threshold: f32,
    /// The share of pairs of two classes that it accepts.
    pub far: f64,
    /// The share of pairs of one class that it accepts.
    pub tar: f64,
}

/// The threshold at which both kinds of error are equally frequent.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[non_exhaustive]
pub struct EqualError {
    /// The rate of both errors, where the ROC, its points joined by lines, crosses `FAR = FRR`.
    pub rate: f64,
    /// Of the two points around the crossing that whose rates differ less.
    pub threshold: f32,
}

impl Roc {
    /// From the scores of pairs, and whether each is of one class. Every distinct score is a threshold, as in
    /// scikit-learn's `roc_curve(drop_intermediate=False)`. `similarity`: larger scores are of more similar pairs;
    /// otherwise scores are distances.
    ///
    /// # Errors
    /// Another number of scores than of pairs, scores that are not finite, [`Error::NoPairs`].
    pub fn from_scores(scores: &[f32], same: &[bool], similarity: bool) -> Result<Self> {
        if scores.len() != same.len() {
            return Err(Error::Shape {
                what: "pairs of one class",
                expected: format!("[{}], one entry for each score", scores.len()),
                got: vec![same.len()],
            });
        }
        if let Some((row, &value)) = scores.iter().enumerate().find(|(_, score)| !score.is_finite()) {
            return Err(Error::NotFinite { what: "scores", row, column: 0, value });
        }
        let mut pairs: Vec<(f32, bool)> = scores.iter().copied().zip(same.iter().copied()).collect();
        pairs.sort_unstable_by(|a, b| if similarity { b.0.total_cmp(&a.0) } else { a.0.total_cmp(&b.0) });
        let mut roc = Self { points: Vec::new(), positives: 0, negatives: 0 };
        for equal in pairs.chunk_by(|a, b| a.0 == b.0) {
            let same = equal.iter().filter(|pair| pair.1).count() as u64;
            roc.push(equal[0].0, same, equal.len() as u64 - same);
        }
        roc.check()
    }

    /// Adds a looser threshold and the pairs that it accepts beyond those of the last one.
    pub(crate) fn push(&mut self, threshold: f32, same: u64, different: u64) {
        self.positives += same;
        self.negatives += different;
        let (true_accepts, false_accepts) = (self.positives, self.negatives);
        self.points.push(RocPoint { threshold, true_accepts, false_accepts });
    }

    pub(crate) fn check(self) -> Result<Self> {
        let Self { positives, negatives, .. } = self;
        if positives == 0 || negatives == 0 {
            return Err(Error::NoPairs { positives, negatives });
        }
        Ok(self)
    }

    /// The points, from the strictest threshold to the loosest, which accepts all.
    pub fn points(&self) -> &[RocPoint] {
        &self.points
    }

    /// Pairs of one class.
    pub fn positives(&self) -> u64 {
        self.positives
    }

    /// Pairs of two classes.
    pub fn negatives(&self) -> u64 {
        self.negatives
    }

    fn rates(&self, point: &RocPoint) -> (f64, f64) {
        (
            point.false_accepts as f64 / self.negatives as f64,
            point.true_accepts as f64 / self.positives as f64,
        )
    }

    /// The area under the curve: the probability that a pair of one class is more similar than one of two, ties counted
    /// by half.
    pub fn auc(&self) -> f64 {
        let (mut area, mut last) = (0.0, (0.0, 0.0));
        for point in &self.points {
            let (far, tar) = self.rates(point);
            area += (far - last.0) * (tar + last.1) * 0.5;
            last = (far, tar);
        }
        area
    }

    /// The equal error rate.
    pub fn eer(&self) -> EqualError {
        // Above the strictest threshold nothing is accepted.
        let (mut last, mut last_threshold) = ((0.0, 0.0), None);
        for point in &self.points {
            let (far, tar) = self.rates(point);
            let (before, after) = (1.0 - last.1 - last.0, 1.0 - tar - far);
            if after <= 0.0 {
                let share = if before > after { before / (before - after) } else { 0.0 };
                let rate = last.0 + share * (far - last.0);
                let threshold = match last_threshold {
                    Some(threshold) if before < -after => threshold,
                    _ => point.threshold,
                };
                return EqualError { rate, threshold };
            }
            (last, last_threshold) = ((far, tar), Some(point.threshold));
        }
        // Unreachable: the loosest threshold accepts all.
        EqualError { rate: 1.0, threshold: f32::NAN }
    }

    /// The loosest threshold whose FAR is at most `far`, a share from 0 to 1; `None` if even the strictest accepts more.
    ///
    /// Of `N` pairs of two classes none may be accepted for a `far` below `1 / N`: such a rate is not measured but
    /// bounded, and more items are needed to know it.
    ///
    /// # Errors
    /// [`Error::Parameter`] for a `far` that is no share, as a percentage is not.
    pub fn at_far(&self, far: f64) -> Result<Option<Operating>> {
        if !(0.0..=1.0).contains(&far) {
            let remedy = "give a share of the pairs of two classes from 0 to 1; 0.1 % is 0.001";
            return Err(Error::Parameter { name: "far", value: far.to_string(), remedy });
        }
        let accepted = self.points.partition_point(|point| self.rates(point).0 <= far);
        let point = accepted.checked_sub(1).and_then(|last| self.points.get(last));
        Ok(point.map(|point| {
            let (far, tar) = self.rates(point);
            Operating { threshold: point.threshold, far, tar }
        }))
    }

    /// At most `count` points (2 or more) that draw the curve: the first, the last, and where TAR and the logarithm of
    /// FAR have gone far enough.
    pub fn thinned(&self, count: usize) -> Vec<Operating> {
        let all = self.points.iter().map(|point| {
            let (far, tar) = self.rates(point);
            Operating { threshold: point.threshold, far, tar }
        });
        if self.points.len() <= count {
            return all.collect();
        }
        // The curve's length with FAR on a logarithmic axis of N's decades.
        let decades = (self.negatives as f64).ln().max(1.0);
        let height = |point: &Operating| (point.far * self.negatives as f64).max(1.0).ln() / decades;
        let step = 2.0 / (count.max(3) - 2) as f64;
        let mut kept: Vec<Operating> = Vec::new();
        let mut next = None;
        for point in all {
            let way = height(&point) + point.tar;
            if next.is_none_or(|next| way >= next) || point.far == 1.0 && point.tar == 1.0 {
                next = Some(way + step);
                kept.push(point);
            }
        }
        kept
    }
}
