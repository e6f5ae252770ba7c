//! Class centres that stay on the unit sphere.

use embedtune_core::Grad;
use ndarray::{Array2, ArrayD, Ix2, IxDyn};
use rayon::prelude::*;

use crate::optim::{Optimizer, OptimizerKind, OptimizerOptions, Param, Reevaluate};
use crate::{Error, Result, State};

/// Riemannian Adam on a product of unit spheres, one for each row (Becigneul and Ganea 2019, Algorithm 1a): the gradient
/// `g` is projected on the row's tangent space; `m = b1 m + (1 - b1) g` is a tangent vector and `v = b2 v + (1 - b2) |g|^2`
/// one number a row; the row turns by `lr |m'| / (sqrt(v') + eps)` radians along the great circle against `m`, primes being
/// the corrections of Adam, and `m` is carried along. The learning rate is thus the angle of a step whose gradients agree,
/// whatever the row's length was and however many columns it has.
pub(super) struct SphereAdam {
    lr: f64,
    betas: (f64, f64),
    eps: f64,
    step: u64,
    mean: Array2<f32>,
    square: Vec<f32>,
}

/// Half a turn: a larger step would come back on the other side.
const LARGEST_TURN: f64 = std::f64::consts::PI;

impl SphereAdam {
    pub(super) fn new(options: &OptimizerOptions, lr: f64) -> Self {
        Self {
            lr,
            betas: options.betas.unwrap_or((0.9, 0.999)),
            eps: options.eps.unwrap_or(1e-8),
            step: 0,
            mean: Array2::zeros((0, 0)),
            square: Vec::new(),
        }
    }
}

impl Optimizer for SphereAdam {
    fn kind(&self) -> OptimizerKind {
        OptimizerKind::Adam
    }

    fn learning_rate(&self) -> f64 {
        self.lr
    }

    fn set_learning_rate(&mut self, learning_rate: f64) -> Result<()> {
        if !(0.0..=LARGEST_TURN).contains(&learning_rate) {
            let remedy = "the centres' rate is in radians per step; write a number from 0 to 3.14, e.g. 0.01";
            return Err(Error::option("loss_optimizer_options.learning_rate", learning_rate, remedy));
        }
        self.lr = learning_rate;
        Ok(())
    }

