//! samplers.
