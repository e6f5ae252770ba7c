//! The loss optimizer, and why centres freeze.
//!
//! A loss with class centres has parameters of its own: one direction for each class (three for sub-centre ArcFace). They
//! are trained like the encoder, by an optimizer of their own: `loss_optimizer` (default: the model's type) and
//! `loss_optimizer_options` (default `learning_rate` 1e-2, ten times the model's default rate, because a centre is moved
//! only by its class and the neighbours).
//!
//! # Forgotten
//!
//! In libraries where the loss is one more module, its parameters are easily left out of the optimizer: the loss still
//! falls, because the encoder learns to fit centres that were drawn at random, and a checkpoint may not hold them. Here a
//! [`HostHead`](crate::head::HostHead) owns loss, centres and optimizer, cannot be made without the last, and saves all
//! of it.
//!
//! # Frozen
//!
//! The loss sees only a centre's direction, so the gradient is at a right angle to the centre and shrinks as the centre
//! grows. A step of length `a` turns a centre of length `r` by about `a / r`. Adam's steps have nearly the same length
//! whatever the gradient's: about the learning rate in each dimension. A centre drawn from N(0, 1) in 128 dimensions has
//! length 11, so at rate 1e-4 a step turns it by 1e-4 radians: 200 steps, one degree.
#![doc = ""]
#![doc = include_str!("figures/centres.svg")]
#![doc = ""]
//! *Ten classes in 128 dimensions, fixed embeddings around fixed means, ArcFace, 200 steps of a
//! [`HostHead`](crate::head::HostHead). Dividing the starting length by 100 does what multiplying the rate by 100 does:
//! the left solid and the right dashed curves are one.*
//!
//! That start is pytorch-metric-learning's, and 1e-4 a rate that its own examples use. Here centres start at a standard
//! deviation of 0.01 as InsightFace's do, except under the presets `pml2` and `pml3` (1, as there) and `paper` (length 1).
//! **If the loss falls slowly from a high value, raise the centres' rate first.**
//! A run whose centres hardly turn says so (the alarm `frozen centres`).
//!
//! `centers = "unit_sphere"` ([`CentreSpace`](crate::head::CentreSpace)) ends the question: centres keep length 1, and
//! their rate is an angle, the most that a step turns them, in radians.
//!
//! ```
//! use embedtune_train::head::{CentreInit, HostHead, LossHead, Update};
//! use embedtune_train::losses::{Input, LossKind, LossOptions, build};
//! use embedtune_train::ndarray::Array2;
//! use embedtune_train::optim::{self, OptimizerKind, OptimizerOptions};
//!
//! let labels: Vec<u32> = (0..40).map(|row| row % 4).collect();
//! let x = Array2::from_shape_fn((40, 16), |(i, j)| {
//!     if j % 4 == i % 4 { 2.0 } else { (i * 3 + j * 7) as f32 % 1.3 }
//! });
//! // How far 100 steps of Adam turn the centres, in degrees.
//! let turned = |std: f64| {
//!     let loss = build(LossKind::ArcFaceLoss, &LossOptions::default(), None, 4, 16)?;
//!     let adam = optim::build(OptimizerKind::Adam, &OptimizerOptions::default(), 1e-4)?;
//!     let mut head = HostHead::new(loss, Some(adam), CentreInit::Normal { std }, 7)?;
//!     let before = head.weights()?.unwrap().into_owned();
//!     for _ in 0..100 {
//!         // `Some(dx)` in place of `None` for the encoder's backward pass.
//!         head.step(Input::new(x.view(), &labels), None, Update::Apply)?;
//!     }
//!     let (a, b) = (before.row(0), head.weights()?.unwrap().row(0).to_owned());
//!     let cosine = a.dot(&b) / (a.dot(&a) * b.dot(&b)).sqrt();
//!     Ok::<f32, embedtune_train::Error>(cosine.min(1.0).acos().to_degrees())
//! };
//! let (long, short) = (turned(1.0)?, turned(0.01)?);
//! println!("turned by {long:.1} degrees; started a hundred times shorter, by {short:.1}");
//! assert!(long < 2.0 && short > 10.0);
//!
//! // Centres without an optimizer are an error, not a run that learns half.
//! let loss = build(LossKind::ArcFaceLoss, &LossOptions::default(), None, 4, 16)?;
//! let error = HostHead::new(loss, None, CentreInit::UnitSphere, 7).err().unwrap();
//! assert!(error.to_string().contains("has class centres, which need an optimizer"));
//! # Ok::<(), embedtune_train::Error>(())
//! ```
//!
//! Weight decay shortens centres, and so lets them turn faster.
