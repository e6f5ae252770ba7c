//! The loss of a run, its head, and where they compute.

use embedtune_losses::{Loss, LossKind, LossOptions};

use super::plan::{Purpose, derive_seed, under};
use super::scale::{default_scale, too_small};
use crate::head::{self, CentreInit, CentreSpace, HostHead, LossHead};
use crate::optim::{self, Optimizer, OptimizerKind};
use crate::run::{DEFAULT_CENTRE_RATE, Device, RunOptions};
#[cfg(feature = "cuda")]
use crate::run::{DeviceOptions, DevicePrecision, DeviceProducts};
use crate::{Error, Result};

/// The loss on the CPU, and what another device needs to build it.
#[cfg_attr(not(feature = "cuda"), expect(dead_code, reason = "without the feature there is no other device"))]
pub(in crate::run) struct LossPlan {
    pub(in crate::run) loss: Box<dyn Loss>,
    /// The options, with the scale filled in.
    given: LossOptions,
    classes: usize,
    dim: usize,
}

impl LossPlan {
    /// Fills the scale in where it is left to us (and says so).
    pub(in crate::run) fn new(
        options: &RunOptions,
        classes: usize,
        dim: usize,
        notices: &mut Vec<String>,
    ) -> Result<Self> {
        let mut given = options.loss_options.clone();
        notices.extend(too_small(options.loss, &given, classes));
        if let Some(scale) = default_scale(options.loss, &given, classes) {
            notices.push(format!(
                "scale = {scale}, chosen for {classes} classes (Finetuner's fixed 64: loss_options.preset = \"finetuner\")"
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

    /// All options that the loss has, as it computes.
    pub(in crate::run) fn resolved(&self, kind: LossKind) -> Result<LossOptions> {
        Ok(self.given.resolved(kind)?)
    }
}

/// The optimizer of a loss's centres, checked before they are drawn; of a loss without any, none.
pub(in crate::run) struct CentreOptimizer(Option<(OptimizerKind, Box<dyn Optimizer>)>);

impl CentreOptimizer {
    pub(in crate::run) fn new(
        options: &RunOptions,
        loss: &dyn Loss,
        notices: &mut Vec<String>,
    ) -> Result<Self> {
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
    pub(in crate::run) fn slots(&mut self) -> Result<f64> {
        let Some((_, optimizer)) = &mut self.0 else { return Ok(0.0) };
        let fresh = optimizer.state();
        let slots = crate::run::memory::forecast::slots(optimizer.as_mut())?;
        optimizer.load_state(&fresh)?;
        Ok(slots)
    }

    /// On the CPU.
    pub(in crate::run) fn into_optimizer(self) -> Option<Box<dyn Optimizer>> {
        self.0.map(|(_, optimizer)| optimizer)
    }

    pub(in crate::run) fn kind(&self) -> Option<OptimizerKind> {
        self.0.as_ref().map(|(kind, _)| *kind)
    }
}

/// Where the loss is computed, known before its centres are drawn.
pub(in crate::run) enum Place {
    Cpu,
    #[cfg(feature = "cuda")]
    Gpu {
        plan: Box<crate::head::CudaPlan>,
        /// What is told once the centres are there.
        notice: String,
    },
}

impl Place {
    /// The device that is asked for or, with `auto`, that is there; a notice says where it is not.
    pub(in crate::run) fn new(
        options: &RunOptions,
        plan: &LossPlan,
        optimizer: &CentreOptimizer,
        notices: &mut Vec<String>,
    ) -> Result<Self> {
        if options.device == Device::Cpu {
            return Ok(Self::Cpu);
        }
        on_gpu(options, plan, optimizer.kind()).or_else(|error| fallen(options, error, notices))
    }

    /// Bytes of the GPU's memory for batches of so many items: what lasts, and a step's. None on the CPU.
    #[cfg_attr(not(feature = "cuda"), expect(unused_variables, reason = "only a GPU wants them"))]
    pub(in crate::run) fn device_bytes(
        &self,
        options: &RunOptions,
        dim: usize,
        batch: usize,
    ) -> Option<[usize; 2]> {
        match self {
            Self::Cpu => None,
            #[cfg(feature = "cuda")]
            Self::Gpu { plan, .. } => Some(plan.bytes(batch, dim, options.gradient_accumulation_steps > 1)),
        }
    }

    /// The loss with its centres and their optimizer; a notice says on which device, unless the CPU was asked for.
    #[cfg_attr(
        not(feature = "cuda"),
        expect(unused_variables, clippy::ptr_arg, reason = "only a GPU wants them")
    )]
    pub(in crate::run) fn head(
        self,
        options: &RunOptions,
        plan: LossPlan,
        optimizer: CentreOptimizer,
        notices: &mut Vec<String>,
    ) -> Result<Box<dyn LossHead>> {
        match self {
            Self::Cpu => {}
            #[cfg(feature = "cuda")]
            Self::Gpu { plan, notice } => match plan.head(init(options), seed(options)) {
                Ok(head) => {
                    notices.push(notice);
                    return Ok(Box::new(head));
                }
                Err(error) => {
                    fallen(options, error, notices)?;
                }
            },
        }
        Ok(Box::new(HostHead::new(plan.loss, optimizer.into_optimizer(), init(options), seed(options))?))
    }
}

/// What `auto` does about an error of the GPU.
fn fallen(options: &RunOptions, error: Error, notices: &mut Vec<String>) -> Result<Place> {
    match why_not(&error).filter(|_| options.device == Device::Auto) {
        Some(reason) => notices.push(format!("device = auto: computing on the CPU{reason}")),
        None => return Err(error),
    }
    Ok(Place::Cpu)
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

/// The loss on the GPU.
#[cfg(not(feature = "cuda"))]
fn on_gpu(_: &RunOptions, _: &LossPlan, _: Option<OptimizerKind>) -> Result<Place> {
    Err(Error::NoCudaSupport)
}

/// Refuses what no GPU computes here.
#[cfg(feature = "cuda")]
pub(in crate::run) fn gpu_has(options: &RunOptions) -> Result<()> {
    if sphere(options) {
        let reason = "centers = unit_sphere: on the GPU class centres move as any parameter does";
        return Err(Error::Unsupported(reason.to_owned()));
    }
    if options.memory_size > 0 {
        let reason = format!("memory_size = {}: the GPU kernels take no reference", options.memory_size);
        return Err(Error::Unsupported(reason));
    }
    let triplets = options.loss == LossKind::TripletMarginLoss;
    if triplets && options.device_options != DeviceOptions::default() {
        let DeviceOptions { precision, products } = options.device_options;
        let reason = format!(
            "device_options with precision = {} and products = {}: TripletMarginLoss is computed in f32 by its own \
             products; leave them out",
            precision.name(),
            products.name()
        );
        return Err(Error::Unsupported(reason));
    }
    Ok(())
}

/// The loss on the GPU.
#[cfg(feature = "cuda")]
fn on_gpu(options: &RunOptions, plan: &LossPlan, kind: Option<OptimizerKind>) -> Result<Place> {
    use embedtune_cuda_kernels::margin::{Precision, Products};
    use embedtune_losses::{MarginSoftmax, TripletMarginOptions, margin_options, miner_of, triplet_options};

    use crate::head::{CudaLoss, CudaOptimizer, CudaOptions, CudaPlan, Gpu};

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
    let how = CudaOptions {
        precision: match options.device_options.precision {
            DevicePrecision::F32 => Precision::F32,
            DevicePrecision::F16 => Precision::F16,
        },
        products: match options.device_options.products {
            DeviceProducts::Own => Products::Own,
            DeviceProducts::Cublas => Products::Cublas,
            DeviceProducts::Faster => Products::Faster,
        },
    };
    let notice = on_gpu_notice(options, plan, gpu.name());
    let plan = Box::new(CudaPlan::new(&gpu, loss, optimizer, how)?);
    Ok(Place::Gpu { plan, notice })
}

#[cfg(feature = "cuda")]
fn on_gpu_notice(options: &RunOptions, plan: &LossPlan, gpu: &str) -> String {
    let (device, loss) = (options.device.name(), plan.loss.name());
    let DeviceOptions { precision, products } = options.device_options;
    let mut how = String::new();
    if precision != DevicePrecision::default() {
        how += &format!(" in {}", precision.name());
    }
    if products != DeviceProducts::default() {
        how += &format!(" with products = {}", products.name());
    }
    format!("device = {device}: {loss} on the GPU ({gpu}){how}, the encoder on the CPU")
}
