//! The centres on the GPU, what moves them, and what their checkpoint holds.

use embedtune_cuda_kernels::cudarc::driver::{CudaSlice, CudaViewMut};
use embedtune_cuda_kernels::margin::Centres;
use embedtune_cuda_kernels::optimizer::{self, Adam, Sgd};
use ndarray::ArrayD;

use super::{CENTRES, GRADIENT, Gpu, OPTIMIZER, Parts};
use crate::optim::{self, Optimizer, OptimizerKind, OptimizerOptions};
use crate::{Error, Result, State};

/// The counter beside an optimizer's buffers.
const STEP: &str = "step";

/// An optimizer of class centres that the kernels have: SGD, Adam or AdamW, with their options.
pub struct CudaOptimizer {
    options: OptimizerOptions,
    /// The rate and its range, and the names of the state; it never holds any.
    rule: Box<dyn Optimizer>,
}

impl CudaOptimizer {
    /// As [`optim::build`].
    ///
    /// # Errors
    /// Those of [`optim::build`]; [`Error::Unsupported`] for another optimizer.
    pub fn new(kind: OptimizerKind, options: &OptimizerOptions, default_lr: f64) -> Result<Self> {
        let rule = optim::build(kind, options, default_lr)?;
        if !matches!(kind, OptimizerKind::Sgd | OptimizerKind::Adam | OptimizerKind::AdamW) {
            return Err(Error::Unsupported(format!(
                "loss_optimizer = {kind}: on the GPU class centres are moved by SGD, Adam or AdamW"
            )));
        }
        Ok(Self { options: options.clone(), rule })
    }

    pub(super) fn kind(&self) -> OptimizerKind {
        self.rule.kind()
    }

    /// The names of its buffers.
    pub(super) fn buffers(&self) -> &'static [&'static str] {
        let some = |value: Option<bool>| value.unwrap_or(false);
        match self.kind() {
            OptimizerKind::Sgd if self.options.momentum.unwrap_or(0.0) > 0.0 => &["momentum_buffer"],
            OptimizerKind::Sgd => &[],
            _ if some(self.options.amsgrad) => &["exp_avg", "exp_avg_sq", "max_exp_avg_sq"],
            _ => &["exp_avg", "exp_avg_sq"],
        }
    }

    /// The next step after `done` ones.
    fn step(&self, done: u64) -> Step {
        let (of, rate) = (&self.options, self.rule.learning_rate());
        match self.kind() {
            OptimizerKind::Sgd => Step::Sgd(Sgd {
                rate,
                weight_decay: of.weight_decay.unwrap_or(0.0),
                momentum: of.momentum.unwrap_or(0.0),
                dampening: of.dampening.unwrap_or(0.0),
                nesterov: of.nesterov.unwrap_or(false),
                first_step: done == 0,
            }),
            kind => {
                let w = kind == OptimizerKind::AdamW;
                Step::Adam(Adam {
                    rate,
                    betas: of.betas.unwrap_or((0.9, 0.999)),
                    eps: of.eps.unwrap_or(1e-8),
                    weight_decay: of.weight_decay.unwrap_or(if w { 0.01 } else { 0.0 }),
                    decoupled: w || of.decoupled_weight_decay.unwrap_or(false),
                    step: done + 1,
                })
            }
        }
    }
}

enum Step {
    Sgd(Sgd),
    Adam(Adam),
}

/// Centres `[rows, dim]`, their optimizer's buffers and their accumulated gradient in device memory.
pub(super) struct Learnt {
    pub(super) shape: [usize; 2],
    pub(super) centres: CudaSlice<f32>,
    pub(super) optimizer: CudaOptimizer,
    /// Steps taken, and the buffers, there from the first step on.
    done: u64,
    buffers: Vec<CudaSlice<f32>>,
    /// Allocated at the first batch that accumulates and kept; whether it holds something to apply.
    pub(super) gradient: Option<CudaSlice<f32>>,
    pub(super) pending: bool,
}

impl Learnt {
    pub(super) fn new(gpu: &Gpu, centres: &ArrayD<f32>, optimizer: CudaOptimizer) -> Result<Self> {
        let shape = match *centres.shape() {
            [rows, dim] => [rows, dim],
            _ => return Err(Error::Unsuitable("class centres must be a matrix, [classes, dim]".to_owned())),
        };
        let centres = gpu.upload(centres, "the class centres")?;
        Ok(Self { shape, centres, optimizer, done: 0, buffers: Vec::new(), gradient: None, pending: false })
    }

    fn len(&self) -> usize {
        self.shape[0] * self.shape[1]
    }

    /// The buffers, with zeros before the first step.
    fn prepare(&mut self, gpu: &Gpu) -> Result<()> {
        for name in self.optimizer.buffers().iter().skip(self.buffers.len()) {
            self.buffers.push(gpu.zeros(self.len(), &format!("the centres' {name}"))?);
        }
        Ok(())
    }

