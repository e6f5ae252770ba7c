//! Finite-difference checks of gradients.
