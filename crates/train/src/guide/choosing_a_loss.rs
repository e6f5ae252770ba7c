//! Choosing a loss.
//!
//! All losses here pull items of a class together and push classes apart, by the angle between embeddings: a length
//! carries no meaning (except in SphereFace). They differ in what an item is compared with.
//!
//! - **Class centres** ([`MarginSoftmax`](crate::losses::MarginSoftmax): ArcFace, CosFace, SphereFace, sub-centre
//!   ArcFace). One learnt direction for each training class; an item must be nearer to its own, by a margin, than to all
//!   others. Every item of every batch meets every class, so any batch will do. The cost grows with the number of classes,
//!   and the centres must be trained ([the loss optimizer](super::loss_optimizer)).
//! - **Other items** ([`TripletMargin`](crate::losses::TripletMargin)). An anchor must be nearer to its positives than to
//!   its negatives. Nothing to learn beside the encoder, no cost for classes; but a batch teaches only what is in it, so
//!   it must be drawn by class ([samplers](super::samplers)).
//!
//! | you have | take | because |
//! |---|---|---|
//! | some items of each class, up to about 10^6 classes | `ArcFaceLoss` or `CosFaceLoss` | every batch teaches about every class |
//! | classes that come and go, or far more of them than fit | `TripletMarginLoss` | it knows only the batch's labels |
//! | classes with several looks, or wrong labels | `SubCenterArcFaceLoss` | an item needs to be near one of its class's centres |
//! | a result in the literature to repeat | the one used there, with its [preset](super::migrating) | units and rules differ |
//!
//! Which is better depends on the data. The repository's front page has Fashion-MNIST, Omniglot and BANKING77 under one
//! protocol, where they lie closer to each other than to what was there before training; `embedtune compare --data FOLDER`
//! makes such a table for yours.
#![doc = ""]
#![doc = include_str!("figures/losses.svg")]
#![doc = ""]
//! *What the softmax sees of an item's own class, for each angle to that class's centre; the other classes get the
//! dotted curve. A margin lowers the item's own logit, so that it must come nearer than would be enough. CosFace takes
//! away the same everywhere. ArcFace takes little from items that have arrived and most around a right angle, where
//! training begins. SphereFace multiplies the angle, and asks so much that it needs long training or a smaller
//! multiplier; its logits also grow with the embedding's length.*
//!
//! # In code
//!
//! A loss by name, with what it needs and what it gives:
//!
//! ```
//! use embedtune_train::head::{CentreInit, draw_centres};
//! use embedtune_train::losses::{Input, Loss, LossKind, LossOptions, Sampling, build};
//! use embedtune_train::ndarray::Array2;
//!
//! let labels = [0, 0, 1, 1, 2, 2];
//! let x = Array2::from_shape_fn((6, 8), |(i, j)| {
//!     if j % 3 == i / 2 { 1.0 } else { 0.1 * ((i * 5 + j) % 7) as f32 }
//! });
//! for kind in LossKind::ALL {
//!     let loss = build(kind, &LossOptions::default(), None, 3, 8)?;
//!     let shape = loss.weight_shape(); // [classes * sub_centres, dim], or none
//!     let centres = shape.map(|shape| draw_centres(CentreInit::UnitSphere, shape, 1)).transpose()?;
//!     let mut input = Input::new(x.view(), &labels);
//!     input.weights = centres.as_ref().map(|centres| centres.view());
//!     let out = loss.evaluate(input)?;
//!     println!("{kind}: {:.3}, active {:.2}", out.stats.value, out.stats.active_fraction);
//!     assert_eq!(out.d_embeddings.dim(), (6, 8));
//!     assert_eq!(out.d_weights.is_some(), loss.sampling() == Sampling::Random);
//! }
//! # Ok::<(), embedtune_train::Error>(())
//! ```
//!
//! What a loss computes at given angles, beside another's or another preset's: [`explain`](crate::advice::explain), on
//! the command line `embedtune explain`.
//!
//! # Reading the loss
//!
//! The triplet loss's value is the mean over the triplets that are not met yet. It hardly falls while their number does:
//! watch `active_fraction`. A value that stays exactly at the margin means that all embeddings have become equal. For
//! losses with centres, watch `accuracy`: the share of items whose own centre is the nearest.
