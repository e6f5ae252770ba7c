//! What options must satisfy, before any data are seen.

use embedtune_losses::LossKind;
use embedtune_pooling::{PoolerKind, PoolerOptions};
use embedtune_samplers::SamplerKind;
use serde::Serialize;

use crate::head::CentreSpace;
use crate::optim::{self, OptimizerKind};
use crate::run::setup::{place, plan};
use crate::run::{
    Device, DeviceOptions, DevicePrecision, EncoderChoice, RunOptions, SchedulerStep, ValSplitBy,
};
use crate::{Error, Result};

/// Bounds above which a number is a slip of the keyboard, and would end in a failed allocation rather than a message.
const MOST_EPOCHS: usize = 1_000_000;
const MOST_ITEMS: usize = 1 << 20;
const MOST_DIM: usize = 1 << 16;
const MOST_CENTRES: usize = 1024;
const MOST_MEMORY: usize = 1 << 24;

/// Finetuner warns from here on; so do we, where batches are not needed to be large.
const LARGE_BATCH: usize = 256;

impl RunOptions {
    /// Checks the options against their ranges and each other: all that [`build`](crate::run::RunBuilder::build) refuses
    /// whatever the data are, in the same words. Returns what the user should know although it
    /// stops nothing.
    ///
    /// An option that cannot have the effect that its author expects is an error: better a run that does not start
    /// than one that silently ignores what was asked. The one exception is `sampler` with a triplet loss, which
    /// Finetuner documents as ignored.
    ///
    /// # Errors
    /// [`Error::Option`] with the field, its value and what to write; [`Error::NoCudaSupport`] and, with the feature
    /// `cuda`, `Error::Device` for `device = "cuda"` where that cannot be had.
    pub fn check(&self) -> Result<Vec<String>> {
        self.check_ranges()?;
        self.pooler_options.check()?;
        self.callbacks.check()?;
        self.data_options.check()?;
        self.check_combinations()?;
        self.check_parts()?;
        self.check_device()?;
        let mut notices = Vec::new();
        if needs_classes(self.loss) && self.sampler == SamplerKind::Random {
            notices.push(format!(
                "sampler = random is ignored: {} needs several items of each class in a batch, so the class sampler \
                 is used",
                self.loss
            ));
        }
        notices.extend(self.callbacks.idle_patience(self.epochs));
        notices.extend(self.callbacks.namesake());
        notices.extend(self.callbacks.no_choice(self.epochs));
        if self.batch_size >= LARGE_BATCH {
            notices.push(format!(
                "batch_size = {}: large batches mean few steps an epoch; if the result is poor, try 128 or more epochs",
                self.batch_size
            ));
        }
        Ok(notices)
    }

    /// What the parts of a run refuse whatever the data are: they are built for two classes and few dimensions, by the same
    /// code that builds the run's, so that the words are the same.
    fn check_parts(&self) -> Result<()> {
        // What they say besides is said when they are built for the data.
        let mut said = Vec::new();
        let loss = place::LossPlan::new(self, 2, self.output_dim.unwrap_or(1), &mut said)?;
        place::CentreOptimizer::new(self, loss.loss.as_ref(), &mut said)?;
        let (options, rate) = (&self.optimizer_options, self.learning_rate);
        optim::check_groups(self.optimizer, options, rate, &self.param_groups)
            .map_err(|error| plan::under("optimizer_options", error))?;
        if self.optimizer == OptimizerKind::SparseAdam
            && matches!(self.encoder, EncoderChoice::Cnn | EncoderChoice::Mlp)
        {
            return Err(optim::no_table());
        }
        // How many steps an epoch has, the data say.
        let total =
            (self.scheduler_options.scheduler_step == SchedulerStep::Epoch).then_some(self.epochs as u64);
        self.scheduler_options.check(self.scheduler, self.learning_rate, total)
    }

    /// A GPU that was asked for and is not there is said before any data are read.
    fn check_device(&self) -> Result<()> {
        if self.device == Device::Cpu && self.device_options != DeviceOptions::default() {
            let DeviceOptions { precision, products } = self.device_options;
            let (field, value) = if precision == DevicePrecision::default() {
                ("device_options.products", products.name())
            } else {
                ("device_options.precision", precision.name())
            };
            let remedy =
                "the CPU computes in f32 by its own products; write device = \"cuda\", or leave it out";
            return Err(Error::option(field, value, remedy));
        }
        if self.device != Device::Cuda {
            return Ok(());
        }
        #[cfg(feature = "cuda")]
        place::gpu_has(self)?;
        #[cfg(feature = "cuda")]
        return Ok(embedtune_cuda_kernels::devices().map(drop)?);
        #[cfg(not(feature = "cuda"))]
        return Err(Error::NoCudaSupport);
    }

