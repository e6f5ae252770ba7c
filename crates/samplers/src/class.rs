//! Batches by class.

use std::collections::BTreeMap;

use crate::plan::{Plan, plan};
use crate::shuffle::{Deck, Stream};
use crate::{Error, Result};

/// Several items of each of several classes in every batch.
///
/// An epoch holds every item at least once; a batch holds no item twice, at least two classes and at least one
/// positive pair. Classes are cut into groups of the planned size, spread over the batches at random, at most one
/// group of a class in a batch.
///
/// - A class with fewer items than a group contributes all it has, so such batches are smaller.
/// - Items of classes with one item are negatives: they stand together in groups that take a class's place in some
///   batches.
/// - An epoch has `max(groups / classes a batch, groups of the largest class)` batches, rounded up. Where the
///   largest class decides, the places that the others leave are filled with further groups of random classes.
/// - Items repeat only across batches: to fill up a class's last group, and in such further groups. A class's items
///   take turns, so that none appears twice more often than another: at most
///   `ceil(batches * items per class / items of the class)` times an epoch.
#[derive(Debug, Clone)]
pub struct ClassSampler {
    /// Items that can stand in one place of a batch: of a class, or of several classes with one item each.
    pools: Vec<Vec<usize>>,
    /// So many of the first `pools` may fill places that are left.
    fillers: usize,
    plan: Plan,
    batches: usize,
    notice: Option<String>,
    seed: u64,
}

impl ClassSampler {
    /// Batches of `batch_size` with `items_per_class` of each class of `labels`.
    ///
    /// # Errors
    /// No items, fewer than two classes, no class with two items; `items_per_class` below 2 or above half the batch.
    pub fn new(labels: &[u32], batch_size: usize, items_per_class: usize, seed: u64) -> Result<Self> {
        if items_per_class < 2 {
            let reason = "at least 2, or no batch holds a positive pair";
            return Err(Error::Option { option: "num_items_per_class", value: items_per_class, reason });
        }
        if items_per_class > batch_size / 2 {
            return Err(Error::Room { batch_size, items_per_class });
        }
        let mut by_label: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
        for (item, &label) in labels.iter().enumerate() {
            by_label.entry(label).or_default().push(item);
        }
        match by_label.first_key_value() {
            None => return Err(Error::Empty),
            Some((label, items)) if by_label.len() == 1 => {
                return Err(Error::Classes {
                    found: format!("all {} items are of class {label}", items.len()),
                });
            }
            Some((&example, _)) if by_label.values().all(|items| items.len() < 2) => {
                return Err(Error::NoPair { classes: by_label.len(), example });
            }
            Some(_) => {}
        }
        let (mut pools, single): (Vec<_>, Vec<_>) = by_label.into_values().partition(|items| items.len() > 1);
        let single = single.concat();
        let classes = pools.len();
        let (plan, notice) = plan(batch_size, items_per_class, classes, single.len());
        // More of each class than was asked for: that some have fewer is not what the caller expects.
        let small = plan.items > items_per_class && pools.iter().any(|pool| pool.len() < plan.items);
        let notice = notice.map(|said| {
            said + if small {
                "; classes with fewer items give all that they have, so batches are smaller"
            } else {
                ""
            }
        });
        let groups = |items: usize| items.div_ceil(plan.items);
        // The single items take as many places of a batch as spread them over the epoch, but leave one for a pair.
        let total = pools.iter().map(|pool| groups(pool.len())).sum::<usize>() + groups(single.len());
        let largest = pools.iter().map(|pool| groups(pool.len())).max().unwrap_or(1);
        let least = total.div_ceil(plan.classes).max(largest);
        let places = groups(single.len()).div_ceil(least).clamp(1, plan.classes - 1);
        pools.extend(
            (0..places).map(|at| single.iter().copied().skip(at).step_by(places).collect::<Vec<_>>()),
        );
        pools.retain(|pool| !pool.is_empty());
        let total: usize = pools.iter().map(|pool| groups(pool.len())).sum();
        let largest = pools.iter().map(|pool| groups(pool.len())).max().unwrap_or(1);
        let batches = total.div_ceil(plan.classes).max(largest);
        // With one class that has a pair, the single items must be in every batch.
        let fillers = classes.max(plan.classes).min(pools.len());
        Ok(Self { pools, fillers, plan, batches, notice, seed })
    }

    /// What differs from what was asked, in words; `None` if nothing does.
    pub fn notice(&self) -> Option<String> {
        self.notice.clone()
    }

