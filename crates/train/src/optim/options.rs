//! What a user may set on an optimizer.

use serde::{Deserialize, Serialize};

use super::OptimizerKind;
use crate::{Error, Result};

/// Options of an optimizer, under PyTorch's names. Absent ones take PyTorch's defaults:
///
/// | option | SGD | Adam | AdamW | RMSprop |
/// |---|---|---|---|---|
/// | `weight_decay` | 0 | 0 | 0.01 | 0 |
/// | `momentum` | 0 | | | 0 |
/// | `dampening` | 0 | | | |
/// | `nesterov` | false | | | |
/// | `betas` | | 0.9, 0.999 | 0.9, 0.999 | |
/// | `amsgrad` | | false | false | |
/// | `eps` | | 1e-8 | 1e-8 | 1e-8 |
/// | `alpha` | | | | 0.99 |
/// | `centered` | | | | false |
///
/// An option in an empty cell is an error for that optimizer.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OptimizerOptions {
    /// The rate of a step, at least 0; also read as `lr`.
    #[serde(alias = "lr", skip_serializing_if = "Option::is_none")]
    pub learning_rate: Option<f64>,
    /// Pull towards zero, at least 0: added to the gradient as `weight_decay * parameter`; with AdamW the parameter
    /// shrinks by `learning_rate * weight_decay` instead, whatever the gradient's scale.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight_decay: Option<f64>,
    /// Share of the previous update that is kept, in [0, 1).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub momentum: Option<f64>,
    /// The momentum takes `1 - dampening` of each new gradient; in [0, 1].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dampening: Option<f64>,
    /// Look ahead along the momentum; needs a momentum and no dampening.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nesterov: Option<bool>,
    /// Decay of the first and the second moment, each in [0, 1).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub betas: Option<(f64, f64)>,
    /// Added to the denominator, above 0 (PyTorch allows 0, where an idle parameter becomes 0 / 0).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eps: Option<f64>,
    /// Decay of the mean square, in [0, 1).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alpha: Option<f64>,
    /// Divide by the gradient's standard deviation instead of its root mean square.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub centered: Option<bool>,
    /// Divide by the largest second moment so far (Reddi et al. 2018).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub amsgrad: Option<bool>,
}

impl OptimizerOptions {
    /// Checks that `kind` has every option given and that each is in its range.
    ///
    /// # Errors
    /// [`Error::Option`] with the option's name, its value and what to write instead.
    pub fn check(&self, kind: OptimizerKind) -> Result<()> {
        use OptimizerKind::{Adam, AdamW, RmsProp, Sgd};
        let text = |value: Option<f64>| value.map(|v| v.to_string());
        let flag = |value: Option<bool>| value.map(|v| v.to_string());
        let given: [(&str, Option<String>, &[OptimizerKind]); 8] = [
            ("momentum", text(self.momentum), &[Sgd, RmsProp]),
            ("dampening", text(self.dampening), &[Sgd]),
            ("nesterov", flag(self.nesterov), &[Sgd]),
            ("betas", self.betas.map(|(a, b)| format!("[{a}, {b}]")), &[Adam, AdamW]),
            ("eps", text(self.eps), &[Adam, AdamW, RmsProp]),
            ("alpha", text(self.alpha), &[RmsProp]),
            ("centered", flag(self.centered), &[RmsProp]),
            ("amsgrad", flag(self.amsgrad), &[Adam, AdamW]),
        ];
        for (name, value, kinds) in given {
            if let Some(value) = value.filter(|_| !kinds.contains(&kind)) {
                let have: Vec<_> = kinds.iter().map(|kind| kind.name()).collect();
                let remedy = format!("{kind} has no such option ({} has); remove it", have.join(", "));
                return Err(Error::option(name, value, remedy));
            }
        }
        if let Some(lr) = self.learning_rate {
            rate(lr)?;
        }
        let finite = |name, value: Option<f64>, range: &str, inside: fn(f64) -> bool| match value {
            Some(v) if !(v.is_finite() && inside(v)) => Err(Error::option(name, v, range)),
            _ => Ok(()),
        };
        let fraction = |v: f64| (0.0..1.0).contains(&v);
        finite("weight_decay", self.weight_decay, "must be a number of at least 0", |v| v >= 0.0)?;
        finite("momentum", self.momentum, "must be in [0, 1)", fraction)?;
        finite("dampening", self.dampening, "must be in [0, 1]", |v| (0.0..=1.0).contains(&v))?;
        finite("betas[0]", self.betas.map(|b| b.0), "must be in [0, 1)", fraction)?;
        finite("betas[1]", self.betas.map(|b| b.1), "must be in [0, 1)", fraction)?;
        finite("eps", self.eps, "must be above 0, as 1e-8", |v| v as f32 > 0.0)?;
        finite("alpha", self.alpha, "must be in [0, 1)", fraction)?;
        if self.nesterov == Some(true)
            && (self.momentum.unwrap_or(0.0) == 0.0 || self.dampening.unwrap_or(0.0) != 0.0)
        {
            return Err(Error::option("nesterov", true, "needs momentum above 0 and dampening 0"));
        }
        Ok(())
    }
}