    /// Hands `compute` the centres with their optimizer, which moves them tile by tile; counts the step where `compute`
    /// says that they have moved.
    pub(super) fn fused<R>(
        &mut self,
        gpu: &Gpu,
        compute: impl FnOnce(Centres<'_, '_, f32>) -> Result<R>,
        moved: impl FnOnce(&R) -> bool,
    ) -> Result<R> {
        self.prepare(gpu)?;
        let mut centres = self.centres.as_view_mut();
        let mut views: Vec<CudaViewMut<'_, f32>> =
            self.buffers.iter_mut().map(CudaSlice::as_view_mut).collect();
        let centres = match (self.optimizer.step(self.done), views.as_mut_slice()) {
            (Step::Sgd(sgd), buffers) => Centres::Sgd(&mut centres, buffers.first_mut(), sgd),
            (Step::Adam(adam), [first, second, rest @ ..]) => {
                Centres::Adam(&mut centres, [first, second], rest.first_mut(), adam)
            }
            (Step::Adam(_), _) => return Err(no_moments()),
        };
        let result = compute(centres)?;
        if moved(&result) {
            self.done += 1;
        }
        Ok(result)
    }

    /// The accumulated gradient's buffer, beside the centres.
    pub(super) fn accumulator(&mut self, gpu: &Gpu) -> Result<(&CudaSlice<f32>, &mut CudaSlice<f32>)> {
        if self.gradient.is_none() {
            self.gradient = Some(gpu.zeros(self.len(), "the centres' accumulated gradient")?);
        }
        match &mut self.gradient {
            Some(gradient) => Ok((&self.centres, gradient)),
            None => Err(no_moments()),
        }
    }

    /// Moves the centres by `factor` times what is pending.
    pub(super) fn apply(&mut self, gpu: &Gpu, factor: f32) -> Result<()> {
        if !self.pending {
            return Ok(());
        }
        self.prepare(gpu)?;
        let Some(gradient) = &self.gradient else { return Ok(()) };
        let (gradient, mut centres) = (gradient.as_view(), self.centres.as_view_mut());
        let mut views: Vec<CudaViewMut<'_, f32>> =
            self.buffers.iter_mut().map(CudaSlice::as_view_mut).collect();
        let (kernels, stream) = (&gpu.kernels, &gpu.stream);
        match (self.optimizer.step(self.done), views.as_mut_slice()) {
            (Step::Sgd(sgd), buffers) => {
                optimizer::sgd(kernels, stream, &gradient, factor, &mut centres, buffers.first_mut(), sgd)?;
            }
            (Step::Adam(adam), [first, second, rest @ ..]) => {
                let (moments, largest) = ([first, second], rest.first_mut());
                optimizer::adam(kernels, stream, &gradient, factor, &mut centres, moments, largest, adam)?;
            }
            (Step::Adam(_), _) => return Err(no_moments()),
        }
        self.pending = false;
        self.done += 1;
        Ok(())
    }

    pub(super) fn grad_norm(&self, gpu: &Gpu) -> Result<f64> {
        match &self.gradient {
            Some(gradient) if self.pending => {
                Ok(optimizer::norm(&gpu.kernels, &gpu.stream, &gradient.as_view())?)
            }
            _ => Ok(0.0),
        }
    }

    pub(super) fn learning_rate(&self) -> f64 {
        self.optimizer.rule.learning_rate()
    }

    pub(super) fn set_learning_rate(&mut self, learning_rate: f64) -> Result<()> {
        self.optimizer.rule.set_learning_rate(learning_rate)
    }

    /// As the head on the CPU writes it.
    pub(super) fn state(&self, gpu: &Gpu) -> Result<State> {
        let mut own = State::default();
        // The step count matters only together with a buffer.
        for (name, buffer) in self.optimizer.buffers().iter().zip(&self.buffers).filter(|_| self.done > 0) {
            own.tensors.insert(format!("{CENTRES}.{name}"), gpu.download(buffer, &self.shape)?);
            own.counters.insert(format!("{CENTRES}.{STEP}"), self.done);
        }
        let mut state = own.prefixed(OPTIMIZER);
        state.tensors.insert(CENTRES.to_owned(), gpu.download(&self.centres, &self.shape)?);
        if let Some(gradient) = self.gradient.as_ref().filter(|_| self.pending) {
            state.tensors.insert(GRADIENT.to_owned(), gpu.download(gradient, &self.shape)?);
        }
        Ok(state)
    }

    /// `parts` have this head's shape; `own` is the optimizer's. Changes nothing where it fails.
    pub(super) fn load(&mut self, gpu: &Gpu, parts: &Parts<'_>, own: &State) -> Result<()> {
        // The optimizer on the CPU knows what is foreign or missing, and says so.
        let rate = self.learning_rate();
        optim::build(self.optimizer.kind(), &self.optimizer.options, rate)?.load_state(own)?;
        let done = own.counters.get(&format!("{CENTRES}.{STEP}")).copied().unwrap_or(0);
        let mut buffers = Vec::new();
        for name in self.optimizer.buffers().iter().filter(|_| done > 0) {
            let key = format!("{CENTRES}.{name}");
            let tensor = own.tensors.get(&key).filter(|tensor| tensor.shape() == self.shape).ok_or_else(|| {
                Error::Unsuitable(format!(
                    "the optimizer state's `{key}` must have shape {:?}; the checkpoint belongs to another model",
                    self.shape
                ))
            })?;
            buffers.push(gpu.upload(tensor, &format!("the centres' {name}"))?);
        }
        let gradient = parts
            .gradient
            .map(|tensor| gpu.upload(tensor, "the centres' accumulated gradient"))
            .transpose()?;
        let centres = gpu.upload(parts.centres, "the class centres")?;
        (self.centres, self.done, self.buffers) = (centres, done, buffers);
        self.pending = gradient.is_some();
        self.gradient = gradient;
        Ok(())
    }
}

fn no_moments() -> Error {
    Error::Unsuitable("the centres' optimizer has lost its buffers".to_owned())
}
