//! What to do where a run does not fit the memory: what helps, found by forecasting it.

use std::iter::successors;

use embedtune_losses::Loss;

use super::forecast::{Costs, Forecast, OnDevice, Parts, fits};
use crate::Error;
use crate::head::CentreSpace;
use crate::optim::{OptimizerKind, lbfgs};
use crate::run::RunOptions;

/// Steps of LBFGS that are still of use.
const FEW_STEPS: usize = 10;

/// A run that does not fit, and the ways to make it smaller.
pub(in crate::run) struct Search<'a> {
    pub(in crate::run) costs: &'a Costs,
    pub(in crate::run) options: &'a RunOptions,
    /// The smallest batch that can be trained on.
    pub(in crate::run) least: usize,
    /// The sizes of an epoch's batches for such a batch.
    pub(in crate::run) sizes: &'a dyn Fn(usize) -> Vec<usize>,
    pub(in crate::run) loss: &'a dyn Loss,
    pub(in crate::run) on: &'a OnDevice<'a>,
    /// Bytes that are free, where the system says so.
    pub(in crate::run) free: Option<usize>,
}

/// An option that takes memory: its name, its value, what to write instead, and what is then left.
struct Change {
    field: &'static str,
    value: String,
    write: String,
    parts: Parts,
}

impl Search<'_> {
    /// The largest batch below `from`, halved again and again, that fits.
    pub(in crate::run) fn smaller(&self, costs: &Costs, from: usize) -> Option<(usize, Forecast)> {
        let below = from.next_power_of_two() / 2;
        let sizes =
            successors(Some(below), |size| Some(size / 2)).take_while(|&size| size >= self.least.max(1));
        // Halving may step over the smallest.
        let sizes = sizes.chain([self.least].into_iter().filter(|&least| least < from));
        let at = |size| (size, costs.at(&(self.sizes)(size), self.loss, self.on));
        sizes.map(at).find(|(_, forecast)| fits(forecast, self.free))
    }

    /// The options without which the run would take less, those first that matter least to its result.
    fn changes(&self) -> Vec<Change> {
        let (parts, options) = (self.costs.parts, self.options);
        let mut changes = Vec::new();
        let mut add = |applies: bool, field: &'static str, value: String, write: &str, parts: Parts| {
            if applies {
                changes.push(Change { field, value, write: write.to_owned(), parts });
            }
        };
        add(
            parts.initial > 0,
            "callbacks.wise_ft_alpha",
            options.callbacks.wise_ft_alpha.unwrap_or_default().to_string(),
            "leave out callbacks.wise_ft_alpha",
            Parts { initial: 0, ..parts },
        );
        add(
            parts.best,
            "callbacks.best_model",
            "true".to_owned(),
            "leave out callbacks.best_model",
            Parts { best: false, ..parts },
        );
        add(
            parts.waiting > 0,
            "gradient_accumulation_steps",
            options.gradient_accumulation_steps.to_string(),
            "leave out gradient_accumulation_steps",
            Parts { waiting: 0, ..parts },
        );
        let history = options.optimizer_options.history_size.unwrap_or(lbfgs::HISTORY_SIZE);
        let remembers = options.optimizer == OptimizerKind::Lbfgs;
        add(
            remembers && history > FEW_STEPS,
            "optimizer",
            "LBFGS".to_owned(),
            "write a smaller optimizer_options.history_size, e.g. 10, for the steps that LBFGS remembers",
            Parts {
                optimizer: parts.weights.saturating_mul(2 * FEW_STEPS + 4),
                history: parts.weights.saturating_mul(FEW_STEPS),
                ..parts
            },
        );
        add(
            remembers,
            "optimizer",
            "LBFGS".to_owned(),
            "write Adam as optimizer",
            Parts { optimizer: parts.weights.saturating_mul(2), history: 0, ..parts },
        );
        // On the unit sphere there is one way to move.
        let own = parts.centre_optimizer > 0 && options.centers == CentreSpace::Plain;
        add(
            own,
            "loss_optimizer",
            options.loss_optimizer.unwrap_or(options.optimizer).to_string(),
            "write SGD as loss_optimizer",
            Parts { centre_optimizer: 0, ..parts },
        );
        add(
            parts.optimizer > 0,
            "optimizer",
            options.optimizer.to_string(),
            "write SGD as optimizer",
            Parts { optimizer: 0, history: 0, ..parts },
        );
        add(
            parts.optimizer > 0 && own,
            "optimizer",
            options.optimizer.to_string(),
            "write SGD as optimizer and as loss_optimizer",
            Parts { optimizer: 0, centre_optimizer: 0, ..parts },
        );
        for bank in successors(Some(parts.bank / 2), |bank| Some(bank / 2)).take_while(|&bank| bank >= 64) {
            let write = format!("write {bank} or less as memory_size");
            add(true, "memory_size", options.memory_size.to_string(), &write, Parts { bank, ..parts });
        }
        let dims = successors(Some(parts.dim / 2), |dim| Some(dim / 2)).take_while(|&dim| dim >= 2);
        for dim in dims.filter(|_| parts.centres > 0) {
            let write = format!("write a smaller output_dim, {dim} or less, or give fewer classes");
            add(true, "output_dim", parts.dim.to_string(), &write, parts.with_dim(dim));
        }
        changes
    }

    /// Why the run is refused, and what would make it fit.
    pub(in crate::run) fn refusal(&self, first: usize, wanted: &Forecast) -> Error {
        let changed = |change: &Change| Costs { parts: change.parts, ..self.costs.clone() };
        let smaller = self.smaller(self.costs, first).map(|(size, _)| size);
        let changes = self.changes();
        let [sizes, least] = [first, self.least].map(|batch| (self.sizes)(batch));
        let fits = |change: &Change, sizes: &[usize]| {
            fits(&changed(change).at(sizes, self.loss, self.on), self.free)
        };
        let helps = changes.iter().find(|change| fits(change, &sizes));
        let asked = if self.options.batch_size == 0 { "auto".to_owned() } else { first.to_string() };
        let (field, value, remedy) = match (smaller, helps) {
            (Some(size), Some(change)) => {
                let remedy = format!("write {size} or less, or, for batches of {first}, {}", change.write);
                ("batch_size", asked, remedy)
            }
            (Some(size), None) => ("batch_size", asked, format!("write {size} or less")),
            (None, Some(change)) => (change.field, change.value.clone(), change.write.clone()),
            // With a smaller batch and one change; or not even so.
            (None, None) => {
                let both = |change: &Change| {
                    if !fits(change, &least) {
                        return None;
                    }
                    let (size, _) = self.smaller(&changed(change), first)?;
                    Some((
                        change.field,
                        change.value.clone(),
                        format!("{}, and {size} or less as batch_size", change.write),
                    ))
                };
                changes.iter().find_map(both).unwrap_or_else(|| ("batch_size", asked, self.nothing(wanted)))
            }
        };
        let mib = |bytes: usize| bytes.div_ceil(1 << 20);
        let free = self.free.unwrap_or(0);
        Error::option(
            field,
            value,
            format!(
                "the run would take {} MiB at its peak ({} MiB for centres, {} MiB for a step, {} MiB for the encoder's \
                 training state, {} MiB to measure and save), and {} MiB are free, of which it may take nine tenths; {remedy}",
                mib(wanted.peak),
                mib(wanted.centres),
                mib(wanted.step),
                mib(wanted.encoder),
                mib(wanted.between),
                mib(free)
            ),
        )
    }

    /// Where no single change is enough: what takes the most.
    fn nothing(&self, wanted: &Forecast) -> String {
        let parts = [
            (wanted.centres, "fewer classes, or a smaller output_dim"),
            (wanted.encoder, "SGD as optimizer, which keeps no state, and a smaller output_dim"),
            (wanted.step, "smaller items (images: data_options.image_size)"),
            (wanted.between.max(self.costs.raw), "fewer evaluation items"),
        ];
        let most = parts.iter().max_by_key(|(bytes, _)| *bytes).map_or("smaller items", |(_, what)| what);
        format!("no batch is small enough: give {most}, or a machine with more memory")
    }
}

