//! The root of a mean of powers, and its slopes.

use crate::Sign;

/// Where the signed root becomes a straight line, as a share of the largest magnitude's power.
const STRAIGHT: f64 = 1e-3;

/// `f(S)`, `f'(S)`, `df/dp`, and `f - p S f'`, which is what `y = top f(S)` owes to `top` itself.
pub(crate) struct Root {
    pub(crate) value: f64,
    pub(crate) slope: f64,
    pub(crate) by_p: f64,
    pub(crate) extra: f64,
}

impl Root {
    pub(crate) fn of(mean: f64, p: f64, sign: Sign) -> Self {
        let size = mean.abs();
        if sign == Sign::Signed && size < STRAIGHT {
            let slope = STRAIGHT.powf(1.0 / p - 1.0);
            let value = mean * slope;
            return Self { value, slope, by_p: -value * STRAIGHT.ln() / (p * p), extra: value * (1.0 - p) };
        }
        // A mean of powers of which the largest is 1 is at least 1 / n.
        let log = size.max(f64::MIN_POSITIVE).ln();
        Self::curved(mean, p, log, (log / p).exp().copysign(mean))
    }

    /// From the logarithm of the mean's size and `value` of the mean's sign.
    #[inline(always)]
    pub(crate) fn curved(mean: f64, p: f64, log: f64, value: f64) -> Self {
        Self { value, slope: value / (p * mean), by_p: -value * log / (p * p), extra: 0.0 }
    }
}
