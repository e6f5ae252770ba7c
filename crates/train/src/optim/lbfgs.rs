//! L-BFGS.

use embedtune_core::{Grad, parallel};
use ndarray::{Array1, Array2, ArrayD};

use super::line_search::{Point, Search};
use super::options::rate;
use super::{LineSearch, Optimizer, OptimizerKind, OptimizerOptions, Param, Reevaluate, slots};
use crate::{Error, Result, State};

const BLOCK: usize = 1 << 14;

/// Iterations on a batch, and steps that are remembered, where nothing is said (PyTorch's defaults).
pub(crate) const MAX_ITER: usize = 20;
pub(crate) const HISTORY_SIZE: usize = 100;

/// Liu and Nocedal 1989: the direction is the gradient times an inverse Hessian that is known by the last
/// `history_size` differences of parameters and gradients (the two loops of Nocedal and Wright 2006, algorithm 7.4), up to
/// `max_iter` times a step on the same batch. Without a line search a step has length `lr` (the very first is shorter:
/// `lr min(1, 1 / sum |g|)`). All parameters are one vector: there are no groups.
pub(super) struct Lbfgs {
    lr: f64,
    max_iter: usize,
    max_eval: usize,
    tolerance_grad: f64,
    tolerance_change: f64,
    history_size: usize,
    line_search: bool,
    memory: Memory,
}

/// What is kept between steps.
#[derive(Default)]
struct Memory {
    iterations: u64,
    evaluations: u64,
    t: f64,
    prev_loss: f64,
    h_diag: f32,
    direction: Vec<f32>,
    prev_gradient: Vec<f32>,
    old_dirs: Vec<Vec<f32>>,
    old_stps: Vec<Vec<f32>>,
    ro: Vec<f32>,
}

impl Lbfgs {
    pub(super) fn new(options: &OptimizerOptions, lr: f64) -> Self {
        let max_iter = options.max_iter.unwrap_or(MAX_ITER);
        Self {
            lr,
            max_iter,
            max_eval: options.max_eval.unwrap_or(max_iter * 5 / 4),
            tolerance_grad: options.tolerance_grad.unwrap_or(1e-7),
            tolerance_change: options.tolerance_change.unwrap_or(1e-9),
            history_size: options.history_size.unwrap_or(HISTORY_SIZE),
            line_search: options.line_search_fn == Some(LineSearch::StrongWolfe),
            memory: Memory::default(),
        }
    }

