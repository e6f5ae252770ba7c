//! embedtune's side of the comparisons in `benches/peers`: one file a suite.

mod losses;
mod pooling;
mod retrieval;
mod training;
mod triplets;

use std::path::Path;

use serde_json::Value;

/// What can go wrong ends the process with a message.
pub type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// A case whose inputs are loaded.
pub trait Case {
    /// The timed call.
    ///
    /// # Errors
    /// What the measured code returns.
    fn run(&mut self) -> Outcome<()>;

    /// Writes the last run's outputs as `.npy`.
    ///
    /// # Errors
    /// A file that cannot be written.
    fn write(&self, to: &Path) -> Outcome<()>;
}

/// Loads `case.json` and the inputs of `folder`.
///
/// # Errors
/// An unknown suite; a file that is missing or damaged.
pub fn load(suite: &str, folder: &Path) -> Outcome<Box<dyn Case>> {
    let case: Value = serde_json::from_slice(&std::fs::read(folder.join("case.json"))?)?;
    match suite {
        "losses" => Ok(Box::new(losses::Margin::load(&case, folder)?)),
        "pooling" => Ok(Box::new(pooling::Maps::load(folder)?)),
        "training" => Ok(Box::new(training::Training::load(&case, folder)?)),
        "retrieval" => retrieval::load(&case, folder),
        "triplets" => Ok(Box::new(triplets::Triplets::load(&case, folder)?)),
        _ => Err(format!("no suite {suite:?}").into()),
    }
}

/// A size that `case.json` gives.
fn size(case: &Value, name: &str) -> Outcome<usize> {
    Ok(case[name].as_u64().ok_or_else(|| format!("case.json lacks {name:?}"))? as usize)
}
