//! The guide's figures, each a function that computes its curves and returns an SVG.

mod batches;
mod centres;
mod chart;
mod logits;
mod pooled;
mod trained;

use std::error::Error;

/// What drawing returns.
pub(crate) type Drawn = Result<String, Box<dyn Error>>;

/// One figure.
pub(crate) struct Figure {
    /// Its file's name, without `.svg`.
    pub(crate) name: &'static str,
    /// Computes and draws it.
    pub(crate) draw: fn() -> Drawn,
    /// Whether networks are trained for it (seconds to minutes) or nothing is (milliseconds).
    pub(crate) trains: bool,
}

/// Every figure, in the order of the guide's pages.
pub(crate) const ALL: [Figure; 9] = [
    Figure { name: "losses", draw: logits::losses, trains: false },
    Figure { name: "scales", draw: logits::scales, trains: false },
    Figure { name: "samplers", draw: batches::samplers, trains: false },
    Figure { name: "centres", draw: centres::centres, trains: false },
    Figure { name: "mining", draw: batches::mining, trains: false },
    Figure { name: "gem", draw: pooled::gem, trains: false },
    Figure { name: "evaluation", draw: trained::evaluation, trains: true },
    Figure { name: "seeds", draw: trained::seeds, trains: true },
    Figure { name: "presets", draw: logits::presets, trains: false },
];

/// The figures' names, for a message.
pub(crate) fn names() -> String {
    ALL.map(|figure| figure.name).join(", ")
}