    /// Batches in an epoch: the same in every epoch, at least one.
    #[expect(clippy::len_without_is_empty, reason = "never empty")]
    pub fn len(&self) -> usize {
        self.batches
    }

    /// The batches of an epoch: positions in the labels. A class's items stand together.
    pub fn batches(&self, epoch: u64) -> Vec<Vec<usize>> {
        let mut random = Stream::new(self.seed, epoch);
        let mut order: Vec<usize> = (0..self.pools.len()).collect();
        random.shuffle(&mut order);
        // Dealt from one deck, the groups of a pool go to different batches, and no batch gets two more than another.
        let mut chosen: Vec<Vec<usize>> = vec![Vec::with_capacity(self.plan.classes); self.batches];
        let mut deck = Deck::new((0..self.batches).collect());
        for pool in order {
            let groups = self.pools[pool].len().div_ceil(self.plan.items);
            deck.deal(groups, &mut random, |batch| chosen[batch].push(pool));
        }
        let mut fillers = Deck::new((0..self.fillers).collect());
        let mut last_seen = vec![usize::MAX; self.pools.len()];
        for (batch, chosen) in chosen.iter_mut().enumerate() {
            chosen.iter().for_each(|&pool| last_seen[pool] = batch);
            // Ends: there are at least as many fillers as places, and a deck deals each of them in its turn.
            while chosen.len() < self.plan.classes {
                fillers.deal(1, &mut random, |pool| {
                    if std::mem::replace(&mut last_seen[pool], batch) != batch {
                        chosen.push(pool);
                    }
                });
            }
        }
        let mut decks: Vec<Deck> = self.pools.iter().map(|items| Deck::new(items.clone())).collect();
        let fill = |pools: Vec<usize>| {
            let size = pools.iter().map(|&pool| self.plan.items.min(self.pools[pool].len())).sum();
            let mut batch = Vec::with_capacity(size);
            for pool in pools {
                decks[pool].deal(self.plan.items, &mut random, |item| batch.push(item));
            }
            batch
        };
        chosen.into_iter().map(fill).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn check(labels: &[u32], batch: usize, per: usize, seed: u64) {
        let sampler = ClassSampler::new(labels, batch, per, seed).unwrap();
        let batches = sampler.batches(seed % 5);
        assert_eq!(batches, sampler.batches(seed % 5));
        let mut seen = BTreeSet::new();
        for batch in &batches {
            let unique: BTreeSet<_> = batch.iter().collect();
            assert_eq!(unique.len(), batch.len(), "an item stands twice in a batch");
            let mut counts: BTreeMap<u32, usize> = BTreeMap::new();
            batch.iter().for_each(|&i| *counts.entry(labels[i]).or_default() += 1);
            assert!(counts.len() >= 2, "one class in a batch");
            assert!(counts.values().any(|&n| n >= 2), "no positive pair");
            seen.extend(batch.iter().copied());
        }
        assert_eq!(seen.len(), labels.len(), "items left out");
    }

    fn sizes(sizes: &[(u32, usize)]) -> Vec<u32> {
        sizes.iter().flat_map(|&(class, items)| vec![class; items]).collect()
    }

    #[test]
    fn known_hard_cases() {
        let balanced: Vec<u32> = (0..6000).map(|i| i % 10).collect();
        let imbalanced = sizes(&[(0, 1000), (1, 10), (2, 3), (3, 1)]);
        let singletons: Vec<u32> = (0..100).chain([0]).collect();
        let one_pair_class = sizes(&[(4, 40), (5, 1), (6, 1), (7, 1)]);
        // Labels, batch, items of each class, batches an epoch.
        for (name, labels, batch, per, batches) in [
            // Where a sampler that drops what is left over gives no batch at all.
            ("ten classes, 32 a batch", &balanced, 128, 4, 48),
            // Where such a sampler sees 26 items of 1014.
            ("imbalanced", &imbalanced, 8, 4, 250),
            ("single items", &singletons, 8, 4, 25),
            ("one class with pairs", &one_pair_class, 8, 4, 10),
            ("two items", &sizes(&[(0, 2), (1, 1)]), 128, 4, 1),
        ] {
            check(labels, batch, per, 1);
            let sampler = ClassSampler::new(labels, batch, per, 1).unwrap();
            assert_eq!((sampler.batches(3).len(), sampler.len()), (batches, batches), "{name}");
        }
    }

    #[test]
    fn batches_are_full_and_repeat_little_where_classes_are_alike() {
        let labels: Vec<u32> = (0..60_000).map(|i| i % 1000).collect();
        let sampler = ClassSampler::new(&labels, 128, 4, 4).unwrap();
        let batches = sampler.batches(9);
        assert!(batches.iter().all(|batch| batch.len() == 128));
        // 60 items of a class are 15 groups: only the last batch's free places repeat items.
        assert_eq!(batches.len(), 469);
        check(&labels, 128, 4, 4);
    }

    #[test]
    fn a_batch_larger_than_the_data_holds_them_all() {
        let labels = sizes(&[(0, 9), (1, 4), (2, 4), (3, 1)]);
        for batch in [1 << 20, (1 << 61) + 1, usize::MAX] {
            check(&labels, batch, 4, 3);
            check(&labels, batch, batch / 2, 3);
        }
    }

    #[test]
    fn a_notice_promises_no_batch_that_cannot_be_filled() {
        let notice = |labels: &[u32]| ClassSampler::new(labels, 16, 4, 0).unwrap().notice().unwrap();
        assert!(notice(&sizes(&[(0, 8), (1, 9)])).ends_with("2 classes x 8 (batch 16 kept)"));
        assert!(notice(&sizes(&[(0, 8), (1, 7)])).ends_with(
            "(batch 16 kept); classes with fewer items give all that they have, so batches are smaller"
        ));
    }

    #[test]
    fn a_class_s_items_take_turns() {
        let labels = sizes(&[(0, 400), (1, 7), (2, 5)]);
        let sampler = ClassSampler::new(&labels, 12, 4, 11).unwrap();
        let batches = sampler.batches(0);
        let mut times = vec![0usize; labels.len()];
        batches.iter().flatten().for_each(|&item| times[item] += 1);
        for class in [0..400, 400..407, 407..412] {
            let counts = &times[class];
            let (low, high) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
            assert!(high - low <= 1 && *low > 0, "{counts:?}");
        }
        assert!(times[..400].iter().all(|&n| n == 1));
    }

    #[test]
    fn a_giant_class_among_many_costs_no_more_than_its_batches() {
        let labels: Vec<u32> = (0..40_000).map(|i| if i < 20_000 { 0 } else { i % 5000 + 1 }).collect();
        let sampler = ClassSampler::new(&labels, 128, 4, 0).unwrap();
        let start = std::time::Instant::now();
        assert_eq!(sampler.batches(0).len(), 5000);
        // Some 20 ms alone; a scan of the classes for each batch would take seconds.
        assert!(start.elapsed().as_secs_f64() < 2.0, "{:?}", start.elapsed());
    }

    #[test]
    fn the_order_is_pinned() {
        // A change here changes every run that is resumed.
        let labels: Vec<u32> = (0..12).map(|i| i % 3).collect();
        let sampler = ClassSampler::new(&labels, 4, 2, 5).unwrap();
        assert_eq!(sampler.batches(1), [[5, 2, 4, 7], [11, 8, 9, 6], [0, 3, 1, 10]]);
    }

    #[test]
    fn what_cannot_be_sampled_is_named() {
        assert_eq!(ClassSampler::new(&[], 8, 2, 0).unwrap_err(), Error::Empty);
        assert!(matches!(ClassSampler::new(&[3, 3], 8, 2, 0), Err(Error::Classes { .. })));
        assert_eq!(
            ClassSampler::new(&[5, 9], 8, 2, 0).unwrap_err(),
            Error::NoPair { classes: 2, example: 5 }
        );
        assert!(matches!(
            ClassSampler::new(&[0, 0, 1], 8, 1, 0),
            Err(Error::Option { option: "num_items_per_class", .. })
        ));
        for (batch, items) in [(3, 2), (128, usize::MAX), (usize::MAX, usize::MAX)] {
            let error = ClassSampler::new(&[0, 0, 1], batch, items, 0).unwrap_err();
            assert_eq!(error, Error::Room { batch_size: batch, items_per_class: items });
            assert!(error.to_string().contains("write a batch_size of"), "{error}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn invariants(counts in prop::collection::vec(1usize..40, 2..20), per in 2usize..9, factor in 2usize..12, seed in 0u64..1000) {
            prop_assume!(counts.iter().any(|&n| n > 1));
            let labels: Vec<u32> = counts.iter().enumerate().flat_map(|(c, &n)| vec![c as u32 * 3; n]).collect();
            check(&labels, per * factor + seed as usize % per, per, seed);
        }
    }
}
