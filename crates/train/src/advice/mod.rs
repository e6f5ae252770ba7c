//! What a loss computes, and whether a margin and a scale can work, before any training.
//!
//! [`explain`] sets two presets of a loss side by side; [`advise`] says which margin and which scale so many classes
//! in so many dimensions allow, from how far apart that many centres can stand ([`separation`]).

mod advise;
mod explain;
mod sphere;

pub use advise::{Advice, Question, advise};
pub use explain::{Explanation, Parameter, Side, TableRow, explain};
pub use sphere::{Separation, Source, separation};

use crate::Error;

/// A loss's error under the name that the option has here.
fn named(error: embedtune_losses::Error) -> Error {
    match error {
        embedtune_losses::Error::Option { option, value, reason } => Error::option(option, value, reason),
        other => other.into(),
    }
}
