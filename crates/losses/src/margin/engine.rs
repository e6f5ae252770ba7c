//! The engine: groups of class tiles in parallel, forward and then backward; the target's columns are left out of the
//! bulk and handled apart, so that a sample that is already right loses no digits.

use embedtune_core::linalg::{self, NORM_FLOOR as FLOOR};
use embedtune_core::{Pool, simd};
use ndarray::{Array2, ArrayView2, ArrayViewMut2, Axis, Slice};
use rayon::prelude::*;

use super::MarginSoftmax;
use super::plan::Plan;
use super::state::{LONGEST, Sample, Sides, State, shape};
use super::target::Target;
use super::tile::{self, Owners};
use crate::check;
use crate::{Error, GradsMut, Input, Result, Stats, Workspace, Write};

pub(super) fn run(
    loss: &MarginSoftmax,
    input: Input<'_>,
    grads: GradsMut<'_>,
    work: &mut Workspace,
) -> Result<Stats> {
    let x = input.embeddings;
    let w = input.weights.ok_or(Error::Missing {
        loss: "a margin loss",
        what: "class centres in `Input::weights` (`with_weights`, or `with_weight_slice`)",
    })?;
    check::batch("embeddings", &x, ("labels", input.labels), loss.dim)?;
    check::shaped("class centres", &w, Some(loss.rows()), loss.dim)?;
    check::labels(input.labels, loss.classes)?;
    check::no_reference(&input)?;
    check::outputs(&grads, x.dim(), Some(w.dim()))?;
    let factors = check::factors(&input)?;
    let batch = x.nrows();
    if batch == 0 {
        check::finite("class centres", &w)?;
        return Ok(Stats { zero_signal: true, ..Stats::default() });
    }
    let GradsMut { embeddings: mut dx, weights: mut dw, write, upstream, per_sample } = grads;
    let backward = dx.is_some() || dw.is_some();
    let pool = work.pool();
    let mut plan = Plan::new(loss, batch);
    plan.keep &= backward;
    let sides = Sides::new(loss, x, pool)?;
    let engine = Engine {
        loss,
        plan,
        w,
        pool,
        left: ArrayView2::from_shape((loss.dim, batch), &sides.left).map_err(shape)?,
        right: ArrayView2::from_shape((batch, loss.dim), &sides.right).map_err(shape)?,
        owners: Owners::new(input.labels),
    };
    let mut state = State::new(&plan, batch, pool);
    engine.forward(&mut state)?;

    let bulk = state.bulk(batch);
    let targets: Vec<Target> =
        (0..batch).into_par_iter().map(|i| Target::new(loss, x.row(i), w, input.labels[i])).collect();
    let sphere = loss.sphere();
    let mut stats = Stats::default();
    let mut losses = vec![0.0f32; batch];
    let mut sigma = vec![0.0f64; batch];
    let (mut right, mut active) = (0usize, 0usize);
    for (i, (target, bulk)) in targets.iter().zip(&bulk).enumerate() {
        let norm = if sphere { target.norms[0] } else { 1.0 };
        // 1 but for SphereFace's longest embeddings.
        let cut = if sphere { (norm / LONGEST).max(1.0) } else { 1.0 };
        let top = f64::from(bulk.top) * cut;
        let gap = top + bulk.log_sum - target.logit;
        let value = if gap > 0.0 { gap + (-gap).exp().ln_1p() } else { gap.exp().ln_1p() };
        let wrong = 1.0 / (1.0 + (-gap).exp());
        right += usize::from(top <= loss.options.scale * norm * target.cosine);
        active += usize::from(wrong > 1e-6);
        losses[i] = value.min(f64::from(f32::MAX)) as f32;
        sigma[i] = wrong * factors[i] * f64::from(upstream) / batch as f64;
        stats.value += value * factors[i] / batch as f64;
    }
    stats.accuracy = Some(right as f64 / batch as f64);
    stats.active_fraction = active as f64 / batch as f64;
    stats.zero_signal = active == 0;
    if let Some(out) = per_sample {
        out.copy_from_slice(&losses);
    }

    if backward {
        // The bulk runs with coefficients of at most 1, so that no weight or upstream leaves the range on the way.
        let gain = sigma.iter().fold(0.0f64, |most, s| most.max(s.abs()));
        // Below this no gradient is left in f32, and the reciprocal would be infinite.
        let inverse = if gain >= f64::MIN_POSITIVE { 1.0 / gain } else { 0.0 };
        let samples: Vec<Sample> = bulk
            .iter()
            .zip(&sigma)
            .map(|(bulk, sigma)| Sample { top: bulk.top, log_sum: bulk.log_sum, sigma: sigma * inverse })
            .collect();
        let centre_gain = gain * sides.longest;
        engine.backward(&mut state, &samples, dx.is_some(), dw.as_mut(), centre_gain, write)?;
        if let Some(dw) = &mut dw {
            add_targets_to_centres(loss, &input, w, &targets, &sigma, dw);
        }
        if let Some(dx) = &mut dx {
            embedding_gradients(loss, &input, w, &targets, &sigma, &state.partials, gain, dx, write);
        }
    }
    state.give(pool);
    sides.give(pool);
    Ok(stats)
}

