//! How far a command has come that trains nothing: one stage of work after the other.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use embedtune_train::retrieval;

use crate::line::{Line, PATIENCE, Progress, Shows, duration};

/// What takes less is not worth a word.
const SHORT: Duration = Duration::from_secs(1);
/// Between two looks.
const TICK: Duration = Duration::from_millis(100);

/// Shows the stages, from a thread of its own, until it is dropped.
pub(crate) struct Work {
    shared: Arc<Shared>,
    ticker: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    stage: Mutex<Stage>,
    ended: Condvar,
    total: AtomicU64,
    done: AtomicU64,
}

/// What is done now.
#[derive(Default)]
struct Stage {
    /// Which one.
    number: usize,
    name: String,
    unit: &'static str,
    /// How many of the unit there are; 0 where nobody knows.
    units: u64,
    started: Option<Instant>,
    over: bool,
}

impl Work {
    pub(crate) fn new(quiet: bool, progress: Progress) -> Self {
        let shows = Shows::new(quiet, progress);
        let shared = Arc::new(Shared::default());
        let ticker = (shows.bars || shows.lines).then(|| {
            let shared = shared.clone();
            std::thread::spawn(move || watch(&shared, shows))
        });
        Self { shared, ticker }
    }

    /// Shows nothing.
    pub(crate) fn silent() -> Self {
        Self { shared: Arc::default(), ticker: None }
    }

    /// Begins the next stage: the work on so many `units`, 0 where nobody knows, called `unit` in the plural. A part of
    /// the work is a unit, unless [`retrieval::Progress::begin`] says otherwise.
    pub(crate) fn stage(&self, name: &str, unit: &'static str, units: usize) {
        let mut stage = self.shared.stage();
        stage.number += 1;
        (stage.name, stage.unit, stage.units) = (name.to_owned(), unit, units as u64);
        stage.started = Some(Instant::now());
        self.shared.total.store(units as u64, Ordering::Relaxed);
        self.shared.done.store(0, Ordering::Relaxed);
    }
}

impl retrieval::Progress for Work {
    fn begin(&self, total: u64) {
        self.shared.total.store(total, Ordering::Relaxed);
    }

    fn advance(&self, done: u64) {
        self.shared.done.fetch_add(done, Ordering::Relaxed);
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        self.shared.stage().over = true;
        self.shared.ended.notify_all();
        if let Some(ticker) = self.ticker.take() {
            // It has panicked if there is an error: nothing is lost but the line.
            let _ = ticker.join();
        }
    }
}

impl Shared {
    fn stage(&self) -> MutexGuard<'_, Stage> {
        self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn watch(shared: &Shared, shows: Shows) {
    let begun = Instant::now();
    let (mut spoken, mut drawn) = (begun, 0);
    let mut line = Line::hidden();
    loop {
        let stage = shared.stage();
        let (stage, _) = shared.ended.wait_timeout(stage, TICK).unwrap_or_else(PoisonError::into_inner);
        if stage.over {
            line.clear();
            return;
        }
        let Some(started) = stage.started.filter(|_| begun.elapsed() >= SHORT) else { continue };
        let seconds = started.elapsed().as_secs_f64();
        let [total, done] = [&shared.total, &shared.done].map(|parts| parts.load(Ordering::Relaxed));
        let (number, said) = (stage.number, Said::new(&stage, done, total, seconds));
        drop(stage);
        if shows.bars {
            let messages = said.messages();
            if drawn == number {
                line.set_position(done);
                line.show(&messages);
            } else {
                line.clear();
                line = Line::begin(&said.name, total.max(1), done, &messages);
                drawn = number;
            }
        } else if spoken.elapsed() >= PATIENCE {
            spoken = Instant::now();
            crate::say(&said.line());
        }
    }
}

/// What there is to say of a stage.
struct Said {
    name: String,
    percent: Option<u64>,
    /// `12000/60000 items`, or `12000 items` where nobody knows how many there are; the time left; the pace. Each has a
    /// comma after it, or is empty where there is nothing to go by.
    count: String,
    left: String,
    rate: String,
}

impl Said {
    fn new(stage: &Stage, done: u64, total: u64, seconds: f64) -> Self {
        let known = total > 0;
        let share = if known { (done as f64 / total as f64).min(1.0) } else { 0.0 };
        let units = if known { share * stage.units as f64 } else { done as f64 };
        let count = match (known, done) {
            (true, _) => {
                // Whole ones: what is begun is not done.
                let whole = u128::from(done.min(total)) * u128::from(stage.units) / u128::from(total);
                format!("{whole}/{} {}, ", stage.units, stage.unit)
            }
            (false, 0) => String::new(),
            (false, _) => format!("{done} {}, ", stage.unit),
        };
        let (mut left, mut rate) = (String::new(), String::new());
        if done > 0 && seconds > 0.0 {
            if known {
                let rest = total.saturating_sub(done) as f64;
                left = format!("{} left, ", duration(seconds / done as f64 * rest));
            }
            let a_second = units / seconds;
            if a_second >= 1.0 {
                rate = format!("{a_second:.0} {}/s, ", stage.unit);
            }
        }
        let percent = known.then_some((100.0 * share) as u64);
        Self { name: stage.name.clone(), count, percent, left, rate }
    }

