//! The loss of a run, its head, and where they compute.

use embedtune_losses::{Loss, LossOptions};

use super::plan::{Purpose, derive_seed, under};
use super::scale::default_scale;
use super::{DEFAULT_CENTRE_RATE, Device, RunOptions};
use crate::head::{self, CentreInit, CentreSpace, HostHead, LossHead};
use crate::optim::{self, Optimizer, OptimizerKind};
use crate::{Error, Result};

/// The loss on the CPU, and what another device needs to build it.
#[cfg_attr(not(feature = "cuda"), expect(dead_code, reason = "without the feature there is no other device"))]
pub(super) struct LossPlan {
    pub(super) loss: Box<dyn Loss>,
    /// The options, with the scale filled in.
    given: LossOptions,
    classes: usize,
    dim: usize,
}

impl LossPlan {
    /// Fills the scale in where it is left to us (and says so).
    pub(super) fn new(
        options: &RunOptions,
        classes: usize,
        dim: usize,
        notices: &mut Vec<String>,
    ) -> Result<Self> {
        let mut given = options.loss_options.clone();
        if let Some(scale) = default_scale(options.loss, &given, classes) {
            notices.push(format!(
                "scale = {scale}, chosen for {classes} classes (Finetuner's fixed 64: preset = \"finetuner\")"
            ));
            given.scale = Some(scale);
        }
        let miner = options.miner.map(|miner| (miner, &options.miner_options));
        let loss =
            embedtune_losses::build(options.loss, &given, miner, classes, dim).map_err(|e| match e {
                embedtune_losses::Error::Option { option, value, reason } => {
                    let field = match option {
                        "miner" | "miner_options" => option.to_owned(),
                        "miner margin" => "miner_options.margin".to_owned(),
                        _ => format!("loss_options.{option}"),
                    };
                    Error::option(field, value, reason)
                }
                other => other.into(),
            })?;
        Ok(Self { loss, given, classes, dim })
    }
}

/// The optimizer of a loss's centres, checked before they are drawn; of a loss without any, none.
pub(super) struct CentreOptimizer(Option<(OptimizerKind, Box<dyn Optimizer>)>);

impl CentreOptimizer {
    pub(super) fn new(options: &RunOptions, loss: &dyn Loss, notices: &mut Vec<String>) -> Result<Self> {
        if loss.weight_shape().is_none() {
            return Ok(Self(None));
        }
        let kind = match (options.loss_optimizer, options.optimizer) {
            (Some(kind), _) => kind,
            (None, kind @ (OptimizerKind::Lbfgs | OptimizerKind::SparseAdam)) => {
                notices.push(format!("loss_optimizer = Adam: {kind} is not for class centres"));
                OptimizerKind::Adam
            }
            (None, _) if sphere(options) => OptimizerKind::Adam,
            (None, kind) => kind,
        };
        let own = &options.loss_optimizer_options;
        let built = if sphere(options) {
            head::sphere_optimizer(kind, own, DEFAULT_CENTRE_RATE)
        } else {
            optim::build(kind, own, DEFAULT_CENTRE_RATE)
        };
        Ok(Self(Some((kind, built.map_err(|e| under("loss_optimizer_options", e))?))))
    }

    /// Bytes of state for each byte of the centres: found by a step on a small parameter, which is forgotten.
    pub(super) fn slots(&mut self) -> Result<f64> {
        let Some((_, optimizer)) = &mut self.0 else { return Ok(0.0) };
        let fresh = optimizer.state();
        let slots = super::forecast::slots(optimizer.as_mut())?;
        optimizer.load_state(&fresh)?;
        Ok(slots)
    }

    /// On the CPU.
    pub(super) fn into_optimizer(self) -> Option<Box<dyn Optimizer>> {
        self.0.map(|(_, optimizer)| optimizer)
    }

    fn kind(&self) -> Option<OptimizerKind> {
        self.0.as_ref().map(|(kind, _)| *kind)
    }
}

