//! Cosines at and near -1, 0 and 1, and every finite float, weight and upstream.

use approx::assert_relative_eq;
use embedtune_losses::{
    Angle, Edge, Error, GradsMut, Input, Loss, Margin, MarginGradient, MarginOptions, MarginSoftmax, Stats,
    Workspace, Write,
};
use ndarray::{Array2, ArrayView2, array};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::definition::naive;

fn all() -> [MarginOptions; 6] {
    let arc = |edge, gradient| MarginOptions {
        margin: Margin::Arc { angle: Angle::radians(0.5), edge, gradient },
        ..MarginOptions::arcface()
    };
    [
        MarginOptions::arcface(),
        arc(Edge::Continuous, MarginGradient::Exact),
        arc(Edge::None, MarginGradient::StraightThrough),
        MarginOptions::cosface(),
        MarginOptions::sphereface(),
        MarginOptions::sub_center_arcface(),
    ]
}

/// Runs with everything on; both schedules give it.
fn run(
    options: MarginOptions,
    x: ArrayView2<'_, f32>,
    w: ArrayView2<'_, f32>,
    labels: &[u32],
    (weight, upstream): (f32, f32),
) -> Vec<(Stats, Array2<f32>, Array2<f32>)> {
    [usize::MAX, 0]
        .into_iter()
        .map(|logits_budget_bytes| {
            let options = MarginOptions { logits_budget_bytes, ..options };
            let loss = MarginSoftmax::new(w.nrows() / options.sub_centers, x.ncols(), options).unwrap();
            let weights = vec![weight; labels.len()];
            let mut input = Input::new(x, labels).with_weights(w);
            input.sample_weights = Some(&weights);
            let (mut dx, mut dw) = (Array2::zeros(x.dim()), Array2::zeros(w.dim()));
            let grads = GradsMut {
                embeddings: Some(dx.view_mut()),
                weights: Some(dw.view_mut()),
                upstream,
                ..GradsMut::default()
            };
            let stats = loss.forward_backward(input, grads, &mut Workspace::default()).unwrap();
            (stats, dx, dw)
        })
        .collect()
}

#[test]
fn products_of_weights_beyond_f32_leave_everything_finite() {
    let x = array![[1.0f32, 0.2, -0.3], [0.1, -2.0, 0.5], [0.0, 0.0, 0.0], [3.0, 1.0, 1.0]];
    let labels = [0, 1, 2, 0];
    for options in all() {
        let w = Array2::from_shape_fn((3 * options.sub_centers, 3), |(i, j)| ((i * 5 + j * 3) as f32).sin());
        for (sample, class) in [(1e30f32, 1e30f32), (f32::MAX, f32::MAX), (1e-30, 1e-30), (1e-45, 1e-45)] {
            for upstream in [1.0, f32::MAX, 1e-45] {
                let loss = MarginSoftmax::new(3, 3, options).unwrap();
                let mut input = Input::new(x.view(), &labels).with_weights(w.view());
                let (samples, classes) = ([sample, 1.0, sample, 0.0], [class; 3]);
                (input.sample_weights, input.class_weights) = (Some(&samples[..]), Some(&classes[..]));
                let (mut dx, mut dw) = (Array2::zeros(x.dim()), Array2::zeros(w.dim()));
                let grads = GradsMut {
                    embeddings: Some(dx.view_mut()),
                    weights: Some(dw.view_mut()),
                    upstream,
                    ..GradsMut::default()
                };
                let stats = loss.forward_backward(input, grads, &mut Workspace::default()).unwrap();
                let what = format!("{options:?} {sample} {class} {upstream}: {stats:?}\n{dx}\n{dw}");
                assert!(stats.value.is_finite() && stats.value > 0.0, "{what}");
                assert!(dx.iter().chain(&dw).all(|v| v.is_finite()), "{what}");
            }
        }
    }
}

