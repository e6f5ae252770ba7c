//! Samplers, and why triplets need classes.
//!
//! A triplet is an anchor, another item of its class, and an item of another class. If an item is alone of its class in
//! the batch, it is an anchor of none. With few classes any batch has enough; with many, a random batch hardly has a
//! pair:
#![doc = ""]
#![doc = include_str!("figures/samplers.svg")]
#![doc = ""]
//! *Share of the items of an epoch that have a positive in their batch, as the two samplers draw them. At 2,000 classes a
//! random batch of 128 gives nothing to do for nineteen items of twenty.*
//!
//! So triplet losses always get the class sampler (`sampler = "random"` is answered with a notice; Finetuner ignores it
//! too), and losses with class centres, which need no pairs, get random batches unless `sampler = "class"` asks
//! otherwise.
//!
//! # What the class sampler promises
//!
//! - Every item at least once an epoch, however the class sizes differ.
//! - No batch without a positive pair, none of a single class, no item twice in a batch.
//! - A class with fewer items than asked gives all that it has; a class with one item takes part as a negative.
//! - What cannot be had is changed by a written rule and said once, in words.
//!
//! ```
//! use embedtune_train::losses::TripletMargin;
//! use embedtune_train::ndarray::Array2;
//! use embedtune_train::samplers::{ClassSampler, RandomSampler};
//!
//! // Ten classes cannot fill a batch of 128 with four of each.
//! let ten: Vec<u32> = (0..1000).map(|item| item % 10).collect();
//! let sampler = ClassSampler::new(&ten, 128, 4, 0)?;
//! assert_eq!(
//!     sampler.notice().unwrap(),
//!     "class sampler: 32 classes x 4 impossible with 10 classes \
//!      -> 8 classes x 16 (batch 128 kept)"
//! );
//!
//! // Of 1,000 classes, ten items each, one batch by either sampler: how many triplets are there?
//! let many: Vec<u32> = (0..10_000).map(|item| item % 1000).collect();
//! let loss = TripletMargin::builder().margin(0.2).build()?;
//! let triplets = |batch: &[usize]| {
//!     let labels: Vec<u32> = batch.iter().map(|&item| many[item]).collect();
//!     let x = Array2::from_shape_fn((batch.len(), 4), |(i, j)| {
//!         ((batch[i] * 7 + j * j * 5) % 11) as f32 - 5.0
//!     });
//!     loss.value_and_grad(x.view(), &labels).map(|out| out.stats.triplets)
//! };
//! let random = triplets(&RandomSampler::new(many.len(), 128, 0)?.batches(0)[0])?;
//! let by_class = triplets(&ClassSampler::new(&many, 128, 4, 0)?.batches(0)[0])?;
//! assert_eq!(by_class, 128 * 3 * 124);
//! assert!(random * 10 < by_class, "{random}");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # How many of a class
//!
//! `num_items_per_class` (default 4) trades positives for classes: more of each class give more positive pairs, fewer
//! leave room for more classes and so for harder negatives. Batches of the same items, however drawn, are a pure
//! function of labels, options, seed and epoch ([reproducibility](super::reproducibility)).
//!
//! A batch that moves nothing all the same (no triplet has a loss) is not hidden: `Stats::zero_signal`, and
//! `zero_signal_batches` in each line of `metrics.jsonl`.