    /// From the longest to the shortest, for [`Line::show`].
    fn messages(&self) -> Vec<String> {
        let Self { name, count, left, rate, .. } = self;
        let Some(percent) = self.percent else { return vec![self.line()] };
        vec![
            cut(format!("{count}{left}{rate}")),
            cut(format!("{left}{rate}")),
            cut(left.clone()),
            cut(format!("{percent}%, {left}{name}")),
        ]
    }

    fn line(&self) -> String {
        let Self { name, count, left, rate, .. } = self;
        cut(format!("{name}: {count}{left}{rate}"))
    }
}

/// Without what would have led to more.
fn cut(text: String) -> String {
    text.trim_end_matches([',', ' ', ':']).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(done: u64, total: u64, seconds: f64) -> Said {
        let units = if total > 0 { 20 } else { 0 };
        let stage = Stage { name: "ranking".to_owned(), unit: "queries", units, ..Stage::default() };
        Said::new(&stage, done, total, seconds)
    }

    #[test]
    fn a_stage_is_told_in_its_units() {
        for (done, total, seconds, line) in [
            (0, 1000, 3.0, "ranking: 0/20 queries"),
            (500, 1000, 2.0, "ranking: 10/20 queries, 2 s left, 5 queries/s"),
            (1000, 1000, 2.0, "ranking: 20/20 queries, 0 s left, 10 queries/s"),
            (50, 1000, 10.0, "ranking: 1/20 queries, 3 min 10 s left"),
            (90, 1000, 10.0, "ranking: 1/20 queries, 1 min 41 s left"),
            (0, 0, 10.0, "ranking"),
            (100, 0, 10.0, "ranking: 100 queries, 10 queries/s"),
        ] {
            assert_eq!(said(done, total, seconds).line(), line);
        }
        let messages = said(500, 1000, 2.0).messages();
        assert_eq!(messages.last().unwrap(), "50%, 2 s left, ranking");
        assert_eq!(said(100, 0, 10.0).messages(), ["ranking: 100 queries, 10 queries/s"]);
    }

    #[test]
    fn a_watched_stage_ends_with_its_work() {
        // With lines alone: nothing is said in so short a time, and dropping it does not wait.
        let begun = Instant::now();
        let work = Work::new(false, Progress::Plain);
        work.stage("embedding", "items", 10);
        retrieval::Progress::advance(&work, 3);
        assert_eq!(work.shared.done.load(Ordering::Relaxed), 3);
        drop(work);
        assert!(begun.elapsed() < PATIENCE);
    }
}
