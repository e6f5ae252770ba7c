//! The engine: blocks of classes, one product each for the logits and for the two gradients; the target's columns
//! are left out of the bulk and handled apart, so that a sample that is already right loses no digits.

use embedtune_core::{linalg, simd, vecmath};
use ndarray::{Array2, ArrayView2, ArrayViewMut2, Axis, Slice};
use rayon::prelude::*;

use super::target::Target;
use super::{Margin, MarginSoftmax};
use crate::check;
use crate::{Error, GradsMut, Input, Result, Stats, Workspace, Write};

/// Stands for "not there": far below any logit, and finite, so that 0 times it is 0.
const ABSENT: f32 = -1e30;
/// Norms outside this range are divided out before a product instead of after it, so that nothing overflows.
const PLAIN_NORMS: std::ops::RangeInclusive<f32> = 1e-15..=1e15;

impl MarginSoftmax {
    /// Rows of the centres that one block takes: all, or as many whole classes as the budget holds.
    pub(super) fn block(&self, batch: usize) -> usize {
        let k = self.options.sub_centers;
        let fitting = self.options.logits_budget_bytes / (size_of::<f32>() * batch.max(1) * k);
        fitting.clamp(1, self.classes) * k
    }
}

/// A row's running log-sum-exp over the classes seen so far, without its own.
#[derive(Clone, Copy)]
struct Bulk {
    top: f32,
    sum: f64,
}

impl Bulk {
    fn log_sum(&self) -> f64 {
        f64::from(self.top) + self.sum.max(f64::MIN_POSITIVE).ln()
    }
}

