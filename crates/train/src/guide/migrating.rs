//! Moving from pytorch-metric-learning, Finetuner or InsightFace.
//!
//! Names are theirs where there was one. Where their defaults differ from ours, or from each other, a **preset** has
//! theirs: `loss_options = { preset = "pml2" }` (`pml3`, `finetuner`, `insightface`, `paper`), in code
//! [`LossOptions::preset`](crate::losses::LossOptions). Presets set what is not given; single options win over them.
//!
//! | | `finetuner` (default) | `pml2` | `pml3` | `insightface` | `paper` |
//! |---|---|---|---|---|---|
//! | triplet margin | 0.05 | 0.05 | 0.2 | 0.05 | 0.2, squared distances |
//! | triplet reduction | mean of those above 0 | the same | the same | the same | mean |
//! | ArcFace margin | 28.6 degrees | 28.6 degrees | 0.5 rad | 0.5 rad | 0.5 rad |
//! | beyond 180 degrees less the margin | jump | jump | jump | none | continuous |
//! | ArcFace gradient | exact | exact | exact | straight-through | exact |
//! | CosFace margin | 0.35 | 0.35 | 0.35 | 0.40 | 0.35 |
//! | centres start at | std 0.01 | std 1 | std 1 | std 0.01 | length 1 |
//! | scale (SphereFace: 1) | 64 | 64 | 64 | 64 | 64 |
//!
//! A run that names no preset has `finetuner`'s values with a scale chosen from the
//! [number of classes](super::margins_and_scales).
#![doc = ""]
#![doc = include_str!("figures/presets.svg")]
#![doc = ""]
//! *The presets where they differ: an item nearly opposite to its own centre. pytorch-metric-learning's rule steps down
//! by 0.12 (7.5 logits at scale 64); InsightFace has none, and the logit rises again (its straight-through gradient, as
//! if the slope were 1, still pulls the item back). In many dimensions training starts near 90 degrees and hardly meets
//! this; in two it does.*
//!
//! ```
//! use embedtune_train::advice::explain;
//! use embedtune_train::losses::{LossKind, LossOptions, Preset};
//! use embedtune_train::run::RunOptions;
//!
//! // What changes, in words and in numbers (`embedtune explain` prints it).
//! let (one, other) = (Preset::Pml3, Some(Preset::Insightface));
//! let options = LossOptions::default();
//! let explained = explain(LossKind::ArcFaceLoss, one, other, &options, &[60.0, 170.0])?;
//! explained.differences.iter().for_each(|difference| println!("{difference}"));
//! let row = &explained.table[1];
//! assert!(row.values[0] < -64.0 && row.values[1] > -64.0); // at 170 degrees
//!
//! // A run with their numbers.
//! let options = RunOptions::from_toml(r#"
//!     loss = "ArcFaceLoss"
//!     loss_options = { preset = "insightface", scale = 64.0, margin = "0.5rad" }
//!     optimizer = "SGD"
//!     optimizer_options = { momentum = 0.9, weight_decay = 5e-4 }
//!     loss_optimizer_options = { learning_rate = 0.02, momentum = 0.9 }
//! "#)?;
//! options.check()?;
//!
//! // What cannot mean anything is refused, not ignored.
//! let wrong = RunOptions::from_toml("loss = \"ArcFaceLoss\"\nminer = \"BatchHardMiner\"")?;
//! assert!(wrong.check().unwrap_err().to_string().contains("a miner selects triplets"));
//! # Ok::<(), embedtune_train::Error>(())
//! ```
//!
//! # pytorch-metric-learning
//!
//! | there | here | note |
//! |---|---|---|
//! | `ArcFaceLoss(num_classes, embedding_size, margin=28.6)` (2), `margin=0.5` (3) | `ArcFaceLoss`, `margin = "28.6deg"` or `"0.5rad"` | a bare number is refused |
//! | `CosFaceLoss(margin=0.35, scale=64)` | the same names | |
//! | `SphereFaceLoss(margin=4, scale=1)` | the same; 1 to 8 | a margin with a fraction is refused instead of cut |
//! | `SubCenterArcFaceLoss(sub_centers=3)` | the same | |
//! | `loss.W`, `[dim, classes]` | centres `[classes, dim]` | transpose; sub-centre k of class c is column, here row, `c * sub_centers + k` |
//! | `TripletMarginLoss(margin, swap, smooth_loss)` | `margin`, `swap`, `smooth` | same values, `triplets_per_anchor="all"` |
//! | `triplets_per_anchor=k` | none | all triplets need no list here, so none need be left out |
//! | `LpDistance(p=2)`, with `power=2`, `CosineSimilarity` | `distance = "l2"`, `"squared_l2"`, `"cosine"` | `normalize` is `normalize_embeddings` |
//! | `AvgNonZeroReducer`, `MeanReducer`, `SumReducer` | `reduction = "mean_non_zero"`, `"mean"`, `"sum"` | margin losses: the mean |
//! | `ClassWeightedReducer(weights)` | [`Input::class_weights`](crate::losses::Input) | by the anchor's class, as there |
//! | `TripletMarginMiner(margin, type_of_triplets)`, `BatchHardMiner` | the same names | ties are hard; `t = margin` is semi-hard |
//! | a miner with a classification loss (weights by how often an item is mined) | refused | give [`Input::sample_weights`](crate::losses::Input) |
//! | `CrossBatchMemory(loss, embedding_size, memory_size)` | [`CrossBatchMemory::new(capacity, dim)`](crate::losses::CrossBatchMemory), in a run `memory_size` | its state has the write position too |
//! | `MPerClassSampler(labels, m, batch_size, length_before_new_iter)` | [`ClassSampler::new(labels, batch_size, m, seed)`](crate::samplers::ClassSampler) | an epoch has every item at least once; no length to choose |
//! | `loss.get_logits(x)` | [`MarginSoftmax::logits`](crate::losses::MarginSoftmax::logits) | |
//! | an optimizer for `loss.parameters()`, if you remember it | `loss_optimizer` | cannot be left out |
//! | `AccuracyCalculator` | [`retrieval::evaluate`](fn@crate::retrieval::evaluate) | `precision_at_1`, `r_precision`, `map_at_r`, `map`, `mrr` |
//! | a batch without triplets: loss 0 | loss 0 and `Stats::zero_signal` | counted in `metrics.jsonl` |
//! | label -1 or too large: index error, or an assertion on the device | an error that names the row | |
//!
//! # Finetuner
//!
//! The options of `fit` keep their names and defaults, in the builder, in TOML and on the command line.
//!
//! | there | here | note |
//! |---|---|---|
//! | `loss`, `miner`, `miner_options`, `optimizer`, `optimizer_options`, `learning_rate`, `epochs`, `batch_size` | the same | `batch_size` 128 where none is given; other losses and miners are answered by the nearest |
//! | `loss_options` in the run's schema, but not in `fit()` | `loss_options` | margin and scale can be set |
//! | scale 64 | by the number of classes | `preset = "finetuner"` gives 64 back |
//! | `loss_optimizer`, `loss_optimizer_options` | the same | rate 1e-2 where none is given; centres start short, not at N(0, 1) |
//! | `sampler`, `num_items_per_class` | the same | with too few classes 0.4.1 made no batch and said nothing; here the [rule](super::samplers) is written down and said |
//! | `scheduler`, `scheduler_options` with `num_warmup_steps`, `num_training_steps`, `scheduler_step` | the same | `num_training_steps` is the length of the run unless given; a warm-up that is longer is refused |
//! | `learning_rate` in `[0, 1)`, over that in `optimizer_options` | above 0 and below 1; refused in `optimizer_options` | a rate of 0 trains nothing |
//! | `layer_wise_lr_decay` | the same, in `optimizer_options` | each layer that share of the rate above it |
//! | `batch_size=None`: chosen by the service; a warning from 256 | 128; a notice from 256 | |
//! | `epochs` below 50 | at most 1,000,000 | |
//! | `val_split`, `output_dim` | the same | `val_split_by = "class"` holds classes out |
//! | `freeze`, a model to start from | `freeze`, `init_from` | the same head; `freeze` without `init_from` would keep random weights and is refused |
//! | `EarlyStopping`, `BestModelCheckpoint`, `TrainingCheckpoint`, `WiSEFTCallback` | `[callbacks]`: `patience`, `min_delta`, `baseline`; `best_model`; `last_k_epochs`; `wise_ft_alpha` | a checkpoint there lacks the loss's parameters and their optimizer; here it continues to the same bits |
//! | `monitor="val_loss"`, `mode` | `monitor`: `recall_at_1`, `map_at_r`, `mrr` and more ([`Monitor`](crate::run::Monitor)), `loss` | the direction follows from it; with NaN a run ends by itself |
//! | `WandBLogger` | `callbacks.tensorboard`, `metrics.jsonl` | nothing is sent anywhere |
//! | hooks `on_fit_begin` to `on_exception` | [`Observer`](crate::run::Observer) | |
//! | `model_options={'pooler': 'GeM', 'pooler_options': {...}}` | `pooler`, `pooler_options` | text: masked, and signed instead of clamped; an encoder without pooling refuses it instead of warning |
//! | `EvaluationCallback(query_data, index_data)` | every run, and `embedtune evaluate` with `--k`, `--distance`, `--metrics` | hit@k is what papers call Recall@k; both names are kept. an item never finds itself |
//! | two-column CSV, pairs `(item, item)` | the same, with a header (`text1,text2`) | classes are the connected components: there, read a pair at a time, `(A,B), (C,D), (A,D)` ends in too many classes |
//! | three columns, `(item, item, score)` | the same (`text1,text2,score`) | pairs of `data_options.score_threshold` or more join; the score itself is no target |
//! | `(item, label)`, `CSVOptions(is_labeled=True)` | labelled columns, by their names in the header | |
//! | `CSVOptions`: `size`, `sampling_rate`, `dialect`, `encoding` | none: the whole file, commas, UTF-8 | other bytes are refused with their line |
//! | `convert_to_blob`, `create_point_clouds`, `point_cloud_size`; image-text pairs | none | images come from folders by class; there is one encoder, so no `CLIPLoss` |
//! | `CosineSimilarityLoss`, `MarginMSELoss` | refused | they fit scores of a teacher; here classes are what is told apart |
//! | the other losses and miners of pytorch-metric-learning, by name | refused, with the nearest of those there are | |
//! | `num_workers`, `device` | none; `device = "auto"`, `"cpu"` or `"cuda"` | all cores, with the same bits on any number |
//! | `to_onnx` | `embedtune export` | a finished run, at any time |
//! | `model_artifact` | `init_from` | a run's folder |
//! | `login`, experiments, `run.status()`, `public` | none | a run is a process and a folder on your machine |
//!
//! # InsightFace (`arcface_torch`)
//!
//! | there | here | note |
//! |---|---|---|
//! | `CombinedMarginLoss(64, 1.0, 0.5, 0.0)` | `ArcFaceLoss`, `preset = "insightface"` | the gradient is as if the logit's slope were 1, as there; `margin_gradient = "exact"` gives the value's own |
//! | `CombinedMarginLoss(64, 1.0, 0.0, 0.4)` | `CosFaceLoss`, the same preset | with m3 above 0 theirs ignores m1 and m2 |
//! | `m1` other than 1 | `SphereFaceLoss` | theirs raises an error; ours scales by the embedding's norm |
//! | no rule past `pi - m` | `edge = "none"` (the preset's) | under `"jump"` and `"continuous"` the logit keeps falling |
//! | `interclass_filtering_threshold` | none | |
//! | one optimizer for backbone and centres | `loss_optimizer` | the centres' rate is 1e-2 unless given: give theirs to repeat a result |
//! | Partial FC, `sample_rate` | none; every class takes part | logits beyond `logits_budget_bytes` (256 MiB) are never held, so memory is the centres and their gradient |
//! | half precision | `f32` throughout | |
//! | `save_all_states=False` leaves centres out | checkpoints always hold them and their optimizer | |
