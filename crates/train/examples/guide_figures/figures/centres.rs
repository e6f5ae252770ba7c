//! How fast class centres turn.

use embedtune_train::head::{CentreInit, HostHead, LossHead, Update};
use embedtune_train::losses::{Input, LossKind, LossOptions, build};
use embedtune_train::ndarray::{Array2, ArrayView1};
use embedtune_train::optim::{self, OptimizerKind, OptimizerOptions};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::Drawn;
use super::chart::{Axis, BLUE, Mark, ORANGE, Panel, Series, draw};

const CLASSES: usize = 10;
const DIM: usize = 128;
const ITEMS: usize = 128;
const STEPS: usize = 200;

/// Mean angle between centres and their class's mean embedding after each step, in degrees.
fn angles(std: f64, rate: f64) -> Result<Vec<(f64, f64)>, Box<dyn std::error::Error>> {
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let means = Array2::from_shape_fn((CLASSES, DIM), |_| rng.random_range(-1.0f32..1.0));
    let labels: Vec<u32> = (0..ITEMS).map(|row| (row % CLASSES) as u32).collect();
    let loss = build(LossKind::ArcFaceLoss, &LossOptions::default(), None, CLASSES, DIM)?;
    let optimizer = optim::build(OptimizerKind::Adam, &OptimizerOptions::default(), rate)?;
    let mut head = HostHead::new(loss, Some(optimizer), CentreInit::Normal { std }, 1)?;
    let mut curve = Vec::new();
    for step in 0..=STEPS {
        let centres = head.weights()?.ok_or("a margin loss has centres")?;
        let sum: f64 = (0..CLASSES).map(|class| angle(centres.row(class), means.row(class))).sum();
        curve.push((step as f64, sum / CLASSES as f64));
        let x = Array2::from_shape_fn((ITEMS, DIM), |(row, j)| {
            means[[row % CLASSES, j]] + rng.random_range(-1.0f32..1.0)
        });
        head.step(Input::new(x.view(), &labels), None, Update::Apply)?;
    }
    Ok(curve)
}

fn angle(a: ArrayView1<'_, f32>, b: ArrayView1<'_, f32>) -> f64 {
    let dot = |a: ArrayView1<'_, f32>, b: ArrayView1<'_, f32>| {
        a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>()
    };
    (dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()).clamp(-1.0, 1.0).acos().to_degrees()
}

/// The loss optimizer: long centres hardly turn.
pub(super) fn centres() -> Drawn {
    let panel = |title: &str, rate| {
        Ok::<_, Box<dyn std::error::Error>>(Panel {
            title: title.to_owned(),
            x: Axis::new("steps", 0.0, 200.0, &[0.0, 50.0, 100.0, 150.0, 200.0]),
            y: Axis::new("degrees from centre to class mean", 0.0, 100.0, &[0.0, 30.0, 60.0, 90.0]),
            series: vec![
                Series::new("start: std 1", ORANGE, Mark::Dashed, angles(1.0, rate)?),
                Series::new("start: std 0.01", BLUE, Mark::Line, angles(0.01, rate)?),
            ],
            notes: vec![],
        })
    };
    let description = "At Adam's rate 1e-4 centres drawn with standard deviation 1 stay at ninety degrees from their \
                       class for 200 steps, those with 0.01 turn towards it; at 1e-2 both arrive";
    Ok(draw(
        description,
        &[panel("Adam at rate 1e-4", 1e-4)?, panel("Adam at rate 1e-2 (our default)", 1e-2)?],
    ))
}
