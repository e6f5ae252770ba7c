//! What a few seeds say about a mean.

use serde::Serialize;

/// Two-sided 97.5% quantiles of Student's t for 1, 2, ... degrees of freedom.
const T: [f64; 19] = [
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093,
];

/// A mean with its 95% interval, mean +- t s / sqrt(n). One value has no interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Interval {
    pub(crate) mean: f64,
    pub(crate) low: Option<f64>,
    pub(crate) high: Option<f64>,
}

/// What an interval says of "the mean is above zero".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Verdict {
    Holds,
    Fails,
    /// The interval includes zero, or there is none.
    Undecided,
}

impl Interval {
    pub(crate) fn of(values: &[f64]) -> Self {
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n.max(1.0);
        if values.len() < 2 {
            return Self { mean, low: None, high: None };
        }
        let variance = values.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / (n - 1.0);
        // Beyond the table the last entry is a little wide, never narrow.
        let t = T.get(values.len() - 2).unwrap_or(&T[T.len() - 1]);
        let half = t * (variance / n).sqrt();
        Self { mean, low: Some(mean - half), high: Some(mean + half) }
    }

    pub(crate) fn half(&self) -> Option<f64> {
        self.high.map(|high| high - self.mean)
    }

    pub(crate) fn verdict(&self) -> Verdict {
        match (self.low, self.high) {
            (Some(low), _) if low > 0.0 => Verdict::Holds,
            (_, Some(high)) if high < 0.0 => Verdict::Fails,
            _ => Verdict::Undecided,
        }
    }
}

impl Verdict {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Holds => "holds",
            Self::Fails => "does not hold",
            Self::Undecided => "undecided",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_of_five_values() {
        // Mean 3, standard deviation sqrt(2.5), t(4) = 2.776: half-width 2.776 * sqrt(0.5).
        let found = Interval::of(&[1.0, 2.0, 3.0, 4.0, 5.0]);
        assert_eq!(found.mean, 3.0);
        assert!((found.half().unwrap() - 2.776 * 0.5f64.sqrt()).abs() < 1e-12);
        assert_eq!(found.verdict(), Verdict::Holds);
        assert_eq!(Interval::of(&[-1.0, -1.1, -0.9]).verdict(), Verdict::Fails);
        assert_eq!(Interval::of(&[-1.0, 1.0]).verdict(), Verdict::Undecided);
        assert_eq!(Interval::of(&[1.0]).verdict(), Verdict::Undecided);
    }
}