/// What every tile reads.
struct Engine<'a> {
    loss: &'a MarginSoftmax,
    plan: Plan,
    w: ArrayView2<'a, f32>,
    pool: &'a Pool,
    left: ArrayView2<'a, f32>,
    right: ArrayView2<'a, f32>,
    owners: Owners,
}

/// Cuts a buffer by groups; an empty one into as many `None`.
fn cut<T>(buffer: &mut [T], size: usize, groups: usize) -> Vec<Option<&mut [T]>> {
    let mut parts: Vec<_> = buffer.chunks_mut(size.max(1)).map(Some).collect();
    parts.resize_with(groups, || None);
    parts
}

impl Engine<'_> {
    fn batch(&self) -> usize {
        self.right.nrows()
    }

    fn centres(&self, start: usize, rows: usize) -> ArrayView2<'_, f32> {
        self.w.slice_axis(Axis(0), Slice::from(start..start + rows))
    }

    /// Unit copies of a tile's rows, where they are not plain.
    fn copy(&self, w: ArrayView2<'_, f32>, plain: bool) -> Result<Option<Array2<f32>>> {
        if plain {
            return Ok(None);
        }
        let mut unit = Array2::from_shape_vec(w.dim(), self.pool.take(w.len())).map_err(shape)?;
        tile::unit_rows(w, unit.view_mut());
        Ok(Some(unit))
    }

    fn logits(
        &self,
        start: usize,
        centres: ArrayView2<'_, f32>,
        factors: &[f32],
        tops: &mut [f32],
        z: &mut [f32],
    ) -> Result<()> {
        let k = self.loss.options.sub_centers;
        tile::logits(self.left, centres, factors, (start / k, k), &self.owners, tops, z)
    }

    /// Every group's tops and sums, and the kept exponentials.
    fn forward(&self, state: &mut State) -> Result<()> {
        let (Plan { tile, group, keep, .. }, batch, groups) = (self.plan, self.batch(), self.plan.groups());
        let tiles = self.plan.tiles();
        let kept = cut(&mut state.kept, group * batch, groups);
        let tile_tops = cut(&mut state.tile_tops, tiles * batch, groups);
        kept.into_par_iter()
            .zip(tile_tops)
            .zip(state.factors.par_chunks_mut(group))
            .zip(state.plain.par_chunks_mut(tiles))
            .zip(state.tops.par_chunks_mut(batch))
            .zip(state.sums.par_chunks_mut(batch))
            .enumerate()
            .with_max_len(1)
            .try_for_each(|(index, (((((mut kept, mut tile_tops), factors), plain), tops), sums))| {
                let mut scratch = if keep { Vec::new() } else { self.pool.take(tile * batch) };
                let mut before = vec![0.0f32; batch];
                for (t, (factors, plain)) in factors.chunks_mut(tile).zip(plain).enumerate() {
                    let start = index * group + t * tile;
                    let w = self.centres(start, factors.len());
                    let (finite, all_plain) = tile::factors(w, self.loss.options.scale, factors);
                    if !finite {
                        check::finite("class centres", &self.w)?;
                    }
                    *plain = all_plain;
                    let copy = self.copy(w, all_plain)?;
                    let centres = copy.as_ref().map_or(w, |copy| copy.view());
                    let z = match &mut kept {
                        Some(kept) => &mut kept[t * tile * batch..][..factors.len() * batch],
                        None => &mut scratch[..factors.len() * batch],
                    };
                    before.copy_from_slice(tops);
                    self.logits(start, centres, factors, tops, z)?;
                    tile::absorb(z, &before, tops, sums);
                    if let Some(tile_tops) = &mut tile_tops {
                        tile_tops[t * batch..][..batch].copy_from_slice(tops);
                    }
                    if let Some(copy) = copy {
                        self.pool.give(copy.into_raw_vec_and_offset().0);
                    }
                }
                self.pool.give(scratch);
                Ok(())
            })
    }

    /// The bulk's part of both gradients: the centres' in place, the embeddings' raw in `state.partials`.
    fn backward(
        &self,
        state: &mut State,
        samples: &[Sample],
        to_embeddings: bool,
        dw: Option<&mut ArrayViewMut2<'_, f32>>,
        gain: f64,
        write: Write,
    ) -> Result<()> {
        let (Plan { tile, group, .. }, groups) = (self.plan, self.plan.groups());
        let ((batch, dim), tiles) = (self.right.dim(), self.plan.tiles());
        if to_embeddings {
            state.partials = self.pool.take(groups * batch * dim);
        }
        let State { kept, partials, tile_tops, factors, plain, .. } = state;
        let (tile_tops, factors, plain) = (&*tile_tops, &*factors, &*plain);
        let tops: Vec<f32> = samples.iter().map(|sample| sample.top).collect();
        let mut to_centres: Vec<_> = match dw {
            Some(dw) => dw.axis_chunks_iter_mut(Axis(0), group).map(Some).collect(),
            None => Vec::new(),
        };
        to_centres.resize_with(groups, || None);
        cut(kept, group * batch, groups)
            .into_par_iter()
            .zip(cut(partials, batch * dim, groups))
            .zip(to_centres)
            .enumerate()
            .with_max_len(1)
            .try_for_each(|(index, ((mut kept, mut partial), mut to_centres))| {
                let mut scratch = if kept.is_some() { Vec::new() } else { self.pool.take(tile * batch) };
                let mut raw = if to_centres.is_some() { self.pool.take(tile * dim) } else { Vec::new() };
                let mut weights = vec![0.0f32; batch];
                // The samples' tops bound all logits already: nothing raises them.
                let mut bounds = tops.clone();
                let rows = index * group..((index + 1) * group).min(self.plan.rows);
                for (t, start) in rows.clone().step_by(tile).enumerate() {
                    let count = tile.min(rows.end - start);
                    let (factors, plain) = (&factors[start..start + count], plain[index * tiles + t]);
                    let w = self.centres(start, count);
                    let copy = self.copy(w, plain)?;
                    let centres = copy.as_ref().map_or(w, |copy| copy.view());
                    let g: &mut [f32] = match &mut kept {
                        Some(kept) => {
                            let tops = &tile_tops[(index * tiles + t) * batch..][..batch];
                            weigh_samples(samples, tops, &mut weights);
                            let e = &mut kept[t * tile * batch..][..count * batch];
                            tile::weigh(e, &weights, factors);
                            e
                        }
                        None => {
                            weigh_samples(samples, &tops, &mut weights);
                            let z = &mut scratch[..count * batch];
                            self.logits(start, centres, factors, &mut bounds, z)?;
                            tile::weigh_logits(z, &tops, &weights, factors);
                            z
                        }
                    };
                    let g = ArrayView2::from_shape((count, batch), &*g).map_err(shape)?;
                    if let Some(dw) = &mut to_centres {
                        let raw = &mut raw[..count * dim];
                        let product = ArrayViewMut2::from_shape((count, dim), &mut *raw).map_err(shape)?;
                        linalg::matmul_serial(1.0, g, self.right, 0.0, product)?;
                        let to = dw.slice_axis_mut(Axis(0), Slice::from(t * tile..t * tile + count));
                        tile::centre_gradients(
                            raw,
                            w,
                            (factors, self.loss.options.scale),
                            plain,
                            (gain, write),
                            to,
                        );
                    }
                    if let Some(partial) = &mut partial {
                        let partial = ArrayViewMut2::from_shape((batch, dim), partial).map_err(shape)?;
                        let beta = if t == 0 { 0.0 } else { 1.0 };
                        linalg::matmul_serial(1.0, g.t(), centres, beta, partial)?;
                    }
                    if let Some(copy) = copy {
                        self.pool.give(copy.into_raw_vec_and_offset().0);
                    }
                }
                self.pool.give(raw);
                self.pool.give(scratch);
                Ok(())
            })
    }
}

