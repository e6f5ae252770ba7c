//! Batch-hard mining: each anchor's farthest positive and nearest negative, and the losses of those triplets.

use super::TripletMarginOptions;
use super::count::{Tally, chain};
use super::gradient::Sums;
use super::groups::Groups;
use super::rows::{LANES, Rows};
use super::softplus::{Unit, softplus};

/// Positions of an anchor's farthest positive and nearest negative, by squared distances of unit vectors: the order
/// of the distances, without the ties that a root makes. The first row on ties; `None` without either.
#[inline(always)]
pub(crate) fn hardest(groups: &Groups, anchor: usize, squares: &mut [f32]) -> Option<(usize, usize)> {
    let rows = groups.reference();
    let anchor = &groups.anchors[anchor];
    // Within a class, positions are in the order of rows.
    let mut positive: Option<(usize, f32)> = None;
    for at in anchor.positives() {
        if positive.is_none_or(|(_, farthest)| squares[at] > farthest) {
            positive = Some((at, squares[at]));
        }
    }
    anchor.mask(squares, rows.len());
    let mut least = [f32::MAX; LANES];
    for chunk in squares.as_chunks::<LANES>().0 {
        for (least, &d) in least.iter_mut().zip(chunk) {
            *least = least.min(d);
        }
    }
    let nearest = least.into_iter().fold(f32::MAX, f32::min);
    if nearest == f32::MAX {
        return None;
    }
    let ties = squares.iter().zip(rows).enumerate().filter(|(_, (d, _))| **d == nearest);
    let negative = ties.min_by_key(|(_, (_, row))| **row)?.0;
    Some((positive?.0, negative))
}

/// The losses (in units of `unit`) of one triplet an anchor, and what they add to `sums`.
pub(crate) fn losses(
    options: &TripletMarginOptions,
    rows: &Rows,
    margin: f32,
    triplets: &[Option<(usize, usize)>],
    (weights, own, unit): (&[f32], bool, Unit),
    tallies: &mut [Tally],
    mut sums: Option<&mut Sums>,
) {
    let distance = options.distance;
    let (batch, reference) = (|at| rows.batch_row(at), |at| rows.reference_row(at));
    for (a, triplet) in triplets.iter().enumerate() {
        let Some((p, n)) = *triplet else { continue };
        let ap = rows.dissimilarity(distance, batch(a), reference(p));
        let an = rows.dissimilarity(distance, batch(a), reference(n));
        let pn = if options.swap { rows.dissimilarity(distance, reference(p), reference(n)) } else { an };
        let v = ap + margin - an.min(pn);
        let (loss, rise) = match options.smooth {
            true => softplus(v, unit),
            false => (v.max(0.0), if v > 0.0 { 1.0 } else { 0.0 }),
        };
        tallies[a] = Tally { loss: f64::from(loss), triplets: 1, active: u64::from(loss > 0.0) };
        let Some(sums) = sums.as_deref_mut() else { continue };
        let rise = rise * weights[a];
        // Shares of the minimum's gradient.
        let from_anchor = if an < pn || !options.swap {
            1.0
        } else if an == pn {
            0.5
        } else {
            0.0
        };
        let mut pull = |i: Option<usize>, row_i: &[f32], j: usize, slope: f32, d: f32| {
            let coefficient = slope * chain(distance, d);
            if coefficient == 0.0 {
                return;
            }
            if let Some(i) = i {
                sums.add(i, reference(j), coefficient);
            }
            if own {
                sums.add(j, row_i, coefficient);
            }
        };
        pull(Some(a), batch(a), p, rise, ap);
        pull(Some(a), batch(a), n, -rise * from_anchor, an);
        pull(own.then_some(p), reference(p), n, -rise * (1.0 - from_anchor), pn);
    }
}
