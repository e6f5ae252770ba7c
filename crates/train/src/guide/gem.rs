//! GeM pooling, for images and for text.
//!
//! A pooling layer makes one number of a feature map, or of one dimension of all tokens. The average is the vote of all
//! places; the maximum listens to one. The generalised mean `(mean x^p)^(1/p)` (Radenovic, Tolias and Chum 2019,
//! arXiv:1711.02512, equation 3) lies between them, and its power `p` can be learnt:
#![doc = ""]
#![doc = include_str!("figures/gem.svg")]
#![doc = ""]
//! *Left: what the power does to 51 values after a ReLU, half of them zero. Right: one dimension of 20 tokens, mostly
//! negative, with the two ways to treat negative values. Clamped, it is always positive and has lost them; signed, it is
//! the average at `p = 1` and keeps their sign.*
//!
//! # Images
//!
//! `pooler = "GeM"` replaces the last pooling layer, with `p = 3`, learnt, and values below `eps` clamped: after a ReLU
//! nothing is negative. Values are taken relative to the largest of their map before any power, so that none overflows,
//! and a map of zeros has finite gradients. A power is kept at 0.1 or above; training reports it (`gem_p` in
//! `metrics.jsonl`).
//!
//! # Text
//!
//! Token embeddings are signed, so the default there is [`Sign::Signed`](crate::pooling::Sign). Padding is masked: what
//! a shorter text does not have changes nothing.
//!
//! ```
//! use embedtune_train::ndarray::{Array2, Array3};
//! use embedtune_train::pooling::rows::{average, gem};
//! use embedtune_train::pooling::tokens::{self, Mask, Valid};
//! use embedtune_train::pooling::{GemOptions, Pooling, Saved, Sign};
//!
//! let map = [0.0f32, 0.2, 0.0, 1.0, 0.4];
//! let clamp = GemOptions::default().build()?;
//! assert!((gem(&map, 1.0, &clamp).value - average(&map)).abs() < 1e-5);
//! assert!(gem(&map, 3.0, &clamp).value > average(&map) && gem(&map, 300.0, &clamp).value > 0.99);
//!
//! // Two texts of four tokens, the second with two tokens of padding that hold anything.
//! let signed = GemOptions { sign: Sign::Signed, ..GemOptions::default() }.build()?;
//! let x = Array3::from_shape_fn((2, 4, 3), |(item, token, d)| {
//!     if item == 1 && token > 1 { 1e9 } else { d as f32 - 1.5 }
//! });
//! let valid = Valid::new(Mask::Lengths(&[4, 2]), 2, 4)?;
//! let mut y = Array2::zeros((2, 3));
//! let pooling = Pooling::GeM { p: &[3.0], options: &signed, learnable: true };
//! tokens::forward(x.view(), &valid, pooling, y.view_mut(), &mut Saved::default())?;
//! assert_eq!(y.row(0), y.row(1)); // the same tokens, and the padding is not seen
//! assert!(y[[0, 0]] < 0.0 && y[[0, 2]] > 0.0);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! In a run: `pooler = "GeM"` and `pooler_options = { p = 3.0, sign = "signed" }`, the latter only where the default is
//! not wanted. Encoders of given vectors pool nothing and refuse a `pooler`.