/// What turns `exp(logit - top)` into a sample's coefficient.
fn weigh_samples(samples: &[Sample], tops: &[f32], weights: &mut [f32]) {
    for ((weight, sample), &top) in weights.iter_mut().zip(samples).zip(tops) {
        let lower = f64::from(top) - f64::from(sample.top);
        *weight = (sample.sigma * (lower - sample.log_sum).exp()) as f32;
    }
}

/// The targets' part of the centres' gradient, in the order of the rows: several may share a centre.
fn add_targets_to_centres(
    loss: &MarginSoftmax,
    input: &Input<'_>,
    w: ArrayView2<'_, f32>,
    targets: &[Target],
    sigma: &[f64],
    dw: &mut ArrayViewMut2<'_, f32>,
) {
    for ((target, sigma), x) in targets.iter().zip(sigma).zip(input.embeddings.rows()) {
        let gradient =
            target.centre_gradient(-sigma * loss.options.scale, x, w.row(target.row), loss.sphere());
        Write::Add.put(&mut dw.row_mut(target.row), gradient.map(|v| v as f32));
    }
}

/// The embeddings' gradient: the groups' raw products in their order, without the part along the embedding (SphereFace's
/// logits are linear in it and keep that part), and the target's.
fn embedding_gradients(
    loss: &MarginSoftmax,
    input: &Input<'_>,
    w: ArrayView2<'_, f32>,
    targets: &[Target],
    sigma: &[f64],
    partials: &[f32],
    gain: f64,
    dx: &mut ArrayViewMut2<'_, f32>,
    write: Write,
) {
    let x = input.embeddings;
    dx.axis_iter_mut(Axis(0)).into_par_iter().enumerate().for_each(|(i, mut dx)| {
        let (target, x) = (&targets[i], x.row(i));
        let mut raw = vec![0.0f64; loss.dim];
        simd::dispatch(
            #[inline(always)]
            || {
                for partial in partials.chunks_exact(loss.dim * targets.len()) {
                    let row = &partial[i * loss.dim..][..loss.dim];
                    raw.iter_mut().zip(row).for_each(|(sum, &v)| *sum += f64::from(v));
                }
            },
        );
        let norm = target.norms[0];
        let along = if loss.sphere() || norm <= FLOOR {
            0.0
        } else {
            x.iter().zip(&raw).map(|(&x, r)| f64::from(x) * r).sum::<f64>() / (norm * norm)
        };
        let factor = if loss.sphere() { gain } else { gain / norm.max(FLOOR) };
        let own =
            target.embedding_gradient(-sigma[i] * loss.options.scale, x, w.row(target.row), loss.sphere());
        let values = raw.iter().zip(x).zip(own);
        let values = values.map(|((r, &x), own)| ((r - f64::from(x) * along) * factor + own) as f32);
        write.put(&mut dx, values);
    });
}
