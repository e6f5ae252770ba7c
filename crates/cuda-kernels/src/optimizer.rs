//! Optimizer steps: from a gradient that lies in memory. (A margin softmax spends its centres' gradient at once instead:
//! [`Centres`](crate::margin::Centres).)

use std::sync::Arc;

use cudarc::driver::{CudaStream, CudaView, CudaViewMut};

use crate::kernels::{Arg, Args, Shape};
use crate::scratch::Scratch;
use crate::{Error, Kernels, Result, check};

/// Blocks among which [`norm`] divides a buffer, whatever the device: bits depend on it.
const NORM_BLOCKS: usize = 264;

/// Stochastic gradient descent in PyTorch's form: `g += weight_decay w`;
/// `b = momentum b + (1 - dampening) g` (`b = g` at the first step); `w -= rate b`, with Nesterov
/// `w -= rate (g + momentum b)`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sgd {
    /// The learning rate.
    pub rate: f64,
    /// Added to the gradient, times the parameter.
    pub weight_decay: f64,
    /// 0 for none; the buffer is then not needed.
    pub momentum: f64,
    /// What the buffer does not take of a new gradient.
    pub dampening: f64,
    /// Nesterov's form.
    pub nesterov: bool,
    /// Whether the momentum buffer holds nothing yet.
    pub first_step: bool,
}

/// Adam (Kingma and Ba 2015, algorithm 1) or, if `decoupled`, AdamW (Loshchilov and Hutter 2019, algorithm 2).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Adam {
    /// The learning rate.
    pub rate: f64,
    /// Decay rates of the moments.
    pub betas: (f64, f64),
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Weight decay.
    pub weight_decay: f64,
    /// AdamW's decay of the parameter itself, instead of Adam's in the gradient.
    pub decoupled: bool,
    /// The number of this step, from 1.
    pub step: u64,
}

impl Sgd {
    /// The first step at a learning rate, without momentum and weight decay.
    pub fn new(rate: f64) -> Self {
        Self { rate, weight_decay: 0.0, momentum: 0.0, dampening: 0.0, nesterov: false, first_step: true }
    }

    /// The rate, the decay, the momentum, and what of the buffer and of the gradient a new buffer takes.
    pub(crate) fn numbers(&self) -> [f32; 5] {
        let (keep, take) = if self.first_step { (0.0, 1.0) } else { (self.momentum, 1.0 - self.dampening) };
        [self.rate, self.weight_decay, self.momentum, keep, take].map(|v| v as f32)
    }

    /// Numbers of f32; the buffer, where there is momentum, of the parameter's length.
    pub(crate) fn check(&self, buffer: Option<usize>, parameter: usize) -> Result<()> {
        check::rate(self.rate)?;
        check::single("weight_decay", self.weight_decay)?;
        check::single("momentum", self.momentum)?;
        if self.momentum < 0.0 {
            let (option, value) = ("momentum", self.momentum.to_string());
            return Err(Error::Option {
                option,
                value,
                reason: "write 0 for none, or up to 1; 0.9 is usual",
            });
        }
        check::single("dampening", self.dampening)?;
        match buffer {
            Some(buffer) => check::length("the momentum buffer", buffer, parameter),
            None if self.momentum == 0.0 => Ok(()),
            None => Err(Error::Option {
                option: "momentum",
                value: self.momentum.to_string(),
                reason: "needs a momentum buffer of the parameter's shape",
            }),
        }
    }
}

impl Adam {
    /// `AdamNumbers` of `kernels/optimizer.cuh`.
    pub(crate) fn numbers(&self) -> [f32; 8] {
        let (b1, b2) = self.betas;
        // Corrections in f64: 1 - b2^t loses half its digits in f32 at the first steps.
        let t = self.step as f64;
        let (shrink, decay) = match self.decoupled {
            true => (1.0 - self.rate * self.weight_decay, 0.0),
            false => (1.0, self.weight_decay),
        };
        let (size, root) = (self.rate / (1.0 - b1.powf(t)), (1.0 - b2.powf(t)).sqrt());
        [size, root, self.eps, shrink, decay, 1.0 - b1, b2, 1.0 - b2].map(|v| v as f32)
    }

