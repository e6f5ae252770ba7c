//! The loss itself: what is done in which order.

use embedtune_core::Pool;

use super::count::Tally;
use super::gradient::Sums;
use super::groups::Groups;
use super::rows::{Frame, Rows, prepared_bytes};
use super::softplus::Unit;
use super::stream::{self, Path, Stream};
use super::{Distance, Reduction, TripletMarginOptions, check, gradient, hardest};
use crate::{GradsMut, Input, Result, Stats};

/// More rows or columns than this never reach the loss: rows are counted in 32 bits.
const MOST: usize = u32::MAX as usize;

/// A bound on the bytes of scratch. Saturates.
pub(super) fn workspace_bytes(o: &TripletMarginOptions, batch: usize, reference: usize, dim: usize) -> usize {
    let (batch, reference, dim) = (batch.min(MOST), reference.min(MOST), dim.min(MOST));
    let (other, own) = if reference == 0 { (batch, 0) } else { (reference, batch) };
    let prepared = prepared_bytes(own, other, dim);
    let sets = 1 + usize::from(stream::needs_mine_rows(o));
    let sums = Sums::bytes(batch, dim);
    // Orders, anchors, weights, tallies, hardest triplets; the means' partial sums.
    let means = (other.div_ceil(256) + 1).saturating_mul(8 * (dim + 1));
    let lists = (96 * batch + 12 * other).saturating_add(means);
    let strips = stream::strip_bytes(o, batch, other);
    [prepared.saturating_mul(sets), sums, lists, strips].into_iter().fold(0, usize::saturating_add)
}

/// The power of two at or below the largest weight, which the gradient's sums are taken over: kernels multiply weights by
/// counts and slopes in `f32`. No digit of a sum changes, but of anchors whose
/// weight is below 2^-126 of the largest.
fn weight_unit(weights: &[f64]) -> f64 {
    let largest = weights.iter().fold(0.0, |most, &weight| f64::max(most, weight));
    if largest > 0.0 { largest.log2().floor().exp2() } else { 1.0 }
}

pub(super) fn forward_backward(
    options: &TripletMarginOptions,
    input: Input<'_>,
    grads: GradsMut<'_>,
    pool: &Pool,
) -> Result<Stats> {
    let factors = check::check(&input, &grads)?;
    let (batch, dim) = input.embeddings.dim();
    let groups = Groups::new(&input);
    let largest = weight_unit(&factors);
    let weights: Vec<f32> =
        groups.batch.iter().map(|&row| (factors[row as usize] / largest) as f32).collect();
    let reference = input.reference.map(|r| (r.embeddings, groups.reference()));
    let prepare = |frame| Rows::new(frame, (input.embeddings, &groups.batch), reference, pool);
    let rows = prepare(Frame::of(options));
    let mine_rows = stream::needs_mine_rows(options).then(|| prepare(Frame::CentredUnit));
    let unit = match options.distance {
        Distance::L2 => rows.scale,
        Distance::SquaredL2 => rows.scale * rows.scale,
        Distance::Cosine => 1.0,
    };
    let margin = (options.margin * unit) as f32;
    let soft = Unit::new(unit);
    let mut tallies = vec![Tally::default(); batch];
    let mut sums = grads.embeddings.as_ref().map(|_| Sums::new(batch, dim, pool));
    let own = input.reference.is_none();
    if Path::of(options) == Path::Hardest {
        let triplets = stream::hardest_triplets(&groups, mine_rows.as_ref().unwrap_or(&rows), pool);
        hardest::losses(
            options,
            &rows,
            margin,
            &triplets,
            (&weights, own, soft),
            &mut tallies,
            sums.as_mut(),
        );
    } else {
        let (mine_rows, weights) = (mine_rows.as_ref(), &weights);
        Stream { options, groups: &groups, rows: &rows, mine_rows, margin, unit: soft, weights, own, pool }
            .run(&mut tallies, sums.as_mut());
    }

    let (mut total, mut triplets, mut active) = (0.0, 0u64, 0u64);
    for (tally, &row) in tallies.iter().zip(&groups.batch) {
        total += factors[row as usize] * tally.loss;
        triplets += tally.triplets;
        active += tally.active;
    }
    if let Some(per_sample) = grads.per_sample {
        for (tally, &row) in tallies.iter().zip(&groups.batch) {
            per_sample[row as usize] =
                (tally.loss / unit).clamp(f64::from(f32::MIN), f64::from(f32::MAX)) as f32;
        }
    }
    let divisor = match options.reduction {
        Reduction::Mean => triplets.max(1) as f64,
        Reduction::MeanNonZero if options.smooth => triplets.max(1) as f64,
        Reduction::MeanNonZero => active.max(1) as f64,
        Reduction::Sum => 1.0,
    };
    let mut zero_signal = active == 0;
    if let (Some(out), Some(sums)) = (grads.embeddings, &sums) {
        let factor = f64::from(grads.upstream) * largest * rows.scale / unit / divisor;
        zero_signal |= !gradient::write(options, &input, &groups, &rows, sums, factor, grads.write, out);
    }
    Ok(Stats {
        value: total / unit / divisor,
        active_fraction: active as f64 / triplets.max(1) as f64,
        triplets,
        active_triplets: active,
        zero_signal,
        accuracy: None,
    })
}