    fn check(&self, params: &[Param<'_>]) -> Result<()> {
        for param in params {
            let shape = param.value.shape();
            let grad = param.grad.as_ref().is_none_or(|grad| grad.shape() == shape);
            let state = self.square.is_empty() || *shape == [self.mean.nrows(), self.mean.ncols()];
            if shape.len() != 2 || !grad || !state {
                return Err(Error::Unsuitable(format!(
                    "parameter `{}` has shape {shape:?}; its gradient and state must have it too, [rows, dim]",
                    param.name
                )));
            }
        }
        Ok(())
    }

    fn step(&mut self, params: &mut [Param<'_>], _: Option<&mut Reevaluate<'_>>) -> Result<()> {
        self.check(params)?;
        for param in params {
            let Some(grad) = param.grad.take() else { continue };
            let gradient = grad.into_dense()?.into_dimensionality::<Ix2>();
            let gradient = gradient.map_err(|e| Error::Unsuitable(e.to_string()))?;
            if self.square.is_empty() {
                self.mean = Array2::zeros(gradient.dim());
                self.square = vec![0.0; gradient.nrows()];
            }
            self.step += 1;
            let t = self.step as f64;
            let ((b1, b2), eps) = (self.betas, self.eps);
            let (c1, c2, lr) = (1.0 - b1.powf(t), 1.0 - b2.powf(t), self.lr);
            let mut rows = param
                .value
                .to_owned()
                .into_dimensionality::<Ix2>()
                .map_err(|e| Error::Unsuitable(e.to_string()))?;
            let mut tasks: Vec<_> = rows
                .rows_mut()
                .into_iter()
                .zip(gradient.rows())
                .zip(self.mean.rows_mut())
                .zip(&mut self.square)
                .collect();
            tasks.par_iter_mut().for_each(|(((w, g), m), v)| {
                let wide = |values: ndarray::ArrayView1<'_, f32>| values.mapv(f64::from);
                let mut unit = wide(w.view());
                let length = unit.dot(&unit).sqrt();
                if length == 0.0 {
                    return;
                }
                unit /= length;
                let mut tangent = wide(g.view());
                let along_centre = tangent.dot(&unit);
                tangent.scaled_add(-along_centre, &unit);
                let mut mean = wide(m.view()) * b1;
                mean.scaled_add(1.0 - b1, &tangent);
                // What rounding left of it along the centre.
                let along_centre = mean.dot(&unit);
                mean.scaled_add(-along_centre, &unit);
                let square = b2 * f64::from(**v) + (1.0 - b2) * tangent.dot(&tangent);
                let norm = mean.dot(&mean).sqrt();
                let angle = (lr * norm / c1 / ((square / c2).sqrt() + eps)).min(LARGEST_TURN);
                **v = square as f32;
                if norm > 0.0 {
                    let (sin, cos) = angle.sin_cos();
                    let along = &mean / -norm;
                    let turned = &unit * cos + &along * sin;
                    // Parallel transport: the component along the circle turns with it.
                    mean = (&along * cos - &unit * sin) * -norm;
                    w.zip_mut_with(&turned, |w, &new| *w = new as f32);
                } else {
                    w.zip_mut_with(&unit, |w, &new| *w = new as f32);
                }
                m.zip_mut_with(&mean, |m, &new| *m = new as f32);
            });
            drop(tasks);
            *param.value = rows.into_dyn().into_shared();
            param.grad = Some(Grad::Dense(gradient.into_dyn()));
        }
        Ok(())
    }

    fn state(&self) -> State {
        let mut state = State::default();
        if self.step > 0 {
            state.tensors.insert("centres.exp_avg".to_owned(), self.mean.clone().into_dyn());
            let square = ArrayD::from_shape_vec(IxDyn(&[self.square.len()]), self.square.clone());
            state.tensors.insert("centres.exp_avg_sq".to_owned(), square.unwrap_or_default());
            state.counters.insert("centres.step".to_owned(), self.step);
        }
        state
    }

    fn load_state(&mut self, state: &State) -> Result<()> {
        if *state == State::default() {
            (self.step, self.mean, self.square) = (0, Array2::zeros((0, 0)), Vec::new());
            return Ok(());
        }
        let foreign = || {
            Error::Unsuitable(
                "the saved state of the centres' optimizer is not that of unit-sphere centres; resume with the options \
                 that wrote it"
                    .to_owned(),
            )
        };
        let tensor = |name: &str| state.tensors.get(name).ok_or_else(foreign);
        let mean = tensor("centres.exp_avg")?.clone().into_dimensionality::<Ix2>().map_err(|_| foreign())?;
        let square: Vec<f32> = tensor("centres.exp_avg_sq")?.iter().copied().collect();
        let step = *state.counters.get("centres.step").ok_or_else(foreign)?;
        if square.len() != mean.nrows() || state.tensors.len() != 2 || state.counters.len() != 1 {
            return Err(foreign());
        }
        (self.step, self.mean, self.square) = (step, mean, square);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(optimizer: &mut SphereAdam, value: &mut embedtune_core::Value, grad: &[f32]) {
        let grad = Array2::from_shape_vec((1, grad.len()), grad.to_vec()).unwrap();
        let mut params = [Param { name: "centres", value, grad: Some(Grad::Dense(grad.into_dyn())) }];
        optimizer.step(&mut params, None).unwrap();
    }

    #[test]
    fn a_step_turns_by_the_rate_and_stays_on_the_sphere() {
        for scale in [1e-4f32, 1.0, 1e4] {
            let mut optimizer =
                SphereAdam::new(&OptimizerOptions { eps: Some(1e-30), ..Default::default() }, 0.1);
            let mut value = ndarray::arr2(&[[1.0f32, 0.0, 0.0]]).into_dyn().into_shared();
            for t in 1..=5 {
                // Always along the second axis of the present tangent space; the pull along the centre is ignored.
                let (x, y) = (value[[0, 0]], value[[0, 1]]);
                step(&mut optimizer, &mut value, &[(y + 3.0 * x) * scale, (-x + 3.0 * y) * scale, 0.0]);
                let angle = f64::from(value[[0, 1]]).atan2(f64::from(value[[0, 0]]));
                assert!((angle - 0.1 * f64::from(t)).abs() < 1e-5, "{angle} after {t} steps at {scale}");
                assert!((value.iter().map(|v| v * v).sum::<f32>() - 1.0).abs() < 1e-6);
            }
        }
    }

    #[test]
    fn a_loaded_state_continues_bit_for_bit() {
        let grads = [[0.3f32, -0.2, 0.9], [0.1, 0.4, -0.3], [-0.5, 0.2, 0.2]];
        let mut one = SphereAdam::new(&OptimizerOptions::default(), 0.05);
        let mut value = ndarray::arr2(&[[0.6f32, 0.0, 0.8]]).into_dyn().into_shared();
        step(&mut one, &mut value, &grads[0]);
        let mut two = SphereAdam::new(&OptimizerOptions::default(), 0.05);
        two.load_state(&one.state()).unwrap();
        let mut copy = value.clone();
        for grad in &grads[1..] {
            step(&mut one, &mut value, grad);
            step(&mut two, &mut copy, grad);
        }
        assert_eq!((value, one.state()), (copy, two.state()));
        assert!(two.set_learning_rate(4.0).unwrap_err().to_string().contains("radians per step"));
        let mut foreign = one.state();
        foreign.tensors.remove("centres.exp_avg");
        assert!(two.load_state(&foreign).is_err());
    }
}