    /// Numbers of f32, moments of the parameter's length, and a step that has been counted.
    pub(crate) fn check(&self, moments: &[usize], parameter: usize) -> Result<()> {
        check::rate(self.rate)?;
        check::single("weight_decay", self.weight_decay)?;
        // In f32 it would become 0, and where nothing moves the step 0 / 0.
        check::single("eps", self.eps)?;
        let (b1, b2) = self.betas;
        if let Some(beta) = [b1, b2].into_iter().find(|beta| !(0.0..1.0).contains(beta)) {
            let (option, value) = ("betas", beta.to_string());
            return Err(Error::Option {
                option,
                value,
                reason: "from 0 to below 1; 0.9 and 0.999 are usual",
            });
        }
        for &moment in moments {
            check::length("a moment of the parameter", moment, parameter)?;
        }
        if self.step == 0 {
            let (option, value) = ("step", "0".to_owned());
            return Err(Error::Option { option, value, reason: "steps count from 1" });
        }
        Ok(())
    }
}

/// Moves `parameter` by `factor` times `gradient`; `buffer` as [`Sgd::momentum`] says. Does not wait for the device.
///
/// # Errors
/// Options that are no numbers of f32; buffers of different lengths, or none where there is momentum; what the driver
/// says.
pub fn sgd(
    kernels: &Kernels,
    stream: &Arc<CudaStream>,
    gradient: &CudaView<'_, f32>,
    factor: f32,
    parameter: &mut CudaViewMut<'_, f32>,
    buffer: Option<&mut CudaViewMut<'_, f32>>,
    options: Sgd,
) -> Result<()> {
    let len = parameter.len();
    check::length("the gradient", gradient.len(), len)?;
    options.check(buffer.as_ref().map(|buffer| buffer.len()), len)?;
    let args = Args::default().read(gradient, stream).arg(Arg::Float(factor)).write(parameter, stream);
    let args = match buffer.filter(|_| options.momentum > 0.0) {
        Some(buffer) => args.write(buffer, stream),
        None => args.arg(Arg::NULL),
    };
    let args = args.floats(&options.numbers()).flag(options.nesterov);
    elementwise(kernels, stream, "sgd_step", len, args)
}

/// Moves `parameter` by `factor` times `gradient`, with the first and second moments and, for AMSGrad (Reddi et al.
/// 2018), the largest second moment so far. Does not wait for the device.
///
/// # Errors
/// Options that are no numbers of f32; buffers of different lengths; what the driver says.
pub fn adam(
    kernels: &Kernels,
    stream: &Arc<CudaStream>,
    gradient: &CudaView<'_, f32>,
    factor: f32,
    parameter: &mut CudaViewMut<'_, f32>,
    moments: [&mut CudaViewMut<'_, f32>; 2],
    largest: Option<&mut CudaViewMut<'_, f32>>,
    options: Adam,
) -> Result<()> {
    let len = parameter.len();
    check::length("the gradient", gradient.len(), len)?;
    let [first, second] = moments;
    options.check(&[first.len(), second.len(), largest.as_ref().map_or(len, |l| l.len())], len)?;
    let args = Args::default()
        .read(gradient, stream)
        .arg(Arg::Float(factor))
        .write(parameter, stream)
        .write(first, stream)
        .write(second, stream);
    let args = match largest {
        Some(largest) => args.write(largest, stream),
        None => args.arg(Arg::NULL),
    };
    elementwise(kernels, stream, "adam_step", len, args.floats(&options.numbers()))
}

/// The length of `values` as a vector, summed in f64: the same bits on every run. Waits for the device.
///
/// # Errors
/// What the driver says.
pub fn norm(kernels: &Kernels, stream: &Arc<CudaStream>, values: &CudaView<'_, f32>) -> Result<f64> {
    let mut sums: Scratch<f64> = kernels.allocate(stream, NORM_BLOCKS, "the sums of squares")?;
    let args =
        Args::default().read(values, stream).write(&mut sums, stream).arg(Arg::Long(values.len() as i64));
    kernels.launch(stream, "square_sums", Shape::blocks([NORM_BLOCKS, 1, 1], 256), args)?;
    let sums = stream.clone_dtoh(&sums).map_err(Error::launch("square_sums"))?;
    Ok(sums.iter().sum::<f64>().sqrt())
}

fn elementwise(
    kernels: &Kernels,
    stream: &Arc<CudaStream>,
    name: &str,
    len: usize,
    args: Args<'_>,
) -> Result<()> {
    if len == 0 {
        return Ok(());
    }
    kernels.launch(
        stream,
        name,
        Shape::blocks([len.div_ceil(256), 1, 1], 256),
        args.arg(Arg::Long(len as i64)),
    )
}