#[cfg(test)]
mod tests {
    use embedtune_losses::LossKind;

    use super::*;
    use crate::data::{Glyphs, Split};
    use crate::encoder::Encoder;
    use crate::run::setup::{place, plan};

    fn costs(options: &RunOptions, split: &Split, dim: usize) -> (Costs, Box<dyn Loss>) {
        let spec = plan::encoder_spec(options, &split.train.items).unwrap();
        let encoder = Encoder::new(spec, 0).unwrap();
        let loss =
            place::LossPlan::new(options, split.train.classes.len(), dim, &mut Vec::new()).unwrap().loss;
        let mut centres = place::CentreOptimizer::new(options, loss.as_ref(), &mut Vec::new()).unwrap();
        let slots = centres.slots().unwrap();
        let costs = Costs::new(
            options,
            &encoder,
            loss.as_ref(),
            slots,
            split,
            (true, 0, false, split.train.classes.len(), split.train.labels.len()),
        )
        .unwrap();
        // What other tests of this process take is not this run's.
        (Costs { before: 0, ..costs }, loss)
    }

    /// What is advised is what then fits, forecast anew with the options that it gives.
    #[test]
    fn advice_helps() {
        let split =
            Glyphs { train_classes: 40, train_items: 8, test_classes: 2, test_items: 4, seed: 1 }.split();
        type Change = fn(&mut RunOptions);
        let arcface: Change = |o| (o.loss, o.output_dim) = (LossKind::ArcFaceLoss, Some(2048));
        let cases: [(Change, Change, &str); 5] = [
            (
                |o| o.callbacks.wise_ft_alpha = Some(0.4),
                |o| o.callbacks.wise_ft_alpha = None,
                "callbacks.wise_ft_alpha = 0.4: ",
            ),
            (
                |o| o.optimizer = OptimizerKind::Lbfgs,
                |o| o.optimizer_options.history_size = Some(10),
                "optimizer = LBFGS: ",
            ),
            (|_| (), |o| o.optimizer = OptimizerKind::Sgd, "optimizer = Adam: "),
            // So many epochs that it fills.
            (
                |o| (o.memory_size, o.epochs) = (1 << 20, 4000),
                |o| o.memory_size = 1 << 16,
                "memory_size = 1048576: ",
            ),
            (arcface, |o| o.loss_optimizer = Some(OptimizerKind::Sgd), "loss_optimizer = Adam: "),
        ];
        for (options_are, follow, expected) in cases {
            let mut options = RunOptions { batch_size: 8, ..RunOptions::default() };
            options_are(&mut options);
            let dim = options.output_dim.unwrap_or(64);
            let (before, loss) = costs(&options, &split, dim);
            let mut followed = options.clone();
            follow(&mut followed);
            let (after, loss_after) = costs(&followed, &split, dim);
            let sizes = |size: usize| vec![size];
            let taken = |costs: &Costs, loss: &dyn Loss| {
                let forecast = costs.at(&[8], loss, &|_| None);
                forecast.peak - forecast.held
            };
            let (much, little) = (taken(&before, loss.as_ref()), taken(&after, loss_after.as_ref()));
            assert!(little < much, "{expected}");
            // Room for what is advised, and not for what was asked.
            let free = Some(((little + much) as f64 / 1.8) as usize);
            let search = Search {
                costs: &before,
                options: &options,
                least: 8,
                sizes: &sizes,
                loss: loss.as_ref(),
                on: &|_| None,
                free,
            };
            let wanted = before.at(&[8], loss.as_ref(), &|_| None);
            assert!(!fits(&wanted, free));
            let message = search.refusal(8, &wanted).to_string();
            assert!(message.starts_with(expected), "{message}\nlacks: {expected}");
            assert!(fits(&after.at(&[8], loss_after.as_ref(), &|_| None), free));
        }
    }