/// A learning rate that can be used.
pub(super) fn rate(learning_rate: f64) -> Result<f64> {
    if learning_rate.is_finite() && learning_rate >= 0.0 {
        return Ok(learning_rate);
    }
    Err(Error::option("learning_rate", learning_rate, "must be a number of at least 0, as 0.001"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use OptimizerKind::{Adam, AdamW, RmsProp, Sgd};

    fn options(toml: &str) -> OptimizerOptions {
        toml::from_str(toml).unwrap()
    }

    #[test]
    fn wrong_options_are_named() {
        for (kind, text, message) in [
            (Adam, "momentum = 0.9", "momentum = 0.9: Adam has no such option (SGD, RMSprop has); remove it"),
            (Sgd, "betas = [0.9, 0.99]", "betas = [0.9, 0.99]: SGD has no such option (Adam, AdamW has)"),
            (RmsProp, "amsgrad = false", "amsgrad = false: RMSprop has no such option"),
            (AdamW, "alpha = 0.9", "alpha = 0.9: AdamW has no such option"),
            (Sgd, "lr = -1.0", "learning_rate = -1: must be"),
            (Sgd, "lr = nan", "learning_rate = NaN: must be"),
            (Sgd, "weight_decay = inf", "weight_decay = inf: must be"),
            (Sgd, "momentum = 1.0", "momentum = 1: must be in [0, 1)"),
            (Sgd, "dampening = 1.5", "dampening = 1.5: must be in [0, 1]"),
            (Sgd, "nesterov = true", "nesterov = true: needs momentum"),
            (Sgd, "nesterov = true\nmomentum = 0.9\ndampening = 0.1", "nesterov = true: needs momentum"),
            (Adam, "betas = [1.0, 0.9]", "betas[0] = 1: must be"),
            (Adam, "betas = [0.9, -0.1]", "betas[1] = -0.1: must be"),
            (Adam, "eps = 0.0", "eps = 0: must be above 0"),
            (Adam, "eps = 1e-60", "must be above 0"),
            (RmsProp, "alpha = 1.0", "alpha = 1: must be"),
        ] {
            let error = options(text).check(kind).unwrap_err().to_string();
            assert!(error.contains(message), "{text}: {error}");
            assert!(super::super::build(kind, &options(text), 0.1).is_err(), "{text}");
        }
    }

    #[test]
    fn unknown_fields_are_refused_and_known_ones_round_trip() {
        assert!(toml::from_str::<OptimizerOptions>("layers = 3").is_err());
        let all = options("lr = 0.1\nweight_decay = 0.01\nbetas = [0.8, 0.9]\neps = 1e-6\namsgrad = true");
        assert_eq!(all.learning_rate, Some(0.1));
        all.check(AdamW).unwrap();
        assert_eq!(options(&toml::to_string(&all).unwrap()), all);
        assert_eq!(toml::to_string(&OptimizerOptions::default()).unwrap(), "");
    }
}
