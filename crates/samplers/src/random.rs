//! Batches at random.

use crate::shuffle::Stream;
use crate::{Error, Result};

/// Every item once an epoch, in a new order each time.
#[derive(Debug, Clone)]
pub struct RandomSampler {
    items: usize,
    batch_size: usize,
    seed: u64,
}

impl RandomSampler {
    /// Batches of `batch_size` of `items` items.
    ///
    /// # Errors
    /// No items, or more than 2^32; a batch size below 2 (batch norm needs two).
    pub fn new(items: usize, batch_size: usize, seed: u64) -> Result<Self> {
        if items == 0 {
            return Err(Error::Empty);
        }
        // An epoch's order is held as a whole.
        if items as u64 > 1 << 32 {
            let reason =
                "at most 4294967296, whose order fits a memory; draw an epoch from a part of the data";
            return Err(Error::Option { option: "items", value: items, reason });
        }
        if batch_size < 2 {
            let reason = "at least 2, as batch norm cannot train on one item; 128 is usual";
            return Err(Error::Option { option: "batch_size", value: batch_size, reason });
        }
        Ok(Self { items, batch_size, seed })
    }

    /// The batches of an epoch. The last is shorter where the batch size does not divide the items; a remainder of
    /// one joins the batch before it, as batch norm cannot train on one item.
    pub fn batches(&self, epoch: u64) -> Vec<Vec<usize>> {
        let mut order: Vec<usize> = (0..self.items).collect();
        Stream::new(self.seed, epoch).shuffle(&mut order);
        let mut batches: Vec<Vec<usize>> = order.chunks(self.batch_size).map(<[usize]>::to_vec).collect();
        if let Some(last) = batches.pop_if(|last| last.len() == 1) {
            match batches.last_mut() {
                Some(previous) => previous.extend(last),
                None => batches.push(last),
            }
        }
        batches
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_item_once_and_no_batch_of_one() {
        for (items, batch) in [(1, 4), (4, 4), (5, 4), (1000, 128), (129, 128)] {
            let sampler = RandomSampler::new(items, batch, 3).unwrap();
            let batches = sampler.batches(2);
            assert!(items == 1 || batches.iter().all(|b| b.len() > 1));
            let mut seen: Vec<usize> = batches.concat();
            seen.sort_unstable();
            assert_eq!(seen, (0..items).collect::<Vec<_>>());
            assert_eq!(batches, sampler.batches(2));
            assert!(items < 100 || batches != sampler.batches(3));
        }
        assert_eq!(RandomSampler::new(5, usize::MAX, 3).unwrap().batches(0).len(), 1);
        for (items, batch, part) in
            [(0, 4, "no items"), (4, 1, "batch_size = 1"), (usize::MAX, 4, "items = ")]
        {
            let message = RandomSampler::new(items, batch, 0).unwrap_err().to_string();
            assert!(message.contains(part), "{message}");
        }
    }
}