pub(super) fn run(
    loss: &MarginSoftmax,
    input: Input<'_>,
    grads: GradsMut<'_>,
    work: &mut Workspace,
) -> Result<Stats> {
    let x = input.embeddings;
    let w = input
        .weights
        .ok_or(Error::Missing { loss: "a margin loss", what: "class centres in `Input::weights`" })?;
    check::matrix("embeddings", &x, Some(input.labels.len()), loss.dim)?;
    check::matrix("class centres", &w, Some(loss.rows()), loss.dim)?;
    check::labels(input.labels, loss.classes)?;
    check::outputs(&grads, x.dim(), Some(w.dim()))?;
    let factors = check::factors(&input)?;
    let batch = x.nrows();
    if batch == 0 {
        return Ok(Stats { zero_signal: true, ..Stats::default() });
    }
    let GradsMut { embeddings: mut dx, weights: mut dw, write, upstream, per_sample } = grads;

    let sphere = matches!(loss.options.margin, Margin::Sphere { .. });
    let targets: Vec<Target> =
        (0..batch).into_par_iter().map(|i| Target::new(loss, x.row(i), w, input.labels[i])).collect();
    // SphereFace's logits keep the embedding's norm; the others see unit rows.
    let mut left = Array2::from_shape_vec(x.dim(), work.pool().take(x.len())).map_err(shape)?;
    if sphere {
        left.assign(&x);
    } else {
        linalg::normalize_rows(x, 1e-12, left.view_mut())?;
    }
    let k = loss.options.sub_centers;
    let block = loss.block(batch);
    let blocks = loss.rows().div_ceil(block);
    let mut logits = work.pool().take(batch * block);
    let mut bulk = vec![Bulk { top: ABSENT, sum: 0.0 }; batch];

    for b in 0..blocks {
        let rows = b * block..((b + 1) * block).min(loss.rows());
        let centres = Centres::new(w.slice_axis(Axis(0), Slice::from(rows.clone())), loss.options.scale)?;
        let mut z = block_view(&mut logits, batch, rows.len())?;
        fill(loss, left.view(), &centres, &input, rows.start, z.view_mut())?;
        z.axis_iter_mut(Axis(0)).into_par_iter().zip(&mut bulk).for_each(|(row, bulk)| {
            simd::dispatch(|| absorb(row.as_slice().unwrap_or_default(), bulk));
        });
    }

    let mut stats = Stats { accuracy: Some(0.0), ..Stats::default() };
    let mut sigma = vec![0.0f32; batch];
    let mut losses = vec![0.0f32; batch];
    let (mut right, mut active) = (0usize, 0usize);
    for (i, (target, bulk)) in targets.iter().zip(&bulk).enumerate() {
        let gap = bulk.log_sum() - target.logit;
        let value = if gap > 0.0 { gap + (-gap).exp().ln_1p() } else { gap.exp().ln_1p() };
        let wrong = 1.0 / (1.0 + (-gap).exp());
        let norm = if sphere { target.norms[0] } else { 1.0 };
        right += usize::from(f64::from(bulk.top) <= loss.options.scale * norm * target.cosine);
        active += usize::from(wrong > 1e-6);
        losses[i] = value as f32;
        sigma[i] = (wrong * f64::from(factors[i]) * f64::from(upstream) / batch as f64) as f32;
        stats.value += value * f64::from(factors[i]) / batch as f64;
    }
    stats.accuracy = Some(right as f64 / batch as f64);
    stats.active_fraction = active as f64 / batch as f64;
    stats.zero_signal = active == 0;
    if let Some(out) = per_sample {
        out.copy_from_slice(&losses);
    }

    if dx.is_some() || dw.is_some() {
        let mut raw_dx = Array2::from_shape_vec(x.dim(), work.pool().zeros(x.len())).map_err(shape)?;
        for b in 0..blocks {
            let rows = b * block..((b + 1) * block).min(loss.rows());
            let w = w.slice_axis(Axis(0), Slice::from(rows.clone()));
            let centres = Centres::new(w, loss.options.scale)?;
            let mut z = block_view(&mut logits, batch, rows.len())?;
            if blocks > 1 {
                fill(loss, left.view(), &centres, &input, rows.start, z.view_mut())?;
            }
            z.axis_iter_mut(Axis(0)).into_par_iter().enumerate().for_each(|(i, mut row)| {
                let (log_sum, sigma) = (bulk[i].log_sum() as f32, sigma[i]);
                simd::dispatch(|| {
                    for z in row.as_slice_mut().unwrap_or_default() {
                        *z = sigma * vecmath::exp(*z - log_sum);
                    }
                });
                if k > 1 {
                    // Sub-centres that are not their class's nearest were set to ABSENT and so are 0 here.
                    debug_assert_eq!(row.len() % k, 0);
                }
            });
            if let Some(dw) = &mut dw {
                let to = dw.slice_axis_mut(Axis(0), Slice::from(rows.clone()));
                centre_gradients(loss, z.view(), left.view(), w, to, write, work)?;
            }
            if dx.is_some() {
                centres.add_product(z, &mut raw_dx)?;
            }
        }
        finish(loss, &input, w, &targets, &sigma, &raw_dx, dx.as_mut(), dw.as_mut(), write);
        work.pool().give(raw_dx.into_raw_vec_and_offset().0);
    }
    work.pool().give(left.into_raw_vec_and_offset().0);
    work.pool().give(logits);
    Ok(stats)
}

fn shape(_: ndarray::ShapeError) -> Error {
    Error::Shape { what: "scratch", expected: "batch x block".into(), got: Vec::new() }
}

fn block_view(buffer: &mut [f32], batch: usize, rows: usize) -> Result<ArrayViewMut2<'_, f32>> {
    ArrayViewMut2::from_shape((batch, rows), &mut buffer[..batch * rows]).map_err(shape)
}

/// A block of centres and the factor `scale / |w|` of each. Centres of extreme norm are normalised into a copy.
struct Centres<'a> {
    rows: ArrayView2<'a, f32>,
    copy: Option<Array2<f32>>,
    factors: Vec<f32>,
}

