//! What a user may set on an optimizer.

use serde::{Deserialize, Serialize};

use super::OptimizerKind;
use crate::{Error, Result};

/// Options of an optimizer, under PyTorch's names. Absent ones take PyTorch's defaults:
///
/// | optimizer | options and defaults, besides `learning_rate` |
/// |---|---|
/// | SGD | `weight_decay` 0, `momentum` 0, `dampening` 0, `nesterov` false |
/// | Adam | `weight_decay` 0, `betas` 0.9, 0.999, `eps` 1e-8, `amsgrad` false, `decoupled_weight_decay` false |
/// | AdamW | `weight_decay` 0.01, `betas` 0.9, 0.999, `eps` 1e-8, `amsgrad` false |
/// | SparseAdam | `betas` 0.9, 0.999, `eps` 1e-8 |
/// | NAdam | `weight_decay` 0, `betas` 0.9, 0.999, `eps` 1e-8, `momentum_decay` 0.004, `decoupled_weight_decay` false |
/// | RAdam | `weight_decay` 0, `betas` 0.9, 0.999, `eps` 1e-8, `decoupled_weight_decay` false |
/// | Adamax | `weight_decay` 0, `betas` 0.9, 0.999, `eps` 1e-8 |
/// | Adadelta | `weight_decay` 0, `rho` 0.9, `eps` 1e-6 |
/// | Adagrad | `weight_decay` 0, `lr_decay` 0, `initial_accumulator_value` 0, `eps` 1e-10 |
/// | RMSprop | `weight_decay` 0, `alpha` 0.99, `eps` 1e-8, `momentum` 0, `centered` false |
/// | Rprop | `etas` 0.5, 1.2, `step_sizes` 1e-6, 50 |
/// | ASGD | `weight_decay` 0, `lambd` 1e-4, `alpha` 0.75, `t0` 1e6 |
/// | LBFGS | `max_iter` 20, `max_eval` 1.25 `max_iter`, `tolerance_grad` 1e-7, `tolerance_change` 1e-9, `history_size` 100, `line_search_fn` none |
///
/// An option that is not in an optimizer's row is an error for it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OptimizerOptions {
    /// The rate of a step, at least 0; also read as `lr`.
    #[serde(alias = "lr", skip_serializing_if = "Option::is_none")]
    pub learning_rate: Option<f64>,
    /// Finetuner's: the factor on the rate from a layer with parameters to the one below it, in (0, 1], so that layers
    /// near the input learn more slowly; see [`super::build_groups`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layer_wise_lr_decay: Option<f64>,
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
    /// RMSprop: decay of the mean square, in [0, 1). ASGD: the power of the step in the rate, at least 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alpha: Option<f64>,
    /// Divide by the gradient's standard deviation instead of its root mean square.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub centered: Option<bool>,
    /// Divide by the largest second moment so far (Reddi et al. 2018).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub amsgrad: Option<bool>,
    /// Shrink the parameter instead of adding to the gradient, as AdamW does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decoupled_weight_decay: Option<bool>,
    /// Decay of both mean squares, in [0, 1).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rho: Option<f64>,
    /// Step `t` has the rate over `1 + (t - 1) lr_decay`; at least 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lr_decay: Option<f64>,
    /// Where the sum of squares starts, at least 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub initial_accumulator_value: Option<f64>,
    /// How fast the momentum approaches `betas[0]`, at least 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub momentum_decay: Option<f64>,
    /// Decay of the parameters and of the rate, at least 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lambd: Option<f64>,
    /// The step at which averaging begins, at least 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub t0: Option<f64>,
    /// Factors on a step size where the gradient's sign changes, in (0, 1), and where it stays, above 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub etas: Option<(f64, f64)>,
    /// The least and the largest step size, above 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step_sizes: Option<(f64, f64)>,
    /// Iterations on one batch, at least 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_iter: Option<usize>,
    /// Evaluations of one batch, at least 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_eval: Option<usize>,
    /// Stop a step where no gradient is larger; at least 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tolerance_grad: Option<f64>,
    /// Stop a step where parameters or loss change less; at least 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tolerance_change: Option<f64>,
    /// Past steps that the inverse Hessian is made of, at least 1; each holds two copies of the parameters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub history_size: Option<usize>,
    /// How a step's length is found.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line_search_fn: Option<LineSearch>,
}

