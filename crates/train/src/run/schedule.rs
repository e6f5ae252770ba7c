//! How the learning rates move during a run.
//!
//! A schedule is a factor on both learning rates (the model's and the class centres'), a pure function of the
//! step, so that a resumed run needs no state of its own. The shapes are those of Hugging Face's
//! `get_scheduler`, whose names Finetuner uses.

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// The shape of the factor over the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum SchedulerKind {
    /// 1 throughout.
    #[default]
    Constant,
    /// Rises from 0 over the warm-up, then 1.
    ConstantWithWarmup,
    /// Rises over the warm-up, then falls in a straight line to 0 at the end of the run.
    Linear,
    /// Rises over the warm-up, then falls along half a cosine to 0.
    Cosine,
}

impl std::str::FromStr for SchedulerKind {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "constant" => Ok(Self::Constant),
            "constant_with_warmup" => Ok(Self::ConstantWithWarmup),
            "linear" => Ok(Self::Linear),
            "cosine" => Ok(Self::Cosine),
            "polynomial" | "cosine_with_restarts" => Err(Error::option(
                "scheduler",
                name,
                "this schedule is not supported; write constant, constant_with_warmup, linear or cosine",
            )),
            _ => Err(Error::option(
                "scheduler",
                name,
                "unknown; write constant, constant_with_warmup, linear or cosine",
            )),
        }
    }
}

/// When the factor moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SchedulerStep {
    /// After every batch.
    #[default]
    Batch,
    /// After every epoch; warm-up then counts epochs.
    Epoch,
}

/// `scheduler_options`.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SchedulerOptions {
    /// Length of the warm-up: a whole number of steps, or a share of the run if below 1. Default 0.
    pub num_warmup_steps: f64,
    /// What a step is. Default: a batch.
    pub scheduler_step: SchedulerStep,
}

/// A schedule over a run of known length.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Schedule {
    kind: SchedulerKind,
    warmup: u64,
    total: u64,
    per_epoch: bool,
}

impl Schedule {
    /// The schedule of a run of `epochs` epochs of `batches` batches.
    ///
    /// # Errors
    /// A warm-up that is negative, not finite, a fraction above 1, or given to a schedule without one.
    pub fn new(
        kind: SchedulerKind,
        options: SchedulerOptions,
        epochs: usize,
        batches: usize,
    ) -> Result<Self> {
        let per_epoch = options.scheduler_step == SchedulerStep::Epoch;
        let total = if per_epoch { epochs } else { epochs.saturating_mul(batches) } as u64;
        let steps = options.num_warmup_steps;
        let refuse = |remedy: &str| Err(Error::option("scheduler_options.num_warmup_steps", steps, remedy));
        if !steps.is_finite() || steps < 0.0 || (steps >= 1.0 && steps.fract() != 0.0) {
            return refuse("write a whole number of steps, or a share of the run between 0 and 1");
        }
        if steps > 0.0 && kind == SchedulerKind::Constant {
            return refuse(
                "the constant schedule has no warm-up; write scheduler = \"constant_with_warmup\"",
            );
        }
        let warmup = if steps < 1.0 { (steps * total as f64).round() as u64 } else { steps as u64 };
        Ok(Self { kind, warmup, total, per_epoch })
    }

    /// The factor on the learning rates at `step` (batches since the start of the run) in `epoch`, both from 0.
    pub fn factor(&self, step: u64, epoch: usize) -> f64 {
        let step = if self.per_epoch { epoch as u64 } else { step };
        if self.kind == SchedulerKind::Constant {
            return 1.0;
        }
        if step < self.warmup {
            return step as f64 / self.warmup as f64;
        }
        let rest = self.total.saturating_sub(self.warmup).max(1) as f64;
        let progress = ((step - self.warmup) as f64 / rest).min(1.0);
        match self.kind {
            SchedulerKind::Constant | SchedulerKind::ConstantWithWarmup => 1.0,
            SchedulerKind::Linear => 1.0 - progress,
            SchedulerKind::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * progress).cos()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn factors_follow_their_shapes() {
        // Hugging Face's get_scheduler with 2 warm-up steps of 10: lr_lambda(0), (1), (2), (6), (9).
        let cases = [
            (SchedulerKind::ConstantWithWarmup, [0.0, 0.5, 1.0, 1.0, 1.0]),
            (SchedulerKind::Linear, [0.0, 0.5, 1.0, 0.5, 0.125]),
            (SchedulerKind::Cosine, [0.0, 0.5, 1.0, 0.5, 0.038_060_233_744_356_63]),
        ];
        for (kind, expected) in cases {
            for warmup in [2.0, 0.2] {
                let options = SchedulerOptions { num_warmup_steps: warmup, ..Default::default() };
                let schedule = Schedule::new(kind, options, 2, 5).unwrap();
                for (step, expected) in [0, 1, 2, 6, 9].into_iter().zip(expected) {
                    approx::assert_abs_diff_eq!(schedule.factor(step, 0), expected, epsilon = 1e-12);
                }
            }
        }
    }

    #[test]
    fn an_epoch_schedule_moves_between_epochs() {
        let options = SchedulerOptions { scheduler_step: SchedulerStep::Epoch, ..Default::default() };
        let schedule = Schedule::new(SchedulerKind::Linear, options, 4, 100).unwrap();
        assert_eq!(schedule.factor(0, 0), 1.0);
        assert_eq!(schedule.factor(99, 0), 1.0);
        assert_eq!(schedule.factor(100, 1), 0.75);
    }

    #[test]
    fn wrong_warm_ups_name_the_remedy() {
        for (kind, steps, expected) in [
            (SchedulerKind::Linear, -1.0, "whole number of steps"),
            (SchedulerKind::Linear, 1.5, "whole number of steps"),
            (SchedulerKind::Linear, f64::NAN, "whole number of steps"),
            (SchedulerKind::Constant, 5.0, "constant_with_warmup"),
        ] {
            let options = SchedulerOptions { num_warmup_steps: steps, ..Default::default() };
            let message = Schedule::new(kind, options, 1, 10).unwrap_err().to_string();
            assert!(message.starts_with("scheduler_options.num_warmup_steps = "), "{message}");
            assert!(message.contains(expected), "{message}");
        }
        assert!("polynomial".parse::<SchedulerKind>().unwrap_err().to_string().contains("not supported"));
    }
}
