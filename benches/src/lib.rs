//! Inputs and sizes that the benches, the ratio programs and the peers' scripts share.

pub mod collect;
pub mod network;
pub mod peer;
pub mod triplet_cases;
pub mod variant;