    pub(in crate::run) fn check_ranges(&self) -> Result<()> {
        let sub_centers = self.loss_options.sub_centers.unwrap_or(1);
        let rules: [(bool, &str, String, &str); 18] = [
            (
                self.batch_size == 1,
                "batch_size",
                self.batch_size.to_string(),
                "a batch needs at least 2 items; write 128",
            ),
            (
                self.batch_size > MOST_ITEMS,
                "batch_size",
                self.batch_size.to_string(),
                "more than a step can hold; write at most 1048576, usually 128",
            ),
            (
                !(1..=MOST_EPOCHS).contains(&self.epochs),
                "epochs",
                self.epochs.to_string(),
                "write 1 or more, at most 1000000",
            ),
            (
                self.num_items_per_class < 2,
                "num_items_per_class",
                self.num_items_per_class.to_string(),
                "a positive pair needs at least 2 items of a class; write 2 or more",
            ),
            (
                self.batch_size > 0
                    && self.num_items_per_class > self.batch_size / 2
                    && (needs_classes(self.loss) || self.sampler == SamplerKind::Class),
                "num_items_per_class",
                self.num_items_per_class.to_string(),
                "a batch must hold at least 2 classes; write at most half of batch_size, or a larger batch_size",
            ),
            (
                !(self.learning_rate > 0.0 && (self.learning_rate < 1.0 || self.unit_rate())),
                "learning_rate",
                self.learning_rate.to_string(),
                "write a number above 0 and below 1, e.g. 0.001 (Adadelta and LBFGS: at most 1)",
            ),
            (
                self.max_grad_norm.is_some_and(|norm| !(norm > 0.0 && norm.is_finite())),
                "max_grad_norm",
                self.max_grad_norm.unwrap_or_default().to_string(),
                "write a number above 0, e.g. 1.0",
            ),
            (
                !(1..=MOST_ITEMS).contains(&self.gradient_accumulation_steps),
                "gradient_accumulation_steps",
                self.gradient_accumulation_steps.to_string(),
                "write 1 or more batches a step, at most 1048576",
            ),
            (
                self.memory_size > MOST_MEMORY,
                "memory_size",
                self.memory_size.to_string(),
                "more embeddings than a step can compare with; write at most 16777216, usually 1024",
            ),
            (
                self.init_from.is_some() && self.encoder != EncoderChoice::Auto,
                "encoder",
                format!("{:?}", self.encoder).to_lowercase(),
                "the encoder is that of init_from; leave it out",
            ),
            (
                self.init_from.is_some() && self.pooler.is_some(),
                "pooler",
                self.pooler.map_or_else(String::new, |pooler| format!("{pooler:?}")),
                "the encoder is that of init_from, its pooling layer with it; leave it out",
            ),
            (
                !(0.0..1.0).contains(&self.val_split),
                "val_split",
                self.val_split.to_string(),
                "write a share from 0 to below 1, e.g. 0.1",
            ),
            (
                self.val_split == 0.0 && self.val_split_by != ValSplitBy::Item,
                "val_split_by",
                "class".to_owned(),
                "nothing is held out; write the share of the classes too, e.g. val_split = 0.1, or leave it out",
            ),
            (
                self.output_dim == Some(0),
                "output_dim",
                "0".to_owned(),
                "an embedding needs a dimension; write e.g. 64, or leave it out",
            ),
            (
                self.output_dim.is_some_and(|dim| dim > MOST_DIM),
                "output_dim",
                self.output_dim.unwrap_or_default().to_string(),
                "longer than any embedding in use; write at most 65536, e.g. 64",
            ),
            (
                sub_centers > MOST_CENTRES,
                "loss_options.sub_centers",
                sub_centers.to_string(),
                "more centres than a class can use; write at most 1024, usually 3",
            ),
            (
                i64::try_from(self.seed).is_err(),
                "seed",
                self.seed.to_string(),
                "run files hold whole numbers below 2^63; write a smaller one",
            ),
            (
                self.freeze && self.init_from.is_none(),
                "freeze",
                "true".to_owned(),
                "the encoders here start from random weights, of which a frozen part would learn nothing; \
                 write init_from with a trained run, or leave it out (for pretrained vectors the mlp encoder already \
                 keeps them as they are)",
            ),
        ];
        match rules.into_iter().find(|(wrong, ..)| *wrong) {
            Some((_, field, value, remedy)) => Err(Error::option(field, value, remedy)),
            None => Ok(()),
        }
    }

    /// Optimizers whose own default rate is 1.
    fn unit_rate(&self) -> bool {
        self.learning_rate <= 1.0 && matches!(self.optimizer, OptimizerKind::Adadelta | OptimizerKind::Lbfgs)
    }