/// The loss with its centres and their optimizer, on the device that is asked for or, with `auto`, that is there.
pub(super) fn head(
    options: &RunOptions,
    plan: LossPlan,
    optimizer: CentreOptimizer,
    notices: &mut Vec<String>,
) -> Result<Box<dyn LossHead>> {
    if options.device != Device::Cpu {
        match on_gpu(options, &plan, optimizer.kind()) {
            Ok((head, gpu)) => {
                let (device, loss) = (options.device.name(), plan.loss.name());
                notices.push(format!("device = {device}: {loss} on the GPU ({gpu}), the encoder on the CPU"));
                return Ok(head);
            }
            Err(error) => match why_not(&error).filter(|_| options.device == Device::Auto) {
                Some(reason) => notices.push(format!("device = auto: computing on the CPU{reason}")),
                None => return Err(error),
            },
        }
    }
    Ok(Box::new(HostHead::new(plan.loss, optimizer.into_optimizer(), init(options), seed(options))?))
}

fn sphere(options: &RunOptions) -> bool {
    options.centers == CentreSpace::UnitSphere
}

fn init(options: &RunOptions) -> CentreInit {
    if sphere(options) { CentreInit::UnitSphere } else { options.loss_options.centre_init() }
}

fn seed(options: &RunOptions) -> u64 {
    derive_seed(options.seed, Purpose::Centres, 0)
}

/// Why `auto` falls back to the CPU, behind "on the CPU"; `None` for an error that the CPU would not cure.
fn why_not(error: &Error) -> Option<String> {
    match error {
        Error::NoCudaSupport => Some(String::new()),
        Error::Unsupported(reason) => Some(format!(" ({reason})")),
        #[cfg(feature = "cuda")]
        Error::Device(reason) => Some(format!(" ({reason})")),
        #[cfg(feature = "cuda")]
        Error::Loss(embedtune_losses::Error::Cuda(reason)) => Some(format!(" ({reason})")),
        _ => None,
    }
}

/// The head on the GPU, and the GPU's name.
#[cfg(not(feature = "cuda"))]
fn on_gpu(_: &RunOptions, _: &LossPlan, _: Option<OptimizerKind>) -> Result<(Box<dyn LossHead>, String)> {
    Err(Error::NoCudaSupport)
}

/// Refuses what no GPU computes here.
#[cfg(feature = "cuda")]
pub(super) fn gpu_has(options: &RunOptions) -> Result<()> {
    if sphere(options) {
        let reason = "centers = unit_sphere: on the GPU class centres move as any parameter does";
        return Err(Error::Unsupported(reason.to_owned()));
    }
    if options.memory_size > 0 {
        let reason = format!("memory_size = {}: the GPU kernels take no reference", options.memory_size);
        return Err(Error::Unsupported(reason));
    }
    Ok(())
}

/// The head on the GPU, and the GPU's name.
#[cfg(feature = "cuda")]
fn on_gpu(
    options: &RunOptions,
    plan: &LossPlan,
    kind: Option<OptimizerKind>,
) -> Result<(Box<dyn LossHead>, String)> {
    use embedtune_losses::{
        LossKind, MarginSoftmax, TripletMarginOptions, margin_options, miner_of, triplet_options,
    };

    use crate::head::{CudaHead, CudaLoss, CudaOptimizer, Gpu};

    gpu_has(options)?;
    let gpu = Gpu::first()?;
    let loss: CudaLoss = if options.loss == LossKind::TripletMarginLoss {
        let miner = miner_of(options.miner.map(|miner| (miner, &options.miner_options)))?;
        TripletMarginOptions { miner, ..triplet_options(&plan.given)? }.build()?.into()
    } else {
        MarginSoftmax::new(plan.classes, plan.dim, margin_options(options.loss, &plan.given)?)?.into()
    };
    let own = &options.loss_optimizer_options;
    let optimizer = kind
        .map(|kind| CudaOptimizer::new(kind, own, DEFAULT_CENTRE_RATE))
        .transpose()
        .map_err(|e| under("loss_optimizer_options", e))?;
    let head = CudaHead::new(&gpu, loss, optimizer, init(options), seed(options))?;
    Ok((Box::new(head), gpu.name().to_owned()))
}
