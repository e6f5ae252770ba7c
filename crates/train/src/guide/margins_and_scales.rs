//! Margins and scales, in units.
//!
//! # The margin's unit
//!
//! | loss | the margin is | usual |
//! |---|---|---|
//! | ArcFace, sub-centre ArcFace | an angle, with its unit: `"28.6deg"`, `"0.5rad"`, [`Angle`](crate::losses::Angle) | 10 to 30 degrees |
//! | CosFace | a cosine, 0 to 2 | 0.2 to 0.4 |
//! | SphereFace | a whole number that multiplies the angle, 1 to 8 | 2 to 4 |
//! | triplet | a distance between unit vectors, which lies between 0 and 2 (squared: 4; as cosine: 2) | 0.1 to 0.3 |
//!
//! A bare `0.5` for ArcFace is refused, because it has meant 0.5 degrees in pytorch-metric-learning 2 and 0.5 radians,
//! which is 28.6 degrees, in its version 3. The triplet default of 0.05 is Finetuner's (and version 2's): four degrees
//! for vectors at right angles, which is little.
//!
//! # How much room there is
//!
//! A margin cannot be larger than the room between centres. In as many dimensions as classes (less one) the centres can
//! form a simplex, each pair a little more than 90 degrees apart. In two dimensions ten centres stand 36 degrees apart:
//! ArcFace's 28.6 degrees leave 3.7 to each side, and CosFace's 0.35 cannot be met at all. [`advise`](crate::advice::advise)
//! (`embedtune advise`) does this sum for any loss, number of classes and dimension:
//!
//! ```
//! use embedtune_train::advice::{Question, advise};
//! use embedtune_train::losses::{LossKind, LossOptions, build};
//!
//! let ask = |dim| Question {
//!     loss: LossKind::CosFaceLoss,
//!     options: LossOptions::default(),
//!     classes: 10,
//!     dim,
//!     probability: 0.99,
//! };
//! let wide = advise(&ask(64))?;
//! assert!(wide.feasible && wide.separation > 90.0);
//! println!("needs a scale of {:.1}", wide.needed_scale.unwrap());
//!
//! let flat = advise(&ask(2))?;
//! assert!((flat.separation - 36.0).abs() < 1e-6);
//! // Names the largest margin and the smallest dimension.
//! println!("{}", flat.check().unwrap_err());
//!
//! // A number where an angle is meant is refused with both readings.
//! let arcface = LossOptions { margin: Some(0.5.into()), ..LossOptions::default() };
//! let error = build(LossKind::ArcFaceLoss, &arcface, None, 10, 64).err().unwrap();
//! assert!(error.to_string().contains("\"0.5deg\" or \"0.5rad\"?"));
//! # Ok::<(), embedtune_train::Error>(())
//! ```
//!
//! # The scale
//!
//! Cosines lie between -1 and 1, and the softmax of such small numbers is nearly flat: among 1,000 classes an item at its
//! centre would get a probability below 1 percent. The scale stretches them. Below a bound that grows with the logarithm
//! of the number of classes no training can satisfy the loss. Far above it the loss is a hard hinge: its gradient is
//! gone as soon as an item leads by about 5 / scale in cosine, while its first gradients are large in proportion.
#![doc = ""]
#![doc = include_str!("figures/scales.svg")]
#![doc = ""]
//! *Needed for ArcFace at 28.6 degrees and CosFace at 0.35, with the centres on a simplex
//! ([`advise`](crate::advice::advise)), and chosen ([`auto_scale`](crate::run::auto_scale)). The literature's 64 was
//! found with 10^5 to 10^6 identities.*
//!
//! A run without `scale` and without `preset` takes the solid line: what is needed, and at least 16. A `scale` is taken
//! as it is given, and any named `preset` keeps its fixed 64. The loss alone (`MarginOptions::arcface()`, `build`) knows
//! nothing of this: its scale is 64 unless you give another.
