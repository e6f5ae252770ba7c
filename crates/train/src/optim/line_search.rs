//! A step length along a descent direction.

use crate::Result;

/// Sufficient decrease and curvature (Nocedal and Wright 2006, equations 3.7), as PyTorch's.
const DECREASE: f64 = 1e-4;
const CURVATURE: f64 = 0.9;

/// A point on the line.
#[derive(Debug, Clone)]
pub(super) struct Point {
    /// Step length.
    pub(super) t: f64,
    /// The loss there.
    pub(super) loss: f64,
    /// The gradient there.
    pub(super) gradient: Vec<f32>,
    /// Its product with the direction.
    pub(super) slope: f64,
}

/// Where a search starts and when it gives up.
pub(super) struct Search {
    /// The present point, at `t = 0`.
    pub(super) start: Point,
    /// The first length to try.
    pub(super) t: f64,
    /// The direction's largest magnitude.
    pub(super) reach: f64,
    /// The bracket's least width times `reach`.
    pub(super) tolerance: f64,
    /// Evaluations after the first, at most.
    pub(super) most: usize,
}

impl Search {
    /// A length that satisfies the strong Wolfe conditions (Nocedal and Wright 2006, algorithms 3.5 and 3.6, with cubic
    /// interpolation and the safeguards of Schmidt's minFunc), or the best found; and how often `at` was asked.
    pub(super) fn run(self, at: &mut dyn FnMut(f64) -> Result<Point>) -> Result<(Point, usize)> {
        let start = self.start;
        let armijo = |p: &Point| p.loss <= start.loss + DECREASE * p.t * start.slope;
        let flat = |p: &Point| p.slope.abs() <= -CURVATURE * start.slope;
        let mut new = at(self.t)?;
        let (mut evaluations, mut iterations) = (1, 0);
        let mut before = start.clone();
        let mut bracket = None;
        while iterations < self.most {
            if !armijo(&new)
                || (iterations > 1 && new.loss >= before.loss)
                || (new.slope >= 0.0 && !flat(&new))
            {
                bracket = Some([before.clone(), new.clone()]);
                break;
            }
            if flat(&new) {
                return Ok((new, evaluations));
            }
            let bounds = (new.t + 0.01 * (new.t - before.t), new.t * 10.0);
            let t = interpolate(&before, &new, bounds);
            before = std::mem::replace(&mut new, at(t)?);
            evaluations += 1;
            iterations += 1;
        }
        let mut bracket = bracket.unwrap_or_else(|| [start.clone(), new]);
        let lower = |bracket: &[Point; 2]| usize::from(bracket[0].loss > bracket[1].loss);
        let mut low = lower(&bracket);
        let mut slow = false;
        while iterations < self.most && (bracket[1].t - bracket[0].t).abs() * self.reach >= self.tolerance {
            let (least, most) = (bracket[0].t.min(bracket[1].t), bracket[0].t.max(bracket[1].t));
            let mut t = interpolate(&bracket[0], &bracket[1], (least, most));
            let edge = 0.1 * (most - least);
            // Close to an end twice in a row, or outside: move inwards, or the bracket hardly shrinks.
            if (most - t).min(t - least) < edge {
                if slow || t >= most || t <= least {
                    t = if (t - most).abs() < (t - least).abs() { most - edge } else { least + edge };
                    slow = false;
                } else {
                    slow = true;
                }
            } else {
                slow = false;
            }
            let new = at(t)?;
            evaluations += 1;
            iterations += 1;
            if !armijo(&new) || new.loss >= bracket[low].loss {
                bracket[1 - low] = new;
                low = lower(&bracket);
            } else {
                let done = flat(&new);
                if !done && new.slope * (bracket[1 - low].t - bracket[low].t) >= 0.0 {
                    bracket[1 - low] = bracket[low].clone();
                }
                bracket[low] = new;
                if done {
                    break;
                }
            }
        }
        let [first, second] = bracket;
        Ok((if low == 0 { first } else { second }, evaluations))
    }
}

/// The minimum of the cubic through two values and slopes (Nocedal and Wright 2006, equation 3.59), within `bounds`.
fn interpolate(a: &Point, b: &Point, bounds: (f64, f64)) -> f64 {
    let d1 = a.slope + b.slope - 3.0 * (a.loss - b.loss) / (a.t - b.t);
    let square = d1 * d1 - a.slope * b.slope;
    if square < 0.0 || square.is_nan() {
        return f64::midpoint(bounds.0, bounds.1);
    }
    let d2 = square.sqrt();
    let (near, far) = if a.t <= b.t { (a, b) } else { (b, a) };
    let t = far.t - (far.t - near.t) * ((far.slope + d2 - d1) / (far.slope - near.slope + 2.0 * d2));
    t.max(bounds.0).min(bounds.1)
}
