//! Batches by class.

use std::collections::{BTreeMap, BinaryHeap};

use crate::plan::{Plan, plan};
use crate::shuffle::Stream;
use crate::{Error, Result};

/// Several items of each of several classes in every batch.
///
/// An epoch holds every item at least once. Each class is cut into groups; a batch takes one group of each of its
/// classes, so no item stands twice in a batch. A class's last group is filled up with items of its other groups,
/// and where classes run out before the largest one, batches are filled with repeated groups of random classes:
/// both repeat items across batches, never inside one. A class with fewer items than a group contributes all it
/// has; a class with one item takes part as a negative.
#[derive(Debug, Clone)]
pub struct ClassSampler {
    /// Items of each class, classes in the order of their labels.
    classes: Vec<Vec<usize>>,
    plan: Plan,
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
        if batch_size < 2 * items_per_class {
            let reason = "at least twice num_items_per_class, so that a batch holds two classes";
            return Err(Error::Option { option: "batch_size", value: batch_size, reason });
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
        let (plan, notice) = plan(batch_size, items_per_class, by_label.len());
        Ok(Self { classes: by_label.into_values().collect(), plan, notice, seed })
    }

    /// What differs from what was asked, in words; `None` if nothing does.
    pub fn notice(&self) -> Option<String> {
        self.notice.clone()
    }

    /// The batches of an epoch.
    pub fn batches(&self, epoch: u64) -> Vec<Vec<usize>> {
        let mut random = Stream::new(self.seed, epoch);
        let mut groups: Vec<Vec<Vec<usize>>> =
            self.classes.iter().map(|items| self.groups(items, &mut random)).collect();
        // The class with the most groups left goes first, so that classes run out together; ties at random.
        let mut queue: BinaryHeap<(usize, u64, usize)> =
            groups.iter().enumerate().map(|(class, groups)| (groups.len(), random.word(), class)).collect();
        let mut batches = Vec::new();
        while !queue.is_empty() {
            let mut chosen = Vec::with_capacity(self.plan.classes);
            while chosen.len() < self.plan.classes
                && let Some((_, _, class)) = queue.pop()
            {
                chosen.push(class);
            }
            let mut batch: Vec<usize> = Vec::with_capacity(self.plan.classes * self.plan.items);
            let mut paired = false;
            for &class in &chosen {
                let Some(group) = groups[class].pop() else { continue };
                paired |= group.len() > 1;
                batch.extend(group);
                if !groups[class].is_empty() {
                    queue.push((groups[class].len(), random.word(), class));
                }
            }
            self.fill(&mut batch, &mut chosen, paired, &mut random);
            batches.push(batch);
        }
        random.shuffle(&mut batches);
        batches
    }

    /// Repeats groups of classes that are not in the batch until it is full and holds a positive pair.
    fn fill(&self, batch: &mut Vec<usize>, chosen: &mut Vec<usize>, mut paired: bool, random: &mut Stream) {
        let missing = self.plan.classes.saturating_sub(chosen.len());
        if missing == 0 && paired {
            return;
        }
        let mut present = vec![false; self.classes.len()];
        chosen.iter().for_each(|&class| present[class] = true);
        let mut others: Vec<usize> = (0..self.classes.len()).filter(|&class| !present[class]).collect();
        random.shuffle(&mut others);
        // A class with a pair first, if the batch has none yet.
        if !paired && let Some(at) = others.iter().position(|&class| self.classes[class].len() > 1) {
            others.swap(0, at);
        }
        for (added, class) in others.into_iter().enumerate() {
            if added >= missing && paired {
                break;
            }
            let mut items = self.classes[class].clone();
            random.shuffle(&mut items);
            items.truncate(self.plan.items);
            paired |= items.len() > 1;
            batch.extend(items);
            chosen.push(class);
        }
    }

    /// A class's items in groups of the planned size.
    fn groups(&self, items: &[usize], random: &mut Stream) -> Vec<Vec<usize>> {
        let mut items = items.to_vec();
        random.shuffle(&mut items);
        let size = self.plan.items;
        let mut groups: Vec<Vec<usize>> = items.chunks(size).map(<[usize]>::to_vec).collect();
        if groups.len() > 1
            && let Some(last) = groups.last_mut()
        {
            let missing = size - last.len();
            // The first items stand in the first group: no repetition inside this one.
            last.extend_from_slice(&items[..missing]);
        }
        groups
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

    #[test]
    fn known_hard_cases() {
        let balanced: Vec<u32> = (0..6000).map(|i| i % 10).collect();
        check(&balanced, 128, 4, 1);
        let imbalanced: Vec<u32> =
            [(0u32, 1000usize), (1, 10), (2, 3), (3, 1)].iter().flat_map(|&(c, n)| vec![c; n]).collect();
        check(&imbalanced, 8, 4, 2);
        let singletons: Vec<u32> = (0..100).chain([0]).collect();
        check(&singletons, 8, 4, 3);
        let many: Vec<u32> = (0..60_000).map(|i| i % 1000).collect();
        check(&many, 128, 4, 4);
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
        assert!(matches!(
            ClassSampler::new(&[0, 0, 1], 3, 2, 0),
            Err(Error::Option { option: "batch_size", .. })
        ));
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
