//! Reproducibility.
//!
//! Sums of floating-point numbers depend on their order, so a program that lets threads add as they finish gives other
//! bits each time, and after a few hundred steps another model. Here every sum has an order that does not depend on the
//! number of threads: **the same seed, data and options give the same bits on any number of threads** of one instruction
//! set.
#![doc = ""]
#![doc = include_str!("figures/seeds.svg")]
#![doc = ""]
//! *Twenty classes of glyphs, six epochs of ArcFace, Recall@1 on twenty others: eight seeds, each on one, two and four
//! threads. The marks of a seed lie on each other. Between seeds there is a spread of several points: that much, on data
//! as small as this, is chance, in initial weights and the order of batches.*
//!
//! ```
//! use embedtune_train::data::{Dataset, Items, Split};
//! use embedtune_train::losses::LossKind;
//! use embedtune_train::ndarray::Array2;
//! use embedtune_train::run::Trainer;
//!
//! let part = |items: usize| {
//!     let vectors = Array2::from_shape_fn((items, 12), |(i, j)| ((i % 5) * 3 + i * j) as f32 % 7.0);
//!     let labels = (0..items).map(|item| (item % 5) as u32).collect();
//!     Dataset::new(Items::Vectors(vectors), labels, (0..5).map(|class| class.to_string()).collect())
//! };
//! let data = Split { train: part(60), queries: part(20), gallery: None };
//! let run = |threads: usize, seed: u64| {
//!     let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
//!     pool.install(|| {
//!         let run = Trainer::builder().loss(LossKind::ArcFaceLoss).epochs(2).batch_size(20);
//!         run.seed(seed).build(&data)?.fit(&mut ())?.model.embed(&data.queries.items)
//!     })
//! };
//! assert_eq!(run(1, 7)?, run(3, 7)?); // every bit of every embedding
//! assert_ne!(run(1, 7)?, run(1, 8)?);
//! # Ok::<(), embedtune_train::Error>(())
//! ```
//!
//! # What belongs to the seed
//!
//! Weights, centres, batches, dropout and `val_split` each draw from a stream of their own, so that changing one (another
//! sampler, say) does not move the others. Batches are a function of labels, options, seed and epoch alone. A stopped run
//! therefore goes on, in the middle of an epoch too, to the bits that it would have reached, from a checkpoint that holds
//! the encoder, the centres, both optimizers and the position ([`resume`](fn@crate::run::resume)).
//!
//! # What does not
//!
//! - **Other instruction sets** (AVX-512, AVX2, none) multiply and add in other widths: equal to rounding, not in bits, and
//!   training magnifies rounding. Figures in a report should name the machine.
//! - **A GPU** (feature `cuda`) gives the same bits on every run, and the CPU's to rounding.
//! - **Versions** of this crate may compute the same in another order. `run.toml` has the options and the data's checksum.
//! - **Time**: what `metrics.jsonl` says about it differs; everything else in it is the same.
