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
    /// Rises over the warm-up, then falls along half a cosine to 0 `num_cycles` times, back at 1 in between.
    CosineWithRestarts,
    /// Rises over the warm-up, then falls to `lr_end` as the `power` of what is left.
    Polynomial,
}

impl std::str::FromStr for SchedulerKind {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "constant" => Ok(Self::Constant),
            "constant_with_warmup" => Ok(Self::ConstantWithWarmup),
            "linear" => Ok(Self::Linear),
            "cosine" => Ok(Self::Cosine),
            "cosine_with_restarts" => Ok(Self::CosineWithRestarts),
            "polynomial" => Ok(Self::Polynomial),
            _ => Err(Error::option(
                "scheduler",
                name,
                "unknown; write constant, constant_with_warmup, linear, cosine, cosine_with_restarts or polynomial",
            )),
        }
    }
}

/// When the factor moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum SchedulerStep {
    /// After every step of the optimizer (a batch, or `gradient_accumulation_steps` of them).
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
    /// What a step is. Default: a step of the optimizer.
    pub scheduler_step: SchedulerStep,
    /// The step at which the schedule ends. Default, and written `auto`: the end of the run.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "steps_or_auto")]
    pub num_training_steps: Option<u64>,
    /// `cosine_with_restarts`: how many falls, at least 1. Default 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub num_cycles: Option<u32>,
    /// `polynomial`: the power, above 0. Default 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub power: Option<f64>,
    /// `polynomial`: the model's learning rate at the end (other rates fall in proportion). Default 1e-7.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lr_end: Option<f64>,
}

fn steps_or_auto<'de, D: serde::Deserializer<'de>>(from: D) -> std::result::Result<Option<u64>, D::Error> {
    #[derive(Deserialize)]
    #[serde(rename_all = "snake_case")]
    enum Word {
        Auto,
    }
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "give a whole number of steps, or \"auto\"")]
    enum Steps {
        Count(u64),
        Word(Word),
    }
    Ok(match Steps::deserialize(from)? {
        Steps::Count(count) => Some(count),
        Steps::Word(Word::Auto) => None,
    })
}

/// A schedule over a run of known length.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Schedule {
    kind: SchedulerKind,
    warmup: u64,
    total: u64,
    per_epoch: bool,
    cycles: f64,
    power: f64,
    /// The factor at the end of a polynomial.
    end: f64,
}

impl SchedulerOptions {
    /// What [`Schedule::new`] refuses in a run of `total` steps, where that is known.
    pub(in crate::run) fn check(
        &self,
        kind: SchedulerKind,
        learning_rate: f64,
        total: Option<u64>,
    ) -> Result<()> {
        let steps = self.num_warmup_steps;
        if !steps.is_finite() || steps < 0.0 || (steps >= 1.0 && steps.fract() != 0.0) {
            return Err(refuse(
                steps,
                "write a whole number of steps, or a share of the run between 0 and 1",
            ));
        }
        if steps > 0.0 && kind == SchedulerKind::Constant {
            let remedy = "the constant schedule has no warm-up; write scheduler = \"constant_with_warmup\"";
            return Err(refuse(steps, remedy));
        }
        let (restarts, polynomial) = (SchedulerKind::CosineWithRestarts, SchedulerKind::Polynomial);
        let end = if kind == polynomial { self.lr_end.or(Some(DEFAULT_END)) } else { self.lr_end };
        for (name, value, owner) in [
            ("num_cycles", self.num_cycles.map(f64::from), restarts),
            ("power", self.power, polynomial),
            ("lr_end", end, polynomial),
        ] {
            let Some(value) = value else { continue };
            let field = format!("scheduler_options.{name}");
            if kind != owner {
                let name = if owner == restarts { "cosine_with_restarts" } else { "polynomial" };
                return Err(Error::option(field, value, format!("only {name} has it; leave it out")));
            }
            let (fits, range) = match name {
                "num_cycles" => (value >= 1.0, "write a whole number of at least 1"),
                "power" => (value > 0.0 && value.is_finite(), "write a number above 0, e.g. 1.0"),
                _ => ((0.0..learning_rate).contains(&value), "write a rate from 0 to below learning_rate"),
            };
            if !fits {
                return Err(Error::option(field, value, range));
            }
        }
        if self.num_training_steps == Some(0) {
            return Err(Error::option(
                "scheduler_options.num_training_steps",
                0,
                "write at least 1, or leave it out for the length of the run",
            ));
        }
        if let Some(total) = self.num_training_steps.or(total) {
            self.warmup(total)?;
        }
        Ok(())
    }

    /// Steps of the warm-up of a schedule of `total` steps.
    fn warmup(&self, total: u64) -> Result<u64> {
        let steps = self.num_warmup_steps;
        let warmup = if steps < 1.0 { (steps * total as f64).round() as u64 } else { steps as u64 };
        if warmup > total {
            let remedy = format!(
                "the schedule ends after {total} steps, before the rate is reached; write fewer, or a share of the run \
                 as 0.1"
            );
            return Err(refuse(steps, &remedy));
        }
        Ok(warmup)
    }
}

/// `lr_end` where it is not given.
const DEFAULT_END: f64 = 1e-7;

fn refuse(steps: f64, remedy: &str) -> Error {
    Error::option("scheduler_options.num_warmup_steps", steps, remedy)
}

