//! The optimizers' names.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::Error;

/// An optimizer, under Finetuner's (and PyTorch's) name. The default is `Adam`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
#[non_exhaustive]
pub enum OptimizerKind {
    /// Adadelta (Zeiler 2012).
    Adadelta,
    /// Adagrad (Duchi et al. 2011).
    Adagrad,
    /// Adam (Kingma and Ba 2015), with weight decay as an L2 penalty.
    #[default]
    Adam,
    /// Adam with decoupled weight decay (Loshchilov and Hutter 2019).
    AdamW,
    /// Adam that leaves a table's rows alone in steps that do not name them.
    SparseAdam,
    /// Adam with the infinity norm (Kingma and Ba 2015).
    Adamax,
    /// Averaged stochastic gradient descent (Polyak and Juditsky 1992).
    Asgd,
    /// L-BFGS (Liu and Nocedal 1989).
    Lbfgs,
    /// Adam with Nesterov's momentum (Dozat 2016).
    NAdam,
    /// Rectified Adam (Liu et al. 2020).
    RAdam,
    /// RMSprop (Hinton 2012), optionally centred (Graves 2013) and with momentum.
    RmsProp,
    /// Resilient backpropagation (Riedmiller and Braun 1993).
    Rprop,
    /// Stochastic gradient descent with momentum, dampening, Nesterov's correction and weight decay.
    Sgd,
}

impl OptimizerKind {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::Adadelta,
        Self::Adagrad,
        Self::Adam,
        Self::AdamW,
        Self::SparseAdam,
        Self::Adamax,
        Self::Asgd,
        Self::Lbfgs,
        Self::NAdam,
        Self::RAdam,
        Self::RmsProp,
        Self::Rprop,
        Self::Sgd,
    ];

    /// The name in configuration files.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Adadelta => "Adadelta",
            Self::Adagrad => "Adagrad",
            Self::Adam => "Adam",
            Self::AdamW => "AdamW",
            Self::SparseAdam => "SparseAdam",
            Self::Adamax => "Adamax",
            Self::Asgd => "ASGD",
            Self::Lbfgs => "LBFGS",
            Self::NAdam => "NAdam",
            Self::RAdam => "RAdam",
            Self::RmsProp => "RMSprop",
            Self::Rprop => "Rprop",
            Self::Sgd => "SGD",
        }
    }
}

impl fmt::Display for OptimizerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for OptimizerKind {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        if let Some(kind) = Self::ALL.into_iter().find(|kind| kind.name() == name) {
            return Ok(kind);
        }
        let remedy =
            if let Some(kind) = Self::ALL.into_iter().find(|kind| kind.name().eq_ignore_ascii_case(name)) {
                format!("unknown optimizer; did you mean {kind}?")
            } else {
                let names: Vec<_> = Self::ALL.iter().map(|kind| kind.name()).collect();
                format!("unknown optimizer; use {}", names.join(", "))
            };
        Err(Error::option("optimizer", name, remedy))
    }
}

impl TryFrom<String> for OptimizerKind {
    type Error = Error;

    fn try_from(name: String) -> Result<Self, Error> {
        name.parse()
    }
}

impl From<OptimizerKind> for String {
    fn from(kind: OptimizerKind) -> Self {
        kind.name().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for kind in OptimizerKind::ALL {
            assert_eq!(kind.to_string().parse::<OptimizerKind>().unwrap(), kind);
            let json = serde_json::to_string(&kind).unwrap();
            assert_eq!(json, format!("\"{}\"", kind.name()));
            assert_eq!(serde_json::from_str::<OptimizerKind>(&json).unwrap(), kind);
        }
    }

    #[test]
    fn other_names_are_refused_with_a_remedy() {
        for (name, part) in [
            ("adamw", "did you mean AdamW?"),
            ("lbfgs", "did you mean LBFGS?"),
            ("Adman", "unknown optimizer; use Adadelta, Adagrad, Adam, "),
        ] {
            let message = name.parse::<OptimizerKind>().unwrap_err().to_string();
            assert!(message.starts_with(&format!("optimizer = {name}: ")), "{message}");
            assert!(message.contains(part), "{message}");
            let quoted =
                serde_json::from_str::<OptimizerKind>(&format!("\"{name}\"")).unwrap_err().to_string();
            assert!(quoted.contains(part), "{quoted}");
        }
    }
}
