//! GeM between average and maximum.

use embedtune_train::pooling::rows::{argmax, average, gem as pool};
use embedtune_train::pooling::{GemOptions, Sign};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::Drawn;
use super::chart::{Axis, BLUE, INK, Mark, ORANGE, Panel, Series, draw};

const LOW: f64 = 0.5;
const HIGH: f64 = 30.0;

fn curve(x: &[f32], sign: Sign) -> Result<Vec<(f64, f64)>, embedtune_train::pooling::Error> {
    let options = GemOptions { sign, ..GemOptions::default() }.build()?;
    let powers = (0..=120).map(|i| LOW * (HIGH / LOW).powf(f64::from(i) / 120.0));
    Ok(powers.map(|p| (p, f64::from(pool(x, p as f32, &options).value))).collect())
}

/// GeM for images and for text.
pub(super) fn gem() -> Drawn {
    let axis = || {
        Axis::log("power p", LOW, HIGH, &[]).named(&[
            (0.5, "0.5"),
            (1.0, "1"),
            (3.0, "3"),
            (10.0, "10"),
            (30.0, "30"),
        ])
    };
    let level = |value: f32| [(LOW, f64::from(value)), (HIGH, f64::from(value))];
    let mut rng = ChaCha8Rng::seed_from_u64(4);
    // A feature map after ReLU: many zeros, a bright spot.
    let map: Vec<f32> =
        (0..49).map(|_| (rng.random_range(-1.0f32..1.0)).max(0.0)).chain([1.8, 2.0]).collect();
    let highest = |x: &[f32]| argmax(x).map_or(0.0, |at| x[at]);
    let images = Panel {
        title: "A feature map after ReLU".into(),
        x: axis(),
        y: Axis::new("pooled value", 0.0, 2.2, &[0.0, 0.5, 1.0, 1.5, 2.0]),
        series: vec![
            Series::new("GeM", BLUE, Mark::Line, curve(&map, Sign::Clamp)?),
            Series::new("average", INK, Mark::Dotted, level(average(&map))),
            Series::new("maximum", INK, Mark::Dashed, level(highest(&map))),
        ],
        notes: vec![],
    };
    // One dimension of token embeddings: signed, most of them negative.
    let tokens: Vec<f32> = (0..20).map(|_| rng.random_range(-1.2f32..0.6)).collect();
    let text = Panel {
        title: "One dimension of 20 tokens".into(),
        x: axis(),
        y: Axis::new("pooled value", -1.4, 0.8, &[-1.0, -0.5, 0.0, 0.5]),
        series: vec![
            Series::new("signed", BLUE, Mark::Line, curve(&tokens, Sign::Signed)?),
            Series::new("clamp", ORANGE, Mark::Dashed, curve(&tokens, Sign::Clamp)?),
            Series::new("average", INK, Mark::Dotted, level(average(&tokens))),
        ],
        notes: vec![],
    };
    let description = "GeM of a feature map is its average at power 1 and rises towards its maximum with the power; of \
                       mostly negative token features the signed form is the average at power 1 and keeps their sign, \
                       the clamped form is positive";
    Ok(draw(description, &[images, text]))
}