#[test]
fn slopes_at_the_ends_are_the_limits() {
    let arc = |radians, edge, gradient| Margin::Arc { angle: Angle::radians(radians), edge, gradient };
    let (exact, through) = (MarginGradient::Exact, MarginGradient::StraightThrough);
    let pi = std::f64::consts::PI;
    for (margin, [at_0, at_pi]) in [
        (Margin::Cos { cosine: 0.35 }, [1.0, 1.0]),
        (arc(0.5, Edge::Jump, exact), [f64::INFINITY, 1.0]),
        (arc(0.5, Edge::Continuous, exact), [f64::INFINITY, 1.0]),
        (arc(0.5, Edge::None, exact), [f64::INFINITY, f64::NEG_INFINITY]),
        (arc(0.5, Edge::None, through), [1.0, 1.0]),
        (arc(0.0, Edge::Jump, exact), [1.0, 1.0]),
        (Margin::Sphere { multiplier: 1 }, [1.0, 1.0]),
        (Margin::Sphere { multiplier: 3 }, [9.0, 9.0]),
        (Margin::Sphere { multiplier: 4 }, [16.0, 16.0]),
    ] {
        assert_eq!([0.0, pi].map(|theta| margin.target(theta)[1]), [at_0, at_pi], "{margin:?}");
        // What stands a little inside goes there.
        for (theta, end) in [(1e-7, at_0), (pi - 1e-7, at_pi)] {
            let near = margin.target(theta)[1];
            let goes = if end.is_finite() { (near - end).abs() < 1e-6 } else { near / end.signum() > 1e6 };
            assert!(goes, "{margin:?} at {theta}: {near}, not {end}");
        }
    }
}

#[test]
fn any_finite_float_anywhere() {
    let specials =
        [0.0f32, -0.0, 1.0, -1.0, f32::MIN_POSITIVE, -1e-45, 1e-30, 1e-12, f32::MAX, f32::MIN, 1e19, -1e30];
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let mut draw = |rows: usize| {
        Array2::from_shape_fn((rows, 3), |_| {
            // Mostly specials, sometimes ordinary values beside them.
            if rng.random_bool(0.7) {
                specials[rng.random_range(0..specials.len())]
            } else {
                rng.random_range(-2.0f32..2.0)
            }
        })
    };
    for _ in 0..200 {
        for options in all() {
            for (batch, classes) in [(1, 2), (1, 3), (5, 2), (5, 3)] {
                let (x, w) = (draw(batch), draw(classes * options.sub_centers));
                let labels: Vec<u32> = (0..batch).map(|i| (i % classes) as u32).collect();
                for factors in [(1.0, 1.0), (f32::MAX, 1.0), (1e-30, -f32::MAX), (1e-45, 1e-45), (0.0, 1.0)] {
                    for (stats, dx, dw) in run(options, x.view(), w.view(), &labels, factors) {
                        let what = format!("{options:?} {factors:?}\n{x}\n{w}");
                        assert!(stats.value.is_finite(), "{what}");
                        assert!(dx.iter().chain(&dw).all(|v| v.is_finite()), "{what}\n{dx}\n{dw}");
                    }
                }
            }
        }
    }
}

/// `count` vectors at the given angles from the first axis, in random directions, of random norms.
fn around(rng: &mut ChaCha8Rng, angles: &[f64], dim: usize) -> Array2<f32> {
    let mut x = Array2::zeros((angles.len(), dim));
    for (mut row, angle) in x.rows_mut().into_iter().zip(angles) {
        let side: Vec<f64> = (1..dim).map(|_| rng.random_range(-1.0..1.0)).collect();
        let length = side.iter().map(|v| v * v).sum::<f64>().sqrt();
        let norm = 2f64.powf(rng.random_range(-3.0..3.0));
        row[0] = (norm * angle.cos()) as f32;
        for (to, v) in row.iter_mut().skip(1).zip(&side) {
            *to = (norm * angle.sin() * v / length) as f32;
        }
    }
    x
}