    fn minimise(&mut self, params: &mut [Param<'_>], evaluate: &mut Reevaluate<'_>) -> Result<()> {
        let mut loss = evaluate(params)?;
        slots::check(params)?;
        let mut gradient = flat_gradient(params)?;
        let memory = &mut self.memory;
        if memory.iterations > 0 && memory.direction.len() != gradient.len() {
            return Err(Error::Unsuitable(format!(
                "the optimizer state of LBFGS is of {} values, but the parameters have {}; the checkpoint belongs to \
                 another model",
                memory.direction.len(),
                gradient.len()
            )));
        }
        memory.evaluations += 1;
        let mut evaluations = 1;
        if largest(&gradient) <= self.tolerance_grad {
            return Ok(());
        }
        for iteration in 1..=self.max_iter {
            memory.iterations += 1;
            memory.turn(&gradient, self.history_size);
            memory.prev_gradient.clone_from(&gradient);
            memory.prev_loss = loss;
            memory.t = if memory.iterations == 1 {
                self.lr * (1.0 / sum(&gradient, f32::abs)).min(1.0)
            } else {
                self.lr
            };
            let slope = dot(&gradient, &memory.direction);
            if slope > -self.tolerance_change {
                break;
            }
            let direction = &memory.direction;
            if self.line_search {
                let here: Vec<_> = params.iter().map(|param| param.value.clone()).collect();
                let mut at = |t: f64| {
                    advance(params, t, direction);
                    let loss = evaluate(params)?;
                    let gradient = flat_gradient(params)?;
                    params.iter_mut().zip(&here).for_each(|(param, value)| *param.value = value.clone());
                    Ok(Point { t, loss, slope: dot(&gradient, direction), gradient })
                };
                let search = Search {
                    start: Point { t: 0.0, loss, gradient: gradient.clone(), slope },
                    t: memory.t,
                    reach: largest(direction),
                    tolerance: self.tolerance_change,
                    most: self.max_eval.saturating_sub(evaluations),
                };
                let (found, asked) = search.run(&mut at)?;
                drop(here);
                (loss, gradient, memory.t) = (found.loss, found.gradient, found.t);
                advance(params, memory.t, direction);
                evaluations += asked;
                memory.evaluations += asked as u64;
            } else {
                advance(params, memory.t, direction);
                // After the last step there is nobody to use another evaluation.
                if iteration < self.max_iter {
                    loss = evaluate(params)?;
                    gradient = flat_gradient(params)?;
                    evaluations += 1;
                    memory.evaluations += 1;
                }
            }
            if evaluations >= self.max_eval
                || largest(&gradient) <= self.tolerance_grad
                || largest(&memory.direction) * memory.t <= self.tolerance_change
                || (loss - memory.prev_loss).abs() < self.tolerance_change
            {
                break;
            }
        }
        Ok(())
    }
}

impl Memory {
    /// Takes the last step into the memory and turns the direction.
    fn turn(&mut self, gradient: &[f32], history: usize) {
        if self.iterations == 1 {
            self.direction = gradient.iter().map(|g| -g).collect();
            self.h_diag = 1.0;
            return;
        }
        let y: Vec<f32> = gradient.iter().zip(&self.prev_gradient).map(|(g, before)| g - before).collect();
        let t = self.t as f32;
        let s: Vec<f32> = self.direction.iter().map(|d| d * t).collect();
        let ys = dot(&y, &s) as f32;
        // Curvature that is not positive would make the inverse Hessian indefinite.
        if ys > 1e-10 {
            if self.old_dirs.len() == history {
                self.old_dirs.remove(0);
                self.old_stps.remove(0);
                self.ro.remove(0);
            }
            self.h_diag = ys / dot(&y, &y) as f32;
            self.old_dirs.push(y);
            self.old_stps.push(s);
            self.ro.push(1.0 / ys);
        }
        let mut q: Vec<f32> = gradient.iter().map(|g| -g).collect();
        let mut al = vec![0.0f32; self.ro.len()];
        for i in (0..self.ro.len()).rev() {
            al[i] = dot(&self.old_stps[i], &q) as f32 * self.ro[i];
            add(&mut q, -al[i], &self.old_dirs[i]);
        }
        q.iter_mut().for_each(|v| *v *= self.h_diag);
        for (i, &al) in al.iter().enumerate() {
            let be = dot(&self.old_dirs[i], &q) as f32 * self.ro[i];
            add(&mut q, al - be, &self.old_stps[i]);
        }
        self.direction = q;
    }
}

impl Optimizer for Lbfgs {
    fn kind(&self) -> OptimizerKind {
        OptimizerKind::Lbfgs
    }

    fn learning_rate(&self) -> f64 {
        self.lr
    }

    fn set_learning_rate(&mut self, learning_rate: f64) -> Result<()> {
        self.lr = rate(learning_rate)?;
        Ok(())
    }