impl<'a> Centres<'a> {
    fn new(rows: ArrayView2<'a, f32>, scale: f64) -> Result<Self> {
        let norms: Vec<f32> = rows
            .axis_chunks_iter(Axis(0), 256)
            .into_par_iter()
            .flat_map_iter(|rows| {
                rows.rows()
                    .into_iter()
                    .map(|r| r.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>().sqrt() as f32)
                    .collect::<Vec<_>>()
            })
            .collect();
        if norms.iter().all(|norm| PLAIN_NORMS.contains(norm)) {
            let factors = norms.iter().map(|&norm| (scale / f64::from(norm.max(1e-12))) as f32).collect();
            return Ok(Self { rows, copy: None, factors });
        }
        let mut unit = Array2::zeros(rows.dim());
        linalg::normalize_rows(rows, 1e-12, unit.view_mut())?;
        Ok(Self { rows, factors: vec![scale as f32; unit.nrows()], copy: Some(unit) })
    }

    fn view(&self) -> ArrayView2<'_, f32> {
        self.copy.as_ref().map_or(self.rows, |copy| copy.view())
    }

    /// `into += (z * factors) centres`.
    fn add_product(&self, mut z: ArrayViewMut2<'_, f32>, into: &mut Array2<f32>) -> Result<()> {
        z.axis_iter_mut(Axis(0)).into_par_iter().for_each(|mut row| {
            simd::dispatch(|| {
                row.as_slice_mut()
                    .unwrap_or_default()
                    .iter_mut()
                    .zip(&self.factors)
                    .for_each(|(z, f)| *z *= f);
            });
        });
        linalg::matmul(1.0, z.view(), self.view(), 1.0, into.view_mut())?;
        Ok(())
    }
}

/// Logits of a block; the row's own class, and of every other class all but the nearest sub-centre, become
/// [`ABSENT`].
fn fill(
    loss: &MarginSoftmax,
    left: ArrayView2<'_, f32>,
    centres: &Centres<'_>,
    input: &Input<'_>,
    start: usize,
    mut z: ArrayViewMut2<'_, f32>,
) -> Result<()> {
    linalg::matmul(1.0, left, centres.view().t(), 0.0, z.view_mut())?;
    let k = loss.options.sub_centers;
    z.axis_iter_mut(Axis(0)).into_par_iter().zip(input.labels).for_each(|(mut row, &label)| {
        let Some(row) = row.as_slice_mut() else { return };
        simd::dispatch(|| row.iter_mut().zip(&centres.factors).for_each(|(z, f)| *z *= f));
        if k > 1 {
            for class in row.chunks_mut(k) {
                let mut best = 0;
                for j in 1..class.len() {
                    if class[j] > class[best] {
                        best = j;
                    }
                }
                for (j, z) in class.iter_mut().enumerate() {
                    if j != best {
                        *z = ABSENT;
                    }
                }
            }
        }
        let own = label as usize * k;
        if own >= start && own < start + row.len() {
            row[own - start..own - start + k].fill(ABSENT);
        }
    });
    Ok(())
}

/// Folds a row's block into its running maximum and sum.
#[inline(always)]
fn absorb(row: &[f32], bulk: &mut Bulk) {
    const LANES: usize = 16;
    let mut tops = [ABSENT; LANES];
    let chunks = row.chunks_exact(LANES);
    for &v in chunks.remainder() {
        tops[0] = if v > tops[0] { v } else { tops[0] };
    }
    for chunk in chunks {
        for lane in 0..LANES {
            tops[lane] = if chunk[lane] > tops[lane] { chunk[lane] } else { tops[lane] };
        }
    }
    let top = tops.iter().fold(bulk.top, |a, &b| if b > a { b } else { a });
    let mut sum = 0.0f64;
    // Partial sums of 4096 terms in 16 lanes: the error stays near 1e-6 for any number of classes.
    for part in row.chunks(4096) {
        let mut sums = [0.0f32; LANES];
        let chunks = part.chunks_exact(LANES);
        for (lane, &v) in chunks.remainder().iter().enumerate() {
            sums[lane] += vecmath::exp(v - top);
        }
        for chunk in chunks {
            for lane in 0..LANES {
                sums[lane] += vecmath::exp(chunk[lane] - top);
            }
        }
        sum += sums.iter().map(|&v| f64::from(v)).sum::<f64>();
    }
    bulk.sum = bulk.sum * f64::from(bulk.top - top).exp() + sum;
    bulk.top = top;
}

