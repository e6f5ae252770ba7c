//! The optimizers' names.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::Error;

/// An optimizer, under Finetuner's (and PyTorch's) name: `SGD`, `Adam` (the default), `AdamW` or `RMSprop`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
#[non_exhaustive]
pub enum OptimizerKind {
    /// Stochastic gradient descent with momentum, dampening, Nesterov's correction and weight decay.
    Sgd,
    /// Adam (Kingma and Ba 2015), with weight decay as an L2 penalty.
    #[default]
    Adam,
    /// Adam with decoupled weight decay (Loshchilov and Hutter 2019).
    AdamW,
    /// RMSprop (Hinton 2012), optionally centred (Graves 2013) and with momentum.
    RmsProp,
}

/// The further names that Finetuner's configuration knows, refused with what to write instead.
const UNSUPPORTED: [&str; 9] =
    ["Adadelta", "Adagrad", "SparseAdam", "Adamax", "ASGD", "LBFGS", "NAdam", "RAdam", "Rprop"];

impl OptimizerKind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Sgd, Self::Adam, Self::AdamW, Self::RmsProp];

    /// The name in configuration files.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sgd => "SGD",
            Self::Adam => "Adam",
            Self::AdamW => "AdamW",
            Self::RmsProp => "RMSprop",
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
        let supported = "use SGD, Adam, AdamW or RMSprop";
        let remedy = if UNSUPPORTED.contains(&name) {
            format!("this optimizer is not supported; {supported}")
        } else if let Some(kind) = Self::ALL.into_iter().find(|kind| kind.name().eq_ignore_ascii_case(name)) {
            format!("unknown optimizer; did you mean {kind}?")
        } else {
            format!("unknown optimizer; {supported}")
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
            ("LBFGS", "not supported; use SGD, Adam, AdamW or RMSprop"),
            ("SparseAdam", "not supported; use SGD, Adam, AdamW or RMSprop"),
            ("adamw", "did you mean AdamW?"),
            ("Adman", "unknown optimizer; use SGD"),
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
