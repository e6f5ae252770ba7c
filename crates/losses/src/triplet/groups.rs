//! The batch and the reference in class order, where an anchor's positives stand side by side.

use std::ops::Range;

use crate::Input;

/// Who is whose positive. A *position* counts rows in class order (by label, then by row).
pub(crate) struct Groups {
    /// Row of the batch at each position.
    pub(crate) batch: Vec<u32>,
    /// Row of the reference at each position; `None` where the reference is the batch itself.
    reference: Option<Vec<u32>>,
    /// One anchor for each position of the batch.
    pub(crate) anchors: Vec<Anchor>,
}

/// An anchor's view of the reference. Positions, not rows.
#[derive(Clone, Copy)]
pub(crate) struct Anchor {
    start: u32,
    end: u32,
    same: u32,
}

impl Groups {
    pub(crate) fn new(input: &Input<'_>) -> Self {
        let batch = class_order(input.labels);
        let Some(reference) = &input.reference else {
            let anchors = runs(&batch, input.labels)
                .flat_map(|run| {
                    run.clone().map(move |same| Anchor {
                        start: run.start as u32,
                        end: run.end as u32,
                        same: same as u32,
                    })
                })
                .collect();
            return Self { batch, reference: None, anchors };
        };
        let order = class_order(reference.labels);
        let mut position = vec![u32::MAX; order.len()];
        order.iter().enumerate().for_each(|(at, &row)| position[row as usize] = at as u32);
        let anchors = batch
            .iter()
            .map(|&row| {
                let label = input.labels[row as usize];
                let of = |&row: &u32| reference.labels[row as usize];
                let start = order.partition_point(|row| of(row) < label);
                let end = start + order[start..].partition_point(|row| of(row) == label);
                let same = reference.same_item.map_or(u32::MAX, |same| same[row as usize]);
                let same = position.get(same as usize).copied().unwrap_or(u32::MAX);
                Anchor { start: start as u32, end: end as u32, same }
            })
            .collect();
        Self { batch, reference: Some(order), anchors }
    }

    /// Row of the reference at each position.
    pub(crate) fn reference(&self) -> &[u32] {
        self.reference.as_deref().unwrap_or(&self.batch)
    }

    /// Position of each row of the batch.
    pub(crate) fn batch_positions(&self) -> Vec<u32> {
        let mut position = vec![0; self.batch.len()];
        self.batch.iter().enumerate().for_each(|(at, &row)| position[row as usize] = at as u32);
        position
    }
}

impl Anchor {
    /// The positions of the anchor's class, its own item's among them.
    pub(crate) fn class(&self) -> Range<usize> {
        self.start as usize..self.end as usize
    }

    /// The positions of its positives.
    pub(crate) fn positives(&self) -> impl Iterator<Item = usize> + use<> {
        self.positives_within(self.class())
    }

    /// The positions of its positives that lie in `range`, a part of its class.
    pub(crate) fn positives_within(&self, range: Range<usize>) -> impl Iterator<Item = usize> + use<> {
        let same = self.same as usize;
        range.filter(move |&at| at != same)
    }

    /// Number of negatives among `reference` rows.
    pub(crate) fn negative_count(&self, reference: usize) -> usize {
        let outside = (self.same as usize) < reference && !self.class().contains(&(self.same as usize));
        reference - self.class().len() - usize::from(outside)
    }

    /// Sets the entries that are no negative (the class, the item itself, the padding) to [`f32::MAX`]: farther
    /// than any threshold.
    pub(crate) fn mask(&self, row: &mut [f32], reference: usize) {
        row[self.class()].fill(f32::MAX);
        row[reference..].fill(f32::MAX);
        if let Some(own) = row.get_mut(self.same as usize) {
            *own = f32::MAX;
        }
    }
}

fn class_order(labels: &[u32]) -> Vec<u32> {
    let mut order: Vec<u32> = (0..labels.len() as u32).collect();
    order.sort_unstable_by_key(|&row| (labels[row as usize], row));
    order
}

/// The ranges of equal labels.
fn runs<'a>(order: &'a [u32], labels: &'a [u32]) -> impl Iterator<Item = Range<usize>> + 'a {
    let mut start = 0;
    order.chunk_by(|&a, &b| labels[a as usize] == labels[b as usize]).map(move |run| {
        let range = start..start + run.len();
        start = range.end;
        range
    })
}