impl Schedule {
    /// The schedule of a run of `epochs` epochs of `steps` steps of an optimizer whose rate is `learning_rate`.
    ///
    /// # Errors
    /// A warm-up that is negative, not finite, a fraction above 1, longer than the schedule, or given to a schedule
    /// without one; an option of another schedule, or outside its range.
    pub fn new(
        kind: SchedulerKind,
        options: SchedulerOptions,
        learning_rate: f64,
        epochs: usize,
        steps_an_epoch: usize,
    ) -> Result<Self> {
        let per_epoch = options.scheduler_step == SchedulerStep::Epoch;
        let total = if per_epoch { epochs } else { epochs.saturating_mul(steps_an_epoch) } as u64;
        options.check(kind, learning_rate, Some(total))?;
        let total = options.num_training_steps.unwrap_or(total);
        let warmup = options.warmup(total)?;
        Ok(Self {
            kind,
            warmup,
            total,
            per_epoch,
            cycles: f64::from(options.num_cycles.unwrap_or(1)),
            power: options.power.unwrap_or(1.0),
            end: options.lr_end.unwrap_or(DEFAULT_END) / learning_rate,
        })
    }

    /// The factor on the learning rates at `step` (of the optimizer, since the start of the run) in `epoch`, both from 0.
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
            SchedulerKind::CosineWithRestarts if progress >= 1.0 => 0.0,
            SchedulerKind::CosineWithRestarts => {
                0.5 * (1.0 + (std::f64::consts::PI * (self.cycles * progress).fract()).cos())
            }
            SchedulerKind::Polynomial => (1.0 - self.end) * (1.0 - progress).powf(self.power) + self.end,
            SchedulerKind::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * progress).cos()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn factors_follow_their_shapes() {
        // Hugging Face's get_scheduler with 2 warm-up steps of 10: lr_lambda(0), (1), (2), (6), (9). The restarts have 2
        // cycles; the polynomial has power 2 and lr_end 0.01 for a rate of 0.1.
        let cases = [
            (SchedulerKind::ConstantWithWarmup, [0.0, 0.5, 1.0, 1.0, 1.0]),
            (SchedulerKind::Linear, [0.0, 0.5, 1.0, 0.5, 0.125]),
            (SchedulerKind::Cosine, [0.0, 0.5, 1.0, 0.5, 0.038_060_233_744_356_63]),
            (SchedulerKind::CosineWithRestarts, [0.0, 0.5, 1.0, 1.0, 0.146_446_609_406_726_24]),
            (SchedulerKind::Polynomial, [0.0, 0.5, 1.0, 0.325, 0.1140625]),
        ];
        for (kind, expected) in cases {
            for warmup in [2.0, 0.2] {
                let restarts = kind == SchedulerKind::CosineWithRestarts;
                let polynomial = kind == SchedulerKind::Polynomial;
                let options = SchedulerOptions {
                    num_warmup_steps: warmup,
                    num_cycles: restarts.then_some(2),
                    power: polynomial.then_some(2.0),
                    lr_end: polynomial.then_some(0.01),
                    ..Default::default()
                };
                let schedule = Schedule::new(kind, options, 0.1, 2, 5).unwrap();
                for (step, expected) in [0, 1, 2, 6, 9].into_iter().zip(expected) {
                    approx::assert_abs_diff_eq!(schedule.factor(step, 0), expected, epsilon = 1e-12);
                }
            }
        }
    }

    #[test]
    fn an_epoch_schedule_moves_between_epochs() {
        let options = SchedulerOptions { scheduler_step: SchedulerStep::Epoch, ..Default::default() };
        let schedule = Schedule::new(SchedulerKind::Linear, options, 0.1, 4, 100).unwrap();
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
            (SchedulerKind::Linear, 11.0, "the schedule ends after 10 steps"),
            (SchedulerKind::Linear, 1e30, "the schedule ends after 10 steps"),
        ] {
            let options = SchedulerOptions { num_warmup_steps: steps, ..Default::default() };
            let message = Schedule::new(kind, options, 0.1, 1, 10).unwrap_err().to_string();
            assert!(message.starts_with("scheduler_options.num_warmup_steps = "), "{message}");
            assert!(message.contains(expected), "{message}");
        }
        assert!(
            "exponential".parse::<SchedulerKind>().unwrap_err().to_string().contains("cosine_with_restarts")
        );
        type Change = fn(&mut SchedulerOptions);
        let cases: [(SchedulerKind, Change, &str); 5] = [
            (
                SchedulerKind::Cosine,
                |o| o.num_cycles = Some(2),
                "num_cycles = 2: only cosine_with_restarts has it",
            ),
            (SchedulerKind::Linear, |o| o.power = Some(2.0), "power = 2: only polynomial has it"),
            (
                SchedulerKind::CosineWithRestarts,
                |o| o.num_cycles = Some(0),
                "num_cycles = 0: write a whole number",
            ),
            (SchedulerKind::Polynomial, |o| o.lr_end = Some(0.2), "lr_end = 0.2: write a rate from 0"),
            (
                SchedulerKind::Linear,
                |o| o.num_training_steps = Some(0),
                "num_training_steps = 0: write at least 1",
            ),
        ];
        for (kind, change, expected) in cases {
            let mut options = SchedulerOptions::default();
            change(&mut options);
            let message = Schedule::new(kind, options, 0.1, 1, 10).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
    }
}
