//! Calls that are watched tell of all their work, and find the same.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::common::noise;
use embedtune_retrieval::{
    Agreement, Bootstrap, EvaluateOptions, Evaluation, Exclude, KMeans, Metric, Progress, Roc, Rows, search,
    search_watched,
};

#[derive(Default)]
struct Counted {
    begun: AtomicU64,
    total: AtomicU64,
    done: AtomicU64,
    calls: AtomicU64,
}

impl Progress for Counted {
    fn begin(&self, total: u64) {
        self.begun.fetch_add(1, Ordering::Relaxed);
        self.total.store(total, Ordering::Relaxed);
    }

    fn advance(&self, done: u64) {
        self.done.fetch_add(done, Ordering::Relaxed);
        self.calls.fetch_add(1, Ordering::Relaxed);
    }
}

impl Counted {
    /// Checks that the call began once and did what it promised; in how many parts.
    #[track_caller]
    fn whole(&self) -> u64 {
        let [begun, total, done] = [&self.begun, &self.total, &self.done].map(|n| n.load(Ordering::Relaxed));
        assert_eq!(begun, 1);
        assert_eq!(done, total);
        self.calls.load(Ordering::Relaxed)
    }
}

#[test]
fn all_work_is_told_and_nothing_else_changes() {
    // A gallery of more than one segment, which hold 16 MiB.
    let (queries, gallery) = (noise(130, 512, 1), noise(8300, 512, 2));
    let labels = |count: u32| (0..count).map(|i| i % 70).collect::<Vec<u32>>();
    let (own, others) = (labels(130), labels(8300));
    let options = |metric| EvaluateOptions { metric, ..EvaluateOptions::default() };
    for metric in [Metric::Cosine, Metric::Dot, Metric::L2] {
        for gallery in [None, Some((&gallery as &dyn Rows, others.as_slice()))] {
            let what = format!("{metric:?}, {}", gallery.is_some());
            let seen = Counted::default();
            let found = Evaluation::watched(&queries, &own, gallery, &options(metric), &seen).unwrap();
            assert!(seen.whole() > 1, "{what}");
            assert_eq!(found, Evaluation::new(&queries, &own, gallery, &options(metric)).unwrap());

            let seen = Counted::default();
            let found = Roc::of_pairs_watched(&queries, &own, gallery, metric, &seen).unwrap();
            assert!(seen.whole() > 1, "{what}");
            assert_eq!(found, Roc::of_pairs(&queries, &own, gallery, metric).unwrap());
            let passes = if metric == Metric::Cosine { 1 } else { 2 };
            assert_eq!(seen.total.into_inner(), passes * (found.positives() + found.negatives()), "{what}");

            let seen = Counted::default();
            let (items, exclude) = match gallery {
                Some((items, _)) => (items, Exclude::None),
                None => (&queries as &dyn Rows, Exclude::SameRow),
            };
            let found = search_watched(&queries, items, 3, metric, exclude, &seen).unwrap();
            seen.whole();
            assert_eq!(found, search(&queries, items, 3, metric, exclude).unwrap());
            assert_eq!(seen.total.into_inner(), 130 * items.shape().0 as u64);
        }
    }
    // So many queries that tasks share them out, instead of the gallery.
    let (many, seen) = (noise(1700, 3, 5), Counted::default());
    search_watched(&many, &many, 2, Metric::Cosine, Exclude::SameRow, &seen).unwrap();
    assert!(seen.whole() > 1);

    let found = Evaluation::new(&queries, &own, None, &options(Metric::Cosine)).unwrap();
    let (seen, bootstrap) = (Counted::default(), Bootstrap { resamples: 30, ..Bootstrap::default() });
    let intervals = found.intervals_watched(&bootstrap, &seen).unwrap();
    assert_eq!(intervals, found.intervals(&bootstrap).unwrap());
    assert_eq!((seen.whole(), seen.total.into_inner()), (30, 30));

    let (seen, options) = (Counted::default(), KMeans { restarts: Some(4), ..KMeans::default() });
    let small = noise(210, 6, 3);
    let watched = Agreement::of_kmeans_watched(&small, &labels(210), Metric::L2, &options, &seen).unwrap();
    assert_eq!(watched, (Agreement::of_kmeans(&small, &labels(210), Metric::L2, &options).unwrap(), 4));
    // A start of one round or more is told in three parts or more.
    assert!(seen.whole() >= 3 * 4);
    assert_eq!(seen.total.into_inner(), 4000);
}
