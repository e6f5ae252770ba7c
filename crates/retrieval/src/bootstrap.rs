//! How far a mean could be off: confidence intervals by resampling.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::evaluate::Evaluation;
use crate::progress::Progress;
use crate::random::{below, generator};
use crate::table::Measure;
use crate::{Error, Result};

/// How [`Evaluation::intervals`] resamples.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Bootstrap {
    /// How many times, from 1 to 10,000,000; default 1,000.
    pub resamples: usize,
    /// Which random numbers; default 0.
    pub seed: u64,
    /// Confidence, above 0 and below 1; default 0.95.
    pub level: f64,
}

impl Default for Bootstrap {
    fn default() -> Self {
        Self { resamples: 1000, seed: 0, level: 0.95 }
    }
}

/// The means of all resamples are held, and more of them say nothing more.
const MOST: usize = 10_000_000;

/// The confidence interval of a mean.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Interval {
    /// Its lower end.
    pub low: f64,
    /// Its upper end.
    pub high: f64,
}

impl Evaluation {
    /// Confidence intervals of every mean: percentiles of the means of as many queries drawn with replacement (Efron
    /// 1979; the percentile interval of Efron and Tibshirani 1993, section 13.3), the same draws for all measures.
    ///
    /// They say how much other queries of the same kind would change the figures, the gallery and the model being the
    /// same; not what another training run would. The same seed gives the same bits for any number of threads.
    ///
    /// # Errors
    /// [`Error::Parameter`] for no resamples or too many, or a level that is not between 0 and 1.
    pub fn intervals(&self, bootstrap: &Bootstrap) -> Result<Vec<(Measure, Interval)>> {
        self.intervals_watched(bootstrap, &())
    }

    /// [`intervals`](Self::intervals) that tells how far it has come; a unit is a resample.
    ///
    /// # Errors
    /// As [`intervals`](Self::intervals).
    pub fn intervals_watched(
        &self,
        bootstrap: &Bootstrap,
        progress: &dyn Progress,
    ) -> Result<Vec<(Measure, Interval)>> {
        let &Bootstrap { resamples, seed, level } = bootstrap;
        if !(1..=MOST).contains(&resamples) {
            return Err(Error::Parameter {
                name: "resamples",
                value: resamples.to_string(),
                remedy: "from 1 to 10,000,000; 1,000 give two digits",
            });
        }
        if !(level > 0.0 && level < 1.0) {
            return Err(Error::Parameter {
                name: "level",
                value: level.to_string(),
                remedy: "a confidence is between 0 and 1, for instance 0.95",
            });
        }
        progress.begin(resamples as u64);
        let (measures, count) = (self.measures(), self.query_rows().len());
        let means: Vec<Vec<f64>> = (0..resamples as u64)
            .into_par_iter()
            .map_init(
                || vec![0u32; count],
                |times, resample| {
                    times.fill(0);
                    let mut random = generator(seed, resample);
                    for _ in 0..count {
                        times[below(&mut random, count)] += 1;
                    }
                    let means = measures.iter().map(|&measure| self.weighted_mean(measure, times)).collect();
                    progress.advance(1);
                    means
                },
            )
            .collect();
        let tail = 0.5 * (1.0 - level);
        let interval = |column: usize| {
            let mut values: Vec<f64> = means.iter().map(|row| row[column]).collect();
            values.sort_unstable_by(f64::total_cmp);
            Interval { low: quantile(&values, tail), high: quantile(&values, 1.0 - tail) }
        };
        Ok(measures.iter().enumerate().map(|(column, &measure)| (measure, interval(column))).collect())
    }

    fn weighted_mean(&self, measure: Measure, times: &[u32]) -> f64 {
        let values = self.values(measure).into_iter().flatten();
        let sum: f64 = values.zip(times).map(|(value, &times)| value * f64::from(times)).sum();
        sum / times.len() as f64
    }
}

/// Of sorted values, at least one, interpolated linearly between neighbours (type 7 of Hyndman and Fan 1996).
fn quantile(sorted: &[f64], at: f64) -> f64 {
    let place = at * (sorted.len() - 1) as f64;
    let (low, high) = (place.floor() as usize, place.ceil() as usize);
    sorted[low] + (sorted[high] - sorted[low]) * place.fract()
}

#[cfg(test)]
mod tests {
    use super::quantile;

    #[test]
    fn quantiles_are_numpys() {
        // numpy.quantile([1, 2, 4, 8], [0, 0.1, 0.5, 0.975, 1])
        let values = [1.0, 2.0, 4.0, 8.0];
        for (at, expected) in [(0.0, 1.0), (0.1, 1.3), (0.5, 3.0), (0.975, 7.7), (1.0, 8.0)] {
            assert!((quantile(&values, at) - expected).abs() < 1e-12, "{at}");
        }
        assert_eq!(quantile(&[3.0], 0.3), 3.0);
    }
}
