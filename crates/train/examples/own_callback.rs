//! A callback of one's own: what it sees of a run, and how it ends one.
//!
//! `cargo run --release -p embedtune-train --example own_callback`

use embedtune_train::Error;
use embedtune_train::data::Glyphs;
use embedtune_train::losses::LossKind;
use embedtune_train::run::{BatchReport, EpochRecord, Measured, Observer, Start, Trainer};

/// Notes the slowest batch of each epoch and the mean reciprocal rank after it. Ends the run once that is good enough, and
/// interrupts it as soon as the gradient explodes.
#[derive(Default)]
struct Watch {
    slowest: f64,
    exploded: bool,
    good: bool,
}

impl Observer for Watch {
    fn on_start(&mut self, start: &Start<'_>) {
        println!("{}: {} epochs of {} batches", start.name, start.epochs, start.batches);
    }
    fn on_epoch_begin(&mut self, _: usize) {
        self.slowest = 0.0;
    }
    fn on_batch(&mut self, batch: &BatchReport) {
        self.slowest = self.slowest.max(batch.items as f64 / batch.items_per_second);
        self.exploded = batch.grad_norm > 1e3;
    }
    fn on_evaluation(&mut self, measured: &Measured<'_>) {
        let mrr = measured.figures.get("mrr").copied().unwrap_or(0.0);
        println!("after epoch {}: MRR {mrr:.3}, measured in {:.2} s", measured.epoch, measured.seconds);
        self.good = mrr > 0.9;
    }
    fn on_epoch(&mut self, epoch: &EpochRecord) {
        if let Some(loss) = epoch.loss {
            println!(
                "epoch {}: loss {loss:.3}, {:.0} ms for the slowest batch",
                epoch.epoch,
                1e3 * self.slowest
            );
        }
    }
    fn stop_batch(&mut self) -> bool {
        self.exploded
    }
    fn stop(&mut self) -> bool {
        self.good
    }
}

fn main() -> Result<(), Error> {
    let data =
        Glyphs { train_classes: 20, train_items: 12, test_classes: 10, test_items: 8, seed: 1 }.split();
    let run = Trainer::builder().loss(LossKind::ArcFaceLoss).epochs(4).batch_size(48);
    let trained = run.build(&data)?.fit(&mut Watch::default())?;
    println!("Recall@1 {:.3} after {} epochs", trained.report.tuned.recall_at_1, trained.report.epochs);
    Ok(())
}
