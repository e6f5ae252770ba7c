//! Evaluating honestly.
//!
//! Embeddings are for items that training has not seen, often for classes that it has not seen. Three questions decide
//! whether a number says so.
//!
//! # On what?
#![doc = ""]
#![doc = include_str!("figures/evaluation.svg")]
#![doc = ""]
//! *One network, trained on 16 drawings of each of 30 glyph classes, measured three times on equally many classes and
//! drawings. On what it was trained on it is nearly perfect. That is memory: of new drawings, and of new classes all the
//! more, it finds far fewer. Pixels do about as well on all three, so the groups are equally hard.*
//!
//! The built-in glyphs and data in Omniglot's form are measured on classes without a training item; the other formats on
//! items that were not trained on, of whatever classes their evaluation files hold. To choose options, hold some training
//! items out with `val_split` and look at them; the evaluation items are then measured at the end alone. Options chosen by
//! the evaluation items have seen them.
//!
//! # Beside what?
//!
//! A report always has three rows: `raw` (pixels, the given vectors, hashed words), `untrained` (the encoder before
//! training) and `tuned`. What training is worth is the difference. Random convolutions may be worse than pixels, as they
//! are here, and given vectors may be hard to better.
//!
//! ```
//! use embedtune_train::data::Glyphs;
//! use embedtune_train::losses::LossKind;
//! use embedtune_train::retrieval::{EvaluateOptions, evaluate};
//! use embedtune_train::run::Trainer;
//!
//! let sizes = Glyphs { train_classes: 6, train_items: 6, test_classes: 4, test_items: 4, seed: 1 };
//! let data = sizes.split();
//! let run = Trainer::builder().loss(LossKind::CosFaceLoss).epochs(1).batch_size(18);
//! let trained = run.build(&data)?.fit(&mut ())?;
//! for (name, quality) in [
//!     ("raw", trained.report.raw),
//!     ("untrained", trained.report.untrained),
//!     ("tuned", trained.report.tuned),
//! ] {
//!     println!("{name}: Recall@1 {:.3}, MAP@R {:.3}", quality.recall_at_1, quality.map_at_r);
//! }
//!
//! // The same for any vectors: the items among themselves, each without itself.
//! let vectors = trained.model.embed(&data.queries.items)?;
//! let labels = &data.queries.labels;
//! let metrics = evaluate(vectors.view(), labels, None, &EvaluateOptions::default()).unwrap();
//! assert_eq!(metrics.recall_at_1, trained.report.tuned.recall_at_1);
//! assert!(metrics.map_at_r <= metrics.r_precision);
//! # Ok::<(), embedtune_train::Error>(())
//! ```
//!
//! # What is counted?
//!
//! | number | asks | note |
//! |---|---|---|
//! | Recall@1 | is the nearest item of the right class | the accuracy of a nearest-neighbour classifier; search engines call it hit@1 |
//! | Recall@k of metric-learning papers | is any of the k nearest | hit@k elsewhere; recall@k elsewhere is another number, `ir_recall_at_k`: the share of all relevant items that are among the k |
//! | MAP@R | are the R nearest the R relevant ones, in order | falls earlier than Recall@1, which says nothing beyond the first neighbour |
//! | MRR, mAP, nDCG | how far down relevant items stand | over the whole ranking |
//!
//! Ranks are exact over the whole gallery; equal scores rank by row; a query without a relevant item is in no mean and is
//! counted apart ([`Metrics`](crate::retrieval::Metrics)).
//!
//! How far queries alone may move a number: [`Evaluation::intervals`](crate::retrieval::Evaluation::intervals) draws them
//! again, with a seed. Classes one by one: [`Evaluation::per_class`](crate::retrieval::Evaluation::per_class).
//!
//! Compare losses with the same data, encoder, steps and effort of tuning
//! ([`run::compare`](fn@crate::run::compare)): much of what was once reported as progress between losses was not there
//! when all were treated alike (Musgrave, Belongie and Lim 2020, "A Metric Learning Reality Check"). And look at how far
//! [seeds](super::reproducibility) alone spread before calling a difference one.