    fn check_combinations(&self) -> Result<()> {
        let loss = self.loss;
        self.check_optimizers()?;
        if self.memory_size > 0 && has_centres(loss) {
            return Err(Error::option(
                "memory_size",
                self.memory_size,
                format!(
                    "{loss} compares items with class centres, not with other items; leave it out, or write \
                     loss = \"TripletMarginLoss\""
                ),
            ));
        }
        if self.centers == CentreSpace::UnitSphere && !has_centres(loss) {
            let remedy = format!("{loss} has no class centres; leave it out");
            return Err(Error::option("centers", "unit_sphere", remedy));
        }
        if let Some(miner) = self.miner.filter(|_| has_centres(loss)) {
            return Err(Error::option(
                "miner",
                format!("{miner:?}"),
                format!(
                    "a miner selects triplets, and {loss} forms none; leave it out, or write loss = \"TripletMarginLoss\""
                ),
            ));
        }
        if self.miner.is_none() && self.miner_options != Default::default() {
            return Err(Error::option(
                "miner_options",
                as_given(&self.miner_options),
                "no miner is given that they could apply to; write miner = \"TripletMarginMiner\", or leave them out",
            ));
        }
        if let Some(pooler) = self.pooler.filter(|pooler| *pooler != PoolerKind::GeM)
            && self.pooler_options != PoolerOptions::default()
        {
            return Err(Error::option(
                "pooler_options",
                as_given(&self.pooler_options),
                format!("{pooler:?} has no options; write pooler = \"GeM\", or leave them out"),
            ));
        }
        if self.pooler.is_none() && self.pooler_options != PoolerOptions::default() {
            return Err(Error::option(
                "pooler_options",
                as_given(&self.pooler_options),
                "no pooler is given that they could apply to; write pooler = \"GeM\", or leave them out",
            ));
        }
        if !has_centres(loss) {
            let remedy =
                format!("{loss} has no class centres that a second optimizer could move; leave it out");
            if let Some(optimizer) = self.loss_optimizer {
                return Err(Error::option("loss_optimizer", optimizer, remedy));
            }
            if self.loss_optimizer_options != Default::default() {
                return Err(Error::option(
                    "loss_optimizer_options",
                    as_given(&self.loss_optimizer_options),
                    remedy,
                ));
            }
        }
        if let Some(rate) =
            self.loss_optimizer_options.learning_rate.filter(|rate| !(*rate > 0.0 && rate.is_finite()))
        {
            return Err(Error::option(
                "loss_optimizer_options.learning_rate",
                rate,
                "write a number above 0, e.g. 0.01",
            ));
        }
        if let Some(rate) = self.optimizer_options.learning_rate {
            return Err(Error::option(
                "optimizer_options.learning_rate",
                rate,
                "the model's rate has an option of its own, which would override this one; write learning_rate",
            ));
        }
        Ok(())
    }
}

impl RunOptions {
    fn check_optimizers(&self) -> Result<()> {
        use OptimizerKind::{Lbfgs, SparseAdam};
        if let Some(kind) = self.loss_optimizer.filter(|kind| matches!(kind, Lbfgs | SparseAdam)) {
            let why = if kind == Lbfgs {
                "looks at the loss several times in a step, and the centres move once"
            } else {
                "is for embedding tables, and every centre has a gradient in every step"
            };
            return Err(Error::option("loss_optimizer", kind, format!("{kind} {why}; write Adam or SGD")));
        }
        if let Some(decay) = self.loss_optimizer_options.layer_wise_lr_decay {
            let remedy = "class centres have no layers; write it in optimizer_options";
            return Err(Error::option("loss_optimizer_options.layer_wise_lr_decay", decay, remedy));
        }
        if self.optimizer == Lbfgs {
            let remedy = "LBFGS minimises each batch by itself; leave it out, or write another optimizer";
            if self.gradient_accumulation_steps > 1 {
                let steps = self.gradient_accumulation_steps;
                return Err(Error::option("gradient_accumulation_steps", steps, remedy));
            }
            if let Some(norm) = self.max_grad_norm {
                return Err(Error::option("max_grad_norm", norm, remedy));
            }
        }
        Ok(())
    }
}

/// Options as they are written, on one line.
fn as_given(options: &impl Serialize) -> String {
    let text = toml::to_string(options).unwrap_or_default();
    format!("{{ {} }}", text.trim().replace('\n', ", "))
}

/// Whether a loss has class centres, and so an optimizer of its own.
pub(in crate::run) fn has_centres(loss: LossKind) -> bool {
    loss != LossKind::TripletMarginLoss
}

/// Whether a loss learns nothing from a batch without several items of a class.
fn needs_classes(loss: LossKind) -> bool {
    loss == LossKind::TripletMarginLoss
}