#[test]
fn cosines_within_a_thousand_ulp_of_minus_one_zero_and_one() {
    let mut rng = ChaCha8Rng::seed_from_u64(11);
    let (dim, ulp) = (6, f64::from(f32::EPSILON) / 2.0);
    let mut angles = Vec::new();
    for ulps in [1.0, 2.0, 10.0, 100.0, 1000.0] {
        let near_one = (1.0 - ulps * ulp).acos();
        angles.extend([near_one, std::f64::consts::PI - near_one, std::f64::consts::FRAC_PI_2 + ulps * ulp]);
    }
    angles.extend((0..20).map(|_| rng.random_range(0.1..3.0)));
    let x = around(&mut rng, &angles, dim);
    let mut w = around(&mut rng, &[0.0, 1.2, 2.0, 0.7], dim);
    w.row_mut(0).assign(&array![1.5f32, 0.0, 0.0, 0.0, 0.0, 0.0]);
    let (xd, wd) = (x.mapv(f64::from), w.mapv(f64::from));
    for options in all() {
        if options.sub_centers > 1 {
            continue;
        }
        let options = MarginOptions { scale: options.scale.min(8.0), ..options };
        let straight =
            matches!(options.margin, Margin::Arc { gradient: MarginGradient::StraightThrough, .. });
        for i in 0..angles.len() {
            let row = x.slice(ndarray::s![i..=i, ..]);
            let exact = |x: &Array2<f64>, w: &Array2<f64>| naive(&options, 4, x, w, &[0]);
            let (rowd, what) =
                (xd.slice(ndarray::s![i..=i, ..]).to_owned(), format!("{options:?} {}", angles[i]));
            let norm = rowd.iter().map(|v| v * v).sum::<f64>().sqrt();
            for (stats, dx, dw) in run(options, row, w.view(), &[0], (1.0, 1.0)) {
                assert_relative_eq!(stats.value, exact(&rowd, &wd), max_relative = 3e-6, epsilon = 1e-6);
                let length = |g: &mut dyn Iterator<Item = &f32>| {
                    g.map(|&v| f64::from(v) * f64::from(v)).sum::<f64>().sqrt()
                };
                // Bulk and target each pull with at most the scale over the norm. SphereFace's logits are linear in
                // the embedding, with a factor of down to 1 - 2 m, and turn with a slope of up to m.
                let (bound, w_bound) = match options.margin {
                    Margin::Sphere { multiplier: m } => {
                        (options.scale * f64::from(3 * m), options.scale * norm * f64::from(1 + m))
                    }
                    _ => (2.0 * options.scale / norm, 2.0 * options.scale),
                };
                assert!(length(&mut dx.iter()) <= bound * 1.00001, "{what}: {dx} {bound}");
                if straight {
                    continue;
                }
                // Differences that are small beside the distance to the tangent's end.
                let step = 1e-3 * angles[i].sin().abs().min(1e-3) * norm;
                for j in 0..dim {
                    let (mut up, mut down) = (rowd.clone(), rowd.clone());
                    up[[0, j]] += step;
                    down[[0, j]] -= step;
                    let numeric = (exact(&up, &wd) - exact(&down, &wd)) / (2.0 * step);
                    let error = (numeric - f64::from(dx[[0, j]])).abs();
                    assert!(error < 2e-3 * bound, "{what} x {j}: {} {numeric}", dx[[0, j]]);
                    let step = step / norm;
                    let (mut up, mut down) = (wd.clone(), wd.clone());
                    up[[0, j]] += step;
                    down[[0, j]] -= step;
                    let numeric = (exact(&rowd, &up) - exact(&rowd, &down)) / (2.0 * step);
                    let error = (numeric - f64::from(dw[[0, j]])).abs();
                    assert!(error < 2e-3 * w_bound, "{what} w {j}: {} {numeric}", dw[[0, j]]);
                }
            }
        }
    }
}