    #[test]
    fn a_smaller_batch_is_one_that_can_be_trained_on() {
        let split =
            Glyphs { train_classes: 40, train_items: 8, test_classes: 2, test_items: 4, seed: 1 }.split();
        let options = RunOptions::default();
        let (costs, loss) = costs(&options, &split, 64);
        let sizes = |size: usize| vec![size];
        let search = |free| Search {
            costs: &costs,
            options: &options,
            least: 12,
            sizes: &sizes,
            loss: loss.as_ref(),
            on: &|_| None,
            free: Some(free),
        };
        let all = search(usize::MAX).smaller(&costs, 100).map(|(size, _)| size);
        assert_eq!(all, Some(64));
        let least = costs.at(&[12], loss.as_ref(), &|_| None);
        let room = ((least.peak - least.held) as f64 / 0.9 * 1.01) as usize;
        assert_eq!(search(room).smaller(&costs, 100).map(|(size, _)| size), Some(12));
        assert!(search(1).smaller(&costs, 100).is_none());
        let wanted = costs.at(&[100], loss.as_ref(), &|_| None);
        let message = search(room).refusal(100, &wanted).to_string();
        assert!(
            message.starts_with("batch_size = 100: ") && message.contains("write 12 or less"),
            "{message}"
        );
        let message = search(1).refusal(100, &wanted).to_string();
        assert!(message.contains("no batch is small enough: give "), "{message}");
    }
}