    fn check(&self, params: &[Param<'_>]) -> Result<()> {
        slots::check(params)
    }

    fn step(&mut self, params: &mut [Param<'_>], reevaluate: Option<&mut Reevaluate<'_>>) -> Result<()> {
        self.check(params)?;
        let Some(evaluate) = reevaluate else {
            return Err(Error::Unsuitable(
                "LBFGS looks at the loss several times in a step: give `step` a closure that computes it"
                    .to_owned(),
            ));
        };
        let before: Vec<_> = params.iter().map(|param| param.value.to_owned()).collect();
        let result = self.minimise(params, evaluate);
        if result.is_err() {
            params.iter_mut().zip(before).for_each(|(param, value)| *param.value = value.into_shared());
        }
        result
    }

    /// All parameters are one vector, in their order: tensors `d` and `prev_flat_grad` `[n]`, `old_dirs` and `old_stps`
    /// `[history, n]`, `ro` `[history]`, `h_diag` `[1]`; counters.
    fn state(&self) -> State {
        let mut state = State::default();
        let memory = &self.memory;
        if memory.iterations == 0 {
            return state;
        }
        let vector = |values: &[f32]| Array1::from_vec(values.to_vec()).into_dyn();
        let n = memory.direction.len();
        let rows = |rows: &[Vec<f32>]| {
            Array2::from_shape_vec((rows.len(), n), rows.concat()).map(Array2::into_dyn).unwrap_or_default()
        };
        for (name, tensor) in [
            ("d", vector(&memory.direction)),
            ("prev_flat_grad", vector(&memory.prev_gradient)),
            ("old_dirs", rows(&memory.old_dirs)),
            ("old_stps", rows(&memory.old_stps)),
            ("ro", vector(&memory.ro)),
            ("h_diag", vector(&[memory.h_diag])),
        ] {
            state.tensors.insert(name.to_owned(), tensor);
        }
        for (name, count) in [
            ("n_iter", memory.iterations),
            ("func_evals", memory.evaluations),
            ("t", memory.t.to_bits()),
            ("prev_loss", memory.prev_loss.to_bits()),
        ] {
            state.counters.insert(name.to_owned(), count);
        }
        state
    }

    fn load_state(&mut self, state: &State) -> Result<()> {
        const TENSORS: [&str; 6] = ["d", "prev_flat_grad", "old_dirs", "old_stps", "ro", "h_diag"];
        const COUNTERS: [&str; 4] = ["n_iter", "func_evals", "t", "prev_loss"];
        if *state == State::default() {
            self.memory = Memory::default();
            return Ok(());
        }
        let foreign = state.tensors.keys().find(|key| !TENSORS.contains(&key.as_str()));
        let foreign = foreign.or(state.counters.keys().find(|key| !COUNTERS.contains(&key.as_str())));
        if let Some(key) = foreign {
            return Err(Error::Unsuitable(format!(
                "the optimizer state holds `{key}`, which LBFGS does not keep; resume with the optimizer and the options \
                 that wrote it"
            )));
        }
        let lacks =
            |key: &str| Error::Unsuitable(format!("the optimizer state lacks `{key}`, which LBFGS keeps"));
        let tensor = |key: &str| state.tensors.get(key).ok_or_else(|| lacks(key));
        let counter = |key: &str| state.counters.get(key).copied().ok_or_else(|| lacks(key));
        let flat = |tensor: &ArrayD<f32>| tensor.iter().copied().collect::<Vec<f32>>();
        let direction = flat(tensor("d")?);
        let n = direction.len();
        let history = tensor("ro")?.len();
        let fits = |key: &str, len: usize| {
            let found = tensor(key)?;
            if found.len() == len {
                return Ok(flat(found));
            }
            Err(Error::Unsuitable(format!(
                "the optimizer state's `{key}` has shape {:?}; expected {len} values",
                found.shape()
            )))
        };
        let rows = |key: &str| {
            let values = fits(key, history * n)?;
            Ok::<_, Error>(values.chunks(n.max(1)).map(<[f32]>::to_vec).collect::<Vec<_>>())
        };
        self.memory = Memory {
            iterations: counter("n_iter")?,
            evaluations: counter("func_evals")?,
            t: f64::from_bits(counter("t")?),
            prev_loss: f64::from_bits(counter("prev_loss")?),
            h_diag: fits("h_diag", 1)?.first().copied().unwrap_or(1.0),
            prev_gradient: fits("prev_flat_grad", n)?,
            old_dirs: rows("old_dirs")?,
            old_stps: rows("old_stps")?,
            ro: fits("ro", history)?,
            direction,
        };
        Ok(())
    }
}

/// All gradients as one vector; zeros for parameters without one.
fn flat_gradient(params: &[Param<'_>]) -> Result<Vec<f32>> {
    let mut flat = Vec::with_capacity(params.iter().map(|param| param.value.len()).sum());
    for param in params {
        match &param.grad {
            Some(Grad::Dense(grad)) => flat.extend(grad.iter()),
            Some(rows) => flat.extend(rows.clone().into_dense()?.iter()),
            None => flat.resize(flat.len() + param.value.len(), 0.0),
        }
    }
    Ok(flat)
}

/// Moves the parameters by `t` times `direction`.
fn advance(params: &mut [Param<'_>], t: f64, direction: &[f32]) {
    let (t, mut rest) = (t as f32, direction);
    for param in params {
        let (own, after) = rest.split_at(param.value.len().min(rest.len()));
        param.value.iter_mut().zip(own).for_each(|(p, d)| *p += t * d);
        rest = after;
    }
}

fn add(to: &mut [f32], factor: f32, values: &[f32]) {
    to.iter_mut().zip(values).for_each(|(to, v)| *to += factor * v);
}

/// Summed in `f64` in a fixed order, whatever the number of threads.
fn dot(a: &[f32], b: &[f32]) -> f64 {
    parallel::sum(a.len().min(b.len()), BLOCK, |range| {
        a[range.clone()].iter().zip(&b[range]).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
    })
}

fn sum(values: &[f32], of: impl Fn(f32) -> f32 + Sync) -> f64 {
    parallel::sum(values.len(), BLOCK, |range| values[range].iter().map(|&v| f64::from(of(v))).sum())
}

fn largest(values: &[f32]) -> f64 {
    values.iter().fold(0.0f64, |most, &v| most.max(f64::from(v).abs()))
}
