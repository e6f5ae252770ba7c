//! What one call holds: the embeddings as its products want them, and what its passes leave for each other.

use embedtune_core::Pool;
use embedtune_core::linalg::{self, NORM_FLOOR as FLOOR};
use ndarray::{Array2, ArrayView2, ArrayViewMut2};

use super::MarginSoftmax;
use super::plan::Plan;
use super::tile::ABSENT;
use crate::{Error, Result};

/// SphereFace's logits grow with the embedding; beyond this norm they are computed for this norm. Their softmax has
/// long been 0 and 1, and the value is put right afterwards.
pub(super) const LONGEST: f64 = 1e18;

pub(super) fn shape(_: ndarray::ShapeError) -> Error {
    Error::Shape { what: "scratch", expected: "batch x classes".into(), got: Vec::new() }
}

/// The embeddings as the products want them.
pub(super) struct Sides {
    /// `[dim, batch]`: what the logits are made of.
    pub(super) left: Vec<f32>,
    /// `[batch, dim]`: what the centres' gradient is made of, over `longest`.
    pub(super) right: Vec<f32>,
    pub(super) longest: f64,
}

impl Sides {
    pub(super) fn new(loss: &MarginSoftmax, x: ArrayView2<'_, f32>, pool: &Pool) -> Result<Self> {
        let (batch, dim) = x.dim();
        let mut unit = Array2::from_shape_vec(x.dim(), pool.take(batch * dim)).map_err(shape)?;
        linalg::normalize_rows(x, FLOOR as f32, unit.view_mut())?;
        let mut left = pool.take(batch * dim);
        let mut turned = ArrayViewMut2::from_shape((dim, batch), &mut left).map_err(shape)?;
        turned.assign(&unit.t());
        let mut longest = 1.0;
        if loss.sphere() {
            let norms: Vec<f64> = x.rows().into_iter().map(|row| linalg::norm(row).max(FLOOR)).collect();
            for (mut column, norm) in turned.columns_mut().into_iter().zip(&norms) {
                column *= norm.min(LONGEST) as f32;
            }
            longest = norms.iter().fold(FLOOR, |most, &norm| most.max(norm));
            for (mut row, norm) in unit.rows_mut().into_iter().zip(&norms) {
                row *= (norm / longest) as f32;
            }
        }
        Ok(Self { left, right: unit.into_raw_vec_and_offset().0, longest })
    }

    pub(super) fn give(self, pool: &Pool) {
        pool.give(self.left);
        pool.give(self.right);
    }
}

/// What the passes leave for each other; every part is cut by groups.
pub(super) struct State {
    /// `exp(logit - top)`, tile by tile; empty where logits are recomputed.
    pub(super) kept: Vec<f32>,
    /// Each tile's tops, where its logits are kept.
    pub(super) tile_tops: Vec<f32>,
    /// The factor that makes a row's product a logit.
    pub(super) factors: Vec<f32>,
    /// Whether a tile's rows have norms that a product takes as they are.
    pub(super) plain: Vec<bool>,
    /// Largest logit of each sample in a group, and the sum of the exponentials relative to it.
    pub(super) tops: Vec<f32>,
    pub(super) sums: Vec<f64>,
    /// The embeddings' raw gradient of each group, `[groups, batch, dim]`.
    pub(super) partials: Vec<f32>,
}

/// A sample's log-sum-exp over the classes but its own: `top + log_sum`.
pub(super) struct Bulk {
    pub(super) top: f32,
    pub(super) log_sum: f64,
}

/// What the backward pass needs of a sample; `sigma` over the batch's largest.
pub(super) struct Sample {
    pub(super) top: f32,
    pub(super) log_sum: f64,
    pub(super) sigma: f64,
}

impl State {
    pub(super) fn new(plan: &Plan, batch: usize, pool: &Pool) -> Self {
        let (tiles, groups) = (plan.rows.div_ceil(plan.tile), plan.groups());
        let kept = |len| if plan.keep { pool.take(len) } else { Vec::new() };
        let mut tops = pool.take(groups * batch);
        tops.fill(ABSENT);
        Self {
            kept: kept(plan.rows * batch),
            tile_tops: kept(tiles * batch),
            factors: pool.take(plan.rows),
            plain: vec![true; tiles],
            tops,
            sums: vec![0.0; groups * batch],
            partials: Vec::new(),
        }
    }

    /// The groups' sums together, in the groups' order.
    pub(super) fn bulk(&self, batch: usize) -> Vec<Bulk> {
        (0..batch)
            .map(|i| {
                let of_groups = || self.tops.chunks_exact(batch).map(|tops| tops[i]);
                let top = of_groups().fold(ABSENT, f32::max);
                let sum: f64 = of_groups()
                    .zip(self.sums.chunks_exact(batch))
                    .map(|(group, sums)| sums[i] * f64::from(group - top).exp())
                    .sum();
                Bulk { top, log_sum: sum.max(f64::MIN_POSITIVE).ln() }
            })
            .collect()
    }

    pub(super) fn give(self, pool: &Pool) {
        for buffer in [self.kept, self.tile_tops, self.factors, self.tops, self.partials] {
            pool.give(buffer);
        }
    }
}
