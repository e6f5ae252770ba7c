//! Mining.
//!
//! Most triplets of a batch are met long before training ends. With `t = d(a, n) - d(a, p)`, the lead of the positive
//! over the negative in L2 distance of unit vectors, a triplet is
//!
//! | kind | where | teaches |
//! |---|---|---|
//! | hard | `t <= 0` | what the encoder gets wrong; wrong labels are here too |
//! | semi-hard | `0 < t <= margin` | what is right, but not by the margin |
//! | easy | `t > margin` | nothing, at that margin |
#![doc = ""]
#![doc = include_str!("figures/mining.svg")]
#![doc = ""]
//! *All triplets of a batch of 16 classes with 8 items each, clusters with some overlap as in the middle of a training;
//! the shares are the miners' own counts.*
//!
//! A miner decides which of them count: [`Miner`](crate::losses::Miner), in options `miner` and `miner_options`.
//!
//! | `miner` | takes | for |
//! |---|---|---|
//! | none (the default) | all | the start: with the default reduction the mean is over the triplets that are not met, which is a mining of its own |
//! | `TripletMarginMiner`, `type_of_triplets = "all"` | `t <= margin` | a mining margin apart from the loss's |
//! | the same, `"semihard"` | `0 < t <= margin` | noisy labels, early training: never the outliers |
//! | the same, `"hard"` | `t <= 0` | late training with clean labels |
//! | `BatchHardMiner` | each anchor's farthest positive and nearest negative | clean labels; from random weights it can collapse all embeddings to one point (Schroff, Kalenichenko and Philbin 2015, section 3.2) |
//!
//! Mining costs no memory here: the loss takes the miner into its sums and forms no triplet. To see a miner's triplets,
//! as a list, call [`mine`](crate::losses::miner::mine).
//!
//! ```
//! use embedtune_train::losses::miner::mine;
//! use embedtune_train::losses::{Input, Loss, Miner, TripletKind, TripletMargin};
//! use embedtune_train::ndarray::Array2;
//!
//! let labels: Vec<u32> = (0..24).map(|row| row % 4).collect();
//! let x = Array2::from_shape_fn((24, 4), |(i, j)| {
//!     if j == i % 4 { 1.0 } else { (i * 7 + j * 5) as f32 % 1.2 }
//! });
//! let input = Input::new(x.view(), &labels);
//! let count = |miner| mine(&miner, input).map(|triplets| triplets.len());
//! let kind = |kind| Miner::TripletMargin { margin: 0.2, kind };
//!
//! let hard = count(kind(TripletKind::Hard))?;
//! let semihard = count(kind(TripletKind::Semihard))?;
//! let easy = count(kind(TripletKind::Easy))?;
//! println!("{hard} hard, {semihard} semi-hard, {easy} easy");
//! // 24 anchors x 5 positives x 18 negatives.
//! assert_eq!(hard + semihard + easy, count(Miner::All)?);
//! assert_eq!(count(Miner::BatchHard)?, 24);
//!
//! // The loss with the miner sees the same triplets.
//! let loss = TripletMargin::builder().margin(0.2).miner(kind(TripletKind::Semihard)).build()?;
//! assert_eq!(loss.evaluate(input)?.stats.triplets, semihard as u64);
//! # Ok::<(), embedtune_train::losses::Error>(())
//! ```
//!
//! # More negatives than a batch holds
//!
//! A [`CrossBatchMemory`](crate::losses::CrossBatchMemory) keeps the embeddings of past batches as further positives and
//! negatives; miners then look there as well. In a run, `memory_size` is its capacity. It pays once the encoder changes slowly: at the start its entries are stale
//! after a few steps.
//!
//! Losses with class centres form no triplets, and a miner with them is refused. To weigh items there, set
//! [`Input::sample_weights`](crate::losses::Input::sample_weights).
