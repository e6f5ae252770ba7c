//! What is in a batch: positives, and triplets by difficulty.

use embedtune_train::losses::miner::mine;
use embedtune_train::losses::{Input, Miner, TripletKind};
use embedtune_train::ndarray::{Array2, Axis as Along};
use embedtune_train::samplers::{ClassSampler, RandomSampler};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::Drawn;
use super::chart::{Axis, BLUE, GREEN, Mark, ORANGE, PURPLE, Panel, Series, draw};

/// Share of the items whose batch holds another item of their class, over the batches of one epoch.
fn with_positive(batches: &[Vec<usize>], labels: &[u32], classes: usize) -> f64 {
    let (mut with, mut all) = (0usize, 0usize);
    for batch in batches {
        let mut counts = vec![0usize; classes];
        batch.iter().for_each(|&item| counts[labels[item] as usize] += 1);
        with += counts.iter().filter(|&&n| n > 1).sum::<usize>();
        all += batch.len();
    }
    with as f64 / all as f64
}

/// Samplers: what triplets find in a batch of 128.
pub(super) fn samplers() -> Drawn {
    let (mut random, mut class) = (Vec::new(), Vec::new());
    for classes in [2, 5, 10, 20, 35, 50, 75, 100, 150, 200, 300, 500, 700, 1000, 1500, 2000] {
        let labels: Vec<u32> = (0..classes * 10).map(|item| (item % classes) as u32).collect();
        let share = |batches: Vec<Vec<usize>>| 100.0 * with_positive(&batches, &labels, classes);
        random.push((classes as f64, share(RandomSampler::new(labels.len(), 128, 1)?.batches(0))));
        class.push((classes as f64, share(ClassSampler::new(&labels, 128, 4, 1)?.batches(0))));
    }
    let panel = Panel {
        title: "Items that find another of their class in a batch of 128".into(),
        x: Axis::log("classes, ten items each", 2.0, 2000.0, &[]).named(&[
            (2.0, "2"),
            (10.0, "10"),
            (50.0, "50"),
            (100.0, "100"),
            (500.0, "500"),
            (1000.0, "1,000"),
            (2000.0, "2,000"),
        ]),
        y: Axis::new("percent", 0.0, 105.0, &[0.0, 25.0, 50.0, 75.0, 100.0]),
        series: vec![
            Series::new("class sampler, 4 items of a class", BLUE, Mark::Line, class),
            Series::new("random sampler", ORANGE, Mark::Dashed, random),
        ],
        notes: vec![],
    };
    let description = "With the class sampler all items have a positive in their batch for any number of classes; with \
                       the random sampler all up to twenty classes, a few percent at two thousand";
    Ok(draw(description, &[panel]))
}

/// Mining: all triplets of a batch by how hard they are.
pub(super) fn mining() -> Drawn {
    // A batch in the middle of a training: items about their class's direction.
    let (classes, per_class, dim) = (16, 8, 32);
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let mut noise = |rows| Array2::from_shape_fn((rows, dim), |_| rng.random_range(-1.0f32..1.0));
    let (centres, spread) = (noise(classes), noise(classes * per_class));
    let labels: Vec<u32> = (0..classes * per_class).map(|row| (row % classes) as u32).collect();
    let mut x = Array2::zeros((labels.len(), dim));
    for (row, mut item) in x.axis_iter_mut(Along(0)).enumerate() {
        item.assign(&(&centres.row(row % classes) + &(&spread.row(row) * 1.25)));
        let norm = item.dot(&item).sqrt();
        item /= norm;
    }
    let input = Input::new(x.view(), &labels);
    let all = mine(&Miner::All, input)?;
    let distance = |a: u32, b: u32| {
        let between = &x.row(a as usize) - &x.row(b as usize);
        f64::from(between.dot(&between).sqrt())
    };
    const WIDE: f64 = 0.05;
    // Bars from -1 to 1; the miner's boundaries 0 and 0.2 lie between bars.
    let mut counts = vec![0usize; 40];
    for i in 0..all.len() {
        let a = all.anchors[i];
        let t = distance(a, all.negatives[i]) - distance(a, all.positives[i]);
        counts[((t + 1.0) / WIDE).floor().clamp(0.0, 39.0) as usize] += 1;
    }
    let percent = |count: usize| 100.0 * count as f64 / all.len() as f64;
    let bars = |from: usize, to: usize| {
        let counts = &counts;
        (from..to)
            .filter(|&bin| counts[bin] > 0)
            .map(move |bin| (-1.0 + WIDE * (bin as f64 + 0.5), percent(counts[bin])))
    };
    let name = |kind: TripletKind, what: &str| {
        let kept = mine(&Miner::triplet_margin(kind), input)?.len();
        Ok::<_, embedtune_train::losses::Error>(format!("{what}, {:.0} %", percent(kept)))
    };
    let series = vec![
        Series::new(name(TripletKind::Hard, "hard: t ≤ 0")?, ORANGE, Mark::Bars(WIDE * 0.9), bars(0, 20)),
        Series::new(
            name(TripletKind::Semihard, "semi-hard: 0 < t ≤ 0.2")?,
            PURPLE,
            Mark::Bars(WIDE * 0.9),
            bars(20, 24),
        ),
        Series::new(name(TripletKind::Easy, "easy: t > 0.2")?, GREEN, Mark::Bars(WIDE * 0.9), bars(24, 40)),
    ];
    let panel = Panel {
        title: format!("{} triplets of one batch of 128", thousands(all.len())),
        x: Axis::new(
            "t = d(anchor, negative) − d(anchor, positive)",
            -0.5,
            0.95,
            &[-0.4, -0.2, 0.0, 0.2, 0.4, 0.6, 0.8],
        ),
        y: Axis::new("percent of the triplets", 0.0, 14.0, &[0.0, 4.0, 8.0, 12.0]),
        series,
        notes: vec![],
    };
    let description = "Histogram of the difference between negative and positive distances of all triplets of a batch: most \
                       are easy, a part is semi-hard, few are hard";
    Ok(draw(description, &[panel]))
}

fn thousands(count: usize) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