#[test]
fn exactly_parallel_and_opposite_have_no_tangent_and_no_nan() {
    let w = array![[2.0f32, 0.0], [0.0, 1.0]];
    let x = array![[3.0f32, 0.0], [-3.0, 0.0]];
    for options in all().into_iter().filter(|options| options.sub_centers == 1) {
        for (stats, dx, _) in run(options, x.view(), w.view(), &[0, 0], (1.0, 1.0)) {
            assert!(stats.value.is_finite());
            if !matches!(options.margin, Margin::Sphere { .. }) {
                // The target cannot say where to turn; the other class, at a right angle, pushes straight away.
                assert!(dx.column(0).iter().all(|v| v.abs() < 1e-6), "{options:?} {dx}");
            }
        }
    }
}

#[test]
fn errors_name_the_row_and_leave_the_gradients_alone() {
    let loss = MarginSoftmax::new(300, 4, MarginOptions::arcface()).unwrap();
    let x = Array2::from_shape_fn((7, 4), |(i, j)| (i * 4 + j) as f32 * 0.1 + 0.1);
    let w = Array2::from_shape_fn((300, 4), |(i, j)| ((i * 5 + j) as f32).sin());
    let labels = [0, 299, 5, 6, 7, 8, 9];
    let check = |x: &Array2<f32>, w: &Array2<f32>, labels: &[u32], expected: &dyn Fn(&Error) -> bool| {
        let (mut dx, mut dw) = (Array2::from_elem(x.dim(), 7.0), Array2::from_elem(w.dim(), 7.0));
        let grads =
            GradsMut { embeddings: Some(dx.view_mut()), weights: Some(dw.view_mut()), ..GradsMut::default() };
        let input = Input::new(x.view(), labels).with_weights(w.view());
        let error = loss.forward_backward(input, grads, &mut Workspace::default()).unwrap_err();
        assert!(expected(&error), "{error}");
        assert!(dx.iter().chain(&dw).all(|&v| v == 7.0));
    };
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut broken = w.clone();
        broken[[271, 2]] = bad;
        check(&x, &broken, &labels, &|e| {
            matches!(e, Error::NotFinite { what: "class centres", row: 271, column: 2, .. })
        });
        let mut broken = x.clone();
        broken[[3, 1]] = bad;
        check(&broken, &w, &labels, &|e| {
            matches!(e, Error::NotFinite { what: "embeddings", row: 3, column: 1, .. })
        });
    }
    for bad in [300, u32::MAX] {
        let mut labels = labels;
        labels[6] = bad;
        check(&x, &w, &labels, &|e| *e == Error::Label { row: 6, label: bad, classes: 300 });
    }
    let weights = [1.0, 1.0, f32::NAN, 1.0, 1.0, 1.0, 1.0];
    let mut input = Input::new(x.view(), &labels).with_weights(w.view());
    input.sample_weights = Some(&weights);
    let error = loss.evaluate(input).unwrap_err();
    assert!(matches!(error, Error::NotFinite { what: "sample_weights", row: 2, .. }), "{error}");
    input.sample_weights = Some(&weights[..2]);
    assert!(matches!(loss.evaluate(input), Err(Error::Shape { what: "sample_weights", .. })));
    input.sample_weights = None;
    input.class_weights = Some(&weights[..2]);
    assert!(matches!(loss.evaluate(input), Err(Error::Shape { what: "class_weights", .. })));
    input.class_weights = None;
    let grads = GradsMut { upstream: f32::NAN, ..GradsMut::default() };
    let error = loss.forward_backward(input, grads, &mut Workspace::default()).unwrap_err();
    assert!(matches!(error, Error::Option { option: "upstream", .. }), "{error}");
}