/// `line_search_fn`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum LineSearch {
    /// The strong Wolfe conditions.
    StrongWolfe,
}

impl OptimizerOptions {
    /// Checks that `kind` has every option given and that each is in its range.
    ///
    /// # Errors
    /// [`Error::Option`] with the option's name, its value and what to write instead.
    pub fn check(&self, kind: OptimizerKind) -> Result<()> {
        use OptimizerKind::{
            Adadelta, Adagrad, Adam, AdamW, Adamax, Asgd, Lbfgs, NAdam, RAdam, RmsProp, Rprop, Sgd,
            SparseAdam,
        };
        let text = |value: Option<f64>| value.map(|v| v.to_string());
        let flag = |value: Option<bool>| value.map(|v| v.to_string());
        let count = |value: Option<usize>| value.map(|v| v.to_string());
        let pair = |value: Option<(f64, f64)>| value.map(|(a, b)| format!("[{a}, {b}]"));
        const DECAYING: &[OptimizerKind] =
            &[Sgd, Adam, AdamW, NAdam, RAdam, Adamax, Adadelta, Adagrad, RmsProp, Asgd];
        let given: [(&str, Option<String>, &[OptimizerKind]); 24] = [
            ("weight_decay", text(self.weight_decay), DECAYING),
            ("momentum", text(self.momentum), &[Sgd, RmsProp]),
            ("dampening", text(self.dampening), &[Sgd]),
            ("nesterov", flag(self.nesterov), &[Sgd]),
            ("betas", pair(self.betas), &[Adam, AdamW, SparseAdam, Adamax, NAdam, RAdam]),
            (
                "eps",
                text(self.eps),
                &[Adam, AdamW, SparseAdam, Adamax, NAdam, RAdam, RmsProp, Adadelta, Adagrad],
            ),
            ("alpha", text(self.alpha), &[RmsProp, Asgd]),
            ("centered", flag(self.centered), &[RmsProp]),
            ("amsgrad", flag(self.amsgrad), &[Adam, AdamW]),
            ("decoupled_weight_decay", flag(self.decoupled_weight_decay), &[Adam, NAdam, RAdam]),
            ("rho", text(self.rho), &[Adadelta]),
            ("lr_decay", text(self.lr_decay), &[Adagrad]),
            ("initial_accumulator_value", text(self.initial_accumulator_value), &[Adagrad]),
            ("momentum_decay", text(self.momentum_decay), &[NAdam]),
            ("lambd", text(self.lambd), &[Asgd]),
            ("t0", text(self.t0), &[Asgd]),
            ("etas", pair(self.etas), &[Rprop]),
            ("step_sizes", pair(self.step_sizes), &[Rprop]),
            ("max_iter", count(self.max_iter), &[Lbfgs]),
            ("max_eval", count(self.max_eval), &[Lbfgs]),
            ("tolerance_grad", text(self.tolerance_grad), &[Lbfgs]),
            ("tolerance_change", text(self.tolerance_change), &[Lbfgs]),
            ("history_size", count(self.history_size), &[Lbfgs]),
            ("line_search_fn", self.line_search_fn.map(|_| "strong_wolfe".to_owned()), &[Lbfgs]),
        ];
        for (name, value, kinds) in given {
            if let Some(value) = value.filter(|_| !kinds.contains(&kind)) {
                let have: Vec<_> = kinds.iter().map(|kind| kind.name()).collect();
                let remedy = format!("{kind} has no such option (only {}); remove it", have.join(", "));
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
        if kind == Asgd {
            finite("alpha", self.alpha, "must be a number of at least 0", |v| v >= 0.0)?;
        } else {
            finite("alpha", self.alpha, "must be in [0, 1)", fraction)?;
        }
        finite("rho", self.rho, "must be in [0, 1)", fraction)?;
        for (name, value) in [
            ("lr_decay", self.lr_decay),
            ("initial_accumulator_value", self.initial_accumulator_value),
            ("momentum_decay", self.momentum_decay),
            ("lambd", self.lambd),
            ("t0", self.t0),
            ("tolerance_grad", self.tolerance_grad),
            ("tolerance_change", self.tolerance_change),
        ] {
            finite(name, value, "must be a number of at least 0", |v| v >= 0.0)?;
        }
        finite("etas[0]", self.etas.map(|e| e.0), "must be in (0, 1), as 0.5", |v| 0.0 < v && v < 1.0)?;
        finite("etas[1]", self.etas.map(|e| e.1), "must be above 1, as 1.2", |v| v > 1.0)?;
        if let Some((least, most)) = self.step_sizes
            && !(least as f32 > 0.0 && most >= least && most.is_finite())
        {
            let value = format!("[{least}, {most}]");
            return Err(Error::option("step_sizes", value, "must be two numbers above 0, the smaller first"));
        }
        for (name, value) in
            [("max_iter", self.max_iter), ("max_eval", self.max_eval), ("history_size", self.history_size)]
        {
            if value.is_some_and(|v| !(1..=MOST).contains(&v)) {
                return Err(Error::option(name, value.unwrap_or(0), "must be from 1 to 1000000"));
            }
        }
        if self.nesterov == Some(true)
            && (self.momentum.unwrap_or(0.0) == 0.0 || self.dampening.unwrap_or(0.0) != 0.0)
        {
            return Err(Error::option("nesterov", true, "needs momentum above 0 and dampening 0"));
        }
        Ok(())
    }
}

/// More iterations than a step can be meant to have.
const MOST: usize = 1_000_000;

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
    use OptimizerKind::{
        Adadelta, Adagrad, Adam, AdamW, Asgd, Lbfgs, NAdam, RmsProp, Rprop, Sgd, SparseAdam,
    };

    fn options(toml: &str) -> OptimizerOptions {
        toml::from_str(toml).unwrap()
    }

    #[test]
    fn wrong_options_are_named() {
        for (kind, text, message) in [
            (
                Adam,
                "momentum = 0.9",
                "momentum = 0.9: Adam has no such option (only SGD, RMSprop); remove it",
            ),
            (Sgd, "betas = [0.9, 0.99]", "betas = [0.9, 0.99]: SGD has no such option (only Adam, AdamW, "),
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
            (Rprop, "weight_decay = 0.1", "weight_decay = 0.1: Rprop has no such option"),
            (SparseAdam, "weight_decay = 0.1", "weight_decay = 0.1: SparseAdam has no such option"),
            (Lbfgs, "weight_decay = 0.1", "weight_decay = 0.1: LBFGS has no such option"),
            (
                AdamW,
                "decoupled_weight_decay = true",
                "decoupled_weight_decay = true: AdamW has no such option",
            ),
            (Adadelta, "rho = 1.0", "rho = 1: must be"),
            (Adagrad, "lr_decay = -0.1", "lr_decay = -0.1: must be"),
            (Adagrad, "initial_accumulator_value = nan", "initial_accumulator_value = NaN: must be"),
            (Asgd, "alpha = -1.0", "alpha = -1: must be a number of at least 0"),
            (Asgd, "t0 = -1.0", "t0 = -1: must be"),
            (NAdam, "momentum_decay = -1.0", "momentum_decay = -1: must be"),
            (Rprop, "etas = [1.0, 1.2]", "etas[0] = 1: must be in (0, 1)"),
            (Rprop, "etas = [0.5, 1.0]", "etas[1] = 1: must be above 1"),
            (Rprop, "step_sizes = [1.0, 0.5]", "step_sizes = [1, 0.5]: must be two numbers"),
            (Lbfgs, "max_iter = 0", "max_iter = 0: must be from 1"),
            (Lbfgs, "history_size = 0", "history_size = 0: must be from 1"),
            (
                Sgd,
                "line_search_fn = \"strong_wolfe\"",
                "line_search_fn = strong_wolfe: SGD has no such option",
            ),
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