/// Bulk part of the centres' gradient for a block: `(scale / |w|) (raw - w^ (w^ . raw))` with `raw = G^T left`.
fn centre_gradients(
    loss: &MarginSoftmax,
    g: ArrayView2<'_, f32>,
    left: ArrayView2<'_, f32>,
    w: ArrayView2<'_, f32>,
    mut to: ArrayViewMut2<'_, f32>,
    write: Write,
    work: &Workspace,
) -> Result<()> {
    let mut kept = None;
    if write == Write::Add {
        let mut old = Array2::from_shape_vec(to.dim(), work.pool().take(to.len())).map_err(shape)?;
        old.assign(&to);
        kept = Some(old);
    }
    linalg::matmul(1.0, g.t(), left, 0.0, to.view_mut())?;
    let scale = loss.options.scale;
    to.axis_chunks_iter_mut(Axis(0), 64).into_par_iter().zip(w.axis_chunks_iter(Axis(0), 64)).for_each(
        |(mut to, w)| {
            for (mut raw, w) in to.rows_mut().into_iter().zip(w.rows()) {
                let (mut along, mut squared) = (0.0f64, 0.0f64);
                for (&r, &w) in raw.iter().zip(w) {
                    along += f64::from(r) * f64::from(w);
                    squared += f64::from(w) * f64::from(w);
                }
                let norm = squared.sqrt().max(1e-12);
                // A centre too short to have a direction is divided by the floor and has no projection.
                let along = if squared.sqrt() > 1e-12 { along / (norm * norm) } else { 0.0 };
                let factor = scale / norm;
                raw.zip_mut_with(&w, |r, &w| *r = ((f64::from(*r) - f64::from(w) * along) * factor) as f32);
            }
        },
    );
    if let Some(old) = kept {
        to += &old;
        work.pool().give(old.into_raw_vec_and_offset().0);
    }
    Ok(())
}

/// The embeddings' gradient from the raw product, and the target's part of both gradients. The centres' part runs
/// in row order on one thread: several rows may share a centre.
fn finish(
    loss: &MarginSoftmax,
    input: &Input<'_>,
    w: ArrayView2<'_, f32>,
    targets: &[Target],
    sigma: &[f32],
    raw: &Array2<f32>,
    mut dx: Option<&mut ArrayViewMut2<'_, f32>>,
    mut dw: Option<&mut ArrayViewMut2<'_, f32>>,
    write: Write,
) {
    let sphere = matches!(loss.options.margin, Margin::Sphere { .. });
    let x = input.embeddings;
    let mut row = vec![0.0f64; loss.dim];
    for (i, target) in targets.iter().enumerate() {
        let norm = target.norms[0].max(1e-12);
        // The raw product already holds the scale; SphereFace's logits are linear in x and need no projection.
        let along = if sphere || target.norms[0] <= 1e-12 {
            0.0
        } else {
            x.row(i).iter().zip(raw.row(i)).map(|(&x, &r)| f64::from(x) * f64::from(r)).sum::<f64>()
                / (norm * norm)
        };
        let factor = if sphere { 1.0 } else { 1.0 / norm };
        for ((to, &r), &x) in row.iter_mut().zip(raw.row(i)).zip(x.row(i)) {
            *to = (f64::from(r) - f64::from(x) * along) * factor;
        }
        let strength = -f64::from(sigma[i]) * loss.options.scale;
        let mut centre = dw.as_mut().map(|dw| dw.row_mut(target.row));
        target.add_gradients(
            strength,
            x.row(i),
            w.row(target.row),
            |j, v| row[j] += v,
            |j, v| {
                if let Some(centre) = &mut centre {
                    centre[j] += v as f32;
                }
            },
            sphere,
        );
        if let Some(dx) = &mut dx {
            for (to, &v) in dx.row_mut(i).iter_mut().zip(&row) {
                *to = if write == Write::Add { *to + v as f32 } else { v as f32 };
            }
        }
    }
}