#[test]
fn any_strides_and_no_gradients_give_the_same_bits() {
    let (x, w) = (
        Array2::from_shape_fn((9, 6), |(i, j)| ((i * 7 + j * 3) as f32 * 0.37).sin()),
        Array2::from_shape_fn((200, 6), |(i, j)| ((i * 5 + j * 11) as f32 * 0.23).cos()),
    );
    let labels: Vec<u32> = (0..9).map(|i| i * 21).collect();
    let (xt, wt) = (x.t().as_standard_layout().to_owned(), w.t().as_standard_layout().to_owned());
    let loss = MarginSoftmax::new(200, 6, MarginOptions::arcface()).unwrap();
    let plain = loss.value_and_grad(x.view(), w.view(), &labels).unwrap();
    let turned = loss.value_and_grad(xt.t(), wt.t(), &labels).unwrap();
    assert_eq!(plain, turned);
    let input = Input::new(x.view(), &labels).with_weights(w.view());
    let alone = loss.forward_backward(input, GradsMut::default(), &mut Workspace::default()).unwrap();
    assert_eq!(alone, plain.stats);
    // Gradients written to a transposed array, added to what is there.
    let (mut dx, mut dw) = (Array2::<f32>::zeros((6, 9)), Array2::<f32>::zeros((6, 200)));
    let grads = GradsMut {
        embeddings: Some(dx.view_mut().reversed_axes()),
        weights: Some(dw.view_mut().reversed_axes()),
        write: Write::Add,
        ..GradsMut::default()
    };
    loss.forward_backward(input, grads, &mut Workspace::default()).unwrap();
    assert_eq!(dx.t(), plain.d_embeddings);
    assert_eq!(dw.t(), plain.d_weights.unwrap());
}

#[test]
fn the_workspace_stays_below_its_bound() {
    for (batch, dim, classes, k, budget) in
        [(64, 32, 5000, 1, usize::MAX), (64, 32, 5000, 1, 0), (33, 7, 900, 3, 0), (1, 200, 3, 2, usize::MAX)]
    {
        let options =
            MarginOptions { sub_centers: k, logits_budget_bytes: budget, ..MarginOptions::arcface() };
        let loss = MarginSoftmax::new(classes, dim, options).unwrap();
        let x = Array2::from_shape_fn((batch, dim), |(i, j)| ((i * 7 + j * 3) as f32 * 0.37).sin());
        let w = Array2::from_shape_fn((classes * k, dim), |(i, j)| ((i * 5 + j * 11) as f32 * 0.23).cos());
        let labels: Vec<u32> = (0..batch).map(|i| (i * 3 % classes) as u32).collect();
        let (mut dx, mut dw, mut work) = (x.clone(), w.clone(), Workspace::default());
        let mut held = Vec::new();
        for _ in 0..3 {
            let grads = GradsMut {
                embeddings: Some(dx.view_mut()),
                weights: Some(dw.view_mut()),
                ..GradsMut::default()
            };
            let input = Input::new(x.view(), &labels).with_weights(w.view());
            loss.forward_backward(input, grads, &mut work).unwrap();
            held.push(work.pool().free_bytes());
        }
        assert_eq!(loss.workspace_bytes(usize::MAX, 0, usize::MAX), usize::MAX);
        let bound = loss.workspace_bytes(batch, 0, dim);
        assert!(held.iter().all(|&held| held > 0 && held <= bound), "{held:?} {bound}");
    }
}

#[test]
fn more_centres_than_memory_can_address_are_an_error() {
    for (classes, sub_centers, dim) in
        [(usize::MAX, 1, 1), (1 << 33, 1, 1), (1 << 31, usize::MAX, 2), (1 << 31, 3, 1 << 30)]
    {
        let options = MarginOptions { sub_centers, ..MarginOptions::arcface() };
        let error = MarginSoftmax::new(classes, dim, options).unwrap_err();
        assert!(matches!(error, Error::Option { option: "classes x sub_centers x dim", .. }), "{error}");
    }
}
